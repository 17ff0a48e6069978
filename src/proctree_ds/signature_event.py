"""An event as a signature sees it: the fact that arrived, seen against the tree.

What the source stated is taken from the event itself; the rest is asked of the tree as of the
event's time, at most once an event and only when a signature reads it. So an event costs next to
nothing until it is looked at, and every property gives what was true then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast, overload

import msgspec

from proctree_ds.datasource import DataSource
from proctree_ds.errors import DataNotFound
from proctree_ds.model import (
    CONTEXT_FIELDS,
    IMAGE_FIELDS,
    Capabilities,
    Change,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Namespaces,
    Snapshot,
    State,
    Task,
    entity_id,
)
from proctree_ds.process import Process
from proctree_ds.tree import ProcessTree

__all__ = [
    "MAKERS",
    "ChangeEvent",
    "EventView",
    "ExecEvent",
    "ExitEvent",
    "ForkEvent",
    "SnapshotEvent",
    "TaskEvent",
]

T = TypeVar("T")

_ANSWER_NAMES = {"comm": "name", "executable": "execution_binary", "argv": "cmd"}
_WHOLES = (("image", IMAGE_FIELDS), ("context", CONTEXT_FIELDS))


class EventView:
    """What the events of one engine are seen against: a tree, and its public answers."""

    __slots__ = ("by_tid", "data_source", "tree")

    def __init__(self, tree: ProcessTree, data_source: DataSource) -> None:
        self.tree = tree
        self.by_tid = tree.census.by_tid
        self.data_source = data_source


class _Stated(Generic[T]):
    """An attribute that the event may state; otherwise the tree's, as of the event's time."""

    __slots__ = ("_name",)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, event: None, owner: type) -> _Stated[T]: ...
    @overload
    def __get__(self, event: TaskEvent, owner: type) -> T | None: ...
    def __get__(self, event: TaskEvent | None, owner: type) -> Any:
        return self if event is None else event._attribute(self._name)


class TaskEvent(msgspec.Struct, gc=False, eq=False):
    """What happened to a task, and who that task was. Base of the five kinds of event.

    Every kind gives the properties below and the attributes of the task as of the event: `cwd`,
    `root`, `interpreter`, `script`, `env`, user and group ids, `capabilities`, `session_id`,
    `process_group`, `tty`, `login_uid`, `cgroup`, `container_id` and `namespaces`. What nobody
    knows is None.
    """

    _raw: Any
    _view: EventView
    _known: Any = None
    """The tree's answer about the process, once asked: a ProcessInfo, or False for none."""

    cwd = _Stated[str]()
    root = _Stated[str]()
    interpreter = _Stated[FileInfo]()
    env = _Stated[dict[str, str]]()
    uid = _Stated[int]()
    euid = _Stated[int]()
    suid = _Stated[int]()
    gid = _Stated[int]()
    egid = _Stated[int]()
    sgid = _Stated[int]()
    capabilities = _Stated[Capabilities]()
    session_id = _Stated[int]()
    process_group = _Stated[int]()
    tty = _Stated[str]()
    login_uid = _Stated[int]()
    cgroup = _Stated[str]()
    container_id = _Stated[str]()
    namespaces = _Stated[Namespaces]()

    # ------------------------------------------------------------------------------ who and when

    @property
    def name(self) -> str:
        """The kind of event: "fork", "exec", "exit", "change" or "snapshot"."""
        return _NAMES[type(self)]

    @property
    def time(self) -> int:
        """When it happened, in ns since the epoch."""
        moment: int = self._view.tree.boot_time + self._raw.time
        return moment

    @property
    def tid(self) -> int:
        """Thread id of the task that the event is about; at a fork, of the new one."""
        number: int = self._raw.task.tid
        return number

    @property
    def pid(self) -> int:
        """Process id of that task: the thread id of its leader."""
        return self._leader().tid

    @property
    def ns_tid(self) -> int | None:
        """The thread id as seen in the task's own pid namespace."""
        stated: int | None = getattr(self._raw, "ns_tid", None)
        if stated is not None:
            return stated
        try:
            return self._view.data_source.thread(self.thread_entity_id, self.time).ns_tid
        except DataNotFound:
            return None

    @property
    def ns_pid(self) -> int | None:
        """The process id as seen in the task's own pid namespace."""
        stated: int | None = getattr(self._raw, "ns_pid", None)
        return stated if stated is not None else self._answer("ns_pid")

    @property
    def ppid(self) -> int | None:
        """Process id of the parent as of the event."""
        parent = self._raw.parent
        return cast("int", parent.tid) if parent is not None else self._answer("ppid")

    @property
    def thread_entity_id(self) -> int:
        """Identity of the task; the same as `process_entity_id` for a leader."""
        task: Task = self._raw.task
        return entity_id(cast("int", task.start_time), task.tid)

    @property
    def process_entity_id(self) -> int:
        """Identity of the process that the task belongs to."""
        leader = self._leader()
        return entity_id(cast("int", leader.start_time), leader.tid)

    @property
    def parent_entity_id(self) -> int | None:
        """Identity of the parent process as of the event."""
        parent = self._raw.parent
        if parent is not None and parent.start_time is not None:
            return entity_id(parent.start_time, parent.tid)
        return cast("int | None", self._answer("parent_entity_id"))

    @property
    def is_reparented(self) -> bool:
        """Whether the parent as of the event is another one than that which made the process."""
        first = self._answer("original_parent_entity_id")
        return first is not None and first != self.parent_entity_id

    def to_dict(self) -> dict[str, Any]:
        """The event as plain data that JSON can hold: what every event gives, then its own."""
        common = {name: getattr(self, name) for name in _COMMON}
        return common | {name: _plain(value) for name, value in self._own().items()}

    def __repr__(self) -> str:
        return f"<{self.name} of tid {self.tid} at {self.time}>"

    # --------------------------------------------------------------------------------- where from

    def _own(self) -> dict[str, Any]:
        return {}

    def _stated(self) -> Given:
        """The attributes that the event states, by name, where it does not state them all."""
        return {}

    def _leader(self) -> Task:
        leader: Task | None = self._raw.leader
        task: Task = self._raw.task
        if leader is None:
            return task
        if leader.start_time is None:  # named by pid alone, as an event log may
            node = self._view.tree.census.holder_at(leader.tid, self._raw.time)
            return task if node is None else Task(node.tid, node.start)
        return leader

    def _identity(self, task: Task) -> int | None:
        if task.start_time is not None:
            return entity_id(task.start_time, task.tid)
        node = self._view.tree.census.holder_at(task.tid, self._raw.time)
        return None if node is None else node.entity_id

    def _attribute(self, name: str) -> Any:
        stated = self._stated()
        if name in stated:
            return stated[name]
        for whole, fields in _WHOLES:
            if whole in stated and name in fields:
                return getattr(stated[whole], name)
        return self._answer(_ANSWER_NAMES.get(name, name))

    def _answer(self, name: str) -> Any:
        """`name` of the process as the tree has it as of the event; None where it has nothing."""
        if self._known is None:
            try:
                self._known = self._view.data_source.process(self.process_entity_id, self.time)
            except DataNotFound:
                self._known = False
        return getattr(self._known, name, None)


