"""The data source: read-only questions to the tree, each as of an instant.

Every question is a key; `DataSource.get` takes any of them, and the methods named after what they
return are the typed way to ask the same. Asking never changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from proctree_ds.answers import (
    PROCESS_FIELDS,
    THREAD_FIELDS,
    LineageEnd,
    ProcessInfo,
    ProcessLineage,
    ThreadInfo,
)
from proctree_ds.clock import format_time, to_epoch_ns
from proctree_ds.errors import (
    BeyondHorizon,
    DataNotFound,
    KeyNotSupported,
    NeverSeen,
    NotStartedYet,
)
from proctree_ds.model import State, merge
from proctree_ds.process import NO_RARITIES, Process, Thread
from proctree_ds.tree import ProcessTree

__all__ = ["DataSource", "LineageKey", "PidKey", "ProcKey", "ThreadKey"]

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

    Answered by `{"process_lineage": ProcessLineage}`.
    """

    entity_id: int
    time: Instant
    max_depth: int | None = None


class PidKey(msgspec.Struct, frozen=True):
    """Which process held `pid` as of `time`? Answered by `{"process_info": ProcessInfo}`."""

    pid: int
    time: Instant


class DataSource:
    """Answers questions about one `ProcessTree`: live, in a replay, or built by hand."""

    namespace = "proctree"
    id = "process_tree"
    version = "1"

    def __init__(self, tree: ProcessTree) -> None:
        self.tree = tree
        self._processes = tree.census.processes
        self._threads = tree.census.threads
        self._answers: dict[type, Callable[[Any], dict[str, Any]]] = {
            ProcKey: lambda key: {"process_info": self.process(key.entity_id, key.time)},
            ThreadKey: lambda key: {"thread_info": self.thread(key.entity_id, key.time)},
            LineageKey: lambda key: {
                "process_lineage": self.lineage(key.entity_id, key.time, max_depth=key.max_depth)
            },
            PidKey: lambda key: {"process_info": self.pid(key.pid, key.time)},
        }

    def get(self, key: ProcKey | ThreadKey | LineageKey | PidKey) -> dict[str, Any]:
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
        return {
            "ProcKey": {"process_info": process},
            "ThreadKey": {"thread_info": thread},
            "LineageKey": {"process_lineage": {"type": "array", "items": process}},
            "PidKey": {"process_info": process},
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
            node = self._threads.get(entity_id) or self._find(entity_id, at)
        if at < node.start:
            raise self._not_started(node)
        if at < node.rare.horizon:
            raise self._beyond_horizon(node.rare.horizon, f"thread {entity_id:#x}")
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
        self, entity_id: int, time: Instant, max_depth: int | None = None
    ) -> ProcessLineage:
        """The process as of `time`, then its original parents, each as of the start of its child.

        `max_depth` counts ancestors: 0 is the process alone, None all of them. Raises as
        `process` does. O(depth).
        """
        process = self.process(entity_id, time)
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
                state = parent.state_at(start)
            if not parent.used:
                parent.used = True
            processes.append(ProcessInfo(tree, parent, state, start))
            node = parent
            parent = node.parent
            left -= 1
        end: LineageEnd = "max_depth" if parent is not None else _end_of(node)
        return ProcessLineage(processes, end)

    def pid(self, pid: int, time: Instant) -> ProcessInfo:
        """The process that held `pid` as of `time`.

        Raises `NeverSeen` if nothing known ever held it, `DataNotFound` if nobody did just then.
        """
        at = to_epoch_ns(time) - self.tree.boot_time
        holder = self.tree.census.holder_at(pid, at)
        while isinstance(holder, Thread):
            holder = holder.older
        if holder is not None and at < holder.ended:
            return self.process(holder.entity_id, time)
        if at < self.tree.census.horizon:
            raise self._beyond_horizon(self.tree.census.horizon, f"pid {pid}")
        when = self._format(at)
        if holder is None:
            raise NeverSeen(f"no process is known to have held pid {pid} as of {when} or before")
        raise DataNotFound(
            f"no process held pid {pid} as of {when}: the last holder, "
            f"{holder.entity_id:#x}, had exited at {self._format(holder.ended)}"
        )

    # ------------------------------------------------------------------ what is not plain

    def _odd_process(self, node: Process, at: int) -> ProcessInfo:
        if at < node.rare.horizon:
            raise self._beyond_horizon(node.rare.horizon, f"process {node.entity_id:#x}")
        state = node.state_at(min(at, node.ended))
        dropped: set[str] = set()
        for gap in node.rare.gaps or ():
            if gap.since <= at < gap.until:
                if gap.images:
                    raise self._beyond_horizon(gap.until, f"process {node.entity_id:#x}")
                dropped |= gap.names
        if dropped:
            state = _without(state, dropped)
        return ProcessInfo(self.tree, node, state, at, tuple(sorted(dropped)))

    def _find(self, entity_id: int, at: int) -> Process:
        """A process that is not in the ordinary place, or the error that says why not."""
        node = self.tree.process(entity_id)
        if node is not None:
            return node
        census = self.tree.census
        shadow = census.shadows.get(entity_id)
        if census.was_evicted(entity_id) or (shadow is not None and shadow.evicted):
            raise self._beyond_horizon(census.horizon, f"{entity_id:#x}")
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


def _end_of(node: Process) -> LineageEnd:
    if node.is_root:
        return "root"
    return "evicted" if node.evicted or node.rare.horizon >= 0 else "unknown_parent"


def _without(state: State, names: set[str]) -> State:
    blank = {name: None for name in names if name != "context"}
    if "context" in names:
        blank.update(dict.fromkeys(type(state.context).__struct_fields__))
    return merge(state, blank)


def _schema(answer: type, fields: tuple[str, ...]) -> dict[str, Any]:
    members = vars(answer)
    hints = [(name, get_type_hints(members[name].fget)["return"]) for name in fields]
    schema = msgspec.json.schema(msgspec.defstruct(answer.__name__, hints))
    return dict(schema)
