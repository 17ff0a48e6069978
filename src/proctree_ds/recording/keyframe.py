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

from proctree_ds.changelog import value_of
from proctree_ds.model import (
    NEVER,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Origin,
    Snapshot,
    State,
    Task,
)
from proctree_ds.process import Process, Thread, is_seen
from proctree_ds.tree import ProcessTree

__all__ = ["GRACE_NS", "UNSEEN_GRACE_NS", "keyframe"]

GRACE_NS: Final = 10_000_000
"""Who ended less than this before is in a keyframe as well."""

UNSEEN_GRACE_NS: Final = 60 * 10**9
"""The same for those whose end was only concluded: something may yet show that they live."""

_Node = Process | Thread


def keyframe(tree: ProcessTree, now: int) -> list[Event]:
    """What `tree` knows of everybody who lives, in order of time; `now` is the last event's time.

    Boot-clock ns. O(tasks alive, their ancestors and versions).
    """
    kept = _Kept(tree, now)
    placed: list[tuple[int, float, Event]] = []
    for process in kept.processes.values():
        placed += _told_of_process(process, kept)
    for thread in kept.threads.values():
        placed += _told_of_thread(thread, kept)
    placed.sort(key=lambda told: told[:2])
    return [tree.header, *tree.losses, *(event for _, _, event in placed), *tree.pictures]


class _Kept:
    """Who is in a keyframe: those who live at `now`, and whoever else their answers name."""

    def __init__(self, tree: ProcessTree, now: int) -> None:
        self._tree = tree
        self.processes: dict[int, Process] = {}
        self.threads: dict[int, Thread] = {}
        since, unseen_since = now - GRACE_NS, now - UNSEEN_GRACE_NS
        self._todo = [
            process
            for process in tree.census.processes.values()
            if process.ended > since or (process.ended > unseen_since and not is_seen(process.exit))
        ]
        living = [thread for thread in tree.census.threads.values() if thread.end > since]
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
        census = self._tree.census
        if process.entity_id in census.zapped:  # it ended with the init of its namespace
            init = census.namespaces.init_of(process)
            self._todo += [init] if init is not None else []
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

    def ends_by_itself(self, node: _Node) -> bool:
        """Whether it does not end, or what is in the keyframe tells without its exit when."""
        if node.ended == NEVER or node.entity_id in self._tree.census.zapped:
            return True
        return node.ended == self._tree.complete_since(node.last_sign_of_life + 1)


_Told = Iterator[tuple[int, float, Event]]
"""Events with their times, and where among others of that time they stand."""


def _told_of_process(process: Process, kept: _Kept) -> _Told:
    task = process.task
    rare = process.rare
    if rare.approximate and not process.log:
        return  # all that is known is that somebody else named it
    origin = rare.copied_from or process.parent
    parents = dict(rare.parents or ())
    subreaper = dict(rare.subreaper or ())
    if process.fork is not None:
        fork = process.fork
        if not _is_heir(process, origin):
            fork = _whole(fork, process.base)
        if fork.ns_pid is None and process.ns_pid is not None:
            fork = msgspec.structs.replace(fork, ns_pid=process.ns_pid)
        yield process.start, rare.ties - 0.5, fork
    elif rare.has_no_parent:
        parents.setdefault(process.log[0].time if process.log else process.start, Task(0, 0))
    yield from _versions(process, parents, subreaper)
    yield from _hidden(process, kept)
    for time, parent in parents.items():
        if parent is not None:
            yield time, 0, _word(process, time, parent=parent)
    for time, flag in subreaper.items():
        if flag is not None:
            yield time, 0, _word(process, time, subreaper=flag)
    for window in rare.untold or ():
        yield window.since, 0, Change(window.since, task, {}, untold_until=window.time)
    heard = process.last_sign_of_life
    if heard > max(process.start, process.log[-1].time if process.log else -1) or (
        process.fork is None and not process.log
    ):
        yield heard, 0, _word(process, heard)
    exits = list(rare.leader_exits or ())
    if process.exit is not None and process.exit not in exits:
        exits.append(process.exit)
    if process.exit is None and not kept.ends_by_itself(process):
        exits.append(Exit(process.ended, task, group_exit=True, origin=_concluded(process)))
    for event in exits:
        yield event.time, 0, event


def _told_of_thread(thread: Thread, kept: _Kept) -> _Told:
    if thread.fork is not None:
        yield thread.start, thread.rare.ties - 0.5, thread.fork
    yield from _versions(thread, {}, {})
    heard = thread.last_sign_of_life
    yield heard, 0, _word(thread, heard)
    if thread.exit is not None:
        yield thread.exit.time, 0, thread.exit
    elif thread.end != thread.process.ended and not kept.ends_by_itself(thread):
        end = Exit(thread.end, thread.task, thread.process.task, origin=_concluded(thread))
        yield thread.end, 0, end


def _versions(
    node: _Node, parents: dict[int, Task | None], subreaper: dict[int, bool | None]
) -> _Told:
    """Its changelog, each version as it was stated, and with what else was said at that time."""
    takeovers = dict(node.rare.takeovers or ())
    last, place = -1, 0
    for version in node.log:
        time = version.time
        place = place + 1 if time == last else 0
        last = time
        facts = version.facts
        parent = parents.pop(time, None)
        if isinstance(facts, State) or time in takeovers:
            old_tid = takeovers.pop(time, None)
            ns_pid = node.ns_pid if isinstance(node, Process) else None
            yield time, place, Exec(time, node.task, facts, parent, old_tid, ns_pid=ns_pid)
        else:
            flag = subreaper.pop(time, None)
            yield time, place, _row(node, time, facts, version.origin, parent, flag)


def _row(
    node: _Node,
    time: int,
    given: Given,
    origin: Origin,
    parent: Task | None = None,
    subreaper: bool | None = None,
) -> Snapshot:
    leader = None if isinstance(node, Process) else node.process.task
    return Snapshot(
        time,
        node.task,
        given,
        leader,
        parent,
        ns_tid=None if isinstance(node, Process) else node.ns_tid,
        ns_pid=node.ns_pid if isinstance(node, Process) else node.process.ns_pid,
        subreaper=subreaper,
        origin=origin,
    )


def _word(
    node: _Node, time: int, parent: Task | None = None, subreaper: bool | None = None
) -> Event:
    """That it lived at `time`, and what else was said then."""
    if node.rare.approximate:
        return _row(node, time, {}, "procfs", parent, subreaper)
    leader = None if isinstance(node, Process) else node.process.task
    return Change(time, node.task, {}, leader, parent, subreaper)


def _concluded(node: _Node) -> Origin:
    return "procfs" if node.rare.approximate else "inferred"


def _is_heir(node: Process, origin: Process | None) -> bool:
    """Whether it will inherit by itself what it did, because its maker is there with its past."""
    if node.rare.horizon >= 0:
        return False
    return origin is None or (not origin.evicted and origin.rare.horizon < 0)


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
