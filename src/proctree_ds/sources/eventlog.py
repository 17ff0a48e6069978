"""An event log as a source: a file from its first line to its last, or a stream as it arrives."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, Final

from proctree_ds.errors import EventLogError, SourceError
from proctree_ds.eventlog.files import open_for_reading
from proctree_ds.eventlog.reading import TOO_LONG, LineDecoder
from proctree_ds.eventlog.schema import MAX_LINE_BYTES
from proctree_ds.model import Event
from proctree_ds.sources.memory import header_first, in_batches

__all__ = ["EventLogSource"]

_CHUNK_BYTES: Final = 256 * 1024
_IDLE_MS: Final = 100
"""How long a silent stream is waited for before its reader gets an empty batch."""


class EventLogSource:
    """A source that replays the event log at `path`; `-` is standard input.

    A regular file is read at full speed. Standard input, a FIFO or a socket is followed: what has
    arrived is handed out at once, and a silence as an empty batch. Raises `SourceError` where the
    log cannot be opened, and from `batches()` `EventLogError` at a bad line, after the events
    before it were handed out; with `skip_bad_lines` it is counted, and handed to `on_skip`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        skip_bad_lines: bool = False,
        on_skip: Callable[[EventLogError], object] | None = None,
    ) -> None:
        path = os.fspath(path)
        self._is_stopped = False
        self._events = 0
        self._file: BinaryIO | None = None if path == "-" else open_for_reading(path)
        self._stream: int | None = None
        if self._file is None:
            self._stream = _standard_input()
        elif _is_stream(path):
            self._stream = self._file.fileno()
        where = "<stdin>" if path == "-" else path
        self._decoder = LineDecoder(where, skip_bad_lines, on_skip)

    def batches(self) -> Iterator[Sequence[Event]]:
        """The events of the log in the order of its lines."""
        arriving = self._read() if self._stream is None else self._followed(self._stream)
        for batch in header_first(arriving):
            self._events += len(batch)
            yield batch

    def stop(self) -> None:
        """End the stream after what has been read."""
        self._is_stopped = True

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._file is not None:
            self._file.close()

    def counters(self) -> Mapping[str, int]:
        """`lines` read so far, the `events` in them (and the header), the bad ones `skipped`."""
        return {
            "lines": self._decoder.lines,
            "events": self._events,
            "skipped": self._decoder.skipped,
        }

    def _read(self) -> Iterator[list[Event]]:
        assert self._file is not None
        for batch in in_batches(self._decoder.read(self._file)):
            yield batch
            if self._is_stopped:
                return

    def _followed(self, stream: int) -> Iterator[list[Event]]:
        for lines in self._arriving(stream):
            yield from in_batches(self._decoder.read(lines))
            if not lines:
                yield []

    def _arriving(self, stream: int) -> Iterator[list[bytes]]:
        """Whole lines as they arrive; an empty list in a silence, or within a long line."""
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        begun: list[bytes] = []  # the pieces of a line whose end has not arrived
        begun_bytes = 0
        is_too_long = False
        while not self._is_stopped:
            if not poll.poll(_IDLE_MS):
                yield []
                continue
            try:
                chunk = os.read(stream, _CHUNK_BYTES)
            except OSError as error:
                raise SourceError(f"cannot read {self._decoder.where}: {error.strerror}") from error
            if not chunk:
                if begun:
                    yield [b"".join(begun)]
                return
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join((*begun, lines[0]))
                yield lines[1:] if is_too_long else lines
                begun, begun_bytes, is_too_long = [], 0, False
            if is_too_long:
                continue
            if rest:
                begun.append(rest)
            begun_bytes += len(rest)
            if begun_bytes > MAX_LINE_BYTES:
                self._decoder.lines += 1
                self._decoder.reject(None, TOO_LONG)
                begun, begun_bytes, is_too_long = [], 0, True


def _is_stream(path: str) -> bool:
    if path.endswith((".gz", ".zst")):
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, ValueError, OSError) as error:
        raise SourceError(f"cannot read standard input: {error}") from error
