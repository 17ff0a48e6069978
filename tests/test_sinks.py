"""Where findings go: nothing is lost in JSON, nothing acts on a terminal."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proctree_ds.detection import Detection, SignatureIdentity
from proctree_ds.sinks.escape import visible
from proctree_ds.sinks.jsonl import JsonLines, encode
from proctree_ds.sinks.table import Table

ANYTHING = st.text(st.characters(), max_size=40)
NASTY = "\x1b]0;pwned\x07\x1b[2J\r\n\u202etxt.exe\u2066\u200b[red]x[/red]:smile:\udcff\x9b31m"

ESCAPE = re.compile(
    r"\\(?:(\\)|(n)|(r)|(t)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))", re.ASCII
)


def invisible(text: str) -> str:
    """What `visible` was given."""

    def restore(match: re.Match[str]) -> str:
        backslash, line, back, tab, byte, short, long = match.groups()
        for found, plain in ((backslash, "\\"), (line, "\n"), (back, "\r"), (tab, "\t")):
            if found:
                return plain
        if byte:
            number = int(byte, 16)
            return chr(number if number < 0x80 else 0xDC00 + number)
        return chr(int(short or long, 16))

    return ESCAPE.sub(restore, text)


def detection(**changes: Any) -> Detection:
    process = {
        "pid": 600,
        "name": "sh",
        "cmd": ["sh", "-c", "id"],
        "uid": 33,
        "execution_binary": {"path": "/bin/sh"},
    }
    parent = {"pid": 500, "name": "nginx", "cmd": None, "execution_binary": {"path": "/sbin/nginx"}}
    whole: dict[str, Any] = {
        "time": 1_700_000_000_000_000_001,
        "signature": SignatureIdentity("PT-X", "1", "A name", "high", ("T1059",), ()),
        "event": {"time": 1, "name": "exec", "pid": 600, "tid": 600, "ppid": 500},
        "process": process,
        "lineage": [process, parent],
        "data": {"why": "because"},
    }
    return Detection(**(whole | changes))


def table(one: Detection, width: int = 100) -> str:
    out = io.StringIO()
    sink = Table(out, width=width)
    sink.write(one)
    sink.flush()
    return out.getvalue()


# -------------------------------------------------------------------------------------- escaping


@settings(deadline=None)
@given(ANYTHING)
@example(NASTY)
@example("\ufe0f\U000e0041\u3164\u00ad\ufeff\u2028")
def test_what_is_shown_can_be_seen_and_does_nothing(text: str) -> None:
    shown = visible(text)
    for character in shown:
        category = unicodedata.category(character)
        assert category[0] not in "CZ" or character == " "
    assert not shown[:1] or unicodedata.category(shown[0])[0] != "M"
    shown.encode()  # no lone surrogate


@settings(deadline=None)
@given(ANYTHING)
@example(NASTY)
@example("\\x1b")
def test_nothing_is_lost_and_no_two_texts_look_the_same(text: str) -> None:
    assert invisible(visible(text)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, as it is", "plain text, as it is"),
        ("é 日本 🙂", "é 日本 🙂"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("C:\\x", r"C:\\x"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\u009b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u200bb", r"a\u200bb"),
        (b"\xff\x80".decode(errors="surrogateescape"), r"\xff\x80"),
        ("\U000e0041", r"\U000e0041"),
        ("\u00a0", r"\u00a0"),
        ("e\u0301", "e\u0301"),
        ("\u0301e", "\\u0301e"),
        ("e" + "\u0301" * 4, "e\u0301\u0301\\u0301\\u0301"),
        ("", ""),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


# ------------------------------------------------------------------------------------------- JSON


@settings(deadline=None)
@given(ANYTHING)
@example(NASTY)
def test_a_line_of_json_holds_any_text_and_is_one_line(text: str) -> None:
    line = encode({"text": text, "in": [text]})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"text": text, "in": [text]}


def test_a_finding_is_a_line_in_the_documented_order() -> None:
    out = io.BytesIO()
    sink = JsonLines(out)
    sink.write(detection())
    sink.write(detection(data={"odd": "\udc80"}))
    sink.flush()
    first, second = out.getvalue().splitlines()
    keys = ["time", "signature", "event", "process", "lineage", "data"]
    assert list(json.loads(first)) == keys
    assert list(json.loads(second)) == keys
    assert json.loads(second)["data"] == {"odd": "\udc80"}


class Sip(io.BytesIO):
    """Takes some of what it is given, as a full pipe does when a signal comes."""

    def write(self, text: Any) -> int:
        return super().write(text[:100])


def test_a_file_that_takes_a_line_in_pieces_gets_all_of_it() -> None:
    whole, pieces = io.BytesIO(), Sip()
    for out in (whole, pieces):
        JsonLines(out).write(detection())
    assert pieces.getvalue() == whole.getvalue() != b""


# ------------------------------------------------------------------------------------------ table


def test_a_finding_for_a_person() -> None:
    text = table(detection())
    assert "HIGH  A name" in text
    assert "2023-11-14T22:13:20.000000001Z" in text
    assert "PT-X 1  T1059" in text
    assert "exec  pid 600  tid 600  ppid 500" in text
    assert re.search(r"why +because", text)
    first, second = (line for line in text.splitlines() if "500 nginx" in line or "600 sh" in line)
    assert "500 nginx  /sbin/nginx" in first
    assert "└── 600 sh  sh -c id  uid 33" in second


@pytest.mark.parametrize("place", ["name", "cmd", "path", "key", "value", "nested"])
def test_nothing_that_a_process_says_acts_on_the_terminal(place: str) -> None:
    process: dict[str, Any] = {"pid": 1, "name": "x", "cmd": ["x"], "execution_binary": {}}
    data: dict[str, Any] = {}
    if place == "name":
        process["name"] = NASTY
    elif place == "cmd":
        process["cmd"] = ["x", NASTY]
    elif place == "path":
        process |= {"cmd": None, "execution_binary": {"path": NASTY}}
    elif place == "key":
        data = {NASTY: 1}
    elif place == "value":
        data = {"k": NASTY}
    else:
        data = {"k": {"a": [NASTY]}}
    text = table(detection(lineage=[process], data=data), width=300)
    assert visible(NASTY) in text
    assert not set(NASTY) & set("\x1b\x07\x9b\u202e\u2066\u200b\udcff") & set(text)
    assert "[red]x[/red]:smile:" in text


def test_long_values_and_long_lineages_are_cut_and_say_so() -> None:
    process = {"pid": 1, "name": "x", "cmd": ["y" * 2000], "execution_binary": None}
    text = table(detection(lineage=[process] * 40, data={"k": "z" * 700}), width=2000)
    assert "... 27 more above" in text
    assert "... (200 more)" in text
    assert "... (1500 more)" in text


def test_a_finding_at_a_signal_has_no_process() -> None:
    event = {"time": 1, "name": "end_of_source"}
    text = table(detection(event=event, process=None, lineage=[]))
    assert "end_of_source" in text
    assert "lineage" not in text


def test_a_terminal_that_knows_ascii_only_gets_escapes() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    sink = Table(out, width=100)
    sink.write(detection(data={"k": "日本"}))
    sink.flush()
    assert rb"\u65e5\u672c" in raw.getvalue()


def write_to(kind: str, raw: io.FileIO) -> None:
    file = io.BufferedWriter(raw)
    sink = JsonLines(file) if kind == "json" else Table(io.TextIOWrapper(file))
    try:
        sink.write(detection())
        sink.flush()
    finally:
        raw.close()  # or what is buffered is tried once more when it is collected


@pytest.mark.parametrize("kind", ["json", "table"])
def test_a_full_disk_is_a_plain_error(kind: str) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_to(kind, io.FileIO("/dev/full", "w"))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("kind", ["json", "table"])
def test_a_reader_that_went_away_is_a_plain_error(kind: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        write_to(kind, io.FileIO(writer, "w"))
