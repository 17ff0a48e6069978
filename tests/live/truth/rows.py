"""What /proc says of every process: plain reading, each row with the instants around it.

Nothing is interpreted here beyond splitting text into fields. A directory of /proc is held open
while its files are read, so that all of a row is about one process even if its pid is used again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

PF_EXITING: Final = 0x00000004
PF_KTHREAD: Final = 0x00200000
"""Of task_struct::flags, include/linux/sched.h, 6.18; the ninth field of /proc/PID/stat."""

NAMESPACES: Final = ("pid", "mnt", "net", "user", "uts", "ipc", "cgroup", "time")
CAPABILITY_SETS: Final = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
_UNSET_UID: Final = 0xFFFFFFFF
_DELETED: Final = " (deleted)"
_CHUNK: Final = 1 << 16


def boot_clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Unreadable(NamedTuple):
    """In the place of a value: what the kernel answered instead."""

    error: int


class Stat(NamedTuple):
    """/proc/PID/stat, the fields that are used."""

    comm: str
    state: str
    ppid: int
    process_group: int
    session_id: int
    tty: int
    flags: int
    threads: int
    start_tick: int
    exit_code: int

    @property
    def is_exiting(self) -> bool:
        return bool(self.flags & PF_EXITING) or self.state in "ZX"

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)


class FileLink(NamedTuple):
    """Where a link of /proc leads: the path, without the mark of a deleted file, and the inode."""

    path: str
    is_deleted: bool
    device: int
    inode: int


@dataclass(slots=True)
class ThreadRow:
    """One thread of a process with several."""

    tid: int
    stat: Stat
    uid: int
    gid: int
    ns_tid: int

    @property
    def name(self) -> str:
        return self.stat.comm


@dataclass(slots=True)
class Row:
    """One process. Its values were read between `began` and `ended`, boot-clock ns."""

    pid: int
    began: int
    ended: int
    first: Stat
    last: Stat | None
    """A second reading at the end; None where the process was gone by then."""
    values: dict[str, object]
    listed: tuple[int, int] = (0, 0)
    """The instants around the listing of task/."""
    tids: tuple[int, ...] = ()
    threads: list[ThreadRow] = field(default_factory=list)

    @property
    def is_dying(self) -> bool:
        """Whether it was on its way out, or dead, at some instant of the reading."""
        return self.first.is_exiting or self.last is None or self.last.is_exiting

    @property
    def is_zombie(self) -> bool:
        return self.first.state == "Z"


@dataclass(slots=True)
class Sweep:
    """One look at all of /proc. `began` to `listed` is the listing of pids."""

    began: int
    listed: int
    pids: set[int]
    rows: list[Row]
    gone: list[tuple[int, int]]
    """Pids that were listed and had no row, each with the instant at which it was looked for."""


def sweep(hierarchy: str) -> Sweep:
    """Every process. `hierarchy` is the cgroup controller that is asked for, "" for v2."""
    began = boot_clock()
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    taken = Sweep(began, boot_clock(), set(pids), [], [])
    for pid in pids:
        row = read_row(pid, hierarchy)
        if row is None:
            taken.gone.append((pid, boot_clock()))
        else:
            taken.rows.append(row)
    return taken


def read_row(pid: int, hierarchy: str) -> Row | None:
    """One process, None if it is gone."""
    began = boot_clock()
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        first = _stat(directory, "stat")
        if first is None:
            return None
        row = Row(pid, began, began, first, None, _values(directory, first, hierarchy))
        _read_threads(directory, row)
        row.last = _stat(directory, "stat")
        row.ended = boot_clock()
        return row
    finally:
        os.close(directory)


def zombies() -> set[int]:
    """Pids of processes that have ended and wait to be waited for."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            row = read_row(int(name), "")
            if row is not None and row.is_zombie:
                found.add(int(name))
    return found


def _values(directory: int, stat: Stat, hierarchy: str) -> dict[str, object]:
    values: dict[str, object] = {
        "comm": stat.comm,
        "ppid": stat.ppid,
        "process_group": stat.process_group,
        "session_id": stat.session_id,
        "tty": _tty(stat.tty),
    }
    status = _fields(directory, "status")
    if isinstance(status, Unreadable):
        names = ("uid", "euid", "suid", "gid", "egid", "sgid", "capabilities", "ns_pid")
        values.update(dict.fromkeys(names, status))
    else:
        users, groups = status["Uid"].split(), status["Gid"].split()
        for name, word in zip(("uid", "euid", "suid"), users, strict=False):
            values[name] = int(word)
        for name, word in zip(("gid", "egid", "sgid"), groups, strict=False):
            values[name] = int(word)
        values["capabilities"] = tuple(int(status[name], 16) for name in CAPABILITY_SETS)
        values["ns_pid"] = int(status["NStgid"].split()[-1])
    values["cmdline"] = _text(directory, "cmdline")
    values["exe"] = _file_link(directory, "exe")
    for name in ("cwd", "root"):
        values[name] = _file_link(directory, name)
    values["login_uid"] = _login_uid(directory)
    values["cgroup"] = _cgroup(directory, hierarchy)
    for name in NAMESPACES:
        values[f"{name}_namespace"] = _namespace(directory, name)
    return values


