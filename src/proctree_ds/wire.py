"""Bytes of the wire (bpf/proctree.h) to events; only this file knows the layout in Python.

A record costs one unpack and a few lookups: whatever repeats (contexts, files and paths, tasks,
environments, names) is decoded once and then found again by its raw bytes, so that equal facts
are the same object. Every such table is bounded: when full it is emptied, and fills again with
what is in use. A record that does not fit its layout is counted and yields nothing; no bytes, in
any order, make a decoder raise.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from mmap import mmap
from typing import Final, TypeVar

import msgspec

from proctree_ds.containers import container_id
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
    Image,
    Namespaces,
    Snapshot,
    State,
    Task,
)
from proctree_ds.wire_layout import (
    CAPABILITIES,
    CAPABILITIES_AT,
    CGROUP,
    CGROUP_ID,
    CGROUP_ID_AT,
    CGROUP_RECORD,
    CHANGE,
    CHANGE_BYTES,
    CHANGE_RECORD,
    CONTEXT,
    CUT_ANY,
    CUT_ARGV,
    CUT_CGROUP,
    CUT_ENV,
    CUT_NAMES,
    CWD_CUT,
    DIRECTORIES,
    DIRECTORIES_KNOWN,
    EXEC,
    EXEC_BYTES,
    EXEC_RECORD,
    EXIT,
    EXIT_BYTES,
    EXIT_RECORD,
    FILE,
    FILE_CUT,
    FILE_DELETED,
    FILE_LAYER_UNKNOWN,
    FILE_MEMFD,
    FILE_PRESENT,
    FILE_UPPER,
    FORK,
    FORK_BYTES,
    FORK_RECORD,
    GROUP_EXIT,
    HAS_ARGV,
    HAS_ENV,
    HAS_SCRIPT,
    HEADER,
    KERNEL_THREAD,
    LEADERLESS,
    NAMESPACES,
    NAMESPACES_AT,
    PACE_BITS,
    PACED,
    PATH_LENGTH,
    PATH_LENGTH_AT,
    PLACES,
    RENAME,
    RENAME_RECORD,
    ROOT_CUT,
    SNAPSHOT,
    SUBREAPER,
    TASK,
    WORD,
    first_word,
)

__all__ = ["Decoder", "tty_name"]

_unpack_task: Final = TASK.unpack
_unpack_fork: Final = FORK_RECORD.unpack_from
_unpack_exec: Final = EXEC_RECORD.unpack_from
_unpack_exit: Final = EXIT_RECORD.unpack_from

_NO_TASK: Final = bytes(TASK.size)
_NO_ID: Final = 0xFFFFFFFF

Buffer = bytes | mmap
"""What records are decoded from: slices of it must be `bytes`."""

Directories = tuple[str | None, str | None]
"""cwd and root."""

Places = tuple[FileInfo | None, FileInfo | None, str | None, str | None]
"""Executable, interpreter, cwd, root."""

V = TypeVar("V")


class _Shared(dict[bytes, V]):
    """Decoded values by their raw bytes, made at the first lookup. Emptied when full."""

    __slots__ = ("_limit", "_make", "emptied")

    def __init__(self, make: Callable[[bytes], V], limit: int) -> None:
        super().__init__()
        self._make = make
        self._limit = limit
        self.emptied = 0

    def __missing__(self, raw: bytes) -> V:
        if len(self) >= self._limit:
            self.clear()
            self.emptied += 1
        value = self[raw] = self._make(raw)
        return value


def tty_name(major: int, minor: int) -> str | None:
    """The name below /dev of a controlling terminal, "major:minor" for unusual ones, None for 0:0.

    Numbers as in the kernel's Documentation/admin-guide/devices.txt.
    """
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    if major or minor:
        return f"{major}:{minor}"
    return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _comm(raw: bytes) -> str:
    return _text(raw.partition(b"\0")[0])


_IDLE: Final = Task(0, 0)
"""The parent of what the kernel itself started: init and kthreadd (init_task)."""


def _task(raw: bytes) -> Task | None:
    if raw == _NO_TASK:
        return None
    start_time, tid, _ = _unpack_task(raw)
    return Task(tid, start_time)


def _path(raw: bytes) -> str:
    """Leaf first, each component with its NUL, to an absolute path."""
    names = _text(raw).split("\0")
    names.reverse()
    return "/".join(names) if len(names) > 1 else "/"


def _argv(raw: bytes) -> tuple[str, ...]:
    """NUL-terminated strings; the last one may have lost its NUL."""
    if not raw:
        return ()
    return tuple(_text(raw[:-1] if raw[-1] == 0 else raw).split("\0"))


def _env(raw: bytes) -> dict[str, str]:
    """Variables by name; of two with one name the first counts, as in getenv(3)."""
    env: dict[str, str] = {}
    for variable in _argv(raw):
        name, _, value = variable.partition("=")
        env.setdefault(name, value)
    return env


def _absolute(script: str, cwd: str | None, root: str | None) -> str:
    """The path of a script as it was given to execve, seen from the top of the mount tree."""
    if script.startswith("/"):
        return script if root in (None, "/") else f"{root}{script}"
    if cwd is None:
        return script
    return f"{cwd.rstrip('/')}/{script.removeprefix('./')}"


class Decoder:
    """Turns records into events. One per stream: it remembers what the stream has told.

    `decoders` maps the first word of a record (its kind and wire version) to a function of
    (buffer, offset, length), `unknown` takes every other record; both return an event or None.
    The tables hold at most `limit` entries each.
    """

    def __init__(self, limit: int = 16_384) -> None:
        self.malformed = 0
        """Records that did not fit their layout, were of an unknown kind or wire version."""
        self.truncated = dict.fromkeys(CUT_NAMES, 0)
        """How many records carried a cut string, by what was cut."""
        self._tasks = _Shared(_task, limit)
        self._comms = _Shared(_comm, limit)
        self._contexts = _Shared(self._context, limit)
        self._places = _Shared(self._place, limit // 4)
        self._directories = _Shared(self._directory_pair, limit // 4)
        self._files = _Shared(self._file, limit // 4)
        self._paths = _Shared(_path, limit // 4)
        self._envs = _Shared(_env, limit // 16)
        self._capabilities = _Shared(lambda raw: Capabilities(*CAPABILITIES.unpack(raw)), limit)
        self._namespaces = _Shared(_namespaces, limit)
        self._subreapers = _Shared(lambda raw: True, limit)
        self._cgroups: OrderedDict[int, tuple[str | None, str | None]] = OrderedDict()
        self._cgroup_limit = limit
        self.on_cgroup: Callable[[int, bytes], object] = lambda cgroup_id, raw: None
        """Called with what `learn_cgroup` had not known."""
        self.decoders: Final[dict[int, Callable[[Buffer, int, int], Event | None]]] = {
            first_word(FORK): self.fork,
            first_word(EXEC): self.exec,
            first_word(EXIT): self.exit,
            first_word(SNAPSHOT): self.snapshot,
            first_word(CGROUP): self.cgroup,
            first_word(RENAME): self.rename,
            first_word(CHANGE): self.change,
        }

    def decode(self, buffer: Buffer, offset: int, length: int) -> Event | None:
        """The event of the one record at `offset`; None for a record that tells no event."""
        if length < HEADER.size or offset + length > len(buffer):
            self.malformed += 1
            return None
        (word,) = WORD.unpack_from(buffer, offset)
        return self.decoders.get(word, self.unknown)(buffer, offset, length)

    def pictures(self, stream: Buffer) -> list[Snapshot | Exit]:
        """What the task iterator wrote, records one after the other: a snapshot for each.

        Of a process whose leader has ended, that follows: when, nobody saw.
        """
        told: list[Snapshot | Exit] = []
        offset = 0
        while offset < len(stream):
            length = len(stream) - offset
            flags = 0
            if length >= EXEC_RECORD.size:
                head = _unpack_exec(stream, offset)
                length = EXEC_RECORD.size + sum(head[12:17])
                flags = head[2]
            event = self.decode(stream, offset, length)
            if not isinstance(event, Snapshot):
                break  # where the next record begins is not known any more
            told.append(event)
            if flags & LEADERLESS and event.leader is None:
                told.append(Exit(event.time, event.task, group_exit=False, origin="iterator"))
            offset += length
        return told

    # ------------------------------------------------------------------------- one kind each

    def unknown(self, buffer: Buffer, offset: int, length: int) -> None:
        """A record that cannot be read: counted."""
        self.malformed += 1

    def fork(self, buffer: Buffer, offset: int, length: int) -> Fork | None:
        """task_newtask."""
        if length != FORK_BYTES:
            self.malformed += 1
            return None
        _, _, _, time, task, leader, parent, ns_tid, ns_pid, creator, comm, context = _unpack_fork(
            buffer, offset
        )
        tasks = self._tasks
        child = tasks[task]
        if child is None:
            self.malformed += 1
            return None
        return Fork(
            time,
            child,
            tasks[parent] or _IDLE,
            None if leader == task else tasks[leader],
            None if creator == parent else tasks[creator],
            ns_tid,
            ns_pid,
            self._comms[comm],
            self._contexts[context],
        )

    def exit(self, buffer: Buffer, offset: int, length: int) -> Exit | None:
        """sched_process_exit. The status is that of wait(2)."""
        if length != EXIT_BYTES:
            self.malformed += 1
            return None
        _, _, flags, time, task, leader, parent, _, _, reaper, status, _ = _unpack_exit(
            buffer, offset
        )
        tasks = self._tasks
        ended = tasks.pop(task, None) or _task(task)
        if ended is None:
            self.malformed += 1
            return None
        signal = status & 0x7F
        return Exit(
            time,
            ended,
            None if leader == task else tasks[leader],
            tasks[parent] or _IDLE,
            None if signal else status >> 8 & 0xFF,
            signal or None,
            status & 0x80 != 0,
            flags & GROUP_EXIT != 0,
            tasks[reaper],
        )

    def exec(self, buffer: Buffer, offset: int, length: int) -> Exec | None:
        """sched_process_exec: the whole state of the process as it begins its new image."""
        if length < EXEC_BYTES:
            self.malformed += 1
            return None
        (
            _, _, flags, time, task, _, parent, ns_tid, ns_pid, comm, context, old_tid,
            paths_length, script_length, cgroup_length, argv_length, env_length, places,
        ) = _unpack_exec(buffer, offset)  # fmt: skip
        paths_at = offset + EXEC_BYTES
        script_at = paths_at + paths_length
        argv_at = script_at + script_length + cgroup_length
        env_at = argv_at + argv_length
        end = env_at + env_length
        process = self._tasks[task]
        if end != offset + length or process is None:
            self.malformed += 1
            return None
        executable, interpreter, cwd, root = self._places[places + buffer[paths_at:script_at]]
        script = None
        if flags & HAS_SCRIPT:
            interpreter = executable
            script = _absolute(_comm(buffer[script_at : script_at + script_length]), cwd, root)
        if flags & CUT_ANY:
            self._count_cuts(flags)
        return Exec(
            time,
            process,
            State(
                self._comms[comm],
                Image(
                    executable,
                    interpreter,
                    script,
                    _argv(buffer[argv_at:env_at]) if flags & HAS_ARGV else None,
                    flags & CUT_ARGV != 0,
                    self._envs[buffer[env_at:end]] if flags & HAS_ENV else None,
                    flags & CUT_ENV != 0,
                    time,
                ),
                cwd,
                root,
                self._contexts[context],
            ),
            self._tasks[parent] or _IDLE,
            None if old_tid == process.tid else old_tid,
            ns_tid,
            ns_pid,
        )

    def snapshot(self, buffer: Buffer, offset: int, length: int) -> Snapshot | None:
        """A task that the iterator met. `given` holds what the kernel could tell."""
        if length < EXEC_BYTES:
            self.malformed += 1
            return None
        (
            _, _, flags, time, raw_task, leader, parent, ns_tid, ns_pid, comm, context, _,
            paths_length, script_length, cgroup_length, argv_length, env_length, places,
        ) = _unpack_exec(buffer, offset)  # fmt: skip
        paths_at = offset + EXEC_BYTES
        cgroup_at = paths_at + paths_length + script_length
        argv_at = cgroup_at + cgroup_length
        env_at = argv_at + argv_length
        end = env_at + env_length
        task = self._tasks[raw_task]
        if end != offset + length or task is None:
            self.malformed += 1
            return None
        if not flags & CUT_CGROUP:
            self.learn_cgroup(
                CGROUP_ID.unpack_from(context, CGROUP_ID_AT)[0], buffer[cgroup_at:argv_at]
            )
        if flags & CUT_ANY:
            self._count_cuts(flags)
        executable, interpreter, cwd, root = self._places[
            places + buffer[paths_at : paths_at + paths_length]
        ]
        given: Given = {"comm": self._comms[comm], "context": self._contexts[context]}
        if flags & LEADERLESS:  # a task that has ended has no namespaces any more
            given |= msgspec.structs.asdict(given.pop("context"))
            del given["namespaces"]
        if cwd is not None:
            given["cwd"] = cwd
        if root is not None:
            given["root"] = root
        if flags & KERNEL_THREAD:
            given.update(executable=None, interpreter=None, argv=())
        elif executable is not None:
            given["executable"] = executable
            if interpreter is not None:
                given["interpreter"] = interpreter
        if flags & HAS_ARGV:
            given["argv"] = _argv(buffer[argv_at:env_at])
            given["argv_truncated"] = flags & CUT_ARGV != 0
        if flags & HAS_ENV:
            given["env"] = self._envs[buffer[env_at:end]]
            given["env_truncated"] = flags & CUT_ENV != 0
        return Snapshot(
            time,
            task,
            given,
            None if leader == raw_task else self._tasks[leader],
            self._tasks[parent] or _IDLE,
            None,
            ns_tid,
            ns_pid,
            self._subreaper(raw_task, flags),
        )

    def rename(self, buffer: Buffer, offset: int, length: int) -> Change | None:
        """task_rename: the name alone."""
        if length != RENAME_RECORD.size:
            self.malformed += 1
            return None
        _, _, flags, time, task, leader, _, _, _, comm = RENAME_RECORD.unpack_from(buffer, offset)
        who = self._tasks[task]
        if who is None:
            self.malformed += 1
            return None
        return Change(
            time,
            who,
            {"comm": self._comms[comm]},
            None if leader == task else self._tasks[leader],
            untold_until=_end_of_pace(time) if flags & PACED else None,
        )

    def change(self, buffer: Buffer, offset: int, length: int) -> Change | None:
        """Everything but the image of a task that is not what it was when it was last told."""
        if length < CHANGE_BYTES:
            self.malformed += 1
            return None
        _, _, flags, time, task, leader, parent, _, _, comm, context, directories = (
            CHANGE_RECORD.unpack_from(buffer, offset)
        )
        cwd_length, root_length, _, _ = DIRECTORIES.unpack(directories)
        paths_at = offset + CHANGE_BYTES
        end = paths_at + cwd_length + root_length
        who = self._tasks[task]
        if end != offset + length or who is None:
            self.malformed += 1
            return None
        if flags & CUT_ANY:
            self._count_cuts(flags)
        given: Given = {"comm": self._comms[comm], "context": self._contexts[context]}
        cwd, root = self._directories[directories + buffer[paths_at:end]]
        if cwd is not None:
            given["cwd"] = cwd
        if root is not None:
            given["root"] = root
        return Change(
            time,
            who,
            given,
            None if leader == task else self._tasks[leader],
            self._tasks[parent] or _IDLE,
            self._subreaper(leader, flags),
            _end_of_pace(time) if flags & PACED else None,
        )

    def cgroup(self, buffer: Buffer, offset: int, length: int) -> None:
        """The path of a cgroup id, sent before the first event that names the id."""
        if length < CGROUP_RECORD.size:
            self.malformed += 1
            return
        _, _, flags, _, cgroup_id, path_length, _ = CGROUP_RECORD.unpack_from(buffer, offset)
        path_at = offset + CGROUP_RECORD.size
        if path_at + path_length != offset + length:
            self.malformed += 1
            return
        if flags & CUT_ANY:
            self._count_cuts(flags)
        else:
            self.learn_cgroup(cgroup_id, buffer[path_at : path_at + path_length])
        return

    # ------------------------------------------------------------------------ what is shared

    def _subreaper(self, leader: bytes, flags: int) -> bool | None:
        """The flag of a process; None for the many that never had it, of whom nothing is kept."""
        known = self._subreapers
        if flags & SUBREAPER:
            return known[leader]
        return False if leader in known or known.emptied else None

    def _count_cuts(self, flags: int) -> None:
        for bit, name in enumerate(CUT_NAMES):
            if flags >> bit & 1:
                self.truncated[name] += 1

    def learn_cgroup(self, cgroup_id: int, raw: bytes) -> None:
        """The path of a cgroup, its components leaf first, each with its NUL."""
        path = self._paths[raw]
        known = self._cgroups.get(cgroup_id)
        if known is not None and known[0] == path:
            return
        if len(self._cgroups) >= self._cgroup_limit:
            self._cgroups.popitem(last=False)  # the kernel tells each only once: least used first
        self._cgroups[cgroup_id] = path, container_id(path)
        self.on_cgroup(cgroup_id, raw)
        self._contexts.clear()  # one of them may have been made before its path was known

    def _context(self, raw: bytes) -> Context:
        (
            uid, euid, suid, gid, egid, sgid, _, _, _, _, _,
            session_id, process_group, tty, login_uid, cgroup_id, *_,
        ) = CONTEXT.unpack(raw)  # fmt: skip
        cgroup, container = self._cgroups.get(cgroup_id, (None, None))
        if cgroup is not None:
            self._cgroups.move_to_end(cgroup_id)
        return Context(
            uid=uid,
            euid=euid,
            suid=suid,
            gid=gid,
            egid=egid,
            sgid=sgid,
            capabilities=self._capabilities[raw[CAPABILITIES_AT]],
            session_id=session_id,
            process_group=process_group,
            tty=tty_name(tty >> 20, tty & 0xFFFFF),
            login_uid=None if login_uid == _NO_ID else login_uid,
            cgroup=cgroup,
            cgroup_id=cgroup_id or None,
            container_id=container,
            namespaces=self._namespaces[raw[NAMESPACES_AT]],
        )

    def _place(self, raw: bytes) -> Places:
        executable, interpreter, directories = PLACES.unpack_from(raw)
        at = PLACES.size
        files = []
        for file in executable, interpreter:
            end = at + PATH_LENGTH.unpack_from(file, PATH_LENGTH_AT)[0]
            files.append(self._files[file + raw[at:end]])
            at = end
        cwd, root = self._directories[directories + raw[at:]]
        return files[0], files[1], cwd, root

    def _directory_pair(self, raw: bytes) -> Directories:
        cwd_length, root_length, flags, _ = DIRECTORIES.unpack_from(raw)
        if not flags & DIRECTORIES_KNOWN:
            return None, None
        root_at = DIRECTORIES.size + cwd_length
        cwd = None if flags & CWD_CUT else self._paths[raw[DIRECTORIES.size : root_at]]
        root = None if flags & ROOT_CUT else self._paths[raw[root_at : root_at + root_length]]
        return cwd, root

    def _file(self, raw: bytes) -> FileInfo | None:
        (
            inode, size, ctime, mtime, device, mode, owner, link_count, flags, _,
        ) = FILE.unpack_from(raw)  # fmt: skip
        if not flags & FILE_PRESENT:
            return None
        path = _path(raw[FILE.size :])
        if flags & FILE_MEMFD:
            path += " (deleted)"  # as simple_dname() gives it, fs/d_path.c
        cut = flags & FILE_CUT != 0
        return FileInfo(
            path=path.removeprefix("/") if cut else path,
            path_truncated=cut,
            device=os.makedev(device >> 20, device & 0xFFFFF),
            inode=inode,
            mode=mode,
            owner=owner,
            size=size,
            ctime=ctime,
            mtime=mtime,
            link_count=link_count,
            is_memfd=flags & FILE_MEMFD != 0,
            is_deleted=flags & FILE_DELETED != 0,
            on_upper_layer=None if flags & FILE_LAYER_UNKNOWN else flags & FILE_UPPER != 0,
        )


def _end_of_pace(time: int) -> int:
    """When changes are told again of a process that made too many."""
    return (time >> PACE_BITS) + 1 << PACE_BITS


def _namespaces(raw: bytes) -> Namespaces:
    return Namespaces(*(inode or None for inode in NAMESPACES.unpack(raw)))
