"""Finds the record of a task that an event names, and makes one for a task that is new.

A /proc row knows starts only to the tick (10 ms). Each task that it names is the one that started
within that tick; where none is known yet, the record is made with the tick, and is corrected once
another event names the exact start. A fork from netlink gives an estimate within the tick, which
stands for the tick in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from proctree_ds.census import Census
from proctree_ds.lifespans import Lifespans
from proctree_ds.model import (
    CLOCK_TICK_NS,
    NEVER,
    Change,
    Exec,
    Exit,
    Fork,
    Snapshot,
    Task,
    entity_id,
)
from proctree_ds.process import Process, Thread

R = TypeVar("R", Fork, Exec, Exit, Change, Snapshot)

__all__ = ["NAMES_LIMIT", "Admission", "to_the_tick"]

NAMES_LIMIT: Final = 4_096
"""Exact starts kept of tasks that were named and never seen: a /proc row may be about them."""


def to_the_tick(task: Task) -> Task:
    """The name that /proc gives to a task."""
    assert task.start_time is not None
    return Task(task.tid, task.start_time - task.start_time % CLOCK_TICK_NS)


class Admission:
    """The way from a task's name in an event to its record."""

    def __init__(self, census: Census, faults: Counter[str], lifespans: Lifespans) -> None:
        self._census = census
        self._faults = faults
        self._lifespans = lifespans
        self.aliases: dict[int, int] = {}
        """Ids made from a tick -> the exact ones that replaced them: the latest `process_cache`."""
        self.dropped_aliases = 0
        self._named: dict[Task, int] = {}
        """Exact starts of tasks that are not in memory, by the name that /proc gives them."""
        self.blurred: tuple[Task, ...] = ()
        """Those that the event just now names by a tick, and whose exact start is not known."""
        self.has_approximate = False
        """Whether any start was ever known to the tick only."""
        self.on_arrival: Callable[[Process | Thread], object] = lambda node: None
        """Called with every new record: somebody may have waited for it."""
        self.on_correction: Callable[[Process | Thread], object] = lambda node: None
        """Called with a record whose exact start has become known."""
        self.on_name: Callable[[Task], object] = lambda task: None
        """Called with a task that is named exactly for the first time."""

    def forget(self) -> None:
        """Another boot of the host: nobody has these names any more."""
        self.aliases.clear()
        self._named.clear()
        self.has_approximate = False

    def check(self) -> None:
        """Raise AssertionError if more names are kept than may be, or one leads nowhere."""
        assert len(self._named) <= NAMES_LIMIT
        assert len(self.aliases) <= self._census.process_cache
        assert not self.blurred
        for registry in (self._census.processes, self._census.threads):
            assert self.has_approximate or not any(n.rare.approximate for n in registry.values())

    def with_exact_names(self, row: R) -> R:
        """A row of /proc with the exact starts of all tasks that it names, as far as known."""
        if row.task.start_time is None:
            return row  # which is refused
        names = {name: told for name in _ROLES if (told := getattr(row, name, None)) is not None}
        # /proc gives ticks: another start in a row of it is an exact one, out of a keyframe.
        is_vague = _is_tick if row.origin == "procfs" else _has_start
        by_tick: dict[Task, Task] = {}  # a row may give one task two starts
        exact = {
            name: by_tick.setdefault(to_the_tick(told), self._exactly(told))
            if is_vague(told)
            else told
            for name, told in names.items()
        }
        task = exact["task"]
        if task != row.task:
            self._note_alias(id_of(row.task), id_of(task))
        self.blurred = tuple(
            known for name, known in exact.items() if known is names[name] and is_vague(known)
        )
        self.has_approximate = self.has_approximate or bool(self.blurred)
        return msgspec.structs.replace(row, **exact)

    def with_estimated_name(self, fork: Fork) -> Fork:
        """The same for a fork whose start is an estimate, which may be better than what is known.

        A record that is known by the tick alone has it corrected, and stays approximate.
        """
        assert fork.task.start_time is not None
        node = self._census.known_by_tick(fork.task.tid, fork.task.start_time)
        if node is not None and _is_tick(node.task) and node.start != fork.task.start_time:
            self._correct(node, fork.task.start_time)
            node.extra.approximate = True
        return self.with_exact_names(fork)

    def _exactly(self, task: Task) -> Task:
        """`task` with the best start that is known, itself if that is its own.

        O(shadows) if it is not in memory.
        """
        tick = to_the_tick(task)
        node = self._in_tick(tick)
        if node is not None:
            is_own = node.rare.approximate and node.start == task.start_time
            return task if is_own else node.task
        start = self._named.get(tick)
        if start is None:
            for shadow in self._census.shadows.values():
                is_exact = shadow.tid == task.tid and not shadow.rare.approximate
                if is_exact and to_the_tick(shadow.task) == tick:
                    start = shadow.start
        return task if start is None else Task(task.tid, start)

    def process_of(self, task: Task, time: int) -> Process | None:
        """The process that `task` leads, which an event at `time` is about; admitted if it is new.

        None if that is contradictory, or if it is news of a past that has been evicted.
        """
        node = self.find(task)
        if node is None:
            return self._admit(task, time)
        if isinstance(node, Process):
            return node
        self._faults["thread_as_leader"] += 1
        return None

    def thread_of(self, task: Task, leader: Task, time: int) -> Thread | None:
        """The thread `task` of the process that `leader` leads, as `process_of`."""
        assert task.start_time is not None
        node = self.find(task)
        if isinstance(node, Thread):
            if leader.start_time is not None and self.find(leader) is not node.process:
                self._faults["two_leaders"] += 1
            return node
        if node is not None:
            self._faults["leader_as_thread"] += 1
            return None
        if time <= self._census.threads_horizon and self._is_forgotten(id_of(task)):
            return None
        process = self.referred(leader, task.start_time, task in self.blurred)
        if process is None:
            return None
        if process.entity_id not in self._census.processes:
            if self._is_gone(process.entity_id, time):
                self._census.drop_shadow(process)
                return None
            self.enter(process, time)
        return self._admit_thread(task, process)

    def find(self, task: Task) -> Process | Thread | None:
        """The record of exactly this task, which learns its exact start if it had only a tick."""
        assert task.start_time is not None
        node = self._census.holder(task.tid, task.start_time)
        if node is None and self.has_approximate and self._may_be_meant_by_tick(task):
            node = self._census.known_by_tick(task.tid, task.start_time)
            if node is not None:
                self._correct(node, task.start_time)
                self.on_name(task)
        return node

    def _may_be_meant_by_tick(self, task: Task) -> bool:
        """Whether an exact name may be that of a record that has a tick alone."""
        return task not in self.blurred and id_of(task) not in self._census.shadows

    def referred(
        self, ref: Task | None, start: int, is_approximate: bool = False
    ) -> Process | None:
        """The process that `ref` names for a task that started at `start`; perhaps a shadow."""
        if ref is None:
            return None
        node: Process | Thread | None
        latest = start + (CLOCK_TICK_NS - 1 if is_approximate else 0)
        if ref.start_time is None:
            node = self._census.holder_at(ref.tid, start)
        elif ref.start_time > latest:
            self._faults["parent_younger_than_child"] += 1
            return None
        else:
            node = self.find(ref)
            if node is None:
                self.note_name(ref)
                return self._shadow(ref)
        if isinstance(node, Thread):
            node = node.process
        if node is not None and node.start > latest:
            self._faults["parent_younger_than_child"] += 1
            return None
        return node

    def note_name(self, task: Task) -> None:
        """A task that is not in memory was named: a row of /proc may yet be about it."""
        assert task.start_time is not None
        if task in self.blurred:
            return
        name = to_the_tick(task)
        if self._named.get(name) != task.start_time:
            self._named[name] = task.start_time
            if len(self._named) > NAMES_LIMIT:
                del self._named[next(iter(self._named))]
            self.on_name(task)

    def enter(self, node: Process, time: int) -> None:
        """Put a process among those in memory, and end the holders of its tid before it.

        `time` is that of the event about it: whoever has to go for it lived until then.
        """
        self._note_horizon(node)
        self._census.make_room(max(node.start, time), newcomers=1)
        self._census.shadows.pop(node.entity_id, None)
        self._census.zapped.discard(node.entity_id)
        node.evicted = False
        self._census.processes[node.entity_id] = node
        if node.ended != NEVER and not node.pins:
            self._census.queue(node)
        self._enlist(node)
        self.on_arrival(node)

    def _shadow(self, task: Task) -> Process:
        assert task.start_time is not None
        shadow = self._census.shadow(id_of(task), task.tid, task.start_time)
        if task in self.blurred:
            shadow.extra.approximate = True
        return shadow

    def _is_gone(self, entity: int, time: int) -> bool:
        """Whether an event at `time` is about a task that was evicted, and its past with it."""
        return time <= self._census.horizon and self._is_forgotten(entity)

    def _is_forgotten(self, entity: int) -> bool:
        if not self._census.was_evicted(entity):
            return False
        self._faults["beyond_horizon"] += 1
        return True

    def _note_horizon(self, node: Process | Thread) -> None:
        """What was evicted, or may have been, comes back without its past."""
        census = self._census
        horizon = census.horizon
        if isinstance(node, Thread):
            horizon = max(horizon, census.threads_horizon)
        if census.was_evicted(node.entity_id) or (
            census.has_forgotten_ids and node.start <= horizon
        ):
            node.extra.horizon = max(horizon, 0)
            census.returned += 1

    def _admit(self, task: Task, time: int) -> Process | None:
        assert task.start_time is not None
        entity = id_of(task)
        if self._is_gone(entity, time):
            return None
        node = self._census.shadows.get(entity)
        if node is None:
            node = Process(entity, task.tid, task.start_time, last_branch=task.start_time)
        if task in self.blurred:
            node.extra.approximate = True
        self.enter(node, time)
        return node

    def _admit_thread(self, task: Task, process: Process) -> Thread:
        start = task.start_time
        assert start is not None
        self._census.make_room_for_thread(process)
        thread = Thread(id_of(task), task.tid, start, process)
        if task in self.blurred:
            thread.extra.approximate = True
        self._note_horizon(thread)
        self._census.threads[thread.entity_id] = thread
        if process.threads is None:
            process.threads = set()
        process.threads.add(thread.entity_id)
        process.extra.living_threads += 1
        if start > process.last_branch:
            process.last_branch = start
        self._enlist(thread)
        self._census.count_threads()
        self.on_arrival(thread)
        return thread

    def _enlist(self, node: Process | Thread) -> None:
        older, newer_start = self._census.enlist(node)
        if older is not None and older.ended > node.start:
            self._lifespans.succeed(older)
        if node.ended > newer_start:
            self._lifespans.succeed(node)

    # --------------------------------------------------------------------------- clock ticks

    def _in_tick(self, name: Task) -> Process | Thread | None:
        """The task in memory to which /proc gives this name."""
        assert name.start_time is not None
        node = self._census.holder_at(name.tid, name.start_time + CLOCK_TICK_NS - 1)
        return node if node is not None and node.start >= name.start_time else None

    def _note_alias(self, old: int, new: int) -> None:
        self.aliases[old] = new
        if len(self.aliases) > self._census.process_cache:
            del self.aliases[next(iter(self.aliases))]
            self.dropped_aliases += 1

    def _correct(self, node: Process | Thread, start: int) -> None:
        """Give a task its exact start, and so its real id; the old id stays as an alias."""
        census = self._census
        old, new = node.entity_id, entity_id(start, node.tid)
        self._note_alias(old, new)
        parents = node.rare.parents
        if isinstance(node, Process):
            census.leave_estate(node)
            census.state_parents(node, None)
            del census.processes[old]
            census.processes[new] = node
            kin = [maker.children for maker in (node.parent, node.rare.copied_from) if maker]
        else:
            del census.threads[old]
            census.threads[new] = node
            kin = [node.process.threads]
        for ids in kin:
            if ids is not None and old in ids:
                ids.discard(old)
                ids.add(new)
        node.entity_id, node.start, node.extra.approximate = new, start, False
        node.last_branch = max(node.last_branch, start)
        if isinstance(node, Process):
            census.state_parents(node, parents)
        self.on_correction(node)
        for holder in (node, census.holder_at(node.tid, start - 1)):
            if holder is not None:
                self._lifespans.settle(holder if isinstance(holder, Process) else holder.process)


def id_of(task: Task) -> int:
    assert task.start_time is not None
    return entity_id(task.start_time, task.tid)


_ROLES: Final = ("task", "leader", "parent", "creator")


def _has_start(task: Task) -> bool:
    return task.tid != 0 and task.start_time is not None


def _is_tick(task: Task) -> bool:
    return _has_start(task) and task == to_the_tick(task)
