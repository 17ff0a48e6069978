"""Pictures of tasks from /proc, for what the kernel's own iterator does not show.

Some kernels and sandboxes keep tasks from BPF iterators (pid 1 of a guarded machine, say) that
/proc lists all the same. A row of /proc knows a start only in ticks of 10 ms, and what may not be
read of it stays unknown: other users' links, without the right to trace them, for instance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from proctree_ds.clock import boot_now
from proctree_ds.containers import container_id
from proctree_ds.model import (
    CLOCK_TICK_NS,
    Capabilities,
    Context,
    FileInfo,
    Given,
    Namespaces,
    Snapshot,
    Task,
)
from proctree_ds.wire import tty_name

__all__ = [
    "Glance",
    "glance",
    "picture",
    "pictures_missing_from",
    "program",
    "start_of",
    "tasks",
    "with_arguments",
]

_PROC: Final = Path("/proc")
_DELETED: Final = " (deleted)"
_UNSET: Final = 0xFFFFFFFF
_KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD, include/linux/sched.h, 6.18."""


def pictures_missing_from(seen: set[int]) -> list[Snapshot]:
    """Pictures of the tasks that /proc lists and `seen`, a set of tids, does not hold."""
    rows = (picture(pid, tid) for pid, tid in tasks() if tid not in seen)
    return [row for row in rows if row is not None]


def tasks() -> Iterator[tuple[int, int]]:
    """Pid and tid of every task that /proc lists."""
    for pid in _numbers(_PROC):
        for tid in _numbers(_PROC / str(pid) / "task"):
            yield pid, tid


def start_of(pid: int, tid: int) -> int | None:
    """The tick in which a task started, ended though it may be; None if /proc does not show it."""
    try:
        return _start(_text(_PROC / str(pid) / "task" / str(tid) / "stat"))
    except (OSError, LookupError, ValueError):
        return None


def program(pid: int) -> Given:
    """What a process runs, the quickest way: name, executable and arguments, as far as shown."""
    directory = _PROC / str(pid)
    given: Given = {}
    if (executable := _executable(directory / "exe")) is not None:
        given["executable"] = executable
    if arguments := _arguments(directory / "cmdline"):
        given["argv"] = arguments
    with suppress(OSError):
        given["comm"] = _text(directory / "comm").removesuffix("\n")
    return given


class Glance(NamedTuple):
    """What can be compared cheaply to tell whether a task has changed: a picture costs more."""

    start: int
    parent: int
    rest: tuple[str | None, ...]
    image: tuple[str | None, ...]


def glance(pid: int, tid: int) -> Glance | None:
    """A look at one task; None if it has ended, or cannot be read."""
    directory = _PROC / str(pid) / "task" / str(tid)
    try:
        stat = _text(directory / "stat")
        status = _text(directory / "status")
        head, _, tail = stat.rpartition(")")
        fields = tail.split()
        start, parent, is_last = _start(stat), int(fields[1]), fields[17] == "1"
    except (OSError, LookupError, ValueError):
        return None
    if fields[0] in "ZXx" and (tid != pid or is_last):
        return None
    ids = status.partition("\nUid:")[2].partition("\nFDSize:")[0]
    capabilities = status.partition("\nCapInh:")[2].partition("\nNoNewPrivs:")[0]
    is_kernel = int(fields[6]) & _KERNEL_THREAD  # its name tells what it works on just now
    name = None if is_kernel else head.partition("(")[2]
    rest = (name, *fields[2:5], ids, capabilities, _link(directory / "cwd"))
    try:
        arguments = _text(directory / "cmdline")
    except OSError:
        arguments = None
    return Glance(start, parent, rest, (_link(directory / "exe"), arguments))