class ExecEvent(TaskEvent, gc=False, eq=False):
    """A process began a new image (sched_process_exec). The attributes are those of that image.

    `executable` is the file that runs (of a `#!` script, the program that interprets it, with the
    script's path in `script`), `argv` the arguments as the kernel passed them: `()` when there
    were none at all, not even a name.
    """

    comm: str | None = None
    executable: FileInfo | None = None
    argv: tuple[str, ...] | None = None
    script: str | None = None

    program: str | None = None

    @property
    def is_reparented(self) -> bool:
        """Whether the parent as of the exec is another one than that which made the process."""
        raw: Exec = self._raw
        task = raw.task
        now = raw.parent
        node = self._view.by_tid.get(task.tid)
        if now is not None and type(node) is Process and node.start == task.start_time:
            first = node.parent
            if first is not None and now.start_time is not None:
                return first.start != now.start_time or first.tid != now.tid
        return super().is_reparented

    @property
    def argv_truncated(self) -> bool:
        """Whether `argv` was longer than the source captures."""
        return bool(self._attribute("argv_truncated"))

    @property
    def old_tid(self) -> int | None:
        """The former thread id of the thread that called exec, when that was not the leader."""
        number: int | None = self._raw.old_tid
        return number

    def _leader(self) -> Task:
        task: Task = self._raw.task
        return task

    def _attribute(self, name: str) -> Any:
        facts: State | Given = self._raw.facts
        if type(facts) is not State:
            return TaskEvent._attribute(self, name)
        if name in CONTEXT_FIELDS:
            return getattr(facts.context, name)
        return getattr(facts.image if name in IMAGE_FIELDS else facts, name)

    def _stated(self) -> Given:
        facts: Given = self._raw.facts
        return facts

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _EXEC_FIELDS}


class _OtherEvent(TaskEvent, gc=False, eq=False):
    """The kinds that seldom state an image: all of it is looked up when it is read."""

    @property
    def comm(self) -> str | None:
        """The task's own name; a thread can have another one than its process."""
        leader: Task | None = self._raw.leader
        if leader is None or leader.tid == self._raw.task.tid or "comm" in self._stated():
            name: str | None = self._attribute("comm")
            return name
        try:
            return self._view.data_source.thread(self.thread_entity_id, self.time).name
        except DataNotFound:
            return None

    executable = _Stated[FileInfo]()
    script = _Stated[str]()
    argv = _Stated[tuple[str, ...]]()


