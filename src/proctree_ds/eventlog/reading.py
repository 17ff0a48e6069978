"""A file, or any lines -> events, one at a time and in bounded memory."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, Any, Final

from proctree_ds.errors import EventLogError
from proctree_ds.eventlog.decoding import Unreadable, event_of
from proctree_ds.eventlog.files import open_for_reading
from proctree_ds.eventlog.schema import MAX_LINE_BYTES
from proctree_ds.model import Event

__all__ = ["TOO_LONG", "LineDecoder", "decode_event", "read_events"]

TOO_LONG: Final = f"the line is longer than {MAX_LINE_BYTES} bytes"

_STREAM_ERRORS: Final = (OSError, EOFError, zlib.error, UnicodeError)


def read_events(
    source: str | os.PathLike[str] | IO[str] | IO[bytes] | Iterable[str] | Iterable[bytes],
    *,
    skip_bad_lines: bool = False,
    on_skip: Callable[[EventLogError], object] | None = None,
) -> Iterator[Event]:
    """The events of an event log, one at a time, in the order of its lines.

    `source` is a path (`.gz` and `.zst` are decompressed), an open file, text or binary, which
    is left open, or an iterable of lines. Memory is bounded by the longest line, and that by
    `MAX_LINE_BYTES`. Empty lines mean nothing.

    Raises `SourceError` for a path that cannot be opened and `EventLogError` for a line that
    cannot be read; with `skip_bad_lines` such a line is left out and handed to `on_skip`.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        with open_for_reading(path) as file:
            yield from LineDecoder(path, skip_bad_lines, on_skip).read(file)
        return
    if isinstance(source, bytes):
        raise TypeError("give a path as str or os.PathLike, lines as an iterable")
    name = getattr(source, "name", None)
    where = name if isinstance(name, str) else "<lines>"
    yield from LineDecoder(where, skip_bad_lines, on_skip).read(source)


def decode_event(line: str | bytes) -> Event:
    """The event that one line holds. Raises `EventLogError`; an empty line is one, too."""
    event = LineDecoder("<line>").decode(line)
    if event is None:
        raise EventLogError("<line>", 1, None, "the line is empty")
    return event


class LineDecoder:
    """Decodes the lines of one log one by one, and knows where it is.

    `lines` and `skipped` count what passed so far.
    """

    def __init__(
        self,
        where: str,
        skip_bad_lines: bool = False,
        on_skip: Callable[[EventLogError], object] | None = None,
    ) -> None:
        self.where = where
        self.lines = 0
        self.skipped = 0
        self._skip_bad_lines = skip_bad_lines
        self._on_skip = on_skip

    def read(self, lines: IO[str] | IO[bytes] | Iterable[str] | Iterable[bytes]) -> Iterator[Event]:
        """The events of all lines, or of an open file, which is read line by line."""
        all_lines: Iterable[str | bytes] = (
            self._lines_of(lines) if hasattr(lines, "readline") else lines
        )
        for line in all_lines:
            event = self.decode(line)
            if event is not None:
                yield event

    def decode(self, line: str | bytes) -> Event | None:
        """The event of the next line; None for an empty line, or a bad one that is skipped."""
        self.lines += 1
        try:
            return event_of(line)
        except Unreadable as error:
            if line and not line.isspace():
                self.reject(error.field, error.problem)
        return None

    def reject(self, field: str | None, problem: str) -> None:
        """Refuse the current line: raises `EventLogError`, or counts it where that is wanted."""
        error = EventLogError(self.where, self.lines, field, problem)
        if not self._skip_bad_lines:
            raise error from None
        self.skipped += 1
        if self._on_skip is not None:
            self._on_skip(error)

    def _lines_of(self, file: Any) -> Iterator[str | bytes]:
        read = partial(file.readline, MAX_LINE_BYTES + 1)
        try:
            while line := read():
                if len(line) <= MAX_LINE_BYTES:
                    yield line
                    continue
                self.lines += 1
                self.reject(None, TOO_LONG)
                newline = "\n" if isinstance(line, str) else b"\n"
                while line and not line.endswith(newline):
                    line = read()
        except _STREAM_ERRORS as error:
            self.lines += 1
            self.reject(None, f"reading failed here: {error}")