def with_arguments(snapshot: Snapshot, names: Sequence[str]) -> Snapshot:
    """The snapshot with argv and environment from /proc, where the kernel program gave none."""
    if "executable" not in snapshot.given or snapshot.given["executable"] is None:
        return snapshot
    directory = _PROC / str(snapshot.task.tid)
    try:
        argv = (directory / "cmdline").read_bytes()
        environ = (directory / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return snapshot
    given = dict(snapshot.given)
    text = argv.removesuffix(b"\0").decode("utf-8", "surrogateescape")
    given["argv"] = tuple(text.split("\0")) if argv else ()
    env: dict[str, str] = {}
    for variable in environ.decode("utf-8", "surrogateescape").split("\0"):
        name, found, value = variable.partition("=")
        if found and name in names:
            env.setdefault(name, value)
    given["env"] = env
    return msgspec.structs.replace(snapshot, given=given)


def picture(pid: int, tid: int) -> Snapshot | None:
    """What /proc shows of one task; None if it has gone, or cannot be read."""
    try:
        return _read(pid, tid)
    except (OSError, ValueError, LookupError):
        return None


def _read(pid: int, tid: int) -> Snapshot | None:
    directory = _PROC / str(pid) / "task" / str(tid)
    time = boot_now()
    stat = _text(directory / "stat")
    status = dict(
        line.split(":\t", 1) for line in _text(directory / "status").split("\n") if ":\t" in line
    )
    leader = stat if tid == pid else _text(_PROC / str(pid) / "stat")
    # comm is whatever the task likes, parentheses and spaces included: only the last one counts.
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    if fields[0] in "ZXx" and (tid != pid or len(list(_numbers(_PROC / str(pid) / "task"))) == 1):
        return None  # it has ended, and only waits to be waited for
    ppid, group, session, tty = (int(fields[i]) for i in (1, 2, 3, 4))
    given: Given = {
        "comm": head.partition("(")[2],
        "context": _context(directory, status, session, group, tty),
    }
    for name in ("cwd", "root"):
        if (place := _link(directory / name)) is not None:
            given[name] = place
    if (executable := _executable(directory / "exe")) is not None:
        given["executable"] = executable
    if arguments := _arguments(directory / "cmdline"):  # empty for kernel threads
        given["argv"] = arguments
    return Snapshot(
        time,
        Task(tid, _start(stat)),
        given,
        leader=None if tid == pid else Task(pid, _start(leader)),
        parent=Task(ppid, 0) if ppid == 0 else _parent(ppid),
        ns_tid=_last_number(status.get("NSpid")),
        ns_pid=_last_number(status.get("NStgid")),
        origin="procfs",
    )


def _context(
    directory: Path, status: dict[str, str], session: int, group: int, tty: int
) -> Context:
    uid, euid, suid, _ = (int(word) for word in status["Uid"].split())
    gid, egid, sgid, _ = (int(word) for word in status["Gid"].split())
    sets = [int(status[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")]
    cgroup = _cgroup(directory / "cgroup")
    inodes = [_namespace(directory / "ns" / name) for name in Namespaces.__struct_fields__]
    return Context(
        uid, euid, suid, gid, egid, sgid,
        Capabilities(*sets),
        session,
        group,
        tty_name(tty >> 8 & 0xFFF, tty & 0xFF | tty >> 12 & 0xFFF00),
        _login_uid(directory / "loginuid"),
        cgroup,
        None,
        container_id(cgroup) if cgroup is not None else None,
        Namespaces(*inodes) if any(inodes) else None,
    )  # fmt: skip


def _parent(pid: int) -> Task:
    try:
        return Task(pid, _start(_text(_PROC / str(pid) / "stat")))
    except OSError:
        return Task(pid)


def _start(stat: str) -> int:
    return int(stat.rpartition(")")[2].split()[19]) * CLOCK_TICK_NS


def _executable(path: Path) -> FileInfo | None:
    target = _link(path)
    if target is None:
        return None
    try:
        file = path.stat()
    except OSError:
        return FileInfo(target)
    is_memfd = target.startswith("/memfd:") and file.st_nlink == 0
    is_deleted = target.endswith(_DELETED) and file.st_nlink == 0
    return FileInfo(
        path=target if is_memfd else target.removesuffix(_DELETED) if is_deleted else target,
        device=file.st_dev,
        inode=file.st_ino,
        mode=file.st_mode,
        owner=file.st_uid,
        size=file.st_size,
        ctime=file.st_ctime_ns,
        mtime=file.st_mtime_ns,
        link_count=file.st_nlink,
        is_memfd=is_memfd,
        is_deleted=is_deleted,
    )


def _arguments(path: Path) -> tuple[str, ...] | None:
    try:
        text = _text(path)
    except OSError:
        return None
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def _cgroup(path: Path) -> str | None:
    """The path in the v2 hierarchy, or where that is empty in the deepest of the v1 ones."""
    try:
        lines = _text(path).removesuffix("\n").split("\n")
        paths = [line.split(":", 2)[2] for line in reversed(lines)]
    except OSError:
        return None
    return max(paths, key=lambda place: place.count("/") + (place != "/"), default=None)


def _login_uid(path: Path) -> int | None:
    try:
        uid = int(_text(path))
    except (OSError, ValueError):
        return None
    return None if uid == _UNSET else uid


def _namespace(path: Path) -> int | None:
    target = _link(path)
    return None if target is None else int(target.partition("[")[2].rstrip("]"))


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _last_number(words: str | None) -> int | None:
    return int(words.split()[-1]) if words else None


def _numbers(directory: Path) -> Iterator[int]:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    yield from sorted(int(name) for name in names if name.isdigit())


def _text(path: Path) -> str:
    # Not as text: names may hold what Python takes for the end of a line.
    return path.read_bytes().decode("utf-8", "surrogateescape")
