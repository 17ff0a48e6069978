"""Frozen facts: what the world can tell the tree, and nothing that interprets it.

Times here are boot-clock nanoseconds, as the kernel counts them (`CLOCK_BOOTTIME`); the wall
clock enters only where a question is asked or an answer given. Unknown is None, never 0.

An event is about one task. Versioned attributes travel in one of two forms: a whole `State`,
when the source knows everything (the kernel at an exec), or `Given`, a mapping that holds only
the attributes that the source did state. Nothing in this file is ever mutated: facts are shared
between processes, versions and answers.
"""

from __future__ import annotations

from struct import Struct as _Layout
from typing import Any, Final, Literal

import msgspec
from xxhash import xxh3_64_intdigest

__all__ = [
    "CLOCK_TICK_NS",
    "CONTEXT_FIELDS",
    "CREDENTIAL_FIELDS",
    "IMAGE_FIELDS",
    "INITIAL_PID_NAMESPACE",
    "NEVER",
    "SEEN",
    "STATE_FIELDS",
    "UNKNOWN_CONTEXT",
    "UNKNOWN_IMAGE",
    "UNKNOWN_STATE",
    "Capabilities",
    "Change",
    "Context",
    "Event",
    "Exec",
    "Exit",
    "FileInfo",
    "Fork",
    "Given",
    "Header",
    "Image",
    "Loss",
    "Namespaces",
    "Origin",
    "Picture",
    "Snapshot",
    "State",
    "Task",
    "entity_id",
    "merge",
]

NEVER: Final = 2**63 - 1
"""An instant after every event: the exit time of what has not exited."""

CLOCK_TICK_NS: Final = 10_000_000
"""/proc gives start times in ticks of 1/100 s (USER_HZ), rounded down."""

INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the host's pid namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h, 6.18)."""

Given = dict[str, Any]
"""Versioned attributes by name, only those that were stated. A stated None means "none"."""

Origin = Literal["event", "iterator", "netlink", "procfs", "inferred"]
"""Where a fact comes from: an event of a kernel program, the kernel's task iterator, its process
events on netlink with /proc beside them, /proc alone, or reasoning.

A fact from netlink or /proc names tasks by starts that are known to the tick only."""

SEEN: Final[frozenset[Origin]] = frozenset({"event", "netlink"})
"""The origins of what was told when it happened, and not found so later."""

_pack_identity = _Layout("<QI").pack


def entity_id(start_time: int, tid: int) -> int:
    """The 64-bit identity of the task `tid` that started at `start_time` (boot-clock ns).

    The same from every source and after every restart of the program. A process has the id of
    its leader thread. Never 0: the hash value 0 is moved to 1.
    """
    return xxh3_64_intdigest(_pack_identity(start_time, tid)) or 1


# --------------------------------------------------------------------------------------- facts


class Task(msgspec.Struct, frozen=True, gc=False):
    """Names one task: thread id and exact start. `start_time` is None where only a pid is known."""

    tid: int
    start_time: int | None = None


class FileInfo(msgspec.Struct, frozen=True, gc=False):
    """An executable file as the kernel held it (struct file, struct inode) at an exec.

    `path` is absolute across mount points and without the kernel's " (deleted)" suffix, which
    `is_deleted` tells; only a memfd keeps the name that the kernel gives it. A path that was longer
    than the source captures lost its beginning, which `path_truncated` tells. `device` is the
    userspace device number (`os.makedev`), `mode` includes the file type, times are epoch ns.
    """

    path: str | None = None
    path_truncated: bool = False
    device: int | None = None
    inode: int | None = None
    mode: int | None = None
    owner: int | None = None
    size: int | None = None
    ctime: int | None = None
    mtime: int | None = None
    link_count: int | None = None
    is_memfd: bool | None = None
    is_deleted: bool | None = None
    on_upper_layer: bool | None = None


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """The five capability sets of a task, as bit masks (capabilities(7))."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int
    ambient: int


class Namespaces(msgspec.Struct, frozen=True, gc=False):
    """Inode numbers of a task's namespaces (namespaces(7)); `pid` is the one it lives in."""

    pid: int | None = None
    mnt: int | None = None
    net: int | None = None
    user: int | None = None
    uts: int | None = None
    ipc: int | None = None
    cgroup: int | None = None
    time: int | None = None


class Image(msgspec.Struct, frozen=True, gc=False):
    """What a process executes: replaced as a whole by every exec.

    `interpreter` is the dynamic loader of an ELF file, or the program that runs a script;
    `script` the path of a `#!` file. `env` holds only the selected variables.
    """

    executable: FileInfo | None = None
    interpreter: FileInfo | None = None
    script: str | None = None
    argv: tuple[str, ...] | None = None
    argv_truncated: bool = False
    env: dict[str, str] | None = None
    env_truncated: bool = False
    exec_time: int | None = None


class Context(msgspec.Struct, frozen=True, gc=False):
    """Under whose authority and where a task runs. Sources share equal ones between tasks."""

    uid: int | None = None
    euid: int | None = None
    suid: int | None = None
    gid: int | None = None
    egid: int | None = None
    sgid: int | None = None
    capabilities: Capabilities | None = None
    session_id: int | None = None
    process_group: int | None = None
    tty: str | None = None
    login_uid: int | None = None
    cgroup: str | None = None
    cgroup_id: int | None = None
    container_id: str | None = None
    namespaces: Namespaces | None = None


