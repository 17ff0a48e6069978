"""The event log says exactly what the model says, and says plainly what it cannot read."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zstandard
from arbitrary_events import events
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds.errors import EventLogError, SourceError
from proctree_ds.eventlog import (
    MAX_LINE_BYTES,
    EventLogWriter,
    decode_event,
    encode_event,
    json_schema,
    read_events,
    write_events,
)
from proctree_ds.model import (
    UNKNOWN_IMAGE,
    Capabilities,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Header,
    Image,
    Loss,
    Namespaces,
    Snapshot,
    State,
    Task,
)

CONTAINER = "0123456789abcdef" * 4
SCHEMA = jsonschema.Draft202012Validator(json_schema())

HEADER = '{"type":"header","version":1,"host":"h","boot_id":"b","boot_time":5}'
FORK = '{"type":"fork","time":10,"task":{"tid":601,"start_time":9}}'
EXIT = '{"type":"exit","time":20,"task":{"tid":601,"start_time":9},"exit_code":0}'
EVENTS: list[Event] = [
    Header(5, "h", "b"),
    Fork(10, Task(601, 9)),
    Exit(20, Task(601, 9), exit_code=0),
]


def line(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, "time": 10, "task": {"tid": 601, "start_time": 9}} | fields)


def problem(text: str | bytes) -> tuple[str | None, str]:
    with pytest.raises(EventLogError) as caught:
        decode_event(text)
    return caught.value.field, caught.value.problem


# ----------------------------------------------------------------------------- there and back


@settings(max_examples=500)
@given(events)
def test_every_event_survives_a_line(event: Event) -> None:
    encoded = encode_event(event)
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert encoded.startswith(b'{"type":"')
    encoded.decode("utf-8")  # strictly
    assert decode_event(encoded) == event


@given(events)
def test_every_line_that_is_written_fits_the_schema(event: Event) -> None:
    SCHEMA.validate(json.loads(encode_event(event)))


@given(events)
def test_writing_what_was_read_gives_the_same_line(event: Event) -> None:
    encoded = encode_event(event)
    assert encode_event(decode_event(encoded)) == encoded


@given(events, st.data())
def test_a_line_cut_anywhere_is_refused(event: Event, data: st.DataObject) -> None:
    encoded = encode_event(event).rstrip(b"\n")
    cut = data.draw(st.integers(1, len(encoded) - 1))
    field, text = problem(encoded[:cut])
    assert field is None
    assert "cut short" in text or "not UTF-8" in text or "not JSON" in text


@given(events, st.data())
def test_a_damaged_line_is_an_event_or_a_clear_error(event: Event, data: st.DataObject) -> None:
    damaged = bytearray(encode_event(event))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    bad: list[EventLogError] = []
    read = list(read_events([bytes(damaged)], skip_bad_lines=True, on_skip=bad.append))
    assert len(read) + len(bad) == 1 or damaged.isspace()
    assert all(error.problem for error in bad)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_clear_error(garbage: bytes) -> None:
    for _ in read_events(io.BytesIO(garbage), skip_bad_lines=True):
        pass


def test_two_spellings_of_the_same_facts_become_one() -> None:
    context = Context(uid=1)
    task = Task(1, 1)
    assert decode_event(
        encode_event(Fork(5, task, given={"comm": "sh", "context": context, "cwd": "/"}))
    ) == Fork(5, task, comm="sh", context=context, given={"cwd": "/"})
    assert decode_event(encode_event(Exec(5, task, {"argv": ("a",)}))) == Exec(
        5, task, {"image": Image(argv=("a",), exec_time=5)}
    )


def test_an_event_about_a_task_of_unknown_start_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="start time"):
        encode_event(Exit(5, Task(1)))


def test_an_attribute_that_does_not_exist_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="'pid' is not a versioned attribute"):
        encode_event(Change(5, Task(1, 1), {"pid": 3}))


# --------------------------------------------------------------------------- what a line means


def test_absent_is_not_stated_and_null_is_stated_as_none() -> None:
    assert decode_event(line("change", tty=None, uid=0)) == Change(
        10, Task(601, 9), {"tty": None, "uid": 0}
    )


def test_an_exec_replaces_the_image_as_a_whole_and_states_nothing_else() -> None:
    event = decode_event(line("exec", argv=["ls", "-l"], uid=0))
    assert event == Exec(
        10, Task(601, 9), {"image": Image(argv=("ls", "-l"), exec_time=10), "uid": 0}
    )


def test_an_exec_that_states_everything_is_a_whole_state() -> None:
    stated: dict[str, Any] = dict.fromkeys(Context.__struct_fields__)
    event = decode_event(line("exec", comm="ls", cwd="/", root="/", **stated))
    assert event == Exec(10, Task(601, 9), State("ls", Image(exec_time=10), "/", "/", Context()))


def test_an_exec_with_every_attribute() -> None:
    event = decode_event(
        line(
            "exec",
            ns_tid=3,
            ns_pid=3,
            parent={"tid": 600},
            old_tid=602,
            comm="evil.sh",
            executable={"path": "/bin/dash", "inode": 7, "device": 2**64 - 1, "is_memfd": False},
            interpreter={"path": "/lib64/ld.so", "path_truncated": True},
            script="/tmp/evil.sh",
            argv=["sh", "/tmp/evil.sh", "\udcff"],
            argv_truncated=True,
            env={"LD_PRELOAD": "\udc80"},
            env_truncated=True,
            cwd="/tmp",
            root="/",
            uid=33,
            euid=0,
            suid=0,
            gid=33,
            egid=33,
            sgid=33,
            capabilities=dict.fromkeys(Capabilities.__struct_fields__, 2**64 - 1),
            session_id=1,
            process_group=2,
            tty="pts/3",
            login_uid=2**32 - 1,
            cgroup="/docker/" + CONTAINER,
            cgroup_id=99,
            namespaces={"pid": 4026531836},
        )
    )
    assert event == Exec(
        10,
        Task(601, 9),
        State(
            "evil.sh",
            Image(
                FileInfo("/bin/dash", inode=7, device=2**64 - 1, is_memfd=False),
                FileInfo("/lib64/ld.so", path_truncated=True),
                "/tmp/evil.sh",
                ("sh", "/tmp/evil.sh", "\udcff"),
                True,
                {"LD_PRELOAD": "\udc80"},
                True,
                10,
            ),
            "/tmp",
            "/",
            Context(
                33,
                0,
                0,
                33,
                33,
                33,
                Capabilities(*[2**64 - 1] * 5),
                1,
                2,
                "pts/3",
                2**32 - 1,
                "/docker/" + CONTAINER,
                99,
                CONTAINER,
                Namespaces(pid=4026531836),
            ),
        ),
        Task(600),
        602,
        3,
        3,
    )


def test_a_fork_keeps_its_comm_and_a_full_context_apart() -> None:
    stated: dict[str, Any] = dict.fromkeys(Context.__struct_fields__, None) | {"uid": 5}
    assert decode_event(line("fork", comm="sh", cwd="/", **stated)) == Fork(
        10, Task(601, 9), comm="sh", context=Context(uid=5), given={"cwd": "/"}
    )
    assert decode_event(line("fork", comm="sh", uid=5)) == Fork(
        10, Task(601, 9), comm="sh", given={"uid": 5}
    )


def test_a_snapshot_names_its_source() -> None:
    task = {"tid": 1, "start_time": None}
    event = decode_event(
        line("snapshot", source="procfs", parent=task, leader=task, subreaper=True)
    )
    assert event == Snapshot(
        10, Task(601, 9), {}, Task(1), Task(1), subreaper=True, origin="procfs"
    )


def test_an_exit_tells_code_signal_and_core_apart() -> None:
    event = decode_event(
        line("exit", exit_signal=11, core_dumped=True, group_exit=True, origin="inferred")
    )
    assert event == Exit(
        10, Task(601, 9), exit_signal=11, core_dumped=True, group_exit=True, origin="inferred"
    )


def test_a_loss_of_unknown_size() -> None:
    assert decode_event('{"type":"loss","time":5,"since":3}') == Loss(5, 3, None)


def test_the_names_of_process_info_are_understood() -> None:
    event = decode_event(line("change", name="sh", cmd=["sh"], execution_binary={"path": "/sh"}))
    assert event == Change(
        10, Task(601, 9), {"comm": "sh", "argv": ("sh",), "executable": FileInfo("/sh")}
    )


@pytest.mark.parametrize(
    ("fields", "container"),
    [
        ({"cgroup": "/docker/" + CONTAINER}, CONTAINER),
        ({"cgroup": f"/system.slice/docker-{CONTAINER}.scope"}, CONTAINER),
        ({"cgroup": "/user.slice"}, None),
        ({"cgroup": None}, None),
        ({"cgroup": "/docker/" + CONTAINER, "container_id": None}, None),
        ({"cgroup": "/user.slice", "container_id": "c"}, "c"),
    ],
)
def test_a_cgroup_tells_its_container_unless_the_line_does(
    fields: dict[str, Any], container: str | None
) -> None:
    event = decode_event(line("change", **fields))
    assert isinstance(event, Change)
    assert event.given["container_id"] == container


def test_equal_files_and_contexts_are_one_object() -> None:
    text = line("exec", executable={"path": "/bin/sh"}, **dict.fromkeys(Context.__struct_fields__))
    first, second = decode_event(text), decode_event(text)
    assert isinstance(first, Exec)
    assert isinstance(second, Exec)
    assert isinstance(first.facts, dict)
    assert isinstance(second.facts, dict)
    assert first.facts["context"] is second.facts["context"]
    assert first.facts["image"].executable is second.facts["image"].executable


def test_lone_surrogates_survive_beside_real_characters() -> None:
    argv = ("\udc80", "😀\udcff😀", "\\udc80", "é")
    event = Change(1, Task(1, 1), {"argv": argv})
    encoded = encode_event(event)
    assert b"\\udc80" in encoded
    assert decode_event(encoded) == event


def test_unknown_parts_of_an_exec_go_without_saying() -> None:
    encoded = encode_event(Exec(5, Task(1, 1), {"image": Image(exec_time=5)}))
    assert encoded == b'{"type":"exec","time":5,"task":{"tid":1,"start_time":1}}\n'
    assert decode_event(encode_event(Exec(5, Task(1, 1), {"image": UNKNOWN_IMAGE}))) == Exec(
        5, Task(1, 1), {"image": UNKNOWN_IMAGE}
    )


# ---------------------------------------------------------------------------------- bad lines


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ('{"type":"fork"', None, "cut short"),
        ('{"type":"exec","argv":["\\udc80"', None, "cut short"),
        ("x", None, "not JSON"),
        ("[]", None, "must be an object, and is a list"),
        ("{}", "$.type", "is missing"),
        ('{"type":"forkk"}', "$.type", "'forkk' is none of header, fork, exec"),
        ('{"type":7}', "$.type", "must be text"),
        ('{"type":"fork","task":{"tid":1,"start_time":1}}', "$.time", "is missing"),
        (line("fork", time=-1), "$.time", "is less than 0"),
        (line("fork", time=2**63), "$.time", f"is more than {2**63 - 1}"),
        ('{"type":"fork","time":' + "9" * 5000 + "}", "$.time", "out of all range"),
        (line("fork", time=1.5), "$.time", "must be a whole number, and is a number with"),
        (line("fork", time=True), "$.time", "must be a whole number, and is true or false"),
        (line("fork", time="1"), "$.time", "must be a whole number, and is text"),
        (line("fork", time=None), "$.time", "must be a whole number, and is null"),
        (line("fork", task={"tid": "1"}), "$.task.tid", "must be a whole number"),
        (line("fork", task={"tid": 2**31, "start_time": 1}), "$.task.tid", "is more than"),
        (line("fork", task={"tid": 1}), "$.task.start_time", "is missing"),
        (line("fork", task={"tid": 1, "start_time": None}), "$.task.start_time", "must be"),
        (line("fork", parent={"tid": 1, "start": 1}), "$.parent.start", "is start_time meant?"),
        (line("exec", uid=2**32), "$.uid", "is more than 4294967295"),
        (line("exec", argv=["a", 3]), "$.argv[1]", "must be text"),
        (line("exec", argv=["\udc80", 3]), "$.argv[1]", "must be text"),
        (line("exec", env={"a": 3}), "$.env[...]", "must be text"),
        (line("exec", exectable={}), "$.exectable", "is executable meant?"),
        (line("exec", executable={"inode": 2**64}), "$.executable.inode", "more than 64 bits"),
        (line("exec", cgroup_id=2**64), "$.cgroup_id", "more than 64 bits"),
        (line("exec", capabilities={"effective": 1}), "$.capabilities.permitted", "is missing"),
        (line("exec", comm="a", name="a"), "$.name", "the same as comm"),
        (line("exit", comm="a"), "$.comm", "is not a field of this type of line"),
        (line("exit", exit_signal=0), "$.exit_signal", "is less than 1"),
        (line("exit", origin="rumour"), "$.origin", "'rumour' is none of event, iterator"),
        ('{"type":"loss","time":5,"since":6}', "$.since", "is later than time"),
        ('{"type":"header","version":2}', "$.version", "is 2, and this program reads version 1"),
        ('{"type":"header","version":"2","new":1}', "$.version", "is '2', and this program"),
        (b'{"type":"fork","comm":"\xff"}', None, "not UTF-8"),
        (line("exec", comm="\ud800"), None, "half a surrogate pair"),
        ('{"comm":"\\udc7f"}', None, "half a surrogate pair"),
        ('{"type":"fork","time":' + "[" * 100_000, "$.time", "must be a whole number"),
        ('{"comm":"\\udc80","time":' + "[" * 100_000, None, "nested too deeply"),
        (line("exec", comm="\udc80", uid=float("nan")), None, "NaN"),
        (" ", None, "the line is empty"),
    ],
)
def test_a_bad_line_says_which_field_and_why(
    text: str | bytes, field: str | None, said: str
) -> None:
    where, why = problem(text)
    assert where == field
    assert said in why


def test_an_error_names_file_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f"{HEADER}\n\n{FORK}\n{line('exec', tme=3)}\n")
    reading = read_events(path)
    assert [next(reading), next(reading)] == EVENTS[:2]
    with pytest.raises(EventLogError) as caught:
        next(reading)
    assert str(caught.value) == (
        f"{path}:4, field $.tme: is not a field of this type of line; is time meant?"
    )
    assert (caught.value.where, caught.value.line) == (str(path), 4)


def test_bad_lines_are_skipped_and_handed_over_when_that_is_wanted() -> None:
    bad: list[EventLogError] = []
    lines = [HEADER, "x", FORK, '{"type":"?"}', EXIT]
    assert list(read_events(lines, skip_bad_lines=True, on_skip=bad.append)) == EVENTS
    assert [error.line for error in bad] == [2, 4]


def test_a_line_that_is_too_long_is_refused_and_the_next_one_read() -> None:
    long_line = line("exec", comm="x" * MAX_LINE_BYTES)
    text = f"{HEADER}\n{FORK}\n{long_line}\n{EXIT}"
    for stream in (io.StringIO(text), io.BytesIO(text.encode())):
        bad: list[EventLogError] = []
        assert list(read_events(stream, skip_bad_lines=True, on_skip=bad.append)) == EVENTS
        assert [(error.line, error.problem) for error in bad] == [
            (3, f"the line is longer than {MAX_LINE_BYTES} bytes")
        ]


# ------------------------------------------------------------------------------ files, streams


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_files_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write_events(path, EVENTS) == 3
    assert list(read_events(path)) == EVENTS
    assert list(read_events(str(path))) == EVENTS
    magic = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}.get(name.rpartition(".")[2], b"{")
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_open_files_and_iterables(newline: str) -> None:
    text = newline.join([HEADER, FORK, "", EXIT])
    text_stream, byte_stream = io.StringIO(text, newline=""), io.BytesIO(text.encode())
    assert list(read_events(text_stream)) == EVENTS
    assert list(read_events(byte_stream)) == EVENTS
    assert list(read_events(text.splitlines())) == EVENTS
    assert list(read_events(text.encode().splitlines(keepends=True))) == EVENTS
    assert not text_stream.closed
    assert not byte_stream.closed


def test_a_log_of_nothing_has_no_events() -> None:
    assert list(read_events([])) == []
    assert list(read_events(io.BytesIO(b"\n \n"))) == []


def test_a_writer_leaves_open_what_it_did_not_open() -> None:
    for stream in (io.StringIO(), io.BytesIO()):
        with EventLogWriter(stream) as writer:
            for event in EVENTS:
                writer.write(event)
            writer.flush()
        assert writer.events == 3
        stream.seek(0)
        assert list(read_events(stream)) == EVENTS


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", _gzip), (".zst", _zstd)])
def test_compressed_logs_may_be_joined_and_may_not_be_cut(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(f"{HEADER}\n".encode()) + compress(f"{FORK}\n{EXIT}\n".encode()))
    assert list(read_events(path)) == EVENTS

    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(EventLogError, match="reading failed here"):
        list(read_events(path))
    assert list(read_events(path, skip_bad_lines=True))[:1] == EVENTS[:1]

    path.write_bytes(b"\x00garbage\xff" * 50)
    with pytest.raises(EventLogError, match=r":1: reading failed here"):
        list(read_events(path))


def test_garbage_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF\x02\x01\x01\x00" * 100)
    with pytest.raises(EventLogError, match=rf"{path}:1: the line is not JSON"):
        list(read_events(path))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.jsonl.gz", "missing.jsonl.zst", "."])
def test_what_cannot_be_opened_is_a_source_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        list(read_events(tmp_path / name))


def test_what_cannot_be_created_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot write"):
        EventLogWriter(tmp_path / "missing" / "a.jsonl")


def test_bytes_are_neither_a_path_nor_lines() -> None:
    with pytest.raises(TypeError):
        list(read_events(b"history.jsonl"))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (HEADER, True),
        (FORK, True),
        (EXIT, True),
        (line("exec", argv=None, executable={"path": "/bin/sh"}), True),
        (line("exec", argv="ls"), False),
        (line("forkk"), False),
        (line("fork", time=-1), False),
        (line("fork", tme=1), False),
        (line("exec", task={"tid": 1}), False),
    ],
)
def test_the_schema_agrees_with_the_reader(text: str, is_right: bool) -> None:
    assert SCHEMA.is_valid(json.loads(text)) is is_right
    if is_right:
        decode_event(text)
    else:
        problem(text)
