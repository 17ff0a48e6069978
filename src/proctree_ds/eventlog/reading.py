"""Lines -> events. A line is right and becomes one event, or is an error that says where and why.

A line takes the fast path: msgspec, which checks it against the schema as it decodes. Only a line
with bytes that are not UTF-8 (`\\udc80` to `\\udcff`, as Python's surrogateescape writes them) goes
through the standard library's decoder first, for msgspec takes no lone surrogates.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import IO, Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from proctree_ds.containers import container_id
from proctree_ds.errors import EventLogError
from proctree_ds.eventlog.explain import explain
from proctree_ds.eventlog.files import open_for_reading
from proctree_ds.eventlog.schema import (
    ATTRIBUTES,
    MAX_LINE_BYTES,
    VERSION,
    ChangeLine,
    ExecLine,
    ExitLine,
    FileLine,
    ForkLine,
    HeaderLine,
    Line,
    LossLine,
    SnapshotLine,
    TaskLine,
    TaskRefLine,
)
from proctree_ds.model import (
    Capabilities,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Header,
    Image,
    Loss,
    Namespaces,
    Snapshot,
    State,
    Task,
)

__all__ = ["LineDecoder", "decode_event", "read_events"]

_SHARED_FACTS: Final = 4096
"""How many files and contexts are remembered, so that equal ones are one object in memory."""

_STREAM_ERRORS: Final = (OSError, EOFError, zlib.error, UnicodeError)


class _Unreadable(Exception):
    """`problem` at the JSON path `field`, or in the line as a whole."""

    def __init__(self, field: str | None, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


# --------------------------------------------------------------------------------- from a stream


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
            yield from _decoded(file, LineDecoder(path, skip_bad_lines, on_skip))
        return
    if isinstance(source, bytes):
        raise TypeError("give a path as str or os.PathLike, lines as an iterable")
    name = getattr(source, "name", None)
    where = name if isinstance(name, str) else "<lines>"
    yield from _decoded(source, LineDecoder(where, skip_bad_lines, on_skip))


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

    def decode(self, line: str | bytes) -> Event | None:
        """The event of the next line; None for an empty line, or a bad one that is skipped."""
        self.lines += 1
        try:
            parsed = _parse(line)
            return _EVENT_OF[type(parsed)](parsed)
        except _Unreadable as error:
            self.reject(error.field, error.problem)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            if not line or line.isspace():
                return None
            self.reject(*_explain(error, line))
        return None

    def reject(self, field: str | None, problem: str) -> None:
        """Refuse the current line: raises `EventLogError`, or counts it where that is wanted."""
        error = EventLogError(self.where, self.lines, field, problem)
        if not self._skip_bad_lines:
            raise error from None
        self.skipped += 1
        if self._on_skip is not None:
            self._on_skip(error)


def _decoded(lines: Any, decoder: LineDecoder) -> Iterator[Event]:
    if hasattr(lines, "readline"):
        lines = _lines_of(lines, decoder)
    decode = decoder.decode
    for line in lines:
        event = decode(line)
        if event is not None:
            yield event


def _lines_of(file: Any, decoder: LineDecoder) -> Iterator[str | bytes]:
    read = partial(file.readline, MAX_LINE_BYTES + 1)
    try:
        while line := read():
            if len(line) > MAX_LINE_BYTES:
                decoder.lines += 1
                decoder.reject(None, f"the line is longer than {MAX_LINE_BYTES} bytes")
                newline = "\n" if isinstance(line, str) else b"\n"
                while line and not line.endswith(newline):
                    line = read()
                continue
            yield line
    except _STREAM_ERRORS as error:
        decoder.lines += 1
        decoder.reject(None, f"the file cannot be read on: {error}")


# ------------------------------------------------------------------------------------- one line

_decode: Final[Callable[[str | bytes], Line]] = msgspec.json.Decoder(Line).decode


def _parse(line: str | bytes) -> Line:
    try:
        return _decode(line)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        text = line if isinstance(line, str) else line.decode()
        if "\\ud" not in text and "\\uD" not in text:
            raise
        return _parse_surrogates(text)


def _parse_surrogates(text: str) -> Line:
    parsed = json.loads(text, parse_constant=_refuse_constant)
    # Surrogates that stand for no byte could never be written again, nor be a file's name.
    json.dumps(parsed, ensure_ascii=False).encode("utf-8", "surrogateescape")
    line: Line = msgspec.convert(parsed, Line)
    return line


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _explain(error: Exception, line: str | bytes) -> tuple[str | None, str]:
    """As `explain`; but a log of another version is told to be one, whatever else is new in it."""
    try:
        header = msgspec.json.decode(line, type=_AnyHeader)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return explain(error)
    if header.type == "header" and header.version not in (VERSION, UNSET):
        return "$.version", _wrong_version(header.version)
    return explain(error)


class _AnyHeader(msgspec.Struct):
    type: Any = None
    version: Any = UNSET


def _wrong_version(version: object) -> str:
    return f"is {version!r:.60}, and this program reads version {VERSION}: use a newer one"


# ---------------------------------------------------------------------------- from line to event

_CONTEXT: Final = Context.__struct_fields__
_IMAGE: Final = Image.__struct_fields__
_PROGRAM: Final = ATTRIBUTES[: -len(_CONTEXT)]
_ALIASES: Final = (("name", "comm"), ("cmd", "argv"), ("execution_binary", "executable"))


def _stated(line: ForkLine | ExecLine | ChangeLine | SnapshotLine) -> Given:
    """The stated attributes by name; a context or an image that is stated in full as a whole."""
    values = astuple(line)
    stated: Given = {
        name: value
        for name, value in zip(_PROGRAM, values[-len(ATTRIBUTES) :], strict=False)
        if value is not UNSET
    }
    for alias, name in _ALIASES:
        if alias in stated:
            if name in stated:
                raise _Unreadable(f"$.{alias}", f"says the same as {name}: give one of them")
            stated[name] = stated.pop(alias)
    for name in ("executable", "interpreter"):
        if stated.get(name) is not None:
            stated[name] = _file(stated[name])
    if all(name in stated for name in _IMAGE):
        stated["image"] = Image(*[stated.pop(name) for name in _IMAGE])
    context = _context(values[-len(_CONTEXT) :])
    if isinstance(context, Context):
        stated["context"] = context
    else:
        stated.update(context)
    return stated


@lru_cache(_SHARED_FACTS)
def _file(line: FileLine) -> FileInfo:
    return FileInfo(*astuple(line))


@lru_cache(_SHARED_FACTS)
def _context(values: tuple[Any, ...]) -> Context | Given:
    """A whole context where every field is stated, else what is."""
    stated = {
        name: value for name, value in zip(_CONTEXT, values, strict=True) if value is not UNSET
    }
    if stated.get("capabilities") is not None:
        stated["capabilities"] = Capabilities(*astuple(stated["capabilities"]))
    if stated.get("namespaces") is not None:
        stated["namespaces"] = Namespaces(*astuple(stated["namespaces"]))
    if "cgroup" in stated and "container_id" not in stated:
        cgroup = stated["cgroup"]
        stated["container_id"] = None if cgroup is None else container_id(cgroup)
    return Context(**stated) if len(stated) == len(_CONTEXT) else stated


def _task(line: TaskLine | TaskRefLine | None) -> Task | None:
    return None if line is None else Task(line.tid, line.start_time)


def _header(line: HeaderLine) -> Header:
    if line.version is not UNSET and line.version != VERSION:
        raise _Unreadable("$.version", _wrong_version(line.version))
    return Header(line.boot_time, line.host, line.boot_id)


def _fork(line: ForkLine) -> Fork:
    stated = _stated(line)
    return Fork(
        line.time,
        Task(line.task.tid, line.task.start_time),
        _task(line.parent),
        _task(line.leader),
        _task(line.creator),
        line.ns_tid,
        line.ns_pid,
        stated.pop("comm", None),
        stated.pop("context", None),
        stated or None,
    )


def _exec(line: ExecLine) -> Exec:
    stated = _stated(line)
    if "image" not in stated:
        stated.setdefault("exec_time", line.time)
        image = {name: stated.pop(name) for name in _IMAGE if name in stated}
        stated["image"] = Image(**image)
    whole = "comm" in stated and "cwd" in stated and "root" in stated and "context" in stated
    return Exec(
        line.time,
        Task(line.task.tid, line.task.start_time),
        State(**stated) if whole else stated,
        _task(line.parent),
        line.old_tid,
        line.ns_tid,
        line.ns_pid,
    )


def _change(line: ChangeLine) -> Change:
    return Change(
        line.time,
        Task(line.task.tid, line.task.start_time),
        _stated(line),
        _task(line.leader),
        _task(line.parent),
        line.subreaper,
    )


def _exit(line: ExitLine) -> Exit:
    return Exit(
        line.time,
        Task(line.task.tid, line.task.start_time),
        _task(line.leader),
        _task(line.parent),
        line.exit_code,
        line.exit_signal,
        line.core_dumped,
        line.group_exit,
        _task(line.reaper),
        line.origin,
    )


def _snapshot(line: SnapshotLine) -> Snapshot:
    return Snapshot(
        line.time,
        Task(line.task.tid, line.task.start_time),
        _stated(line),
        _task(line.leader),
        _task(line.parent),
        _task(line.creator),
        line.ns_tid,
        line.ns_pid,
        line.subreaper,
        line.source,
    )


def _loss(line: LossLine) -> Loss:
    if line.since > line.time:
        raise _Unreadable("$.since", "is later than time")
    return Loss(line.time, line.since, line.lost)


_EVENT_OF: Final[dict[type[Any], Callable[[Any], Event]]] = {
    HeaderLine: _header,
    ForkLine: _fork,
    ExecLine: _exec,
    ChangeLine: _change,
    ExitLine: _exit,
    SnapshotLine: _snapshot,
    LossLine: _loss,
}
