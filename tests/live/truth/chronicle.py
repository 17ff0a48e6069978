"""When the source told what of whom: candidates for questions to the tree, never answers.

The tree is asked by entity id and instant. Which ids there are, and when the kernel's hooks fired,
is noted here from the events that the tree is given.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from proctree_ds import entity_id
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Loss, Snapshot, Task

TICK_NS: Final = 10_000_000
"""The unit of start times in /proc: USER_HZ is 100."""


@dataclass(slots=True, eq=False)
class Life:
    """One task, under one tid."""

    tid: int
    start: int
    entity_id: int
    pid: int
    process: int
    """The entity id of its process."""
    forked: int | None
    """When its fork was told; None for a task that was there before."""
    exits: list[int] = field(default_factory=list)
    execs: list[int] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    ended: int | None = None
    """The exit, or the exec of another thread, after which nothing more was told."""
    witnessed: int | None = None
    """When the connector told of its fork, too."""
    claimed: int = -1
    """The last of its execs that the connector told of, in the tree's time."""
    exec_count: int = 0
    claims: int = 0
    """How many execs the connector told of."""
    code: int | None = None
    """Its exit code as the connector gave it."""

    @property
    def is_leader(self) -> bool:
        return self.tid == self.pid


class Chronicle:
    """Lives by tid, those that ended long ago forgotten."""

    def __init__(self) -> None:
        self.lives: dict[int, list[Life]] = {}
        self.forks: list[tuple[int, int]] = []
        """Start and telling of each fork since somebody last took them."""
        self.exec_count = 0
        self.fork_count = 0
        self.exit_count = 0
        self.lost = 0
        self.strangers: set[int] = set()
        """Tids that ended without having begun here."""
        self._ended: deque[Life] = deque()

    def note(self, event: Event) -> None:
        """Take down one event."""
        kind = type(event)
        if kind is Fork:
            self._fork(event)  # type: ignore[arg-type]
        elif kind is Exit:
            self._exit(event)  # type: ignore[arg-type]
        elif kind is Exec:
            self._exec(event)  # type: ignore[arg-type]
        elif kind is Snapshot:
            assert isinstance(event, Snapshot)
            if self.of(event.task) is None:
                self._begin(event.task, event.leader, None)
        elif kind is Change:
            assert isinstance(event, Change)
            if (life := self.of(event.task)) is not None:
                insort(life.changes, event.time)
        elif kind is Loss:
            assert isinstance(event, Loss)
            self.lost += event.lost or 1

    def of(self, task: Task) -> Life | None:
        """The life that an event names."""
        for life in reversed(self.lives.get(task.tid, ())):
            if life.start == task.start_time:
                return life
        return None

    def born_in_tick(self, tid: int, tick: int) -> Life | None:
        """The task that /proc shows with this start."""
        for life in reversed(self.lives.get(tid, ())):
            if life.start // TICK_NS == tick:
                return life
        return None

    def holder(self, tid: int, time: int) -> Life | None:
        """The last task to get this tid up to `time`."""
        for life in reversed(self.lives.get(tid, ())):
            if life.start <= time:
                return life
        return None

    def threads_of(self, process: int) -> list[Life]:
        """The tasks of a process, by its entity id. O(lives)."""
        return [life for lives in self.lives.values() for life in lives if life.process == process]

    def story(self, *pids: object) -> str:
        """What the source told of these processes and their threads."""
        told = [
            life
            for lives in self.lives.values()
            for life in lives
            if life.pid in pids and life.pid != 1
        ]
        return "; ".join(map(str, sorted(told, key=lambda life: -life.start)))

    def forget(self, before: int) -> list[Life]:
        """Let go of what ended before an instant; returns it."""
        gone = []
        while self._ended and (self._ended[0].ended or 0) < before:
            life = self._ended.popleft()
            if life.ended is None or life.ended >= before:
                continue  # its leader ended, and another thread took its place
            siblings = self.lives.get(life.tid, [])
            if life in siblings:
                siblings.remove(life)
                if not siblings:
                    del self.lives[life.tid]
                gone.append(life)
        return gone

    def forget_moments(self, before: int) -> None:
        """Let go of old moments of those that live."""
        for lives in self.lives.values():
            for life in lives:
                for moments in (life.changes, life.execs):
                    if moments and moments[0] < before:
                        moments[:] = [moment for moment in moments if moment >= before]

    def _begin(self, task: Task, leader: Task | None, forked: int | None) -> Life:
        assert task.start_time is not None
        leader = leader or task
        assert leader.start_time is not None
        life = Life(
            task.tid,
            task.start_time,
            entity_id(task.start_time, task.tid),
            leader.tid,
            entity_id(leader.start_time, leader.tid),
            forked,
        )
        insort(self.lives.setdefault(task.tid, []), life, key=lambda life: life.start)
        return life

    def _fork(self, event: Fork) -> None:
        self.fork_count += 1
        life = self._begin(event.task, event.leader, event.time)
        self.forks.append((life.start, event.time))

    def _exec(self, event: Exec) -> None:
        self.exec_count += 1
        life = self.of(event.task)
        if life is None:
            return
        insort(life.execs, event.time)
        life.exec_count += 1
        life.ended = None
        if event.old_tid is not None and event.old_tid != event.task.tid:
            former = self.holder(event.old_tid, event.time)
            if former is not None:
                self._end(former, event.time)

    def _exit(self, event: Exit) -> None:
        self.exit_count += 1
        life = self.of(event.task)
        if life is None:
            self.strangers.add(event.task.tid)
        else:
            life.exits.append(event.time)
            self._end(life, event.time)

    def _end(self, life: Life, time: int) -> None:
        life.ended = time
        self._ended.append(life)
