"""What happened to processes, as lines for a person: when, to whom, what, from what to what.

    +47.640 s  2220  exec         php-fpm8.2 → sh  sh -c chmod +x /tmp/.u.sh; exec /tmp/.u.sh
    +48.567 s  2220  died         .u.sh  after 930 ms

Nothing that a process controls gets here unescaped, and no line is wider than asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctree_ds.answers import PROCESS_FIELDS, ProcessInfo
from proctree_ds.changes import CHANGE_KINDS
from proctree_ds.clock import format_time
from proctree_ds.model import CREDENTIAL_FIELDS
from proctree_ds.sinks.escape import visible
from proctree_ds.sinks.process_view import command_of, cut, length, life_of, moment, name_of

if TYPE_CHECKING:
    from proctree_ds.changes import ChangeRow
    from proctree_ds.users import UserNames

__all__ = ["NAME_WIDTH", "Who", "diff_heading", "draw_diff", "draw_timeline"]

Who = Callable[[int | None, int], ProcessInfo | None]
"""A process by its id as of an instant (epoch ns), None where it is not known."""

NAME_WIDTH: Final = 24
"""Characters of a process's name at most, where more stands behind it."""

_WORDS: Final = {
    "executed": "exec",
    "changed_credentials": "credentials",
    "reparented": "parent",
}
_COLORS: Final = {
    "born": 32,
    "start": 32,
    "child": 32,
    "executed": 33,
    "exec": 33,
    "changed_credentials": 35,
    "died": 31,
    "exit": 31,
}
_OTHER_COLOR: Final = 36
_OFF: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"

_USERS: Final = frozenset({"uid", "euid", "suid", "login_uid"})
_UNSHOWN: Final = frozenset(
    {
        "time",
        "exec_time",
        "is_alive",
        "exit_time",
        "exit_code",
        "exit_signal",
        "core_dumped",
        "ns_ppid",
        "parent_entity_id",
    }
)
"""Fields that a line of a timeline does not name: its time or its text has them already."""
_TOLD_AT_START: Final = (
    "ppid",
    "execution_binary",
    "script",
    "cwd",
    "uid",
    "euid",
    "gid",
    "login_uid",
    "tty",
    "container_id",
    "cgroup",
)
_SETS: Final = ("effective", "permitted", "inheritable", "bounding", "ambient")
_NAMES_SHOWN: Final = 3
"""Capabilities that are named; of more, their number is told."""

# capabilities(7), by number (include/uapi/linux/capability.h, 6.18).
_CAPABILITIES: Final = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
    sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time
    sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog
    wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
