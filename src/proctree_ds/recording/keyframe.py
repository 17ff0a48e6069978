"""The full state of every task alive, and of their ancestors, as events for an empty tree.

Nothing but events: a tree that is told a keyframe, and what came after it, answers for any instant
from then on as the tree does that was told everything. Whoever lives is in it with all that is
known of it, and so is who can still be asked about because of them: parents, creators, and heirs.
Who has just ended is in it, too, so that what comes late about them raises nobody from the dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from proctree_ds.changelog import Version, value_of
from proctree_ds.model import NEVER, Change, Event, Exec, Exit, Fork, Snapshot, State, Task
from proctree_ds.process import Process, Thread
from proctree_ds.tree import ProcessTree

__all__ = ["GRACE_NS", "keyframe"]

GRACE_NS: Final = 10_000_000
"""Who ended less than this before is in a keyframe as well."""

_Node = Process | Thread


def keyframe(tree: ProcessTree, now: int) -> list[Event]:
    """What `tree` knows of everybody who lives, in order of time; `now` is the last event's time.

    Boot-clock ns. O(tasks alive, their ancestors and versions).
    """
    kept = _Kept(tree, now - GRACE_NS)
    placed: list[tuple[int, float, Event]] = []
    for process in kept.processes.values():
        placed += _told_of_process(process, kept)
    for thread in kept.threads.values():
        placed += _told_of_thread(thread)
    placed.sort(key=lambda told: told[:2])
    return [tree.header, *tree.losses, *(event for _, _, event in placed), *tree.pictures]


class _Kept:
    """Who is in a keyframe: those who end after `since`, and whoever else their answers name."""

    def __init__(self, tree: ProcessTree, since: int) -> None:
        self._tree = tree
        self.processes: dict[int, Process] = {}
        self.threads: dict[int, Thread] = {}
        self._todo = [p for p in tree.census.processes.values() if p.ended > since]
        living = [t for t in tree.census.threads.values() if t.end > since]
        self._todo += [thread.process for thread in living]
        for thread in living:
            self._keep_thread(thread)
        while self._todo:
            self._keep(self._todo.pop())

    def _keep(self, process: Process) -> None:
        if process.entity_id in self.processes:
            return
        if process.entity_id not in self._tree.census.processes:
            return  # evicted, or only ever named
        self.processes[process.entity_id] = process
        rare = process.rare
        self._todo += [p for p in (process.parent, rare.copied_from, rare.heir) if p is not None]
        if rare.creator is not None:
            self._keep_thread(rare.creator)
        named = [task for _, task in rare.parents or ()]
        if process.exit is not None:
            named.append(process.exit.reaper)
            self._keep_named(process.exit.task)
        for task in named:
            self._keep_named(task)

    def _keep_named(self, task: Task | None) -> None:
        if task is None or task.start_time is None:
            return
        node = self._tree.census.holder(task.tid, task.start_time)
        if isinstance(node, Thread):
            self._keep_thread(node)
        elif node is not None:
            self._todo.append(node)

    def _keep_thread(self, thread: Thread) -> None:
        if thread.entity_id in self.threads or thread.entity_id not in self._tree.census.threads:
            return
        self.threads[thread.entity_id] = thread
        self._todo.append(thread.process)
        if thread.rare.creator is not None:
            self._keep_thread(thread.rare.creator)


_Told = Iterator[tuple[int, float, Event]]
"""Events with their times, and where among others of that time they stand."""


def _told_of_process(process: Process, kept: _Kept) -> _Told:
    task = process.task
    rare = process.rare
    origin = rare.copied_from or process.parent
    if process.fork is not None:
        fork = process.fork
        if not _is_heir(process, origin, kept):
            fork = _whole(fork, process.base)
        yield process.start, rare.ties - 0.5, fork
    yield from _versions(process, None, process.ns_pid)
    yield from _hidden(process, kept)
    for time, parent in rare.parents or ():
        if parent is not None:
            yield time, 0, Change(time, task, {}, parent=parent)
    if rare.has_no_parent and process.fork is None:
        yield process.start, 0, Change(process.start, task, {}, parent=Task(0, 0))
    for time, flag in rare.subreaper or ():
        if flag is not None:
            yield time, 0, Change(time, task, {}, subreaper=flag)
    for window in rare.untold or ():
        yield window.since, 0, Change(window.since, task, {}, untold_until=window.time)
    heard = process.last_sign_of_life
    if process.ended > heard:
        yield heard, 0, Change(heard, task, {})
    exits = list(rare.leader_exits or ())
    if process.exit is not None and process.exit not in exits:
        exits.append(process.exit)
    if process.ended != NEVER and process.exit is None:
        exits.append(Exit(process.ended, task, group_exit=True, origin="inferred"))
    for event in exits:
        yield event.time, 0, event


def _told_of_thread(thread: Thread) -> _Told:
    task = thread.task
    leader = thread.process.task
    if thread.fork is not None:
        yield thread.start, thread.rare.ties - 0.5, thread.fork
    yield from _versions(thread, leader, None)
    heard = thread.last_sign_of_life
    if thread.end > heard:
        yield heard, 0, Change(heard, task, {}, leader)
    if thread.exit is not None:
        yield thread.exit.time, 0, thread.exit
    elif thread.end < NEVER:
        yield thread.end, 0, Exit(thread.end, task, leader, origin="inferred")


def _versions(node: _Node, leader: Task | None, ns_pid: int | None) -> _Told:
    """Its changelog, each version as it was stated."""
    takeovers = dict(node.rare.takeovers or ())
    ns_tid = node.ns_tid if isinstance(node, Thread) else None
    task = node.task
    last, place = -1, 0
    for version in node.log:
        place = place + 1 if version.time == last else 0
        last = version.time
        yield last, place, _stated(version, task, leader, takeovers.get(last), ns_tid, ns_pid)
    if node.fork is None and not node.log and ns_pid is not None:
        yield node.start, 0, Snapshot(node.start, task, {}, leader, ns_pid=ns_pid, origin="event")


def _stated(
    version: Version,
    task: Task,
    leader: Task | None,
    old_tid: int | None,
    ns_tid: int | None,
    ns_pid: int | None,
) -> Event:
    facts = version.facts
    if isinstance(facts, State) or old_tid is not None:
        return Exec(version.time, task, facts, old_tid=old_tid, ns_pid=ns_pid)
    return Snapshot(
        version.time,
        task,
        facts,
        leader,
        ns_tid=ns_tid,
        ns_pid=ns_pid,
        origin=version.origin,
    )


def _is_heir(node: Process, origin: Process | None, kept: _Kept) -> bool:
    """Whether it will inherit by itself what it did, because its maker is there with its past."""
    if node.rare.horizon >= 0 or node.rare.creator_unknown:
        return False
    if origin is None:
        return True
    return origin.entity_id in kept.processes and origin.rare.horizon < 0


def _whole(fork: Fork, base: State) -> Fork:
    given = {"image": base.image, "cwd": base.cwd, "root": base.root}
    return msgspec.structs.replace(fork, comm=base.comm, context=base.context, given=given)


def _hidden(process: Process, kept: _Kept) -> _Told:
    """What a gap hides of a process, as far as its children still have it from then."""
    gaps = process.rare.gaps
    if not gaps:
        return
    for entity in process.children or ():
        child = kept.processes.get(entity)
        if child is None or child.fork is None or child.parent is not process:
            continue
        names = [gap.names for gap in gaps if gap.since <= child.start <= gap.until]
        if names:
            given = {name: value_of(child.born_of, name) for name in frozenset().union(*names)}
            yield child.start, -1, Change(child.start, process.task, given)
