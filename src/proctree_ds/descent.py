"""Who made whom: parents and creators as events name them, in whatever order they come.

A fork names the original parent for good. Without one, the earliest event that names a parent
stands for it; later ones that name another are kept as re-parenting. Whoever is named before it
was ever seen, or without its exact start, is waited for.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, TypeVar

from proctree_ds.admission import Admission, to_the_tick
from proctree_ds.census import Census
from proctree_ds.inheritance import Inheritance, note_ties
from proctree_ds.lifespans import Lifespans
from proctree_ds.model import CLOCK_TICK_NS, NEVER, Fork, Task
from proctree_ds.process import Process, Thread, forget_middle, is_forgotten

__all__ = ["PARENTS_LIMIT", "WAITING_LIMIT", "Descent"]

K = TypeVar("K")

PARENTS_LIMIT: Final = 16
"""Later parents kept of one process."""

WAITING_LIMIT: Final = 4_096
"""Tasks that wait for a parent or a creator to be seen, of each kind."""


class Waiting(Generic[K]):
    """Ids of those who wait for somebody to be seen, by what they know of them. Bounded: beyond
    `WAITING_LIMIT` the longest waiting give up.
    """

    def __init__(self) -> None:
        self.ids: dict[K, set[int]] = {}
        """Who waits for whom; only to be looked at from outside."""
        self._count = 0
        self.given_up = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: K, entity: int) -> None:
        """`entity` waits for `key`."""
        ids = self.ids.setdefault(key, set())
        if entity not in ids:
            ids.add(entity)
            self._count += 1
        while self._count > WAITING_LIMIT:
            oldest = next(iter(self.ids))
            self.ids[oldest].pop()
            self._count -= 1
            self.given_up += 1
            if not self.ids[oldest]:
                del self.ids[oldest]

    def get(self, key: K) -> tuple[int, ...]:
        """Who waits for `key`, and goes on waiting."""
        return tuple(self.ids.get(key, ()))

    def pop(self, key: K) -> set[int]:
        """Who waited for `key`, and does so no more."""
        ids = self.ids.pop(key, set())
        self._count -= len(ids)
        return ids

    def check(self) -> None:
        """Raise AssertionError if the count is wrong, or too high."""
        assert self._count == sum(map(len, self.ids.values())) <= WAITING_LIMIT
        assert all(self.ids.values())

    def forget(self) -> None:
        """Nobody waits any more."""
        self.ids.clear()
        self._count = 0


class Descent:
    """Links processes to their parents, and threads and processes to their creators."""

    def __init__(
        self,
        census: Census,
        faults: Counter[str],
        admission: Admission,
        inheritance: Inheritance,
        lifespans: Lifespans,
    ) -> None:
        self._census = census
        self._faults = faults
        self._admission = admission
        self._inheritance = inheritance
        self._lifespans = lifespans
        self.by_pid: Waiting[int] = Waiting()
        """Processes whose parent was named by pid alone, or by pid and tick, by that pid."""
        self._last_named = -1
        """Nobody who starts later is one of these parents."""
        self.awaited: Waiting[Task] = Waiting()
        """Tasks whose creator is not known yet, by that creator."""
        admission.on_arrival = self._arrived
        admission.on_name = self._named
        admission.on_correction = self._corrected

    def forget(self) -> None:
        """Another boot of the host: nobody who waits is there any more."""
        self.by_pid.forget()
        self.awaited.forget()

    def check(self) -> None:
        """Raise AssertionError if those who wait are not counted right."""
        self.by_pid.check()
        self.awaited.check()

    @property
    def given_up(self) -> int:
        """How many stopped to wait for somebody."""
        return self.by_pid.given_up + self.awaited.given_up

    def parent_of(self, node: Process, ref: Task | None) -> Process | None:
        """The parent that an event names for `node`, unless that would close a cycle."""
        if ref is not None and ref.tid == 0:
            node.extra.has_no_parent = True
            return None
        parent = self._admission.referred(ref, node.start, node.rare.approximate)
        if ref is not None and ref.start_time is None:
            self._wait_by_pid(ref.tid, node, node.start)
        if parent is not None and self._closes_circle(node, parent):
            self._census.drop_shadow(parent)
            return None
        if parent is not None and parent.start > node.start and not node.rare.approximate:
            self._faults["parent_younger_than_child"] += 1  # the exact start has shown it
            self._census.drop_shadow(parent)
            return None
        return parent

    def _closes_circle(self, node: Process, above: Process, by_makers: bool = False) -> bool:
        """Whether `node` is above `above`: that can be among equal starts, or those of /proc."""
        ancestor: Process | None = above
        slack = CLOCK_TICK_NS if self._admission.has_approximate else 1
        while ancestor is not None and ancestor.start + slack > node.start:
            if ancestor is node:
                self._faults["cycle"] += 1
                return True
            maker = ancestor.rare.copied_from if by_makers else None
            ancestor = maker or ancestor.parent
        return False

    def link_creator(self, node: Process | Thread, event: Fork) -> None:
        """Find whom `node` was copied from: its parent, or whoever called clone."""
        creator = self._creator_of(node, event)
        if isinstance(node, Thread) and creator is not None:
            if (creator if isinstance(creator, Process) else creator.process) is not node.process:
                self._faults["creator_of_another_process"] += 1
                creator = None
        thread = creator if isinstance(creator, Thread) else None
        creator = creator.process if isinstance(creator, Thread) else creator
        if isinstance(node, Process) and creator is not None and creator is not node.parent:
            if self._closes_circle(node, creator, by_makers=True):
                creator = thread = None
        if thread is not None:
            node.extra.creator = thread
        if isinstance(node, Thread):
            note_ties(node, node.rare.creator or node.process)
        else:
            if creator is not None and creator is not node.parent:
                node.extra.copied_from = creator
                if creator.children is None:
                    creator.children = set()
                creator.children.add(node.entity_id)
            origin = node.rare.copied_from or node.parent
            if origin is not None:
                note_ties(node, origin)
        self._link_makers(node)

    def _link_makers(self, node: Process | Thread) -> None:
        makers: list[Process | Thread | None] = [node.rare.creator]
        if isinstance(node, Process):
            makers += [node.rare.copied_from, node.parent]
        else:
            makers.append(node.process)
        for maker in makers:
            if maker is not None:
                self._made(maker, node)
        self._inheritance.reinherit(node)

    def _made(self, maker: Process | Thread, node: Process | Thread) -> None:
        """`maker` lived when it made `node`; if it has died since, it left it to somebody."""
        if node.start > maker.last_branch:
            maker.last_branch = node.start
        process = maker if isinstance(maker, Process) else maker.process
        if isinstance(maker, Thread):
            self._lifespans.sign_of_life(maker, node.start)
        elif process.entity_id in self._census.processes:
            self._lifespans.review(process, node.start)
        if process.ended != NEVER and isinstance(node, Process):
            self._lifespans.bequeath(process)

    def learn_parent(self, node: Process, time: int, ref: Task | None) -> None:
        """A later event names the parent: the first such stands for a fork that was not seen."""
        if ref is None or ref.tid == 0:
            if ref is not None:
                node.extra.has_no_parent = True
            return
        original = node.parent.task if node.parent is not None else None
        if ref.start_time is None:
            if original is None:
                self._adopt(node, self.parent_of(node, ref))
            return
        if ref == node.task or (node.rare.approximate and to_the_tick(ref) == node.task):
            self._faults["cycle"] += 1
            return
        if node.rare.parents and is_forgotten(node.rare.parents, time):
            self._faults["beyond_horizon"] += 1
            return
        if ref in self._admission.blurred:
            self._wait_by_pid(ref.tid, node, time + CLOCK_TICK_NS)
        elif ref != original and self._admission.find(ref) is None:
            self._admission.note_name(ref)
            self._wait_by_pid(ref.tid, node, time)
        if node.fork is None or ref != original or node.rare.parents:
            self._state_parents(node, [*(node.rare.parents or ()), (time, ref)])

    def restate_parents(self, node: Process) -> None:
        """The original parent is known: what was said of later ones means more, or less."""
        if node.rare.parents:
            self._state_parents(node, node.rare.parents)

    def _state_parents(self, node: Process, statements: list[tuple[int, Task | None]]) -> None:
        """These name the parents of `node`, apart from its fork."""
        original = node.parent.task if node.parent is not None else None
        parents = _distinct(original if node.fork is not None else None, statements)
        self._census.dropped_changes += forget_middle(parents, PARENTS_LIMIT)
        self._census.state_parents(node, parents)
        for _, named in parents or ():
            parent = None if named is None else self._admission.find(named)
            if isinstance(parent, Process):
                self._took_over(parent, node)
        if node.fork is None and parents is not None and parents[0][1] != original:
            self._adopt(node, self.parent_of(node, parents[0][1]))

    def _took_over(self, parent: Process, child: Process) -> None:
        """`parent` lived when it became that: its exit is more than the short way sees to."""
        if parent.children is None:
            parent.children = set()
        self._made(parent, child)

    def _wait_by_pid(self, pid: int, child: Process, time: int) -> None:
        self.by_pid.add(pid, child.entity_id)
        self._last_named = max(self._last_named, time)

    def _creator_of(self, node: Process | Thread, event: Fork) -> Process | Thread | None:
        """Who called clone, None where that is the parent; one not known yet is waited for."""
        ref = event.creator
        if ref is None or ref == event.parent or ref.start_time is None:
            return None
        if ref.start_time > node.start:
            self._faults["creator_younger_than_child"] += 1
            return None
        creator = self._admission.find(ref)
        unknown = creator is None or creator.rare.horizon >= 0
        if unknown != node.rare.creator_unknown:
            node.extra.creator_unknown = unknown
        if creator is None:
            self._admission.note_name(ref)
            self.awaited.add(ref, node.entity_id)
        return creator

    def _arrived(self, node: Process | Thread) -> None:
        """A new task may be the creator or the parent that others named before it came."""
        if self.awaited:
            self._link_created(node)
        if not isinstance(node, Process):
            self._inheritance.reinherit(node)
            if node.process.last_exec_at(NEVER) >= node.start:
                self._lifespans.settle(node.process)
            return
        for entity in tuple(self._census.adopted.get(node.task, ())):
            self._took_over(node, self._census.processes[entity])
        if node.start > self._last_named:
            return
        for child in self._those_who_wait(node.tid):
            known = child.parent
            if _is_named_by_pid(child) and node.start <= child.start:
                if known is None or known.start < node.start:
                    if not self._closes_circle(child, node):
                        self._adopt(child, node)
        if not node.rare.approximate:
            self._named(node.task)

    def _named(self, task: Task) -> None:
        """Whom some know by a tick, `task` names exactly."""
        name = to_the_tick(task)
        for child in self._those_who_wait(task.tid):
            statements = child.rare.parents or []
            if any(ref == name for _, ref in statements):
                exact = [(time, task if ref == name else ref) for time, ref in statements]
                self._state_parents(child, exact)

    def _corrected(self, node: Process | Thread) -> None:
        """The exact start of `node` is known: it was made by what its maker was then."""
        if self.awaited:
            self._link_created(node)
        if isinstance(node, Process) and node.parent is not None:
            if node.parent.start > node.start:
                self._faults["parent_younger_than_child"] += 1
                self._census.set_parent(node, None)
        origin = node.rare.copied_from or node.parent if isinstance(node, Process) else node.process
        if origin is not None:
            note_ties(node, node.rare.creator or origin)
        self._link_makers(node)
        if isinstance(node, Process):
            self._lifespans.enrol(node)
            if node.ended != NEVER:
                self._lifespans.bequeath(node)

    def _link_created(self, creator: Process | Thread) -> None:
        for entity in self.awaited.pop(Task(creator.tid, creator.start)):
            node = self._record(entity)
            if node is not None and node.fork is not None:
                self.link_creator(node, node.fork)

    def _those_who_wait(self, pid: int) -> list[Process]:
        nodes = [self._record(entity) for entity in self.by_pid.get(pid)]
        return [node for node in nodes if isinstance(node, Process)]

    def _record(self, entity: int) -> Process | Thread | None:
        """The record that had this id once."""
        entity = self._admission.aliases.get(entity, entity)
        return self._census.processes.get(entity) or self._census.threads.get(entity)

    def _adopt(self, node: Process, parent: Process | None) -> None:
        """Take `parent` for the original parent of a process whose fork was not seen."""
        if parent is None:
            return
        self._census.set_parent(node, parent)
        self._made(parent, node)
        note_ties(node, parent)
        self._inheritance.reinherit(node)


def _is_named_by_pid(child: Process) -> bool:
    """Whether all that is known of the original parent is its pid."""
    if child.fork is None:
        return not child.rare.parents
    return child.fork.parent is not None and child.fork.parent.start_time is None


def _distinct(
    original: Task | None, statements: list[tuple[int, Task | None]]
) -> list[tuple[int, Task | None]] | None:
    """The statements in order of time, without those that name the same parent again."""
    distinct: list[tuple[int, Task | None]] = []
    for time, parent in sorted(statements, key=lambda statement: statement[0]):
        if parent != (distinct[-1][1] if distinct else original):
            distinct.append((time, parent))
    return distinct or None