"""


def diff_heading(first: int, last: int, kinds: Counter[str], *, width: int) -> Iterator[str]:
    """From when to when (epoch ns), and how many changes of each kind."""
    yield cut(f"{format_time(first)} to {format_time(last)}, {length(last - first)}", width)
    counts = (f"{kinds[kind]:,} {_WORDS.get(kind, kind)}" for kind in CHANGE_KINDS if kinds[kind])
    yield cut(", ".join(counts) or "nothing happened", width)


def draw_diff(
    rows: Sequence[ChangeRow],
    *,
    width: int,
    since: int | None,
    who: Who,
    color: bool = False,
    users: UserNames | None = None,
) -> Iterator[str]:
    """A line of at most `width` characters for each row; times count from `since` (epoch ns)."""
    heads = [(moment(row.time, since), str(row.process.pid), _word(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*heads, strict=True)]
    for row, (time, pid, word) in zip(rows, heads, strict=True):
        facts = f"{time:>{widths[0]}}  {pid:>{widths[1]}}  "
        kind = f"{word:<{widths[2]}}"
        indent = len(facts) + len(kind) + 2
        first = _colored(row, facts, kind, color)
        for text in _told(row, who, users):
            yield f"{first}  {cut(text, width - indent)}".rstrip()
            first = " " * (indent - 2)


def draw_timeline(
    rows: Sequence[ChangeRow],
    *,
    width: int,
    since: int | None,
    who: Who,
    color: bool = False,
    users: UserNames | None = None,
) -> Iterator[str]:
    """A line of at most `width` characters for each row, and one for each field behind it."""
    heads = [(moment(row.time, since), _word(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*heads, strict=True)]
    for row, (time, word) in zip(rows, heads, strict=True):
        facts = f"{time:>{widths[0]}}  "
        kind = f"{word:<{widths[1]}}"
        indent = len(facts) + len(kind) + 2
        first = _colored(row, facts, kind, color)
        for text in _details(row, who, users, width - indent):
            yield f"{first}  {cut(text, width - indent)}".rstrip()
            first = " " * (indent - 2)


def _colored(row: ChangeRow, facts: str, kind: str, color: bool) -> str:
    if not color:
        return facts + kind
    return f"{_DIM}{facts}{_OFF}\x1b[{_COLORS.get(row.kind, _OTHER_COLOR)}m{kind}{_OFF}"


def _word(row: ChangeRow) -> str:
    return _WORDS.get(row.kind, row.kind)


# ------------------------------------------------------------------------------- a line of a diff


def _told(row: ChangeRow, who: Who, users: UserNames | None) -> Iterator[str]:
    info = row.process
    name = cut(name_of(info), NAME_WIDTH)
    if row.kind == "executed":
        yield _execution(row)
    elif row.kind == "renamed":
        yield _renaming(row)
    elif row.kind == "died":
        yield _end(info)
    elif row.kind == "born":
        yield f"{name}  made by {_person(row.after, row.time, who)}"
    elif row.kind == "reparented":
        before, after = (_person(side, row.time, who) for side in (row.before, row.after))
        yield f"{name}  {before} → {after}"
    else:
        head = f"{name}  "
        for text in _credentials(row, users):
            yield head + text
            head = " " * len(head)


def _execution(row: ChangeRow) -> str:
    return f"{_renaming(row)}  {command_of(row.process)}"


def _renaming(row: ChangeRow) -> str:
    old, new = (cut(_text(names.get("name")), NAME_WIDTH) for names in (row.before, row.after))
    return f"{old} → {new}" if "name" in row.after else cut(name_of(row.process), NAME_WIDTH)


def _end(info: ProcessInfo) -> str:
    core = ", core dumped" if info.core_dumped else ""
    return f"{cut(name_of(info), NAME_WIDTH)}  after {life_of(info)}{core}"


def _person(fields: Mapping[str, Any], time: int, who: Who) -> str:
    """A parent: its pid, and its name as of then."""
    pid = fields.get("ppid")
    info = who(fields.get("parent_entity_id"), time)
    if pid is None and info is None:
        return "one that is not known"
    if info is None:
        return "the kernel" if pid == 0 else str(pid)
    return f"{info.pid} {cut(name_of(info), NAME_WIDTH)}"


def _credentials(row: ChangeRow, users: UserNames | None) -> Iterator[str]:
    """What changed, fields that changed alike together: `uid, euid 33 → 0 (root)`."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name in PROCESS_FIELDS:
        if name in row.after and name in CREDENTIAL_FIELDS and name != "capabilities":
            change = tuple(
                _user(row, name, fields.get(name), users) for fields in (row.before, row.after)
            )
            alike.setdefault((change[0], change[1]), []).append(name)
    for (old, new), names in alike.items():
        for every, kind in (("gids", {"gid", "egid", "sgid"}), ("uids", {"uid", "euid", "suid"})):
            if kind.issubset(names):
                names = [f"all {every}", *(name for name in names if name not in kind)]
        yield f"{', '.join(names)} {old} → {new}"
    if "capabilities" in row.after:
        old_sets, new_sets = row.before.get("capabilities"), row.after["capabilities"]
        yield f"capabilities {_capabilities(old_sets, new_sets)}"


def _user(row: ChangeRow, field: str, value: int | None, users: UserNames | None) -> str:
    if value is None:
        return "-"
    namespaces = row.process.namespaces
    name = None
    if users is not None and field in _USERS and namespaces is not None:
        name = users.name(value, namespaces.user)
    return str(value) if name is None else f"{value} ({visible(name)})"


