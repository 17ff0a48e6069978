"""Writes a recording: the only file that changes its directory.

Events are gathered, turned into columns and handed to the kernel a batch at a time: then they are
acknowledged, and outlive this process. What a segment needs to stand for itself, its keyframe, is
taken from the tree. Sealing and syncing happen beside, in a thread that is waited for before the
next of its kind.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import pyarrow as pa

from proctree_ds.errors import ConfigurationError, RecordingError
from proctree_ds.model import Event, Header
from proctree_ds.recording.encoding import Encoder
from proctree_ds.recording.keyframe import keyframe
from proctree_ds.recording.segment import (
    FORMAT_VERSION,
    OPEN,
    SEALED,
    TEMPORARY,
    SegmentHeader,
    paths_of,
    read_header,
    schema_with,
    seal,
    sync_directory,
)
from proctree_ds.registry import danger_of
from proctree_ds.tree import ProcessTree

__all__ = ["RecordingLimits", "RecordingWriter"]

_BATCH_EVENTS: Final = 16_384
"""Events that are turned into columns at once, at most."""

_LOCK: Final = "lock"
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="lz4")


class RecordingLimits(msgspec.Struct, frozen=True):
    """When a segment ends, and how long segments are kept. None: without limit.

    `segment_events` bounds what has to be read to answer for an instant. Times are ns; ages go by
    the clock of the events, and `keep_ns` counts from a segment's last event.
    """

    segment_events: int = 32_768
    segment_ns: int = 3_600 * 10**9
    keep_bytes: int | None = None
    keep_ns: int | None = None
    sync_ns: int = 5 * 10**9


class RecordingWriter:
    """Records events into `directory`, which is made if it is not there.

    `tree` is one that has been told the events before they are written here; without, the writer
    keeps one of its own. A writer goes on where another has ended, and seals what that left open.
    `acknowledged` counts the events that are in the kernel's hands; `dropped_segments` those that a
    limit took, and `torn_bytes` what another writer's crash had left half written.

    Raises `ConfigurationError` for a directory that cannot be taken (another writer is at it,
    others could change it, it holds something else), and `OSError` from then on.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        tree: ProcessTree | None = None,
        limits: RecordingLimits = RecordingLimits(),  # noqa: B008 - frozen
    ) -> None:
        self.acknowledged = 0
        self.dropped_segments = 0
        self.torn_bytes = 0
        self._directory = Path(directory)
        self._tree = tree if tree is not None else ProcessTree()
        self._feeds_tree = tree is None
        self._limits = limits
        self._buffer: list[Event] = []
        self._header = Header()
        self._now = -1
        self._segment: _OpenSegment | None = None
        self._lock = _take(self._directory)
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="recording")
        self._pending: Future[Any] | None = None
        self._synced_ns = time.monotonic_ns()
        self._is_closed = False
        self._next = max(paths_of(self._directory), default=0) + 1
        self._is_tidy = False

    def write(self, event: Event) -> None:
        """Add one event. See `write_all`."""
        self.write_all((event,))

    def write_all(self, events: Sequence[Event]) -> None:
        """Add events. They are safe from a crash of this process after the next `flush`."""
        if self._feeds_tree:
            if Header in map(type, events):
                self._hand_over(events)
                return
            self._tree.apply_all(events)
        self._take(events)

    def flush(self) -> None:
        """Hand all that was written to the kernel; sync it to the disk when it is time."""
        self._write_out()
        segment = self._segment
        if segment is not None and time.monotonic_ns() - self._synced_ns >= self._limits.sync_ns:
            self._synced_ns = time.monotonic_ns()
            self._later(segment.sync)

    def close(self) -> None:
        """Seal the last segment, and let the directory go. Closing twice is fine."""
        if self._is_closed:
            return
        try:
            self._write_out()
            self._tidy_up()
            self._end_segment()
            self._wait()
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---------------------------------------------------------------------------- event by event

    def _hand_over(self, events: Sequence[Event]) -> None:
        """Events with headers among them: a segment that ends knows nothing of what comes then."""
        piece: list[Event] = []
        for event in events:
            if type(event) is Header:
                self._tree.apply_all(piece)
                self._take(piece)
                piece = []
            self._tree.apply(event)
            (self._take((event,)) if type(event) is Header else piece.append(event))
        self._take(piece)

    def _take(self, events: Sequence[Event]) -> None:
        if Header in map(type, events):
            for event in events:
                if type(event) is Header:
                    self._begin_capture(event)
                self._buffer.append(event)
        else:
            self._buffer.extend(events)
        if len(self._buffer) >= _BATCH_EVENTS:
            self._write_out()

    def _begin_capture(self, header: Header) -> None:
        """A header begins a segment: what is in it is of one capture, and of one boot."""
        self._write_out()
        self._end_segment()
        if header.boot_id != self._header.boot_id or header.boot_time != self._header.boot_time:
            self._now = -1
        self._header = header

    def _write_out(self) -> None:
        """The gathered events as batches, and a new segment where the last one is full."""
        events, self._buffer = self._buffer, []
        for first in range(0, len(events), _BATCH_EVENTS):
            self._write_batch(events[first : first + _BATCH_EVENTS])
        if self._segment is not None and self._is_full(self._segment):
            # Just now the tree knows what is written, and nothing more.
            self._end_segment()
            self._segment = self._begin_segment(self._now)
            self._retire()

    def _write_batch(self, events: list[Event]) -> None:
        if self._segment is None:
            times = [event.time for event in events if event.time is not None]
            self._segment = self._begin_segment(min(times, default=0))
        last = self._segment.append(events)
        self.acknowledged += len(events)
        self._now = max(self._now, last)

    def _is_full(self, segment: _OpenSegment) -> bool:
        limits = self._limits
        return (
            segment.events >= limits.segment_events
            or self._now - segment.header.since >= limits.segment_ns
        )

    # ------------------------------------------------------------------------ segment by segment

    def _begin_segment(self, first: int) -> _OpenSegment:
        """A new segment; `first` is the time of the first event that is known of it."""
        self._tidy_up()
        tree = self._tree
        is_mine = tree.boot_id == self._header.boot_id and tree.boot_time == self._header.boot_time
        since = self._now if self._now >= 0 else self._header.time or first
        header = SegmentHeader(
            FORMAT_VERSION,
            uuid.uuid4().hex,
            self._next,
            since,
            self._header.boot_time,
            self._header.host,
            self._header.boot_id,
            os.uname().release,
            _product_version(),
            self._header.unfollowed,
        )
        segment = _OpenSegment(self._directory / f"{self._next:08d}{OPEN}", header)
        self._next += 1
        if is_mine and self._now >= 0:
            told = keyframe(tree, self._now)
            for begin in range(0, len(told), _BATCH_EVENTS):
                segment.append(told[begin : begin + _BATCH_EVENTS], keyframe=True)
        return segment

    def _end_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        segment.close()
        if segment.events:
            self._later(lambda: seal(segment.path, segment.header))
        else:
            segment.path.unlink()
            self._next -= 1

    def _tidy_up(self) -> None:
        """Seal what a crash has left open, once, and beside: before that no thread is started."""
        if not self._is_tidy:
            self._is_tidy = True
            left = [p for p in paths_of(self._directory).values() if p.suffix == OPEN]
            self._later(lambda: self._seal_left(left))

    def _seal_left(self, left: list[Path]) -> None:
        for path in self._directory.glob(f"*{TEMPORARY}"):
            path.unlink()
        for path in self._directory.glob(f"*{OPEN}"):
            if path.with_suffix(SEALED).exists():
                path.unlink()
        for path in left:
            try:
                header = read_header(path)
            except RecordingError:  # not even its head was written
                self.torn_bytes += path.stat().st_size
                path.unlink()
                continue
            _, _, torn = seal(path, header)
            self.torn_bytes += torn

    def _retire(self) -> None:
        """Delete the oldest segments as the limits say; the last one never."""
        limits = self._limits
        if limits.keep_bytes is None and limits.keep_ns is None:
            return
        self._wait()
        paths = list(paths_of(self._directory).values())
        sizes = [path.stat().st_size for path in paths]
        total = sum(sizes)
        for path, size in zip(paths[:-1], sizes[:-1], strict=True):
            is_over = limits.keep_bytes is not None and total > limits.keep_bytes
            if not is_over and not self._is_too_old(path):
                break
            path.unlink()
            total -= size
            self.dropped_segments += 1

    def _is_too_old(self, path: Path) -> bool:
        if self._limits.keep_ns is None:
            return False
        try:
            header = read_header(path)
        except RecordingError:
            return False
        until = header.boot_time + (header.until or header.since)
        return self._header.boot_time + self._now - until > self._limits.keep_ns

    # ------------------------------------------------------------------------------------- beside

    def _later(self, work: Any) -> None:
        self._wait()
        self._pending = self._beside.submit(work)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _let_go(self) -> None:
        self._is_closed = True
        self._beside.shutdown()
        if self._segment is not None:
            self._segment.close()
        os.close(self._lock)


