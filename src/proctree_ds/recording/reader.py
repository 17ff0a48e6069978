"""Reads a recording, also one that is being written: any instant from one segment.

A segment that cannot be read is skipped, with the reason, and the rest answers.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.clock import to_epoch_ns
from proctree_ds.datasource import DataSource
from proctree_ds.errors import RecordingError
from proctree_ds.model import Event, Loss
from proctree_ds.recording.decoding import decode
from proctree_ds.recording.segment import (
    OPEN,
    SEALED,
    SegmentHeader,
    paths_of,
    read_header,
    read_segment,
)
from proctree_ds.tree import ProcessTree

__all__ = ["Recording", "Segment", "SkippedSegment"]

PROCESS_CACHE: Final = 1 << 20
THREAD_CACHE: Final = 1 << 21
"""What the tree of a recording keeps: all of it, as a rule."""

_BATCH_EVENTS: Final = 2_048
_TREES_KEPT: Final = 2
"""Trees of sealed segments that are kept, those last asked for."""


class Segment(msgspec.Struct, frozen=True):
    """One segment that can be read."""

    path: Path
    header: SegmentHeader

    @property
    def is_open(self) -> bool:
        """Whether it was still being written, or was left so."""
        return self.path.suffix == OPEN

    @property
    def since(self) -> int:
        """From when on it answers, in epoch ns."""
        return self.header.boot_time + self.header.since

    @property
    def until(self) -> int | None:
        """Its last event, in epoch ns; None while it is open."""
        until = self.header.until
        return None if until is None else self.header.boot_time + until


class SkippedSegment(msgspec.Struct, frozen=True):
    """A segment that is not read, and why."""

    path: Path
    problem: str


class Recording:
    """The recording in `directory`, as it is now.

    `segments` are in order, `skipped` are those left out. Opening reads the headers. Raises
    `RecordingError` where there is no segment that can be read.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.skipped: list[SkippedSegment] = []
        self.segments: list[Segment] = []
        self._trees: OrderedDict[str, ProcessTree] = OrderedDict()
        self._broken: set[str] = set()
        try:
            paths = paths_of(self.directory)
        except OSError as error:
            raise RecordingError(
                f"cannot read the recording {directory}: {error.strerror or error}"
            ) from error
        if not paths:
            raise RecordingError(
                f"{directory} holds no recording: there is no segment in it, such as"
                " 00000001.parquet; give the directory that `proctree record` wrote to"
            )
        for before, number in pairwise((min(paths) - 1, *paths)):
            for missing in range(before + 1, min(number, before + 1_000)):
                self._skip(self.directory / f"{missing:08d}{SEALED}", "it is missing")
            self._add(paths[number])
        if not self.segments:
            raise RecordingError(self.skipped[0].problem)

    @property
    def start(self) -> int:
        """The first event, in epoch ns; the first keyframe, where what was before is gone."""
        first = self.segments[0]
        header = first.header
        if first.is_open:
            times = _times(self._read(first))
            return header.boot_time + max(header.since, min(times, default=header.since))
        return header.boot_time + max(header.since, header.earliest or header.since)

    @property
    def end(self) -> int:
        """The last event, in epoch ns."""
        last = self.segments[-1]
        if last.until is not None:
            return last.until
        times = _times(self._read(last))
        return last.header.boot_time + max(times, default=last.header.since)

    def at(self, time: object) -> DataSource:
        """The data source that answers for `time`, and for all of the segment that it is in."""
        return DataSource(self.tree(time))

    def tree(self, time: object) -> ProcessTree:
        """The tree that answers for `time`, made from one segment. O(its events).

        What lies before the segment is in it only as far as those then alive still had it.
        Raises `RecordingError` where that segment turns out to be damaged.
        """
        moment = to_epoch_ns(time)
        index = max((i for i, s in enumerate(self.segments) if s.since <= moment), default=0)
        segment = self.segments[index]
        known = self._trees.get(segment.header.id)
        if known is not None:
            self._trees.move_to_end(segment.header.id)
            return known
        tree = ProcessTree(PROCESS_CACHE, THREAD_CACHE)
        tree.apply_all(decode(self._read(segment)))
        for later in self.segments[index + 1 : index + 2]:
            tree.apply_all(self._late(segment, later))
        if not segment.is_open:
            self._trees[segment.header.id] = tree
            while len(self._trees) > _TREES_KEPT:
                self._trees.popitem(last=False)
        return tree

    def data_source(
        self, process_cache: int = PROCESS_CACHE, thread_cache: int = THREAD_CACHE
    ) -> DataSource:
        """The data source over all that was recorded. O(all events)."""
        tree = ProcessTree(process_cache, thread_cache)
        for batch in self.replay():
            tree.apply_all(batch)
        return DataSource(tree)

    def events(self, since: object = None, until: object = None) -> Iterator[Event]:
        """What was recorded, from `since` to before `until`: segment by segment, in order of time.

        A `Header` says which boot the events after it are of. Keyframes are left out.
        """
        first = None if since is None else to_epoch_ns(since)
        last = None if until is None else to_epoch_ns(until)
        for segment in list(self.segments):
            if last is not None and segment.since >= last and not _has_late(segment):
                continue
            if first is not None and segment.until is not None and segment.until < first:
                continue
            table = self._read_or_skip(segment)
            if table is not None:
                boot_time = segment.header.boot_time
                yield from decode(_between(table, boot_time, first, last))

    def replay(self) -> Iterator[list[Event]]:
        """All that a tree has to be told, in batches: the first keyframe, and all events.

        Where a segment is missing, what was lost with it is told as a `Loss`, and the keyframe of
        the next one.
        """
        before: Segment | None = None
        last = -1
        for segment in list(self.segments):
            table = self._read_or_skip(segment)
            if table is None:
                continue
            header = segment.header
            is_next = before is not None and before.header.sequence + 1 == header.sequence
            if not is_next:
                if before is not None and before.header.boot_id == header.boot_id:
                    yield [Loss(max(header.since, last), last)]
                yield from _batches(_keyframe(table))
            own = _own(table)
            yield from _batches(own)
            last = max(_times(own), default=header.since)
            before = segment

    # -------------------------------------------------------------------------------- segments

    def _add(self, path: Path) -> None:
        try:
            header = read_header(path)
        except RecordingError as error:
            sealed = path.with_suffix(SEALED)
            if path.suffix == OPEN and sealed.exists():  # it has just been sealed
                self._add(sealed)
                return
            self._skip(path, str(error))
            return
        if any(segment.header.id == header.id for segment in self.segments):
            self._skip(path, f"{path}: it is a copy of another segment")
            return
        self.segments.append(Segment(path, header))

    def _skip(self, path: Path, problem: str) -> None:
        if problem == "it is missing":
            problem = f"{path}: it is missing; restore it from a copy"
        self.skipped.append(SkippedSegment(path, problem))

    def _read(self, segment: Segment) -> Any:
        sealed = segment.path.with_suffix(SEALED)
        path = sealed if segment.is_open and sealed.exists() else segment.path
        return read_segment(path)

    def _read_or_skip(self, segment: Segment) -> Any:
        try:
            return self._read(segment)
        except RecordingError as error:
            if segment.header.id not in self._broken:
                self._broken.add(segment.header.id)
                self._skip(segment.path, str(error))
            return None

    def _late(self, segment: Segment, later: Segment) -> list[Event]:
        """What happened in `segment` and was told only in the one after it."""
        if later.header.boot_id != segment.header.boot_id or not _has_late(later):
            return []
        table = self._read_or_skip(later)
        if table is None:
            return []
        boot_time = later.header.boot_time
        return decode(_between(table, boot_time, None, boot_time + later.header.since))


