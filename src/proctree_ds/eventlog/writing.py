"""Events -> lines. The smallest line that reads back as an equal event.

Two spellings of the same facts become one: attributes that together state a whole context, or a
whole image, come back as one `Context` or `Image`; a `comm` or context in a fork's `given` comes
back as the fork's own; an exec's image is always whole.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec
from msgspec.structs import asdict, astuple

from proctree_ds.eventlog.files import open_for_writing
from proctree_ds.eventlog.schema import (
    ATTRIBUTES,
    VERSION,
    CapabilitiesLine,
    ChangeLine,
    ExecLine,
    ExitLine,
    FileLine,
    ForkLine,
    HeaderLine,
    Line,
    LossLine,
    NamespacesLine,
    PictureLine,
    SnapshotLine,
    TaskLine,
    TaskRefLine,
)
from proctree_ds.model import (
    UNKNOWN_IMAGE,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Header,
    Loss,
    Picture,
    Snapshot,
    State,
    Task,
)

__all__ = ["EventLogWriter", "encode_event", "write_events"]

_encode: Final = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """The line of `event`: UTF-8 JSON, `type` first, with its newline."""
    line = _LINE_OF[type(event)](event)
    try:
        return _encode(line) + b"\n"
    except UnicodeEncodeError:  # bytes that are not UTF-8 are in it, which msgspec cannot escape
        plain = msgspec.to_builtins(line)
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def write_events(
    target: str | os.PathLike[str] | IO[str] | IO[bytes], events: Iterable[Event]
) -> int:
    """Write an event log of `events`, and return how many they were. See `EventLogWriter`."""
    with EventLogWriter(target) as writer:
        for event in events:
            writer.write(event)
    return writer.events


class EventLogWriter:
    """Writes an event log to a path (`.gz` and `.zst` are compressed) or to an open file.

    A context manager: what it opened it closes, what was handed to it stays open. `events` counts
    what was written. Raises `SourceError` for a path that cannot be opened.
    """

    def __init__(self, target: str | os.PathLike[str] | IO[str] | IO[bytes]) -> None:
        self.events = 0
        self._owned = isinstance(target, str | os.PathLike)
        self._file: Any = (
            open_for_writing(os.fspath(target)) if isinstance(target, str | os.PathLike) else target
        )
        self._is_text = isinstance(self._file, io.TextIOBase)

    def write(self, event: Event) -> None:
        """Add one event as a line."""
        line = encode_event(event)
        self._file.write(line.decode() if self._is_text else line)
        self.events += 1

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """End the log. Closing twice is fine."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# ------------------------------------------------------------------------------ attributes

_PARTS: Final[dict[str, Callable[..., Any]]] = {
    "executable": FileLine,
    "interpreter": FileLine,
    "capabilities": CapabilitiesLine,
    "namespaces": NamespacesLine,
}
_NAMES: Final = frozenset(ATTRIBUTES) - {"name", "cmd", "execution_binary"}
_UNKNOWN_IMAGE: Final = asdict(UNKNOWN_IMAGE)


def _attributes(given: Given) -> Given:
    """`given` with every attribute by its own name, ready for a line."""
    flat: Given = {}
    for whole in ("image", "context"):
        if whole in given:
            flat |= asdict(given[whole])
    for name, value in given.items():
        if name in _NAMES:
            flat[name] = value
        elif name not in ("image", "context"):
            raise ValueError(f"{name!r} is not a versioned attribute")
    for name, part in _PARTS.items():
        value = flat.get(name)
        if value is not None:
            flat[name] = part(*astuple(value))
    return flat


def _exec_attributes(event: Exec) -> Given:
    facts = event.facts
    flat = _attributes(asdict(facts) if isinstance(facts, State) else facts)
    # An exec's image is whole, so that what is unknown in it goes without saying.
    unsaid = _UNKNOWN_IMAGE | {"exec_time": event.time}
    return {
        name: value for name, value in flat.items() if name not in unsaid or value != unsaid[name]
    }


# ---------------------------------------------------------------------------- event to line


def _task(task: Task) -> TaskLine:
    if task.start_time is None:
        raise ValueError(f"an event about task {task.tid} needs its start time to be written")
    return TaskLine(task.tid, task.start_time)


def _ref(task: Task | None) -> TaskRefLine | None:
    return None if task is None else TaskRefLine(task.tid, task.start_time)


def _header(event: Header) -> Line:
    return HeaderLine(
        VERSION, event.host, event.boot_id, event.boot_time, event.time, event.unfollowed
    )


def _fork(event: Fork) -> Line:
    given = dict(event.given or {})
    if event.context is not None:
        given["context"] = event.context
    if event.comm is not None:
        given["comm"] = event.comm
    return ForkLine(
        time=event.time,
        task=_task(event.task),
        ns_tid=event.ns_tid,
        ns_pid=event.ns_pid,
        leader=_ref(event.leader),
        parent=_ref(event.parent),
        creator=_ref(event.creator),
        origin=event.origin,
        **_attributes(given),
    )


def _exec(event: Exec) -> Line:
    return ExecLine(
        time=event.time,
        task=_task(event.task),
        ns_tid=event.ns_tid,
        ns_pid=event.ns_pid,
        parent=_ref(event.parent),
        old_tid=event.old_tid,
        origin=event.origin,
        **_exec_attributes(event),
    )


def _change(event: Change) -> Line:
    return ChangeLine(
        time=event.time,
        task=_task(event.task),
        leader=_ref(event.leader),
        parent=_ref(event.parent),
        subreaper=event.subreaper,
        untold_until=event.untold_until,
        origin=event.origin,
        **_attributes(event.given),
    )


def _exit(event: Exit) -> Line:
    return ExitLine(
        time=event.time,
        task=_task(event.task),
        leader=_ref(event.leader),
        parent=_ref(event.parent),
        exit_code=event.exit_code,
        exit_signal=event.exit_signal,
        core_dumped=event.core_dumped,
        group_exit=event.group_exit,
        reaper=_ref(event.reaper),
        origin=event.origin,
    )


def _snapshot(event: Snapshot) -> Line:
    return SnapshotLine(
        time=event.time,
        task=_task(event.task),
        ns_tid=event.ns_tid,
        ns_pid=event.ns_pid,
        leader=_ref(event.leader),
        parent=_ref(event.parent),
        creator=_ref(event.creator),
        subreaper=event.subreaper,
        source=event.origin,
        **_attributes(event.given),
    )


def _picture(event: Picture) -> Line:
    return PictureLine(event.time, event.since)


def _loss(event: Loss) -> Line:
    return LossLine(event.time, event.since, event.lost)


_LINE_OF: Final[dict[type[Any], Callable[[Any], Line]]] = {
    Header: _header,
    Fork: _fork,
    Exec: _exec,
    Change: _change,
    Exit: _exit,
    Snapshot: _snapshot,
    Picture: _picture,
    Loss: _loss,
}