class _OpenSegment:
    """The Arrow stream that is being written."""

    def __init__(self, path: Path, header: SegmentHeader) -> None:
        self.path = path
        self.header = header
        self.events = 0
        self._encoder = Encoder()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._whole = 0
        sync_directory(path.parent)
        self._gathered = _Gathered()
        self._stream = pa.ipc.new_stream(
            pa.PythonFile(self._gathered, mode="w"), schema_with(header), options=_COMPRESSED
        )

    def append(self, events: Sequence[Event], keyframe: bool = False) -> int:
        """Add a batch, whole or not at all. Returns the latest of its times; -1 if it has none."""
        batch = self._encoder.encode(events, keyframe)
        self._stream.write_batch(batch)
        self._write(self._gathered.take())
        if not keyframe:
            self.events += len(events)
        return int(batch.column("time").fill_null(-1).to_numpy().max())

    def _write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._whole)
            raise
        self._whole += len(data)

    def sync(self) -> None:
        """Have the disk hold all that was written."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """End the stream."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Gathered:
    """A file for Arrow whose content is taken out again, to be written at once."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        """All that was written since the last time."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _take(directory: Path) -> int:
    """Make `directory` this writer's own: the lock that says so."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        danger = danger_of(directory.resolve())
        if danger is not None:
            raise ConfigurationError(f"{directory} cannot take a recording: {danger}")
        others = [name for name in os.listdir(directory) if name != _LOCK]
        if others and not paths_of(directory) and not _are_remains(others):
            raise ConfigurationError(
                f"{directory} holds other things ({others[0]!r:.60}): give an empty directory,"
                " one that is not there yet, or a recording"
            )
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(directory / _LOCK, flags, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"cannot record into {directory}: {error.strerror or error}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigurationError(
            f"another program is recording into {directory}: end it, or give another directory"
        ) from None
    return lock


def _are_remains(names: list[str]) -> bool:
    return all(name.endswith(TEMPORARY) for name in names)


def _product_version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("proctree-ds")
    except metadata.PackageNotFoundError:  # run from a checkout
        return None
