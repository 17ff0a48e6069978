"""Finds the record of a task that an event names, and makes one for a task that is new.

A /proc row knows a start only to the tick (10 ms). It means the task that started within that
tick; where none is known yet, the record is made with the tick and corrected once an event
brings the exact start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from proctree_ds.census import Census
from proctree_ds.lifespans import Lifespans
from proctree_ds.model import CLOCK_TICK_NS, Task, entity_id
from proctree_ds.process import Process, Thread

__all__ = ["Admission"]


class Admission:
    """The way from a task's name in an event to its record."""

    def __init__(self, census: Census, faults: Counter[str], lifespans: Lifespans) -> None:
        self._census = census
        self._faults = faults
        self._lifespans = lifespans
        self.aliases: dict[int, int] = {}
        """Ids made from a tick -> the exact ones that replaced them."""
        self.by_tick = False
        """Whether starts are those of /proc just now, to the tick."""
        self.on_arrival: Callable[[Process | Thread], object] = lambda node: None
        """Called with every new record: somebody may have waited for it."""

    def process_of(self, task: Task, time: int) -> Process | None:
        """The process that `task` leads, which an event at `time` is about; admitted if it is new.

        None if that is contradictory, or if it is news of a past that has been evicted.
        """
        assert task.start_time is not None
        node = self._census.holder(task.tid, task.start_time) or self._same_tick(task)
        if node is None:
            return self._admit(task, time)
        if isinstance(node, Process):
            return node
        self._faults["thread_as_leader"] += 1
        return None

    def thread_of(self, task: Task, leader: Task, time: int) -> Thread | None:
        """The thread `task` of the process that `leader` leads, as `process_of`."""
        assert task.start_time is not None
        node = self._census.holder(task.tid, task.start_time) or self._same_tick(task)
        if isinstance(node, Thread):
            return node
        if node is not None:
            self._faults["leader_as_thread"] += 1
            return None
        if time <= self._census.threads_horizon and self._is_forgotten(
            entity_id(task.start_time, task.tid)
        ):
            return None
        process = self.referred(leader, task.start_time)
        if process is None:
            return None
        if process.entity_id not in self._census.processes:
            if self._is_gone(process.entity_id, time):
                self._census.drop_shadow(process)
                return None
            self.enter(process)
        return self._admit_thread(task, process)

    def referred(self, ref: Task | None, start: int) -> Process | None:
        """The process that `ref` names for a task that started at `start`; perhaps a shadow."""
        if ref is None:
            return None
        if ref.start_time is None:
            node = self._census.holder_at(ref.tid, start)
        elif ref.start_time > start:
            self._faults["parent_younger_than_child"] += 1
            return None
        else:
            node = self._census.holder(ref.tid, ref.start_time) or self._same_tick(ref)
            if node is None:
                entity = entity_id(ref.start_time, ref.tid)
                return self._census.shadow(entity, ref.tid, ref.start_time)
        if isinstance(node, Thread):
            return node.process
        return node

    def enter(self, node: Process) -> None:
        """Put a process among those in memory, and end the holders of its tid before it."""
        self._note_horizon(node)
        self._census.make_room(node.start, newcomers=1)
        self._census.shadows.pop(node.entity_id, None)
        node.evicted = False
        self._census.processes[node.entity_id] = node
        self._enlist(node)
        self.on_arrival(node)

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

    def _admit(self, task: Task, time: int) -> Process | None:
        start = task.start_time
        assert start is not None
        entity = entity_id(start, task.tid)
        if self._is_gone(entity, time):
            return None
        node = self._census.shadows.get(entity)
        if node is None:
            node = Process(entity, task.tid, start)
        self.enter(node)
        return node

    def _admit_thread(self, task: Task, process: Process) -> Thread:
        start = task.start_time
        assert start is not None
        self._census.make_room_for_thread(process)
        thread = Thread(entity_id(start, task.tid), task.tid, start, process)
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
            self._lifespans.succeed(older, node.start)
        if node.ended > newer_start:
            self._lifespans.succeed(node, newer_start)

    def _same_tick(self, task: Task) -> Process | Thread | None:
        """A task known from /proc by tick only, or an exact one that a /proc row means."""
        start = task.start_time
        assert start is not None
        tick = start - start % CLOCK_TICK_NS
        node = self._census.holder_at(task.tid, tick + CLOCK_TICK_NS - 1)
        if node is None or node.start < tick:
            return self._shadow_of_tick(task.tid, tick) if self.by_tick else None
        if self.by_tick:
            self._note_alias(entity_id(start, task.tid), node.entity_id)
            return node
        if node.rare.approximate:
            self._correct(node, start)
            return node
        return None

    def _shadow_of_tick(self, tid: int, tick: int) -> Process | None:
        """A parent known by its exact name alone that this row of /proc means."""
        shadows = self._census.shadows
        for entity in shadows.by_tid.get(tid, ()):
            shadow = shadows[entity]
            if tick <= shadow.start < tick + CLOCK_TICK_NS:
                self.enter(shadow)
                return shadow
        return None

    def _note_alias(self, old: int, new: int) -> None:
        if old != new and len(self.aliases) < self._census.process_cache:
            self.aliases[old] = new

    def _correct(self, node: Process | Thread, start: int) -> None:
        """Give a task its exact start, and so its real id; the old id stays as an alias."""
        registry: dict[int, Any] = (
            self._census.processes if isinstance(node, Process) else self._census.threads
        )
        old, new = node.entity_id, entity_id(start, node.tid)
        del registry[old]
        registry[new] = node
        self._note_alias(old, new)
        owner = node.parent if isinstance(node, Process) else node.process
        if owner is not None:
            siblings = owner.children if isinstance(node, Process) else owner.threads
            if siblings is not None and old in siblings:
                siblings.discard(old)
                siblings.add(new)
        node.entity_id, node.start, node.extra.approximate = new, start, False
