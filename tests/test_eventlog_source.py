"""Sources made of events at hand: batches, the header first, streams that are followed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proctree_ds.errors import EventLogError, SourceError
from proctree_ds.eventlog import MAX_LINE_BYTES, encode_event, write_events
from proctree_ds.model import Event, Exit, Fork, Header, Task
from proctree_ds.sources import Source
from proctree_ds.sources.eventlog import EventLogSource
from proctree_ds.sources.memory import BATCH_EVENTS, MemorySource

HEADER = Header(5, "h", "b")
MANY: list[Event] = [HEADER, *(Fork(time, Task(time, time)) for time in range(1, 2 * BATCH_EVENTS))]


def flat(source: Source) -> list[Event]:
    events = [event for batch in source.batches() for event in batch]
    source.close()
    return events


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    write_events(path, MANY)
    return path


def test_memory_gives_every_event_in_bounded_batches() -> None:
    source = MemorySource(iter(MANY))
    batches = list(source.batches())
    assert [event for batch in batches for event in batch] == MANY
    assert [len(batch) for batch in batches] == [BATCH_EVENTS, BATCH_EVENTS]
    assert source.counters() == {"events": len(MANY)}
    source.close()
    source.close()


@pytest.mark.parametrize("events", [[], [Exit(5, Task(1, 1))]])
def test_a_header_is_made_where_there_is_none(events: list[Event], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_events(path, events)
    assert flat(MemorySource(events)) == [Header(), *events]
    assert flat(EventLogSource(path)) == [Header(), *events]


def test_stop_ends_after_the_batch(log: Path) -> None:
    sources: list[Source] = [MemorySource(MANY), EventLogSource(log)]
    for source in sources:
        batches = source.batches()
        next(batches)
        source.stop()
        assert list(batches) == []
        source.close()


def test_a_log_gives_every_event_and_counts(log: Path) -> None:
    source = EventLogSource(log)
    assert flat(source) == MANY
    assert source.counters() == {"lines": len(MANY), "events": len(MANY), "skipped": 0}
    source.close()
    source.close()


def test_a_bad_line_is_raised_after_the_events_before_it(log: Path) -> None:
    log.write_bytes(encode_event(HEADER) + encode_event(MANY[1]) + b"x\n" + encode_event(MANY[2]))
    source = EventLogSource(log)
    batches = source.batches()
    assert next(batches) == MANY[:2]
    with pytest.raises(EventLogError, match=":3:"):
        next(batches)
    source.close()

    bad: list[EventLogError] = []
    source = EventLogSource(log, skip_bad_lines=True, on_skip=bad.append)
    assert flat(source) == MANY[:3]
    assert source.counters() == {"lines": 4, "events": 3, "skipped": 1}
    assert [error.line for error in bad] == [3]
    source.close()


def test_a_log_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        EventLogSource(tmp_path / "missing.jsonl")


# ------------------------------------------------------------------------------------- streams


@contextmanager
def followed(tmp_path: Path, *, skip: bool = False) -> Iterator[tuple[EventLogSource, int]]:
    """A source that follows a FIFO, and the descriptor to write to it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opened: list[int] = []
    opener = threading.Thread(target=lambda: opened.append(os.open(path, os.O_WRONLY)))
    opener.start()
    source = EventLogSource(path, skip_bad_lines=skip)
    opener.join()
    try:
        yield source, opened[0]
    finally:
        source.close()


def test_a_stream_is_handed_out_as_it_arrives(tmp_path: Path) -> None:
    with followed(tmp_path) as (source, pipe):
        batches = source.batches()
        os.write(pipe, encode_event(HEADER) + encode_event(MANY[1])[:10])
        assert next(batches) == [HEADER]
        assert next(batches) == []
        os.write(pipe, encode_event(MANY[1])[10:])
        assert next(batch for batch in batches if batch) == [MANY[1]]
        os.write(pipe, encode_event(MANY[2]).rstrip(b"\n"))
        os.close(pipe)
        assert [event for batch in batches for event in batch] == [MANY[2]]
        assert source.counters() == {"lines": 3, "events": 3, "skipped": 0}


def test_a_silent_stream_can_be_stopped(tmp_path: Path) -> None:
    with followed(tmp_path) as (source, pipe):
        batches = source.batches()
        os.write(pipe, encode_event(MANY[1]) + b'{"type":')
        assert next(batches) == [Header(), MANY[1]]
        source.stop()
        assert list(batches) == []
        os.close(pipe)


def test_a_stream_that_is_cut_says_so(tmp_path: Path) -> None:
    with followed(tmp_path) as (source, pipe):
        os.write(pipe, encode_event(HEADER) + b'{"type":')
        os.close(pipe)
        batches = source.batches()
        assert next(batches) == [HEADER]
        with pytest.raises(EventLogError, match=":2: the line is cut short"):
            list(batches)


def test_an_endless_line_is_dropped_and_the_next_one_read(tmp_path: Path) -> None:
    with followed(tmp_path, skip=True) as (source, pipe):

        def produce() -> None:
            with os.fdopen(pipe, "wb") as file:
                file.write(encode_event(HEADER) + b"x" * (2 * MAX_LINE_BYTES) + b"\n")
                file.write(encode_event(MANY[1]))

        producer = threading.Thread(target=produce)
        producer.start()
        assert flat(source) == MANY[:2]
        producer.join()
        assert source.counters() == {"lines": 3, "events": 2, "skipped": 1}


def test_standard_input_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, encode_event(HEADER) + b"x\n")
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        source = EventLogSource("-")
        batches = source.batches()
        assert next(batches) == [HEADER]
        with pytest.raises(EventLogError, match="<stdin>:2: the line is not JSON"):
            next(batches)
        source.close()
        assert not stdin.closed


def test_closed_standard_input_is_a_source_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SourceError, match="standard input"):
        EventLogSource("-")
