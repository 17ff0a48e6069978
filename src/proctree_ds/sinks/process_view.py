"""Processes as text for a person: a line each, or all that is known of one.

Every text that a process controls goes through `visible` here, before it is cut or aligned.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctree_ds.answers import ProcessInfo
from proctree_ds.clock import format_time
from proctree_ds.sinks.escape import visible

if TYPE_CHECKING:
    from proctree_ds.users import UserNames

__all__ = [
    "command_of",
    "cut",
    "facts",
    "length",
    "life_of",
    "listing",
    "name_of",
    "started",
    "user_of",
]

_USERS: Final = frozenset({"uid", "euid", "suid", "login_uid"})
"""Fields that say which user."""

_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE


def listing(infos: Sequence[ProcessInfo], *, width: int, since: int | None) -> Iterator[str]:
    """A heading, and a line of at most `width` characters for each process."""
    rows = [("PID", "PPID", "UID", "STARTED", "LIFE", "NAME", "COMMAND")]
    rows += [
        (
            str(info.pid),
            "?" if info.ppid is None else str(info.ppid),
            "?" if info.euid is None else str(info.euid),
            started(info, since),
            life_of(info),
            name_of(info),
            command_of(info),
        )
        for info in infos
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for pid, ppid, uid, time, life, name, command in rows:
        line = (
            f"{pid:>{widths[0]}} {ppid:>{widths[1]}} {uid:>{widths[2]}}  {time:>{widths[3]}}"
            f"  {life:<{widths[4]}}  {name:<{widths[5]}}  {command}"
        )
        yield cut(line, width).rstrip()


def facts(info: ProcessInfo, *, width: int, users: UserNames | None = None) -> Iterator[str]:
    """Every field of `info` that is known, on a line of at most `width` characters each."""
    known = {name: value for name, value in info.to_dict().items() if value is not None}
    column = max(map(len, known))
    for name, value in known.items():
        text = _fact(name, value)
        if users is not None and name in _USERS and (user := users.of(known, name)) is not None:
            text += f" ({visible(user)})"
        yield cut(f"{name:<{column}}  {text}", width)


def _fact(name: str, value: Any) -> str:
    if name.endswith("_time"):
        return format_time(value)
    if name.endswith("entity_id"):
        return f"{value:#018x}"
    if name == "cmd":
        return visible(" ".join(value)) or "(empty)"
    if isinstance(value, dict):
        stated = (
            f"{key}={_item(fact)}" for key, fact in value.items() if fact not in (None, False)
        )
        return visible(" ".join(stated)) or "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible(str(value))


def _item(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def name_of(info: ProcessInfo) -> str:
    """The command name, `?` where it is unknown."""
    return "?" if info.name is None else visible(info.name)


def user_of(info: ProcessInfo, users: UserNames) -> str:
    """The name of the effective user, else the uid, `?` where it is unknown."""
    namespaces = info.namespaces
    name = users.name(info.euid, None if namespaces is None else namespaces.user)
    if name is not None:
        return visible(name)
    return "?" if info.euid is None else str(info.euid)


def command_of(info: ProcessInfo) -> str:
    """The arguments as one text; where there are none, what is executed."""
    if info.cmd and any(info.cmd):
        return visible(" ".join(info.cmd))
    binary = info.execution_binary
    if binary is None or binary.path is None:
        return ""
    return visible(binary.path) + ("" if info.cmd is None else "  (no arguments)")


def started(info: ProcessInfo, since: int | None) -> str:
    """When it started, counted from `since`; nothing where there is no such instant."""
    if since is None:
        return ""
    after = info.start_time - since
    return f"+{after / _SECOND:.3f} s" if after >= 0 else f"-{length(-after)}"


def life_of(info: ProcessInfo) -> str:
    """`alive`, or how long it lived, and how it ended if that was not with code 0."""
    if info.exit_time is None:
        return "alive"
    lived = length(info.exit_time - info.start_time)
    if info.exit_signal is not None:
        return f"{lived} {_signal_name(info.exit_signal)}"
    return f"{lived} exit {info.exit_code}" if info.exit_code else lived


def length(duration_ns: int) -> str:
    """A length of time with two or three digits: `0.4 ms`, `84 ms`, `31.6 s`, `4.0 h`."""
    if duration_ns < 10_000_000:
        return f"{duration_ns / 1e6:.1f} ms"
    if duration_ns < _SECOND:
        return f"{duration_ns / 1e6:.0f} ms"
    for unit, name in ((24 * _HOUR, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if duration_ns >= unit:
            return f"{duration_ns / unit:.1f} {name}"
    return f"{duration_ns / _SECOND:.1f} s"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cut(text: str, width: int) -> str:
    """`text` in at most `width` characters, with `…` where something is missing."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…"
