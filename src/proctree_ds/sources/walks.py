"""What differs between two looks at /proc, as events.

Between two walks nobody looks: what began and ended meanwhile is never seen, and what happened is
known to lie in between, and no better. A loss window for each interval says so. Of processes,
as many as there are descriptors for are waited for, so that their ends are known at once.
"""

from __future__ import annotations

import os
import resource
import select
from typing import Final, NamedTuple

from proctree_ds.clock import boot_now
from proctree_ds.model import Change, Event, Exec, Exit, Given, Loss, Snapshot, Task
from proctree_ds.sources.process_events import told_image
from proctree_ds.sources.procfs import Glance, glance, picture, tasks

__all__ = ["AWAITED_LIMIT", "Walks"]

AWAITED_LIMIT: Final = 1_024
"""Processes whose ends are waited for with a descriptor each; those of others come with a walk."""

_SPARE_DESCRIPTORS: Final = 64
"""What is left for everything else where a limit of the process is low."""


class _Known(NamedTuple):
    pid: int
    task: Task
    last: Glance


class Walks:
    """Remembers the tasks of the last walk. Its memory is bounded by how many live."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._descriptors: dict[int, int] = {}
        """Descriptors of processes, by pid."""
        self._poll = select.epoll()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = max(0, min(AWAITED_LIMIT, soft - _SPARE_DESCRIPTORS))
        self._since: int | None = None
        self.walks = 0
        self.unawaited = 0
        """Processes for which there was no descriptor."""

    def fileno(self) -> int:
        """For a poll: readable when a process that is waited for has ended."""
        return self._poll.fileno()

    def walk(self) -> list[Event]:
        """What is new since the last walk, and a loss for the time in between."""
        since, events = boot_now(), list[Event]()
        self.walks += 1
        unseen = set(self._known)
        for pid, tid in tasks():
            seen = glance(pid, tid)
            if seen is None:
                continue
            unseen.discard(tid)
            known = self._known.get(tid)
            if known is not None and known.last.start == seen.start:
                events += self._compare(known, seen)
                continue
            if known is not None:
                events.append(self._end(tid))
            events += self._begin(pid, tid, seen)
        # A leader after its threads: the process ends with the last of them.
        for tid in sorted(unseen, key=lambda tid: self._known[tid].pid == tid):
            if tid in self._known:
                events.append(self._end(tid))
        events.sort(key=lambda event: event.time)  # type: ignore[return-value,arg-type]
        if self._since is not None:
            events.append(Loss(boot_now(), self._since))
        self._since = since
        return events

    def ended(self) -> list[Event]:
        """Those who ended since the last look, of the processes that are waited for."""
        pids = {descriptor: pid for pid, descriptor in self._descriptors.items()}
        ends = [pids[descriptor] for descriptor, _ in self._poll.poll(0) if descriptor in pids]
        events: list[Event] = []
        for pid in ends:
            events += [
                self._end(tid) for tid, k in list(self._known.items()) if k.pid == pid != tid
            ]
            events.append(self._end(pid))
        return events

    def close(self) -> None:
        """Wait for nobody any more."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._poll.close()

    def _begin(self, pid: int, tid: int, seen: Glance) -> list[Event]:
        row = picture(pid, tid)
        if row is None:
            return []
        assert row.task.start_time is not None
        if row.task.start_time != seen.start:
            return []  # another one by now: the next walk has it
        self._known[tid] = _Known(pid, row.task, seen)
        if pid == tid:
            self._await(pid, seen.start)
        if self._since is None or pid != tid or not self._has_executed(seen):
            return [row]
        return [row, _exec(row)]

    def _has_executed(self, seen: Glance) -> bool:
        """Whether a new process runs another program than its parent, so that it was an exec."""
        parent = self._known.get(seen.parent)
        return seen.image != (None, "") and (parent is None or parent.last.image != seen.image)

    def _compare(self, known: _Known, seen: Glance) -> list[Event]:
        if seen == known.last:
            return []
        row = picture(known.pid, known.task.tid)
        if row is None or row.task != known.task:
            return []
        self._known[known.task.tid] = known._replace(last=seen)
        is_leader = known.pid == known.task.tid
        if seen.image != known.last.image and is_leader:
            return [_exec(row)]
        given: Given = {
            name: row.given[name]
            for name in ("comm", "cwd", "root", "context")
            if name in row.given
        }
        return [Change(row.time, row.task, given, row.leader, row.parent, origin="procfs")]

    def _end(self, tid: int) -> Exit:
        known = self._known.pop(tid)
        is_leader = known.pid == tid
        leader = None
        if is_leader:
            self._forget(tid)
        else:
            process = self._known.get(known.pid)
            leader = process.task if process is not None else Task(known.pid)
        return Exit(
            boot_now(),
            known.task,
            leader,
            group_exit=True if is_leader else None,
            origin="procfs",
        )

    def _await(self, pid: int, start: int) -> None:
        if len(self._descriptors) >= self._room:
            self.unawaited += 1
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # it has ended, a kernel thread on some kernels, or there are no more
            self.unawaited += 1
            return
        again = glance(pid, pid)
        if again is None or again.start != start:
            os.close(descriptor)  # the next walk finds that it has ended
            return
        self._descriptors[pid] = descriptor
        self._poll.register(descriptor, select.EPOLLIN)

    def _forget(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid, None)
        if descriptor is not None:
            self._poll.unregister(descriptor)
            os.close(descriptor)


def _exec(row: Snapshot) -> Exec:
    """An exec that was not seen: its time is that of the look that found it."""
    return Exec(row.time, row.task, told_image(row.given, row.time), row.parent, origin="procfs")
