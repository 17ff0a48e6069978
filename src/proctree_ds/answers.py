"""What the data source answers: views on the tree as of one instant.

An answer is made in well under a microsecond because it copies nothing: it holds the process
record and the (immutable) state that held at the instant, and works out the rest when asked.
Lists of children and threads are gathered only when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, overload

import msgspec

from proctree_ds.certainty import Certainty, certainty_of
from proctree_ds.containers import container_of
from proctree_ds.kinship import children_at, parent_at
from proctree_ds.model import (
    UNKNOWN_CONTEXT,
    UNKNOWN_IMAGE,
    Capabilities,
    FileInfo,
    Given,
    Namespaces,
    State,
    entity_id,
    merge,
)
from proctree_ds.process import NO_RARITIES, Process, Thread, is_forgotten, is_seen
from proctree_ds.succession import HeldImage, HeldParent, images_of, parents_of
from proctree_ds.tree import ProcessTree

__all__ = [
    "CHILDREN_LIMIT",
    "LineageEnd",
    "ProcessInfo",
    "ProcessLineage",
    "ThreadInfo",
]

CHILDREN_LIMIT: Final = 1_024
"""Children that the answer about a process lists."""

LineageEnd = Literal["root", "max_depth", "unknown_parent", "evicted"]
"""Why a lineage ends: at a process without a parent, where it was told to stop, at a parent that
was never observed, or at one whose own history has been dropped."""


class ProcessInfo(msgspec.Struct, frozen=True, gc=False, eq=False, repr_omit_defaults=True):
    """A process as of one instant. Times are epoch ns; what is unknown is None.

    As-of answers never show the future: before the exit, `exit_time` is None and `is_alive` True,
    whatever is known by now.
    """

    _tree: ProcessTree
    _node: Process
    _state: State
    _time: int
    _dropped: tuple[str, ...] = ()

    # -------------------------------------------------------------------------- identity

    @property
    def time(self) -> int:
        """The instant that this answer is as of."""
        return self._tree.boot_time + self._time

    @property
    def entity_id(self) -> int:
        """The 64-bit identity of the process, see `proctree_ds.entity_id`."""
        return self._node.entity_id

    @property
    def pid(self) -> int:
        """The process id in the host's pid namespace (the kernel's tgid)."""
        return self._node.tid

    @property
    def ns_pid(self) -> int | None:
        """The process id in its own pid namespace."""
        return self._node.ns_pid

    @property
    def ppid(self) -> int | None:
        """The pid of the parent as of then; 0 for a process that the kernel started."""
        parent = self._parent
        if parent is not None:
            return parent.tid
        return 0 if self._node.is_root else None

    @property
    def ns_ppid(self) -> int | None:
        """The parent's pid as the process sees it; 0 if the parent is outside of its namespace."""
        parent = self._parent
        if parent is None:
            return 0 if self._node.is_root else None
        own = self._state.context.namespaces
        others = parent.state_at(self._time).context.namespaces
        if own is not None and others is not None and own.pid != others.pid:
            return 0
        return parent.ns_pid

    @property
    def parent_entity_id(self) -> int | None:
        """The id of the parent as of then."""
        parent = self._parent
        return None if parent is None else parent.entity_id

    @property
    def original_parent_entity_id(self) -> int | None:
        """The id of the parent at the start."""
        parent = self._node.parent
        return None if parent is None else parent.entity_id

    @property
    def creator_entity_id(self) -> int | None:
        """The id of the thread that called clone."""
        fork = self._node.fork
        if fork is not None and fork.creator is not None:
            creator = fork.creator
            if creator.start_time is None:
                return None
            return entity_id(creator.start_time, creator.tid)
        return self.original_parent_entity_id if fork is not None else None

    # ------------------------------------------------------------------------ attributes

    @property
    def name(self) -> str | None:
        """The command name (comm) of the process, at most 15 bytes."""
        return self._state.comm

    @property
    def cmd(self) -> tuple[str, ...] | None:
        """The argument vector of the current image."""
        return self._state.image.argv

    @property
    def cmd_truncated(self) -> bool:
        """Whether `cmd` was cut at the capture limit."""
        return self._state.image.argv_truncated

    @property
    def execution_binary(self) -> FileInfo | None:
        """The executable file of the current image."""
        return self._state.image.executable

    @property
    def interpreter(self) -> FileInfo | None:
        """The dynamic loader of the executable, or the program that runs the script."""
        return self._state.image.interpreter

    @property
    def script(self) -> str | None:
        """The path of the `#!` file that was executed."""
        return self._state.image.script

    @property
    def env(self) -> dict[str, str] | None:
        """The selected environment variables of the current image."""
        return self._state.image.env

    @property
    def env_truncated(self) -> bool:
        """Whether variables may be missing from `env` because of the capture limit."""
        return self._state.image.env_truncated

    @property
    def cwd(self) -> str | None:
        """The current working directory."""
        return self._state.cwd

    @property
    def root(self) -> str | None:
        """The root directory."""
        return self._state.root

    @property
    def uid(self) -> int | None:
        """The real user id."""
        return self._state.context.uid

    @property
    def euid(self) -> int | None:
        """The effective user id."""
        return self._state.context.euid

    @property
    def suid(self) -> int | None:
        """The saved user id."""
        return self._state.context.suid

    @property
    def gid(self) -> int | None:
        """The real group id."""
        return self._state.context.gid

    @property
    def egid(self) -> int | None:
        """The effective group id."""
        return self._state.context.egid

    @property
    def sgid(self) -> int | None:
        """The saved group id."""
        return self._state.context.sgid

    @property
    def capabilities(self) -> Capabilities | None:
        """The five capability sets."""
        return self._state.context.capabilities

    @property
    def session_id(self) -> int | None:
        """The session id (setsid(2)), in the host's pid namespace."""
        return self._state.context.session_id

    @property
    def process_group(self) -> int | None:
        """The process group id (setpgid(2)), in the host's pid namespace."""
        return self._state.context.process_group

    @property
    def tty(self) -> str | None:
        """The controlling terminal, such as `pts/0`; None if there is none or it is unknown."""
        return self._state.context.tty

    @property
    def login_uid(self) -> int | None:
        """The login uid of the audit subsystem; None if it was never set."""
        return self._state.context.login_uid

    @property
    def cgroup(self) -> str | None:
        """The path of the cgroup."""
        return self._state.context.cgroup

    @property
    def container_id(self) -> str | None:
        """The id of the container, from the cgroup's path."""
        return self._state.context.container_id

    @property
    def container_runtime(self) -> str | None:
        """What runs the container (`docker`, `containerd`, `crio`, `podman`, `lxc` or
        `systemd-nspawn`), from the cgroup's path; None where that does not tell.
        """
        context = self._state.context
        found = container_of(context.cgroup)
        return found.runtime if found.id == context.container_id else None

    @property
    def pod_uid(self) -> str | None:
        """Kubernetes' uid of the pod that it is in, from the cgroup's path."""
        return container_of(self._state.context.cgroup).pod_uid

    @property
    def namespaces(self) -> Namespaces | None:
        """The namespaces, by inode number."""
        return self._state.context.namespaces

    @property
    def is_subreaper(self) -> bool | None:
        """Whether orphaned descendants come to this process (PR_SET_CHILD_SUBREAPER); None where
        nothing was said of it since before the capture.
        """
        return self._node.is_subreaper_at(self._time)

    # ------------------------------------------------------------------------- life span

    @property
    def start_time(self) -> int:
        """When it started."""
        return self._tree.boot_time + self._node.start

    @property
    def exec_time(self) -> int | None:
        """When its current image began; None if it still runs what it was born with."""
        exec_time = self._state.image.exec_time
        if exec_time is None or exec_time < self._node.start:
            return None
        return self._tree.boot_time + exec_time

    @property
    def is_alive(self) -> bool:
        """Whether it had not exited yet. It lives until its last thread has exited."""
        return self._node.ended > self._time

    @property
    def exit_time(self) -> int | None:
        """When it exited; None while it lives."""
        ended = self._node.ended
        return self._tree.boot_time + ended if ended <= self._time else None

    @property
    def exit_code(self) -> int | None:
        """The code it exited with; None while it lives, or if a signal killed it."""
        exit = self._node.exit
        return exit.exit_code if exit is not None and self._node.ended <= self._time else None

    @property
    def exit_signal(self) -> int | None:
        """The signal that killed it; None while it lives, or if it exited by itself."""
        exit = self._node.exit
        return exit.exit_signal if exit is not None and self._node.ended <= self._time else None

    @property
    def core_dumped(self) -> bool | None:
        """Whether it dumped core; None while it lives, or if its exit was not seen."""
        exit = self._node.exit
        if not is_seen(exit) or self._node.ended > self._time:
            return None
        return exit.core_dumped

    # -------------------------------------------------------------------------- relatives

    @property
    def thread_ids(self) -> dict[int, int]:
        """Thread id -> entity id of each thread that lived then. O(threads in memory)."""
        node, time = self._node, self._time
        threads: dict[int, int] = {}
        if node.leader_end_at(time) is None:
            threads[node.tid] = node.entity_id
        known = map(self._tree.census.threads.get, node.threads or ())
        living = [t for t in known if t is not None and t.start <= time < t.end]
        # Of two that have a tid within a tick of /proc the later one is told, as of two processes.
        living.sort(key=lambda thread: thread.start)
        threads.update({thread.tid: thread.entity_id for thread in living})
        return threads

    @property
    def child_process_ids(self) -> dict[int, int]:
        """Pid -> entity id of each child that lived then; of more than 1,024, the latest ones."""
        children = sorted(self._children(), key=lambda child: (child.start, child.tid))
        return {child.tid: child.entity_id for child in children[-CHILDREN_LIMIT:]}

    @property
    def omitted_children(self) -> int:
        """How many children that lived then are too many for `child_process_ids`."""
        if len(self._tree.census.processes) <= CHILDREN_LIMIT:
            return 0
        return max(0, sum(1 for _ in self._children()) - CHILDREN_LIMIT)

    @property
    def forgotten_children(self) -> int:
        """How many of its past children are no longer in memory, and so in no list of children."""
        return self._node.dropped_children

    @property
    def certainty(self) -> Certainty:
        """Where the facts of this answer come from, and what may be missing from it."""
        return certainty_of(self._tree, self._node, self._time, self._dropped)

    def _children(self) -> Iterator[Process]:
        """Its children in memory that lived then. O(children in memory)."""
        return children_at(self._tree.census, self._node, self._time)

    @property
    def _parent(self) -> Process | None:
        return parent_at(self._tree.census, self._node, min(self._time, self._node.ended - 1))

    def images(self) -> list[HeldImage]:
        """The programs that it has run up to then, the one that it was born with first."""
        return images_of(self._tree, self._node, self._time)

    def parents(self) -> list[HeldParent]:
        """The parents that it has had up to then, the original one first. O(heirs)."""
        return parents_of(self._tree, self._node, self._time)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, as plain data."""
        return {name: _plain(getattr(self, name)) for name in PROCESS_FIELDS}

    def __repr__(self) -> str:
        return (
            f"ProcessInfo(pid={self.pid}, name={self.name!r}, entity_id={self.entity_id:#018x}, "
            f"start_time={self.start_time}, is_alive={self.is_alive})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessInfo) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self._node.entity_id, self._time))


class ThreadInfo(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A thread as of one instant. Times are epoch ns; what is unknown is None."""

    _tree: ProcessTree
    _node: Process | Thread
    _state: State
    _time: int

    @property
    def entity_id(self) -> int:
        """The 64-bit identity of the thread; a leader has its process's."""
        return self._node.entity_id

    @property
    def tid(self) -> int:
        """The thread id in the host's pid namespace (the kernel's pid)."""
        return self._node.tid

    @property
    def ns_tid(self) -> int | None:
        """The thread id in its own pid namespace."""
        node = self._node
        return node.ns_pid if isinstance(node, Process) else node.ns_tid

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.tid

    @property
    def process_entity_id(self) -> int:
        """The entity id of its process."""
        return self._process.entity_id

    @property
    def uid(self) -> int | None:
        """The real user id."""
        return self._state.context.uid

    @property
    def gid(self) -> int | None:
        """The real group id."""
        return self._state.context.gid

    @property
    def name(self) -> str | None:
        """The thread's own name (comm)."""
        return self._state.comm

    @property
    def start_time(self) -> int:
        """When it started."""
        return self._tree.boot_time + self._node.start

    @property
    def exit_time(self) -> int | None:
        """When it ended; None while it lives."""
        end = self._end
        return None if end is None else self._tree.boot_time + end

    @property
    def is_alive(self) -> bool:
        """Whether it had not ended yet."""
        return self._end is None

    @property
    def certainty(self) -> Certainty:
        """Where the facts of this answer come from, and what may be missing from it."""
        certainty = certainty_of(self._tree, self._node, self._time, ())
        if isinstance(self._node, Thread):
            return certainty
        # Of a leader, that its process lives says nothing: another thread may be all of it.
        inferred = ["exit_time" if n == "thread_ids" else n for n in certainty.inferred]
        return msgspec.structs.replace(
            certainty,
            inferred=tuple(n for n in inferred if n in THREAD_FIELDS or n not in PROCESS_FIELDS),
        )

    @property
    def _process(self) -> Process:
        node = self._node
        return node if isinstance(node, Process) else node.process

    @property
    def _end(self) -> int | None:
        node = self._node
        if isinstance(node, Process):
            return node.leader_end_at(self._time)
        return node.end if node.end <= self._time else None

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, as plain data."""
        return {name: _plain(getattr(self, name)) for name in THREAD_FIELDS}

    def __repr__(self) -> str:
        return (
            f"ThreadInfo(tid={self.tid}, pid={self.pid}, name={self.name!r}, "
            f"entity_id={self.entity_id:#018x}, is_alive={self.is_alive})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThreadInfo) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self._node.entity_id)


class ProcessLineage(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A process and its ancestors, a sequence of `ProcessInfo`.

    Element 0 is the process as of the time asked about. By original parents, each further one is
    what the parent was when it made the child before it; by the parents as of that time, what the
    parent was then. `end` says why the lineage ends.
    """

    _processes: list[ProcessInfo]
    end: LineageEnd

    @overload
    def __getitem__(self, index: int) -> ProcessInfo: ...
    @overload
    def __getitem__(self, index: slice) -> list[ProcessInfo]: ...
    def __getitem__(self, index: int | slice) -> ProcessInfo | list[ProcessInfo]:
        return self._processes[index]

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[ProcessInfo]:
        return iter(self._processes)

    @property
    def ancestors(self) -> list[ProcessInfo]:
        """The lineage without the process itself, nearest first."""
        return self._processes[1:]

    def images(self) -> list[list[HeldImage]]:
        """For each process of the lineage the programs that it has run, up to the time asked about.

        The one that it ran when it made the process before it in the lineage is marked.
        O(versions).
        """
        if not self._processes:
            return []
        own = self._processes[0]
        return [own.images()] + [
            images_of(info._tree, info._node, own._time, branch=child._node.start)
            for child, info in pairwise(self._processes)
        ]

    def __repr__(self) -> str:
        chain = " <- ".join(f"{info.name!r}({info.pid})" for info in self._processes)
        return f"ProcessLineage({chain}, end={self.end!r})"