class State(msgspec.Struct, frozen=True, gc=False):
    """Every inherited attribute of a task at one instant. Shared along forks."""

    comm: str | None
    image: Image
    cwd: str | None
    root: str | None
    context: Context


UNKNOWN_IMAGE: Final = Image()
UNKNOWN_CONTEXT: Final = Context()
UNKNOWN_STATE: Final = State(None, UNKNOWN_IMAGE, None, None, UNKNOWN_CONTEXT)

IMAGE_FIELDS: Final = frozenset(Image.__struct_fields__)
CONTEXT_FIELDS: Final = frozenset(Context.__struct_fields__)
STATE_FIELDS: Final = frozenset(State.__struct_fields__)
CREDENTIAL_FIELDS: Final = frozenset({"uid", "euid", "suid", "gid", "egid", "sgid", "capabilities"})


def merge(base: State, given: Given) -> State:
    """`base` with the stated attributes replaced. Returns `base` itself when nothing changes."""
    whole: Given = {}
    image: Given = {}
    context: Given = {}
    for name, value in given.items():
        if name in STATE_FIELDS:
            whole[name] = value
        elif name in IMAGE_FIELDS:
            image[name] = value
        elif name in CONTEXT_FIELDS:
            context[name] = value
        else:
            raise ValueError(f"{name!r} is not a versioned attribute")
    if image:
        whole["image"] = msgspec.structs.replace(whole.get("image", base.image), **image)
    if context:
        whole["context"] = msgspec.structs.replace(whole.get("context", base.context), **context)
    merged = msgspec.structs.replace(base, **whole)
    return base if merged == base else merged


# -------------------------------------------------------------------------------------- events


class Header(msgspec.Struct, frozen=True, gc=False):
    """Opens a stream: which host and boot, and the epoch ns of boot-clock zero.

    `time` is when the capture began, None where nobody knows. `unfollowed` names the attributes
    whose changes the source does not tell when they happen, but only with the next event of the
    task that it is about.
    """

    boot_time: int = 0
    host: str | None = None
    boot_id: str | None = None
    time: int | None = None
    unfollowed: tuple[str, ...] = ()


class Fork(msgspec.Struct, frozen=True, gc=False):
    """`task` was created (task_newtask): a process, or a thread when `leader` is another.

    `parent` is the leader of the real parent process; `creator` the thread that called clone,
    None when it is `parent`. `comm` and `context` are the child's own where the source knows
    them, `given` any other attribute that was stated; what is not stated is inherited. Where
    `origin` is not "event", the start is an estimate within its tick.
    """

    time: int
    task: Task
    parent: Task | None = None
    leader: Task | None = None
    creator: Task | None = None
    ns_tid: int | None = None
    ns_pid: int | None = None
    comm: str | None = None
    context: Context | None = None
    given: Given | None = None
    origin: Origin = "event"


class Exec(msgspec.Struct, frozen=True, gc=False):
    """`task`, a leader, began a new image (sched_process_exec).

    `old_tid` is the former thread id of the exec'ing thread when that was not the leader. Where
    `origin` is not "event", `facts` are `Given`: some of them may have been out of reach.
    """

    time: int
    task: Task
    facts: State | Given
    parent: Task | None = None
    old_tid: int | None = None
    ns_tid: int | None = None
    ns_pid: int | None = None
    origin: Origin = "event"


class Exit(msgspec.Struct, frozen=True, gc=False):
    """`task` ended (sched_process_exit).

    `group_exit`: this was the last thread of its process; None where the source cannot tell.
    The code, signal and core flag are then those of the process. `reaper` is the process that
    takes over the children. `origin` is one of `SEEN` when the exit was, else how it was found.
    """

    time: int
    task: Task
    leader: Task | None = None
    parent: Task | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    core_dumped: bool = False
    group_exit: bool | None = None
    reaper: Task | None = None
    origin: Origin = "event"


class Change(msgspec.Struct, frozen=True, gc=False):
    """Attributes of a living task changed between its fork, execs and exit.

    `untold_until`: its process changes so often that what comes after this is not told until then.
    """

    time: int
    task: Task
    given: Given
    leader: Task | None = None
    parent: Task | None = None
    subreaper: bool | None = None
    untold_until: int | None = None
    origin: Origin = "event"


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A picture of a task that was alive at `time`, from `origin`."""

    time: int
    task: Task
    given: Given
    leader: Task | None = None
    parent: Task | None = None
    creator: Task | None = None
    ns_tid: int | None = None
    ns_pid: int | None = None
    subreaper: bool | None = None
    origin: Origin = "iterator"


class Picture(msgspec.Struct, frozen=True, gc=False):
    """A look at every task: who lived from `since` to `time` was told by a `Snapshot` meanwhile.

    So a task that began before `since`, and of which nothing was seen from then on, has ended.
    """

    time: int
    since: int


class Loss(msgspec.Struct, frozen=True, gc=False):
    """`lost` events (None: unknown how many) between `since` and `time` never arrived."""

    time: int
    since: int
    lost: int | None = None


Event = Header | Fork | Exec | Exit | Change | Snapshot | Picture | Loss
