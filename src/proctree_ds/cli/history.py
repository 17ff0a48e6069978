"""A source read to its end, so that questions can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from proctree_ds.cli.options import TreeOptions
from proctree_ds.cli.sources import open_live, open_replay
from proctree_ds.datasource import DataSource
from proctree_ds.errors import BeyondHorizon, DataNotFound, RecordingError
from proctree_ds.model import Header
from proctree_ds.tree import ProcessTree

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo
    from proctree_ds.model import Event

__all__ = ["History", "Picture", "read_history"]

PROCESS_CACHE: Final = 1 << 20
THREAD_CACHE: Final = 1 << 21
"""What a question about the past keeps, unless told otherwise: all of it, as a rule."""


class Picture(msgspec.Struct, frozen=True):
    """Processes in the order of their starts; `dropped` more have lost what they were then."""

    processes: list[ProcessInfo]
    dropped: int


class History(msgspec.Struct, frozen=True):
    """What a source told: its answers, and the epoch ns of its first and last event."""

    data_source: DataSource
    start: int | None
    end: int | None

    def picture(self, time: int, *, with_exited: bool = False) -> Picture:
        """Every process that lived as of `time`; `with_exited`, also those that had exited by then.

        O(processes in memory).
        """
        answers = self.data_source
        processes = []
        dropped = 0
        for entity in tuple(answers.tree.census.processes):
            try:
                info = answers.process(entity, time)
            except BeyondHorizon:
                dropped += 1
            except DataNotFound:
                pass
            else:
                if with_exited or info.is_alive:
                    processes.append(info)
        processes.sort(key=lambda info: (info.start_time, info.pid))
        return Picture(processes, dropped)


def read_history(
    source: str,
    options: TreeOptions,
    when: Callable[[int, int], int],
    *,
    needs_all: bool = False,
    skip_bad_lines: bool = False,
    on_skip: Callable[[Exception], object] | None = None,
) -> History:
    """What was recorded at `source`, the event log there to its end (`-`: standard input), or
    `live`, a picture of now.

    Of a recording just the segment is read that answers for `when(start, end)`, unless all of it
    is needed. Raises `ProctreeError` where it cannot be read.
    """
    if not needs_all and source not in ("-", "live") and os.path.isdir(source):
        return _read_recording(source, when, on_skip or (lambda error: None))
    tree = ProcessTree(options.process_cache or PROCESS_CACHE, options.thread_cache or THREAD_CACHE)
    is_live = source == "live"
    reader = (
        open_live(options)
        if is_live
        else open_replay(source, skip_bad_lines=skip_bad_lines, on_skip=on_skip)
    )
    start: int | None = None
    end: int | None = None
    with closing(reader):
        for batch in reader.batches():
            tree.apply_all(batch)
            times = _times(batch)
            if times:
                start = min(times) if start is None else min(start, *times)
                end = max(times) if end is None else max(end, *times)
            if is_live:
                reader.stop()
                break
    boot_time = tree.boot_time
    return History(
        DataSource(tree),
        None if start is None else boot_time + start,
        None if end is None else boot_time + end,
    )


def _read_recording(
    source: str, when: Callable[[int, int], int], on_skip: Callable[[Exception], object]
) -> History:
    from proctree_ds.recording import Recording

    recording = Recording(source)
    for skipped in recording.skipped:
        on_skip(RecordingError(skipped.problem))
    start, end = recording.start, recording.end
    return History(recording.at(when(start, end)), start, end)


def _times(batch: Iterable[Event]) -> list[int]:
    return [event.time for event in batch if not isinstance(event, Header)]