def _has_late(segment: Segment) -> bool:
    earliest = segment.header.earliest
    return segment.is_open or (earliest is not None and earliest < segment.header.since)


def _keyframe(table: Any) -> Any:
    return table.filter(table.column("keyframe"))


def _own(table: Any) -> Any:
    is_keyframe = table.column("keyframe").to_numpy()
    return table.filter(pa.array(~is_keyframe)) if is_keyframe.any() else table


def _times(table: Any) -> list[int]:
    """When what it tells of itself happened; when a capture began is not among it."""
    is_own = ~table.column("keyframe").to_numpy()
    is_own &= pc.not_equal(table.column("kind"), "header").to_numpy()
    return table.column("time").filter(pa.array(is_own)).to_numpy().tolist()  # type: ignore[no-any-return]


def _between(table: Any, boot_time: int, since: int | None, until: int | None) -> Any:
    times = table.column("time").fill_null(-1).to_numpy()
    wanted = ~table.column("keyframe").to_numpy()
    is_header = times < 0
    if since is not None:
        wanted &= (times >= since - boot_time) | is_header
    if until is not None:
        wanted &= (times < until - boot_time) | is_header
    return table if np.all(wanted) else table.filter(pa.array(wanted))


def _batches(table: Any) -> Iterator[list[Event]]:
    events = decode(table)
    for first in range(0, len(events), _BATCH_EVENTS):
        yield events[first : first + _BATCH_EVENTS]
