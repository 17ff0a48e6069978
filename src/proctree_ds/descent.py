"""Who made whom: parents and creators as events name them, in whatever order they come.

A fork names the original parent for good. Without one, the earliest event that names a parent
stands for it; later ones that name another are kept as re-parenting. Whoever is named before it
was ever seen is waited for.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, TypeVar

from proctree_ds.admission import Admission
from proctree_ds.census import Census
from proctree_ds.inheritance import Inheritance, note_ties
from proctree_ds.lifespans import Lifespans
from proctree_ds.model import NEVER, Fork, Task
from proctree_ds.process import Process, Thread, forget_middle, is_forgotten

__all__ = ["PARENTS_LIMIT", "WAITING_LIMIT", "Descent", "distinct"]

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
        self.by_pid_only: Waiting[int] = Waiting()
        """Processes whose parent was named by pid alone, by that pid."""
        self._last_of_those = -1
        """The latest start of any of them."""
        self.awaited: Waiting[Task] = Waiting()
        """Tasks whose creator is not known yet, by that creator."""
        admission.on_arrival = self._arrived

    @property
    def given_up(self) -> int:
        """How many stopped to wait for somebody."""
        return self.by_pid_only.given_up + self.awaited.given_up

    def parent_of(self, node: Process, ref: Task | None) -> Process | None:
        """The parent that an event names for `node`, unless that would close a cycle."""
        if ref is not None and ref.tid == 0:
            node.extra.has_no_parent = True
            return None
        parent = self._admission.referred(ref, node.start)
        if ref is not None and ref.start_time is None:
            self.by_pid_only.add(ref.tid, node.entity_id)
            self._last_of_those = max(self._last_of_those, node.start)
        ancestor = parent
        while ancestor is not None and ancestor.start == node.start:
            if ancestor is node:
                self._faults["cycle"] += 1
                if parent is not None:
                    self._census.drop_shadow(parent)
                return None
            ancestor = ancestor.parent
        return parent

    def link_creator(self, node: Process | Thread, event: Fork) -> None:
        """Find whom `node` was copied from: its parent, or whoever called clone."""
        creator = self._creator_of(node, event)
        if isinstance(creator, Thread):
            node.extra.creator = creator
            creator = creator.process
        origin: Process | None
        if isinstance(node, Thread):
            origin = node.process
            note_ties(node, node.rare.creator or origin)
        else:
            if creator is not None and creator is not node.parent and creator is not node:
                node.extra.copied_from = creator
                if creator.children is None:
                    creator.children = set()
                creator.children.add(node.entity_id)
            origin = node.rare.copied_from or node.parent
            if origin is not None:
                note_ties(node, origin)
        parent = node.parent if isinstance(node, Process) else None
        for maker in (origin, parent, node.rare.creator):
            if maker is not None:
                self._made(maker, node)
        self._inheritance.reinherit(node)

    def _made(self, maker: Process | Thread, node: Process | Thread) -> None:
        """`maker` lived when it made `node`; if it has died since, it left it to somebody."""
        if node.start > maker.last_branch:
            maker.last_branch = node.start
        process = maker if isinstance(maker, Process) else maker.process
        if process.entity_id in self._census.processes:
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
        if ref == node.task:
            self._faults["cycle"] += 1
            return
        if node.rare.parents and is_forgotten(node.rare.parents, time):
            self._faults["beyond_horizon"] += 1
            return
        if node.fork is not None:
            if ref != original or node.rare.parents:
                node.extra.parents = distinct(original, [*(node.rare.parents or ()), (time, ref)])
                self._census.dropped_changes += forget_middle(node.rare.parents, PARENTS_LIMIT)
            return
        statements = distinct(None, [*(node.rare.parents or ()), (time, ref)])
        assert statements is not None
        node.extra.parents = statements
        self._census.dropped_changes += forget_middle(statements, PARENTS_LIMIT)
        if statements[0][1] != original:
            self._adopt(node, self.parent_of(node, statements[0][1]))

    def _creator_of(self, node: Process | Thread, event: Fork) -> Process | Thread | None:
        """Who called clone, None where that is the parent; one not known yet is waited for."""
        ref = event.creator
        if ref is None or ref == event.parent or ref.start_time is None:
            return None
        if ref.start_time > node.start:
            self._faults["creator_younger_than_child"] += 1
            return None
        creator = self._census.holder(ref.tid, ref.start_time)
        unknown = creator is None or creator.rare.horizon >= 0
        if unknown != node.rare.creator_unknown:
            node.extra.creator_unknown = unknown
        if creator is None:
            self.awaited.add(ref, node.entity_id)
        return creator

    def _arrived(self, node: Process | Thread) -> None:
        """A new task may be the creator or the parent that others named before it came."""
        if self.awaited:
            self._link_created(node)
        if isinstance(node, Process) and node.start <= self._last_of_those:
            for child_id in self.by_pid_only.get(node.tid):
                child = self._census.processes.get(child_id)
                if child is not None and node.start <= child.start:
                    known = child.parent
                    if known is None or known.start < node.start:
                        self._adopt(child, node)

    def _link_created(self, creator: Process | Thread) -> None:
        for entity in self.awaited.pop(Task(creator.tid, creator.start)):
            node = self._census.processes.get(entity) or self._census.threads.get(entity)
            if node is not None and node.fork is not None:
                self.link_creator(node, node.fork)

    def _adopt(self, node: Process, parent: Process | None) -> None:
        """Take `parent` for the original parent of a process whose fork was not seen."""
        if parent is None:
            return
        self._census.set_parent(node, parent)
        self._made(parent, node)
        note_ties(node, parent)
        self._inheritance.reinherit(node)


def distinct(
    original: Task | None, statements: list[tuple[int, Task | None]]
) -> list[tuple[int, Task | None]] | None:
    """The statements in order of time, without those that name the same parent again."""
    distinct: list[tuple[int, Task | None]] = []
    for time, parent in sorted(statements, key=lambda statement: statement[0]):
        if parent != (distinct[-1][1] if distinct else original):
            distinct.append((time, parent))
    return distinct or None
