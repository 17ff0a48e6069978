"""Recordings on disk: what appending costs, how large they are, and how soon they answer."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import lives
from benchmarks.timing import Figure, settle_memory
from proctree_ds import ProcessTree
from proctree_ds.model import Header
from proctree_ds.recording import Recording, RecordingWriter
from proctree_ds.recording.segment import seal

LIVES: Final = 200_000
"""For the cost of an event, and its size."""

LARGE_LIVES: Final = 3_333_333
"""For how soon it answers: 10,000,000 events."""

INSTANTS: Final = 40


def on_disk() -> list[Figure]:
    """The stream of the other benchmarks, recorded beside a tree that has it already."""
    with tempfile.TemporaryDirectory() as name:
        return _append(Path(name) / "recording")


def large() -> list[Figure]:
    """A recording of 10,000,000 events: opened, and asked as of any instant."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "recording"
        _write(directory, LARGE_LIVES)
        began = time.monotonic()
        recording = Recording(directory)
        opened = time.monotonic() - began
        spent = []
        picks = random.Random(1)
        for _ in range(INSTANTS):
            at = picks.randrange(recording.start, recording.end)
            fresh = Recording(directory)
            began = time.monotonic()
            fresh.at(at)
            spent.append(time.monotonic() - began)
        return [
            Figure("events recorded", sum(s.header.events or 0 for s in recording.segments), ""),
            Figure("segments", len(recording.segments), ""),
            Figure("open", opened * 1e3, "ms"),
            Figure("answer as of any instant, median", statistics.median(spent) * 1e3, "ms"),
            Figure("answer as of any instant, worst", max(spent) * 1e3, "ms", f"{INSTANTS} asked"),
        ]


def _append(directory: Path) -> list[Figure]:
    spent, wall, events = _write(directory, LIVES)
    size = sum(path.stat().st_size for path in directory.glob("*.parquet"))
    return [
        Figure("append an event", spent / events * 1e6, "us CPU", "in the thread that appends"),
        Figure("append an event, wall", wall / events * 1e6, "us"),
        Figure("seal an event", _sealing(directory) * 1e6, "us CPU", "in a thread beside"),
        Figure("an event on disk, sealed", size / events, "bytes"),
    ]


def _write(directory: Path, count: int) -> tuple[float, float, int]:
    """Records that many lives: CPU and wall seconds in the writer, and the events."""
    tree = ProcessTree()
    writer = RecordingWriter(directory, tree=tree)
    spent = wall = 0.0
    events = 0
    settle_memory()
    opening = [Header(10**18, "host", "boot", lives.START - 10), *lives.beginning()]
    for batch in (opening, *lives.batches(count)):
        tree.apply_all(batch)
        began, began_wall = time.thread_time(), time.monotonic()
        writer.write_all(batch)
        spent += time.thread_time() - began
        wall += time.monotonic() - began_wall
        events += len(batch)
    writer.close()
    return spent, wall, events


def _sealing(directory: Path) -> float:
    """CPU seconds an event of a segment of its own, as it was left by a crash."""
    left = directory / "left"
    writer = RecordingWriter(left)
    events = [event for batch in lives.batches(10_000) for event in batch]
    writer.write_all(events)
    writer.flush()
    [path] = left.glob("*.arrow")
    header = Recording(left).segments[0].header
    began = time.process_time()
    seal(path, header)
    return (time.process_time() - began) / len(events)