Sequence.register(ProcessLineage)


def info_at(tree: ProcessTree, node: Process, time: int) -> ProcessInfo:
    """The answer about a record as of `time` (boot clock), with what a limit dropped left out."""
    state = node.state_at(min(time, node.ended))
    rare = node.rare
    if rare is NO_RARITIES:
        return ProcessInfo(tree, node, state, time)
    dropped: set[str] = set()
    for gap in rare.gaps or ():
        if gap.since <= time < gap.until:
            dropped |= gap.names
    told = dropped.copy()
    if rare.parents and is_forgotten(rare.parents, time):
        told |= {"ppid", "parent_entity_id"}
    if rare.subreaper and is_forgotten(rare.subreaper, time):
        told.add("is_subreaper")
    if not dropped:
        return ProcessInfo(tree, node, state, time, tuple(sorted(told)))
    blank: Given = dict.fromkeys(dropped - {"context", "image"})
    if "context" in dropped:
        blank["context"] = UNKNOWN_CONTEXT
    if "image" in dropped:
        blank["image"] = UNKNOWN_IMAGE
    return ProcessInfo(tree, node, merge(state, blank), time, tuple(sorted(told)))


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is int or kind is str or kind is bool or kind is dict:
        return value
    if kind is tuple:
        return list(value)
    if kind is Certainty:
        return msgspec.to_builtins(value)
    return msgspec.structs.asdict(value)


def _fields(answer: type) -> tuple[str, ...]:
    return tuple(
        name
        for name, member in vars(answer).items()
        if isinstance(member, property) and not name.startswith("_")
    )


PROCESS_FIELDS: Final = _fields(ProcessInfo)
THREAD_FIELDS: Final = _fields(ThreadInfo)
THREAD_ATTRIBUTES: Final = frozenset({"comm", "uid", "gid"})
"""The versioned attributes that the answer about a thread has."""
