r"""One line -> one event: what the schema lets through, said in the words of the model.

A line takes the fast path: msgspec, which checks it against the schema as it decodes. Only a line
with bytes that are not UTF-8 (`\udc80` to `\udcff`, as Python's surrogateescape writes them) goes
through the standard library's decoder first, for msgspec takes no lone surrogates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from proctree_ds.containers import container_id
from proctree_ds.eventlog.explain import explain
from proctree_ds.eventlog.schema import (
    ATTRIBUTES,
    VERSION,
    ChangeLine,
    ExecLine,
    ExitLine,
    FileLine,
    ForkLine,
    HeaderLine,
    Line,
    LossLine,
    PictureLine,
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
    Picture,
    Snapshot,
    State,
    Task,
)

__all__ = ["Unreadable", "event_of"]

_SHARED_FACTS: Final = 4096
"""How many files and contexts are remembered, so that equal ones are one object in memory."""


class Unreadable(Exception):
    """A line that holds no event: `problem` at the JSON path `field`, None for the whole line."""

    def __init__(self, field: str | None, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def event_of(line: str | bytes) -> Event:
    """The event that `line` holds. Raises `Unreadable`."""
    try:
        parsed = _parse(line)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(*_explain(error, line)) from None
    return _EVENT_OF[type(parsed)](parsed)


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
_WHOLE: Final = set(State.__struct_fields__)
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
                raise Unreadable(f"$.{alias}", f"says the same as {name}: give one of them")
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
        raise Unreadable("$.version", _wrong_version(line.version))
    return Header(line.boot_time, line.host, line.boot_id, line.time, line.unfollowed)


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
        line.origin,
    )


def _exec(line: ExecLine) -> Exec:
    stated = _stated(line)
    if "image" not in stated:
        stated.setdefault("exec_time", line.time)
        image = {name: stated.pop(name) for name in _IMAGE if name in stated}
        stated["image"] = Image(**image)
    whole = line.origin == "event" and stated.keys() >= _WHOLE
    return Exec(
        line.time,
        Task(line.task.tid, line.task.start_time),
        State(**stated) if whole else stated,
        _task(line.parent),
        line.old_tid,
        line.ns_tid,
        line.ns_pid,
        line.origin,
    )


def _change(line: ChangeLine) -> Change:
    return Change(
        line.time,
        Task(line.task.tid, line.task.start_time),
        _stated(line),
        _task(line.leader),
        _task(line.parent),
        line.subreaper,
        line.untold_until,
        line.origin,
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


def _picture(line: PictureLine) -> Picture:
    if line.since > line.time:
        raise Unreadable("$.since", "is later than time")
    return Picture(line.time, line.since)


def _loss(line: LossLine) -> Loss:
    if line.since > line.time:
        raise Unreadable("$.since", "is later than time")
    return Loss(line.time, line.since, line.lost)


_EVENT_OF: Final[dict[type[Any], Callable[[Any], Event]]] = {
    HeaderLine: _header,
    ForkLine: _fork,
    ExecLine: _exec,
    ChangeLine: _change,
    ExitLine: _exit,
    SnapshotLine: _snapshot,
    PictureLine: _picture,
    LossLine: _loss,
}