class ForkEvent(_OtherEvent, gc=False, eq=False):
    """A task was created (sched_process_fork); the event is about the new one.

    A new thread has a `pid` other than its `tid`. `ppid` and `parent_entity_id` are the real
    parent's: with CLONE_PARENT, the caller's parent.
    """

    @property
    def creator_tid(self) -> int | None:
        """Thread id of the thread that called clone."""
        creator = self._creator()
        return None if creator is None else creator.tid

    @property
    def creator_entity_id(self) -> int | None:
        """Identity of the thread that called clone."""
        creator = self._creator()
        return None if creator is None else self._identity(creator)

    @property
    def is_thread(self) -> bool:
        """Whether the new task is a thread of a process that was there already."""
        return self.tid != self.pid

    def _creator(self) -> Task | None:
        creator: Task | None = self._raw.creator
        parent: Task | None = self._raw.parent
        return creator if creator is not None else parent

    def _stated(self) -> Given:
        raw: Fork = self._raw
        stated: Given = {}
        if raw.comm is not None:
            stated["comm"] = raw.comm
        if raw.context is not None:
            stated["context"] = raw.context
        return stated | (raw.given or {})

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("comm", "creator_tid", "creator_entity_id")}


class ExitEvent(_OtherEvent, gc=False, eq=False):
    """A task ended (sched_process_exit). It no longer lives as of the event's time."""

    @property
    def exit_code(self) -> int | None:
        """What it passed to exit; None when a signal ended it."""
        code: int | None = self._raw.exit_code
        return code

    @property
    def exit_signal(self) -> int | None:
        """The signal that ended it; None when it ended by itself."""
        number: int | None = self._raw.exit_signal
        return number

    @property
    def core_dumped(self) -> bool:
        """Whether the signal left a core dump."""
        dumped: bool = self._raw.core_dumped
        return dumped

    @property
    def group_exit(self) -> bool | None:
        """Whether the process ended with this task; None where the source cannot tell."""
        last: bool | None = self._raw.group_exit
        return last

    @property
    def reaper_entity_id(self) -> int | None:
        """Identity of the process that takes over the children."""
        reaper: Task | None = self._raw.reaper
        return None if reaper is None else self._identity(reaper)

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _EXIT_FIELDS}


class ChangeEvent(_OtherEvent, gc=False, eq=False):
    """Attributes of a living task changed between its execs."""

    @property
    def changed(self) -> dict[str, Any]:
        """The attributes that the event states, by name, with their values from now on.

        Some may have had them before: the kernel source states all that it looked at.
        """
        stated = dict(self._raw.given)
        for whole in ("context", "image"):
            if whole in stated:
                stated |= msgspec.structs.asdict(stated.pop(whole))
        return stated

    @property
    def subreaper(self) -> bool | None:
        """Whether the process now adopts orphans (PR_SET_CHILD_SUBREAPER); None: not stated."""
        flag: bool | None = self._raw.subreaper
        return flag

    def _stated(self) -> Given:
        given: Given = self._raw.given
        return given

    def _own(self) -> dict[str, Any]:
        return {"changed": self.changed, "subreaper": self.subreaper}


class SnapshotEvent(ChangeEvent, gc=False, eq=False):
    """A picture of a task that was alive at `time`: what was so, not something that happened."""


_COMMON: Final = (
    "time",
    "name",
    "tid",
    "pid",
    "ns_tid",
    "ns_pid",
    "ppid",
    "thread_entity_id",
    "process_entity_id",
    "parent_entity_id",
    "container_id",
)
_EXEC_FIELDS: Final = (
    "comm",
    "executable",
    "interpreter",
    "script",
    "argv",
    "argv_truncated",
    "env",
    "cwd",
    "root",
    "uid",
    "euid",
    "suid",
    "gid",
    "egid",
    "sgid",
    "capabilities",
    "session_id",
    "process_group",
    "tty",
    "login_uid",
    "cgroup",
    "namespaces",
    "old_tid",
)
_EXIT_FIELDS: Final = (
    "comm",
    "exit_code",
    "exit_signal",
    "core_dumped",
    "group_exit",
    "reaper_entity_id",
)
_NAMES: Final[dict[type, str]] = {
    ForkEvent: "fork",
    ExecEvent: "exec",
    ExitEvent: "exit",
    ChangeEvent: "change",
    SnapshotEvent: "snapshot",
}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else msgspec.to_builtins(value)


def _make_exec(raw: Exec, view: EventView) -> ExecEvent:
    facts = raw.facts
    if type(facts) is State:
        image = facts.image
        file = image.executable
        path = None if file is None else file.path
        program = None if path is None else path.rpartition("/")[2]
        return ExecEvent(raw, view, None, facts.comm, file, image.argv, image.script, program)
    event = ExecEvent(raw, view)
    event.comm = event._attribute("comm")
    event.executable = event._attribute("executable")
    event.argv = event._attribute("argv")
    event.script = event._attribute("script")
    if event.executable is not None and event.executable.path is not None:
        event.program = event.executable.path.rpartition("/")[2]
    return event


MAKERS: Final[dict[type, tuple[str, Callable[[Any, EventView], TaskEvent]]]] = {
    Fork: ("fork", ForkEvent),
    Exec: ("exec", _make_exec),
    Exit: ("exit", ExitEvent),
    Change: ("change", ChangeEvent),
    Snapshot: ("snapshot", SnapshotEvent),
}
"""For each class of raw event: the name that selectors use, and how to see one."""
