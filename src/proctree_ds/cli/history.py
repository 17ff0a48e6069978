"""A source read to its end, so that questions can be asked of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Final

import msgspec

from proctree_ds.cli.options import TreeOptions
from proctree_ds.cli.sources import open_live, open_replay
from proctree_ds.clock import boot_now, format_time
from proctree_ds.datasource import DataSource
from proctree_ds.errors import BeyondHorizon, DataNotFound, NeverSeen, RecordingError
from proctree_ds.model import Header
from proctree_ds.process import Process
from proctree_ds.tree import ProcessTree

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo, ThreadInfo
    from proctree_ds.model import Event
    from proctree_ds.process import Thread
    from proctree_ds.sources import Source

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

    def last_holder(self, pid: int, time: int) -> ProcessInfo:
        """The process that held `pid` last as of `time`, exited or not. Raises `DataNotFound`."""
        holder = self._holder(pid, time)
        if isinstance(holder, Process):
            return self.data_source.process(holder.entity_id, time)
        return self.data_source.pid(pid, time)

    def thread(self, tid: int, time: int) -> ThreadInfo:
        """The thread that held `tid` as of `time`. Raises `DataNotFound`."""
        holder = self._holder(tid, time)
        when = format_time(time)
        if holder is None:
            raise NeverSeen(f"no thread is known to have held tid {tid} as of {when} or before")
        info = self.data_source.thread(holder.entity_id, time)
        if info.exit_time is not None:
            raise DataNotFound(
                f"no thread held tid {tid} as of {when}: the last holder, {info.entity_id:#x}, "
                f"had exited at {format_time(info.exit_time)}"
            )
        return info

    def _holder(self, tid: int, time: int) -> Process | Thread | None:
        tree = self.data_source.tree
        return tree.census.holder_at(tid, time - tree.boot_time)


def read_history(
    source: str,
    options: TreeOptions,
    when: Callable[[int, int], int],
    *,
    needs_all: bool = False,
    skip_bad_lines: bool = False,
    on_skip: Callable[[Exception], object] | None = None,
    on_batch: Callable[[Sequence[Event]], object] | None = None,
    duration_ns: int | None = None,
) -> History:
    """What was recorded at `source`, the event log there to its end (`-`: standard input), or
    `live`, a picture of now.

    Of a recording just the segment is read that answers for `when(start, end)`, unless all of it
    is needed. With `duration_ns` the machine is watched for so long after the picture, or until
    Ctrl-C. `on_batch` is given every batch. Raises `ProctreeError` where it cannot be read.
    """
    if not needs_all and source not in ("-", "live") and os.path.isdir(source):
        return _read_recording(source, when, on_skip or (lambda error: None))
    tree = ProcessTree(*options.caches(PROCESS_CACHE, THREAD_CACHE))
    is_live = source == "live"
    reader = (
        open_live(options)
        if is_live
        else open_replay(source, skip_bad_lines=skip_bad_lines, on_skip=on_skip)
    )
    start: int | None = None
    end: int | None = None
    with closing(reader), _watching(reader, duration_ns):
        for batch in reader.batches():
            tree.apply_all(batch)
            if on_batch is not None:
                on_batch(batch)
            times = _times(batch)
            if times:
                start = min(times) if start is None else min(start, *times)
                end = max(times) if end is None else max(end, *times)
            if is_live and duration_ns is None:
                reader.stop()
                break
    if is_live and duration_ns is not None:
        end = boot_now()
    boot_time = tree.boot_time
    return History(
        DataSource(tree),
        None if start is None else boot_time + start,
        None if end is None else boot_time + end,
    )


@contextmanager
def _watching(reader: Source, duration_ns: int | None) -> Iterator[None]:
    """Ends the stream after that time, and at Ctrl-C, which then ends no more than this."""
    if duration_ns is None:
        yield
        return
    timer = Timer(duration_ns / 1e9, reader.stop)
    timer.daemon = True
    before = signal.signal(signal.SIGINT, lambda *_: reader.stop())
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


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
