"""What commands say: as text or JSON, never too much of it, and never at the cost of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import WEBSHELL, command, environment, run

from proctree_ds.cli.console import BURST, REFILL_SECONDS, Console

NASTY = 'a\x1b[2J\nb\u202ec\udcff\ud800"\\'


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_message_is_an_object_with_time_level_message_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console("c", log_format="json")
    console.say("said", number=1, nothing=None)
    console.warn("warned", text=NASTY)
    console.fail("failed", counts={NASTY: 2})
    info, warning, error = said(capsys)
    assert list(info) == ["time", "level", "message", "number"]
    assert datetime.fromisoformat(info["time"]).utcoffset() is not None
    assert (info["level"], info["message"], info["number"]) == ("info", "said", 1)
    assert (warning["level"], error["level"]) == ("warning", "error")
    assert warning["text"] == NASTY.replace("\udcff", r"\xff").replace("\ud800", r"\ud800")
    assert list(error["counts"].values()) == [2]
    assert console.has_failed


def test_a_message_in_json_is_one_line_of_plain_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console("c", log_format="json").warn(NASTY)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isascii() and line.isprintable()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_of_too_many_messages_some_are_left_out_and_that_is_said(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    console = Console("c", log_format=log_format, clock=clock)
    for number in range(BURST + 30):
        console.fail(f"problem {number}")
    assert len(capsys.readouterr().err.splitlines()) == BURST
    assert console.dropped == 30
    clock.now += REFILL_SECONDS
    console.warn("again")
    console.warn("and again")
    first, second = capsys.readouterr().err.splitlines()
    assert "30 messages left out here" in first
    assert "again" in second
    console.close()
    assert "1 message left out here" in capsys.readouterr().err
    clock.now += 1e9
    for _ in range(BURST + 1):
        console.warn("all over")
    assert len(capsys.readouterr().err.splitlines()) == BURST


def test_json_of_a_whole_run() -> None:
    done = run("proctree-detect", "--replay", WEBSHELL, "--log-format", "json")
    first, *_ = lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert first["lost"] == 3
    assert sum(first["events"].values()) == 118
    assert first["findings"] == len(done.stdout.splitlines())


def test_json_of_a_signature_that_fails_names_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "bad.py").write_text("1 / 0")
    done = run(
        "proctree-detect", "--replay", WEBSHELL, "--log-format", "json", "--signatures", tmp_path
    )
    failure = json.loads(done.stderr.splitlines()[0])
    assert (failure["level"], failure["line"]) == ("error", 1)
    assert failure["path"] == str(tmp_path / "bad.py")
    assert done.returncode == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_room_for_messages_is_no_reason_to_fail(log_format: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("proctree-detect", "--replay", WEBSHELL, "--log-format", log_format),
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment(),
            check=False,
        )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 5


def test_a_line_that_was_cut_does_not_spoil_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "errors").open("w") as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        console = Console("c", log_format="json")
        write = os.write
        room = [10]

        def little(descriptor: int, data: bytes) -> int:
            taken = min(room[0], len(data))
            if not taken:
                raise OSError(28, "No space left on device")
            room[0] -= taken
            return write(descriptor, data[:taken])

        monkeypatch.setattr(os, "write", little)
        console.say("one")
        room[0] = 10_000
        console.say("two")
    _, *rest = (tmp_path / "errors").read_text().splitlines()
    assert [json.loads(line)["message"] for line in rest] == [
        "1 message left out here: too many, or no room for them",
        "two",
    ]