def _read_threads(directory: int, row: Row) -> None:
    began = boot_clock()
    try:
        tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    except OSError:
        return
    try:
        row.tids = tuple(int(name) for name in os.listdir(tasks))
        row.listed = (began, boot_clock())
        if row.tids in ((), (row.pid,)):
            return
        for tid in row.tids:
            stat = _stat(tasks, f"{tid}/stat")
            status = _fields(tasks, f"{tid}/status")
            if stat is not None and not isinstance(status, Unreadable):
                uid, gid = int(status["Uid"].split()[0]), int(status["Gid"].split()[0])
                ns_tid = int(status["NSpid"].split()[-1])
                if ns_tid:  # or else it was released meanwhile
                    row.threads.append(ThreadRow(tid, stat, uid, gid, ns_tid))
    except OSError:
        return
    finally:
        os.close(tasks)


# ------------------------------------------------------------------------------------ one file


def _bytes(directory: int, name: str) -> bytes | Unreadable:
    try:
        fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    except OSError as error:
        return Unreadable(error.errno or 0)
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    except OSError as error:
        return Unreadable(error.errno or 0)
    finally:
        os.close(fd)


def _text(directory: int, name: str) -> str | Unreadable:
    raw = _bytes(directory, name)
    return raw if isinstance(raw, Unreadable) else raw.decode("utf-8", "surrogateescape")


def _stat(directory: int, name: str) -> Stat | None:
    text = _text(directory, name)
    if isinstance(text, Unreadable):
        return None
    # A name may hold anything, parentheses and newlines included: the last one closes it.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    state = fields[0]
    if state in "Xx":  # released meanwhile: every other field reads as nothing
        return None
    return Stat(
        head.partition("(")[2],
        state,
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[4]),
        int(fields[6]),
        int(fields[17]),
        int(fields[19]),
        int(fields[49]),
    )


def _fields(directory: int, name: str) -> dict[str, str] | Unreadable:
    text = _text(directory, name)
    if isinstance(text, Unreadable):
        return text
    pairs = (line.partition(":") for line in text.split("\n"))
    return {key: value.strip() for key, _, value in pairs}


def _file_link(directory: int, name: str) -> FileLink | Unreadable:
    try:
        path = os.readlink(name, dir_fd=directory)
        file = os.stat(name, dir_fd=directory)
    except OSError as error:
        return Unreadable(error.errno or 0)
    # Something that is there may have a name that ends like this.
    is_deleted = path.endswith(_DELETED) and (file.st_nlink == 0 or not os.path.lexists(path))
    if is_deleted and not path.startswith("/memfd:"):
        path = path.removesuffix(_DELETED)
    return FileLink(path, is_deleted, file.st_dev, file.st_ino)


def _login_uid(directory: int) -> int | Unreadable | None:
    text = _text(directory, "loginuid")
    if isinstance(text, Unreadable):
        return text
    return None if int(text) == _UNSET_UID else int(text)


def _cgroup(directory: int, hierarchy: str) -> str | Unreadable:
    text = _text(directory, "cgroup")
    if isinstance(text, Unreadable):
        return text
    for line in text.split("\n")[:-1]:  # a name may hold any other end of a line
        _, controllers, path = line.split(":", 2)
        if hierarchy in controllers.split(","):
            return path
    return Unreadable(0)


def _namespace(directory: int, name: str) -> int | Unreadable:
    try:
        link = os.readlink(f"ns/{name}", dir_fd=directory)
    except OSError as error:
        return Unreadable(error.errno or 0)
    return int(link.partition("[")[2].removesuffix("]"))


def _tty(number: int) -> str | None:
    """new_decode_dev(), include/linux/kdev_t.h; names as the kernel gives them in sysfs."""
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if not number:
        return None
    if 136 <= major < 144:
        return f"pts/{(major - 136 << 8) + minor}"
    try:
        return os.path.basename(os.readlink(f"/sys/dev/char/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"


class Hierarchy(NamedTuple):
    """A cgroup hierarchy: its controller, "" for v2, and where it is mounted."""

    controller: str
    mount: str


def followed_hierarchy() -> Hierarchy:
    """The one that tells processes apart: v2 where it has cgroups, else one of v1."""
    mounts: dict[str, str] = {}
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, place, kind, options, *_ = line.split(" ")
            if kind == "cgroup2":
                mounts[""] = place
            elif kind == "cgroup":
                mounts.update(dict.fromkeys(options.split(","), place))
    for controller in ("", "memory", "pids"):
        if (at := mounts.get(controller)) and _has_directories(at):
            return Hierarchy(controller, at)
    return Hierarchy("", mounts.get("", ""))


def _has_directories(place: str) -> bool:
    with os.scandir(place) as entries:
        return any(entry.is_dir() for entry in entries)


def own_cgroup(hierarchy: Hierarchy) -> str:
    """The directory of this process's cgroup."""
    row = read_row(os.getpid(), hierarchy.controller)
    assert row is not None
    path = row.values["cgroup"]
    assert isinstance(path, str)
    return hierarchy.mount + path