def _capabilities(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> str:
    """What came and went in each set, sets that changed alike together."""
    if before is None or after is None:
        return "?"
    alike: dict[str, list[str]] = {}
    for name in _SETS:
        came, went = after[name] & ~before[name], before[name] & ~after[name]
        moved = " ".join(filter(None, (_named(came, "+"), _named(went, "-"))))
        if moved:
            alike.setdefault(moved, []).append(name)
    return "; ".join(f"{', '.join(names)} {moved}" for moved, names in alike.items())


def _named(mask: int, sign: str) -> str:
    names = _CAPABILITIES.split()
    numbers = [number for number in range(64) if mask >> number & 1]
    if len(numbers) > _NAMES_SHOWN:
        return f"{sign}{len(numbers)}"
    return " ".join(sign + (names[n] if n < len(names) else str(n)) for n in numbers)


# --------------------------------------------------------------------------- lines of a timeline


def _details(row: ChangeRow, who: Who, users: UserNames | None, width: int) -> Iterator[str]:
    info = row.process
    if row.kind == "child":
        head = f"{info.pid} {cut(name_of(info), NAME_WIDTH)}  {life_of(info)}"
        yield f"{head}  {command_of(info)}"
        return
    if row.kind == "dropped":
        yield f"how these changed was dropped: {', '.join(map(_label, row.after))}"
        return
    shown = [n for n in PROCESS_FIELDS if n in row.after and n not in _UNSHOWN]
    if row.kind == "start":
        yield f"{name_of(info)}  {command_of(info)}"
        shown = [name for name in _TOLD_AT_START if name in row.after]
    elif row.kind == "exec":
        yield _execution(row)
        shown = [name for name in shown if name not in ("name", "cmd")]
    elif row.kind == "exit":
        yield _end(info)
    elif not shown:
        yield "seen, as before"
        return
    told: dict[tuple[bool, str | None, str], list[str]] = {}
    for name in shown:
        old, new = _sides(row, name, who, users)
        alike = (name in CREDENTIAL_FIELDS, old, new)
        told.setdefault(alike if alike[0] else (False, name, ""), []).append(name)
    labels = [", ".join(map(_label, names)) for names in told.values()]
    column = max(map(len, labels), default=0)
    for label, names in zip(labels, told.values(), strict=True):
        old, new = _sides(row, names[0], who, users)
        yield from _change(f"{label:<{column}}  ", old, new, width)


def _change(label: str, old: str | None, new: str, width: int) -> Iterator[str]:
    """In one line, if it fits: where both are long, neither must hide the other."""
    room = width - len(label)
    if old is None:
        yield label + new
    elif len(old) + len(new) + 3 <= room:
        yield f"{label}{old} → {new}"
    else:
        yield label + cut(old, room)
        yield " " * (len(label) - 2) + "→ " + cut(new, room)


def _label(name: str) -> str:
    return {"execution_binary": "executable", "ppid": "parent"}.get(name, name)


def _sides(row: ChangeRow, name: str, who: Who, users: UserNames | None) -> tuple[str | None, str]:
    """What it was, None at the start, and what it is."""
    before, after = row.before.get(name), row.after[name]
    is_start = not row.before
    if name == "ppid":
        new = _person(row.after, row.time, who)
        return (None if is_start else _person(row.before, row.time, who)), new
    if name == "capabilities" and not is_start:
        return None, _capabilities(before, after)
    if name in _USERS:
        old, new = (_user(row, name, value, users) for value in (before, after))
        return (None if is_start else old), new
    if isinstance(before, dict) and isinstance(after, dict):
        before, after = _differing(before, after)
    return (None if is_start else _text(before)), _text(after)


def _differing(
    before: dict[str, Any], after: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a file or the like only what differs; of another file, what it is."""
    if before.get("path") != after.get("path"):
        return before, after
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return {n: before.get(n) for n in names}, {n: after.get(n) for n in names}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return visible(" ".join(map(str, value))) or "(empty)"
    if isinstance(value, dict) and "path" in value:
        path = "?" if value["path"] is None else visible(value["path"])
        return f"{path} (deleted)" if value.get("is_deleted") else path
    if isinstance(value, dict):
        return visible(" ".join(f"{k}={v}" for k, v in value.items())) or "(none)"
    return visible(str(value))
