"""The data source: read-only questions to the tree, each as of an instant.

Every question is a key; `DataSource.get` takes any of them, and the methods named after what they
return are the typed way to ask the same. Asking never changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_type_hints

import msgspec

from proctree_ds.answers import (
    PROCESS_FIELDS,
    THREAD_ATTRIBUTES,
    THREAD_FIELDS,
    LineageEnd,
    ProcessInfo,
    ProcessLineage,
    ThreadInfo,
    info_at,
)
from proctree_ds.clock import format_time, to_epoch_ns
from proctree_ds.errors import (
    BeyondHorizon,
    DataNotFound,
    InvalidTime,
    KeyNotSupported,
    NeverSeen,
    NotStartedYet,
)
from proctree_ds.kinship import ANCESTORS_LIMIT, holder_in_namespace, parent_at
from proctree_ds.model import NEVER
from proctree_ds.process import NO_RARITIES, Process, Thread
from proctree_ds.surveys import (
    ProcessDiff,
    ProcessSubtree,
    TimelineEntry,
    children_of,
    difference,
    living_at,
    subtree_of,
    timeline_of,
)
from proctree_ds.tree import ProcessTree

__all__ = [
    "ChildrenKey",
    "DataSource",
    "DiffKey",
    "LineageKey",
    "PidKey",
    "ProcKey",
    "SnapshotKey",
    "SubtreeKey",
    "ThreadKey",
    "TimelineKey",
]

Parents = Literal["original", "as_of"]
"""Which parents a lineage follows: those at the start, or those at the time asked about."""

Instant = object
"""A time argument: epoch ns as an int, an aware `datetime`, a `numpy.datetime64` or a
`pandas.Timestamp`. Anything else is an `InvalidTime` error."""


class ProcKey(msgspec.Struct, frozen=True):
    """Which process was this, as of `time`? Answered by `{"process_info": ProcessInfo}`."""

    entity_id: int
    time: Instant


class ThreadKey(msgspec.Struct, frozen=True):
    """Which thread was this, as of `time`? Answered by `{"thread_info": ThreadInfo}`."""

    entity_id: int
    time: Instant


class LineageKey(msgspec.Struct, frozen=True):
    """Who were its ancestors, `max_depth` of them at most (None: all)?

    By its original parents, each as of the start of its child; or with `parents="as_of"` by the
    parents as of `time`. Answered by `{"process_lineage": ProcessLineage}`.
    """

    entity_id: int
    time: Instant
    max_depth: int | None = None
    parents: Parents = "original"


class PidKey(msgspec.Struct, frozen=True):
    """Which process held `pid` as of `time`? Answered by `{"process_info": ProcessInfo}`.

    With `pid_namespace`, an inode number, `pid` is the one that it has in that namespace.
    """

    pid: int
    time: Instant
    pid_namespace: int | None = None


class ChildrenKey(msgspec.Struct, frozen=True):
    """Which children lived as of `time`? Answered by `{"process_children": [ProcessInfo]}`."""

    entity_id: int
    time: Instant


class SubtreeKey(msgspec.Struct, frozen=True):
    """Which descendants lived as of `time`, `max_depth` generations of them (None: all)?

    Answered by `{"process_subtree": ProcessSubtree}`.
    """

    entity_id: int
    time: Instant
    max_depth: int | None = None


class SnapshotKey(msgspec.Struct, frozen=True):
    """Which processes lived as of `time`? Answered by `{"processes": [ProcessInfo]}`."""

    time: Instant


class DiffKey(msgspec.Struct, frozen=True):
    """What happened after `since`, up to `until`? Answered by `{"process_diff": ProcessDiff}`."""

    since: Instant
    until: Instant


class TimelineKey(msgspec.Struct, frozen=True):
    """What is known to have happened to a process?

    Answered by `{"process_timeline": [TimelineEntry]}`.
    """

    entity_id: int


Key = (
    ProcKey
    | ThreadKey
    | LineageKey
    | PidKey
    | ChildrenKey
    | SubtreeKey
    | SnapshotKey
    | DiffKey
    | TimelineKey
)
"""Everything that `DataSource.get` takes."""


class DataSource:
    """Answers questions about one `ProcessTree`: live, in a replay, or built by hand."""

    namespace = "proctree"
    id = "process_tree"
    version = "1"

    def __init__(self, tree: ProcessTree) -> None:
        self.tree = tree
        self._processes = tree.census.processes
        self._answers: dict[type, Callable[[Any], dict[str, Any]]] = {
            ProcKey: lambda key: {"process_info": self.process(key.entity_id, key.time)},
            ThreadKey: lambda key: {"thread_info": self.thread(key.entity_id, key.time)},
            LineageKey: lambda key: {
                "process_lineage": self.lineage(
                    key.entity_id, key.time, max_depth=key.max_depth, parents=key.parents
                )
            },
            PidKey: lambda key: {
                "process_info": self.pid(key.pid, key.time, pid_namespace=key.pid_namespace)
            },
            ChildrenKey: lambda key: {"process_children": self.children(key.entity_id, key.time)},
            SubtreeKey: lambda key: {
                "process_subtree": self.subtree(key.entity_id, key.time, max_depth=key.max_depth)
            },
            SnapshotKey: lambda key: {"processes": self.snapshot(key.time)},
            DiffKey: lambda key: {"process_diff": self.diff(key.since, key.until)},
            TimelineKey: lambda key: {"process_timeline": self.timeline(key.entity_id)},
        }

    def get(self, key: Key) -> dict[str, Any]:
        """The answer to `key`, under the name that the key's documentation gives.

        Raises `KeyNotSupported` for another type of key, `DataNotFound` where there is no answer.
        """
        answer = self._answers.get(type(key))
        if answer is None:
            known = ", ".join(sorted(key.__name__ for key in self._answers))
            raise KeyNotSupported(f"{type(key).__name__} is not a key; use one of {known}")
        return answer(key)

    def keys(self) -> list[str]:
        """The names of the keys that `get` takes."""
        return [key.__name__ for key in self._answers]

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of every answer, by the name of its key."""
        process = _schema(ProcessInfo, PROCESS_FIELDS)
        thread = _schema(ThreadInfo, THREAD_FIELDS)
        processes = {"type": "array", "items": process}
        lists = ("born", "died", "executed", "reparented", "renamed", "changed_credentials")
        instant = {"type": "integer"}
        names = {"type": "array", "items": {"type": "string"}}
        return {
            "ProcKey": {"process_info": process},
            "ThreadKey": {"thread_info": thread},
            "LineageKey": {"process_lineage": processes},
            "PidKey": {"process_info": process},
            "ChildrenKey": {"process_children": processes},
            "SubtreeKey": {
                "process_subtree": _object(
                    process=process,
                    children={"type": "array", "items": {"$ref": "#"}},
                    is_cut={"type": "boolean"},
                )
            },
            "SnapshotKey": {"processes": processes},
            "DiffKey": {
                "process_diff": _object(
                    since=instant, until=instant, **dict.fromkeys(lists, processes)
                )
            },
            "TimelineKey": {
                "process_timeline": {
                    "type": "array",
                    "items": _object(
                        time=instant, kind={"type": "string"}, process=process, changed=names
                    ),
                }
            },
        }

    def process(self, entity_id: int, time: Instant) -> ProcessInfo:
        """The process with this id as of `time`; one that has exited is an answer too.

        Raises `NeverSeen`, `NotStartedYet` or `BeyondHorizon`. O(log versions).
        """
        tree = self.tree
        at = (time if type(time) is int else to_epoch_ns(time)) - tree.boot_time
        node = self._processes.get(entity_id)
        if node is None:
            node = self._find(entity_id, at)
        if at < node.start:
            raise self._not_started(node)
        node.used = True
        latest = node.latest
        if latest is None:
            state = node.base
        elif latest.time <= at:
            state = latest.state
        else:
            state = node.state_at(at)
        if node.ended < at or node.rare is not NO_RARITIES:
            return self._odd_process(node, at)
        return ProcessInfo(tree, node, state, at)

    def thread(self, entity_id: int, time: Instant) -> ThreadInfo:
        """The thread with this id as of `time`, a leader or any other.

        Raises `NeverSeen`, `NotStartedYet` or `BeyondHorizon`. O(log versions).
        """
        at = (time if type(time) is int else to_epoch_ns(time)) - self.tree.boot_time
        node: Process | Thread | None = self._processes.get(entity_id)
        if node is None:
            node = self.tree.thread(entity_id) or self._find(entity_id, at)
        if at < node.start:
            raise self._not_started(node)
        if at < node.rare.horizon:
            raise self._beyond_horizon(node.rare.horizon, f"thread {entity_id:#x}")
        for gap in node.rare.gaps or ():
            if gap.since <= at < gap.until and not gap.names.isdisjoint(THREAD_ATTRIBUTES):
                raise self._beyond_horizon(gap.until, f"thread {entity_id:#x}")
        node.used = True
        end = node.ended if isinstance(node, Process) else node.end
        latest = node.latest
        if latest is None:
            state = node.base
        elif latest.time <= at < end:
            state = latest.state
        else:
            state = node.state_at(min(at, end))
        return ThreadInfo(self.tree, node, state, at)

    def lineage(
        self,
        entity_id: int,
        time: Instant,
        max_depth: int | None = None,
        parents: Parents = "original",
    ) -> ProcessLineage:
        """The process as of `time`, then its original parents, each as of the start of its child.

        With `parents="as_of"` it goes by the parents as of `time`, each as of then. `max_depth`
        counts ancestors: 0 is the process alone, None all of them. Raises as `process` does, and
        ValueError for other `parents`. O(depth).
        """
        process = self.process(entity_id, time)
        if parents != "original":
            return self._present_lineage(process, max_depth, parents)
        node = process._node
        processes = [process]
        tree = self.tree
        parent = node.parent
        left = -1 if max_depth is None else max(max_depth, 0)
        while left and parent is not None:
            start = node.start
            rare = node.rare
            if rare is NO_RARITIES or rare.copied_from is None:
                state = node.born_of
            else:
                state = info_at(tree, parent, start)._state
            if not parent.used:
                parent.used = True
            processes.append(ProcessInfo(tree, parent, state, start))
            node = parent
            parent = node.parent
            left -= 1
        end: LineageEnd = "max_depth" if parent is not None else lineage_end(node)
        return ProcessLineage(processes, end)

    def pid(self, pid: int, time: Instant, pid_namespace: int | None = None) -> ProcessInfo:
        """The process that held `pid` as of `time`, in a pid namespace by its inode number or,
        without one, in the host's.

        Raises `NeverSeen` if nothing known ever held it, `DataNotFound` if nobody did just then.
        O(holders of the pid in memory).
        """
        at = to_epoch_ns(time) - self.tree.boot_time
        if pid_namespace is not None:
            return self._ns_pid(pid, at, pid_namespace)
        holder = self.tree.census.holder_at(pid, at)
        if isinstance(holder, Process) and at < holder.ended:
            return self.process(holder.entity_id, time)
        if at < self.tree.census.horizon:
            raise self._beyond_horizon(self.tree.census.horizon, f"pid {pid}")
        when = self._format(at)
        if holder is None:
            raise NeverSeen(f"no process is known to have held pid {pid} as of {when} or before")
        if isinstance(holder, Thread):
            raise DataNotFound(
                f"no process held pid {pid} as of {when}: it was the id of a thread of "
                f"{holder.process.entity_id:#x}"
            )
        raise DataNotFound(
            f"no process held pid {pid} as of {when}: the last holder, "
            f"{holder.entity_id:#x}, had exited at {self._format(holder.ended)}"
        )

    def children(self, entity_id: int, time: Instant) -> list[ProcessInfo]:
        """The children that lived as of `time`, adopted ones included, by start.

        Raises as `process` does. O(children in memory).
        """
        process = self.process(entity_id, time)
        return children_of(self.tree, process._node, process._time)

    def subtree(
        self, entity_id: int, time: Instant, max_depth: int | None = None
    ) -> ProcessSubtree:
        """The process and its living descendants as of `time`, by the parents that they had then.

        Raises as `process` does. O(descendants in memory).
        """
        process = self.process(entity_id, time)
        return subtree_of(self.tree, process._node, process._time, max_depth)

    def snapshot(self, time: Instant) -> list[ProcessInfo]:
        """Every process that lived as of `time`, by start. Raises `BeyondHorizon` where some of
        them have been dropped. O(processes in memory).
        """
        return living_at(self.tree, self._whole(time, "who lived"))

    def diff(self, since: Instant, until: Instant) -> ProcessDiff:
        """What happened to processes after `since` and up to `until`. Raises `BeyondHorizon` where
        some of them have been dropped, `InvalidTime` where `until` is before `since`.
        O(processes in memory).
        """
        first, last = self._whole(since, "what changed"), self._whole(until, "what changed")
        if last < first:
            raise InvalidTime("a difference ends before it begins: give the earlier time first")
        return difference(self.tree, first, last)

    def require_whole(self, time: Instant, what: str) -> None:
        """Raise `BeyondHorizon`, with `what` in its message, where some of those who lived as of
        `time` have been dropped.
        """
        self._whole(time, what)

    def timeline(self, entity_id: int) -> list[TimelineEntry]:
        """What is known to have happened to a process, in order, each with what it was then.

        Raises `NeverSeen` or `BeyondHorizon`. O(its versions).
        """
        return timeline_of(self.tree, self._find(entity_id, NEVER))

    # ------------------------------------------------------------------ what is not plain

    def _present_lineage(
        self, process: ProcessInfo, max_depth: int | None, parents: str
    ) -> ProcessLineage:
        """By the parents as of the process's time, or as of its last instant."""
        if parents != "as_of":
            raise ValueError(f'parents={parents!r}: give "original" or "as_of"')
        tree, node = self.tree, process._node
        at = min(process._time, node.ended - 1)
        processes = [process]
        limit = ANCESTORS_LIMIT if max_depth is None else max_depth
        parent = parent_at(tree.census, node, at)
        while parent is not None and len(processes) <= limit:
            parent.used = True
            processes.append(info_at(tree, parent, at))
            node = parent
            parent = parent_at(tree.census, node, at)
        return ProcessLineage(processes, "max_depth" if parent is not None else lineage_end(node))

    def _whole(self, time: Instant, what: str) -> int:
        """`time` on the boot clock, if nobody who lived then has been dropped."""
        at = to_epoch_ns(time) - self.tree.boot_time
        if at < self.tree.census.horizon:
            raise self._beyond_horizon(self.tree.census.horizon, what)
        return at

    def _ns_pid(self, pid: int, at: int, pid_namespace: int) -> ProcessInfo:
        node = holder_in_namespace(self.tree.census, pid_namespace, pid, at)
        if node is not None:
            node.used = True
            return info_at(self.tree, node, at)
        raise DataNotFound(
            f"no process is known to have held pid {pid} of the pid namespace {pid_namespace} "
            f"as of {self._format(at)}"
        )

    def _odd_process(self, node: Process, at: int) -> ProcessInfo:
        at = min(at, NEVER - 1)
        if at < node.rare.horizon:
            raise self._beyond_horizon(node.rare.horizon, f"process {node.entity_id:#x}")
        for gap in node.rare.gaps or ():
            if gap.hides_image and gap.since <= at < gap.until:
                raise self._beyond_horizon(gap.until, f"process {node.entity_id:#x}")
        return info_at(self.tree, node, at)

    def _find(self, entity_id: int, at: int) -> Process:
        """A process that is not in the ordinary place, or the error that says why not."""
        node = self.tree.process(entity_id)
        if node is not None:
            return node
        census = self.tree.census
        if entity_id in census.former:
            raise self._beyond_horizon(0, f"{entity_id:#x}, from before this boot,")
        shadow = census.shadows.get(entity_id)
        if census.was_evicted(entity_id) or (shadow is not None and shadow.evicted):
            horizon = max(census.horizon, census.threads_horizon)
            raise self._beyond_horizon(horizon, f"{entity_id:#x}")
        if shadow is not None:
            return shadow
        if census.has_forgotten_ids and at < census.horizon:
            raise self._beyond_horizon(census.horizon, f"{entity_id:#x}")
        raise NeverSeen(f"no process or thread with the id {entity_id:#x} was ever seen")

    def _not_started(self, node: Process | Thread) -> NotStartedYet:
        start = self.tree.boot_time + node.start
        return NotStartedYet(f"{node.entity_id:#x} started later, at {format_time(start)}", start)

    def _beyond_horizon(self, horizon: int, what: str) -> BeyondHorizon:
        epoch = self.tree.boot_time + horizon
        return BeyondHorizon(
            f"the history of {what} at that time was dropped; answers are whole from "
            f"{format_time(epoch)} on; a larger process-cache keeps more",
            epoch,
        )

    def _format(self, at: int) -> str:
        return format_time(self.tree.boot_time + at)


def lineage_end(node: Process) -> LineageEnd:
    """Why a lineage that goes by original parents ends at a process without one."""
    if node.is_root:
        return "root"
    return "evicted" if node.evicted or node.rare.horizon >= 0 else "unknown_parent"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schema(answer: type, fields: tuple[str, ...]) -> dict[str, Any]:
    members = vars(answer)
    hints = [(name, get_type_hints(members[name].fget)["return"]) for name in fields]
    schema = msgspec.json.schema(msgspec.defstruct(answer.__name__, hints))
    return dict(schema)
