"""The versioned process tree: the only writer of process state.

It takes events in any order, duplicates welcome, and ends in the same state. It does no I/O,
reads no clock and starts no thread. Events that arrive in order take the short way through
`_fork`, `_exec` and `_exit`; whatever is late, partial or contradictory goes to `_learn_*`, which
put facts in their place and then work out anew what follows from them: `_settle` for the life
of a process and its threads, `_spread` for what children inherited.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from struct import Struct as Layout
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from proctree_ds.census import Census
from proctree_ds.changelog import VERSIONS_LIMIT, Version, before, insert, rebuild, thin
from proctree_ds.invariants import check_census
from proctree_ds.kinship import named_process
from proctree_ds.model import (
    NEVER,
    UNKNOWN_STATE,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Header,
    Loss,
    Origin,
    Snapshot,
    State,
    Task,
    entity_id,
    merge,
)
from proctree_ds.process import CLOCK_TICK_NS, NO_RARITIES, Process, Thread

_hash = xxh3_64_intdigest
_pack = Layout("<QI").pack

__all__ = ["LOSSES_LIMIT", "PARENTS_LIMIT", "ProcessTree"]

LOSSES_LIMIT: Final = 4_096
"""Loss windows kept; beyond it the two oldest are joined."""

PARENTS_LIMIT: Final = 64
"""Later parents kept of one process, and changes of its subreaper flag."""


class ProcessTree:
    """Every process and thread that events told of, each with its history.

    `process_cache` and `thread_cache` bound how many stay in memory (threads count their
    leaders). `counters` says by name what was dropped and what input was refused.
    """

    def __init__(self, process_cache: int = 16_384, thread_cache: int = 32_768) -> None:
        if process_cache < 2 or thread_cache < 2:
            raise ValueError("process_cache and thread_cache must be at least 2")
        self.boot_time = 0
        self.host: str | None = None
        self.boot_id: str | None = None
        self.losses: deque[Loss] = deque()
        self.census = Census(process_cache, thread_cache)
        self.faults: Counter[str] = Counter()
        """Input that was contradictory or came too late to be placed, by kind."""
        self.dropped_versions = 0
        self._aliases: dict[int, int] = {}
        self._pid_only: dict[int, set[int]] = {}
        """Children whose parent was named by pid alone, by that pid."""
        self._awaited: dict[Task, list[int]] = {}
        """Tasks whose creator is not known yet, by that creator."""
        self._processes = self.census.processes
        self._by_tid = self.census.by_tid
        self._shadows = self.census.shadows
        self._exited = self.census.exited
        self._process_cache = process_cache
        self._handlers: dict[type, Callable[[Any], None]] = {
            Header: self._header,
            Fork: self._fork,
            Exec: self._exec,
            Exit: self._exit,
            Change: self._change,
            Snapshot: self._snapshot,
            Loss: self._loss,
        }

    def apply(self, event: Event) -> None:
        """Learn one event. O(1) in order; a late one costs what has to be worked out anew."""
        self._handlers[type(event)](event)

    def apply_all(self, events: Iterable[Event]) -> None:
        """Learn many events: the same as `apply` for each, and faster."""
        handlers = self._handlers
        for event in events:
            handlers[type(event)](event)

    @property
    def counters(self) -> dict[str, int]:
        """What is in memory, what was dropped, and what input was refused, by name."""
        census = self.census
        return {
            "processes": len(census.processes),
            "threads": len(census.processes) + len(census.threads),
            "evicted_processes": census.evicted_processes,
            "evicted_living_processes": census.evicted_living,
            "evicted_threads": census.evicted_threads,
            "dropped_versions": self.dropped_versions,
            "loss_windows": len(self.losses),
            **{f"fault_{name}": count for name, count in sorted(self.faults.items())},
        }

    def process(self, entity: int) -> Process | None:
        """The record of a process by id, None if it is not in memory."""
        node = self._processes.get(entity)
        if node is None and self._aliases:
            node = self._processes.get(self._aliases.get(entity, 0))
        return node

    def thread(self, entity: int) -> Thread | None:
        """The record of a thread that is not a leader by id, None if it is not in memory."""
        return self.census.threads.get(entity)

    def _check(self) -> None:
        """Raise AssertionError if any record contradicts another. O(everything in memory)."""
        check_census(self.census)

    # ---------------------------------------------------------------------- the short way

    def _fork(self, event: Fork) -> None:
        task = event.task
        tid = task.tid
        start = task.start_time
        assert start is not None
        ref = event.parent
        by_tid = self._by_tid
        holder = by_tid.get(tid)
        if (
            ref is None
            or event.leader is not None
            or event.creator is not None
            or event.given is not None
            or (holder is not None and (holder.start >= start or holder.rare is not NO_RARITIES))
        ):
            self._learn_fork(event)
            return
        parent = by_tid.get(ref.tid)
        if (
            parent is None
            or parent.start != ref.start_time
            or parent.start >= start
            or type(parent) is not Process
        ):
            self._learn_fork(event)
            return
        entity = _hash(_pack(start, tid)) or 1
        latest = parent.latest
        if latest is None:
            born_of = parent.base
        elif latest.time < start:
            born_of = latest.state
        else:
            self._learn_fork(event)
            return
        if entity in self._shadows or tid in self._pid_only or task in self._awaited:
            self._learn_fork(event)
            return

        base = born_of
        comm = event.comm
        context = event.context
        if (comm is not None and comm != base.comm) or (
            context is not None and context is not base.context
        ):
            base = _overlay(base, comm, context)
        node = Process(entity, tid, start, parent, born_of, base, event, event.ns_pid)
        by_tid[tid] = node
        if holder is not None:
            node.older = holder
            if holder.ended > start:
                self._infer_end(holder, start)
        if event.ns_pid == 1:
            self.census.inits[entity] = node
        children = parent.children
        if children is None:
            parent.children = {entity}
        else:
            children.add(entity)
        if parent.pins == 0 and parent.ended != NEVER:
            self.census.hold(node)
        else:
            parent.pins += 1
        if parent.ended != NEVER:
            self._bequeath(parent)
        if start > parent.last_branch:
            parent.last_branch = start
        processes = self._processes
        processes[entity] = node
        if len(processes) > self._process_cache:
            self.census.evict_surplus(start)

    def _exec(self, event: Exec) -> None:
        task = event.task
        node = self._by_tid.get(task.tid)
        time = event.time
        facts = event.facts
        if (
            node is None
            or node.start != task.start_time
            or type(node) is not Process
            or type(facts) is not State
            or time <= node.last_branch
            or node.ended <= time
            or node.threads is not None
        ):
            self._learn_exec(event)
            return
        parent = node.parent
        ref = event.parent
        if ref is not None and (
            parent is None or parent.tid != ref.tid or parent.start != ref.start_time
        ):
            self._learn_exec(event)
            return
        latest = node.latest
        if latest is None:
            if node.fork is None:
                self._learn_exec(event)
                return
            node.latest = Version(time, facts, facts)
        elif latest.time < time:
            node.latest = version = Version(time, facts, facts)
            versions = node.versions
            if versions is None:
                node.versions = [latest, version]
            else:
                versions.append(version)
                if len(versions) > VERSIONS_LIMIT:
                    self._thin(node)
        else:
            self._learn_exec(event)

    def _exit(self, event: Exit) -> None:
        task = event.task
        node = self._by_tid.get(task.tid)
        if (
            node is None
            or node.start != task.start_time
            or type(node) is not Process
            or node.ended != NEVER
            or node.threads is not None
            or node.children is not None
            or event.group_exit is False
            or event.origin != "event"
            or node.queued
        ):
            self._learn_exit(event)
            return
        node.ended = event.time
        node.exit = event
        node.queued = True
        self._exited.append(node)
        parent = node.parent
        if parent is not None:
            pins = parent.pins = parent.pins - 1
            if not pins and parent.ended != NEVER:
                self.census.release(parent)

    # --------------------------------------------------------------------- finding a task

    def _process_of(self, task: Task) -> Process | None:
        """The process that `task` leads, admitted if it is new; None if that is contradictory."""
        assert task.start_time is not None
        node = self.census.holder(task.tid, task.start_time) or self._same_tick(task)
        if node is None:
            return self._admit(task)
        if isinstance(node, Process):
            return node
        self.faults["thread_as_leader"] += 1
        return None

    def _thread_of(self, task: Task, leader: Task) -> Thread | None:
        """The thread `task` of the process that `leader` leads, admitted if it is new."""
        assert task.start_time is not None
        node = self.census.holder(task.tid, task.start_time) or self._same_tick(task)
        if isinstance(node, Thread):
            return node
        if node is not None:
            self.faults["leader_as_thread"] += 1
            return None
        process = self._referred(leader, task.start_time)
        if process is None:
            return None
        if process.entity_id not in self._processes:
            self._enter(process)
        return self._admit_thread(task, process)

    def _admit(self, task: Task) -> Process:
        start = task.start_time
        assert start is not None
        entity = entity_id(start, task.tid)
        node = self._shadows.get(entity)
        if node is None:
            node = Process(entity, task.tid, start)
            if self.census.was_evicted(entity):
                node.extra.horizon = self.census.horizon
        self._enter(node)
        return node

    def _enter(self, node: Process) -> None:
        """Put a process among those in memory, and end the holders of its tid before it."""
        self._shadows.pop(node.entity_id, None)
        node.evicted = False
        self._processes[node.entity_id] = node
        self._enlist(node)
        if self._awaited:
            self._awaited_came(node.task)
        for child_id in self._pid_only.get(node.tid, ()):
            child = self._processes.get(child_id)
            if child is not None and node.start <= child.start:
                known = child.parent
                if known is None or known.start < node.start:
                    self._adopt(child, node)
        if len(self._processes) > self._process_cache:
            self.census.evict_surplus(node.start)

    def _admit_thread(self, task: Task, process: Process) -> Thread:
        start = task.start_time
        assert start is not None
        thread = Thread(entity_id(start, task.tid), task.tid, start, process)
        self.census.threads[thread.entity_id] = thread
        if process.threads is None:
            process.threads = set()
        process.threads.add(thread.entity_id)
        process.extra.living_threads += 1
        if start > process.last_branch:
            process.last_branch = start
        self._enlist(thread)
        self.census.evict_surplus_threads()
        if self._awaited:
            self._awaited_came(task)
        return thread

    def _enlist(self, node: Process | Thread) -> None:
        older, newer_start = self.census.enlist(node)
        if older is not None and older.ended > node.start:
            self._infer_end(older, node.start)
        if node.ended > newer_start:
            self._infer_end(node, newer_start)

    def _referred(self, ref: Task | None, start: int) -> Process | None:
        """The process that `ref` names for a task that started at `start`; perhaps a shadow."""
        if ref is None:
            return None
        if ref.start_time is None:
            node = self.census.holder_at(ref.tid, start)
        elif ref.start_time > start:
            self.faults["parent_younger_than_child"] += 1
            return None
        else:
            node = self.census.holder(ref.tid, ref.start_time) or self._same_tick(ref)
            if node is None:
                entity = entity_id(ref.start_time, ref.tid)
                return self.census.shadow(entity, ref.tid, ref.start_time)
        if isinstance(node, Thread):
            return node.process
        return node

    def _same_tick(self, task: Task) -> Process | Thread | None:
        """A task known from /proc by tick only, or an exact one that a /proc row means."""
        start = task.start_time
        assert start is not None
        tick = start - start % CLOCK_TICK_NS
        node = self.census.holder_at(task.tid, tick + CLOCK_TICK_NS - 1)
        if node is None or node.start < tick:
            return None
        if start == tick:
            return node
        if node.rare.approximate:
            self._correct(node, start)
            return node
        return None

    def _correct(self, node: Process | Thread, start: int) -> None:
        """Give a task its exact start, and so its real id; the old id stays as an alias."""
        registry: dict[int, Any] = (
            self._processes if isinstance(node, Process) else self.census.threads
        )
        old, new = node.entity_id, entity_id(start, node.tid)
        del registry[old]
        registry[new] = node
        if len(self._aliases) < self._process_cache:
            self._aliases[old] = new
        owner = node.parent if isinstance(node, Process) else node.process
        if owner is not None:
            siblings = owner.children if isinstance(node, Process) else owner.threads
            if siblings is not None and old in siblings:
                siblings.discard(old)
                siblings.add(new)
        node.entity_id, node.start, node.extra.approximate = new, start, False

    # ----------------------------------------------------------------------- forks, late or odd

    def _learn_fork(self, event: Fork) -> None:
        if event.leader is not None and event.leader != event.task:
            self._learn_thread(event)
            return
        node = self._process_of(event.task)
        if node is None:
            return
        if node.fork is not None:
            if node.fork != event:
                self.faults["contradictory_fork"] += 1
            return
        node.fork = event
        if event.ns_pid is not None:
            self._learn_ns_pid(node, event.ns_pid)
        parent = self._parent_of(node, event.parent)
        self.census.set_parent(node, parent)
        if node.rare.parents:
            node.extra.parents = _distinct(
                parent.task if parent is not None else None, node.rare.parents
            )
        if parent is not None and parent.ended != NEVER:
            self._bequeath(parent)
        self._link_creator(node, event)

    def _link_creator(self, node: Process | Thread, event: Fork) -> None:
        """Find whom `node` was copied from: its parent, or whoever called clone."""
        creator = self._creator_of(node, event)
        if isinstance(creator, Thread):
            node.extra.creator = creator
            creator = creator.process
        origin: Process | None
        if isinstance(node, Thread):
            origin = node.process
            _note_ties(node, node.rare.creator or origin)
        else:
            if creator is not None and creator is not node.parent and creator is not node:
                node.extra.copied_from = creator
                if creator.children is None:
                    creator.children = set()
                creator.children.add(node.entity_id)
            origin = node.rare.copied_from or node.parent
            if origin is None:
                return
            _note_ties(node, origin)
        if node.start > origin.last_branch:
            origin.last_branch = node.start
        self._reinherit(node)

    def _parent_of(self, node: Process, ref: Task | None) -> Process | None:
        """The parent that an event names for `node`, unless that would close a cycle."""
        if ref is not None and ref.tid == 0:
            node.extra.has_no_parent = True
            return None
        parent = self._referred(ref, node.start)
        if ref is not None and ref.start_time is None:
            waiting = self._pid_only.setdefault(ref.tid, set())
            if len(self._pid_only) + len(waiting) <= self._process_cache:
                waiting.add(node.entity_id)
        ancestor = parent
        while ancestor is not None and ancestor.start == node.start:
            if ancestor is node:
                self.faults["cycle"] += 1
                return None
            ancestor = ancestor.parent
        return parent

    def _creator_of(self, node: Process | Thread, event: Fork) -> Process | Thread | None:
        """Who called clone, None where that is the parent; one not known yet is waited for."""
        ref = event.creator
        if ref is None or ref == event.parent or ref.start_time is None:
            return None
        if ref.start_time > node.start:
            self.faults["creator_younger_than_child"] += 1
            return None
        creator = self.census.holder(ref.tid, ref.start_time)
        if creator is None and len(self._awaited) < self._process_cache:
            self._awaited.setdefault(ref, []).append(node.entity_id)
        return creator

    def _awaited_came(self, task: Task) -> None:
        for entity in self._awaited.pop(task, ()):
            node = self._processes.get(entity) or self.census.threads.get(entity)
            if node is not None and node.fork is not None:
                self._link_creator(node, node.fork)

    def _learn_thread(self, event: Fork) -> None:
        assert event.leader is not None
        thread = self._thread_of(event.task, event.leader)
        if thread is None:
            return
        if thread.fork is not None:
            if thread.fork != event:
                self.faults["contradictory_fork"] += 1
            return
        thread.fork = event
        thread.ns_tid = event.ns_tid if event.ns_tid is not None else thread.ns_tid
        self._link_creator(thread, event)
        process = thread.process
        if process.ended != NEVER or _last_exec(process) >= thread.start:
            self._settle(process)

    # --------------------------------------------------------------- execs, changes, pictures

    def _learn_exec(self, event: Exec) -> None:
        node = self._process_of(event.task)
        if node is None:
            return
        if event.ns_pid is not None:
            self._learn_ns_pid(node, event.ns_pid)
        self._learn_parent(node, event.time, event.parent)
        if self._record(node, event.time, event.facts, "event") and (
            node.threads is not None
            or node.rare.leader_exits is not None
            or node.ended <= event.time
        ):
            self._settle(node)

    def _change(self, event: Change) -> None:
        node: Process | Thread | None
        if event.leader is not None and event.leader != event.task:
            node = self._thread_of(event.task, event.leader)
        else:
            assert event.task.start_time is not None
            node = self.census.holder(event.task.tid, event.task.start_time)
            node = node or self._process_of(event.task)
        if node is None:
            return
        process = node if isinstance(node, Process) else node.process
        self._learn_parent(process, event.time, event.parent)
        self._learn_subreaper(process, event.time, event.subreaper)
        if event.given:
            self._record(node, event.time, event.given, "event")
        self._sign_of_life(process, event.time)

    def _snapshot(self, event: Snapshot) -> None:
        node: Process | Thread | None
        if event.leader is not None and event.leader != event.task:
            node = self._thread_of(event.task, event.leader)
            if node is not None and event.ns_tid is not None:
                node.ns_tid = event.ns_tid
        else:
            node = self._process_of(event.task)
            if node is not None:
                ns_pid = event.ns_pid if event.ns_pid is not None else event.ns_tid
                if ns_pid is not None:
                    self._learn_ns_pid(node, ns_pid)
                self._learn_parent(node, event.time, event.parent)
                if event.subreaper or node.rare.subreaper:
                    self._learn_subreaper(node, event.time, event.subreaper)
        if node is None:
            return
        if event.origin == "procfs" and node.latest is None and node.fork is None:
            if node.start % CLOCK_TICK_NS == 0:
                node.extra.approximate = True
        self._record(node, event.time, event.given, event.origin)
        self._sign_of_life(node if isinstance(node, Process) else node.process, event.time)

    def _record(
        self, node: Process | Thread, time: int, facts: State | Given, origin: Origin
    ) -> bool:
        """Put a version in its place and work out what follows. False if it was known."""
        for gap in node.rare.gaps or ():
            if gap.since <= time < gap.until:
                self.faults["beyond_horizon"] += 1
                return False
        versions = node.log
        index = insert(versions, Version(time, facts, UNKNOWN_STATE, origin))
        if index is None:
            return False
        node.latest = versions[-1]
        if index == 0:
            base = _base_of(node, versions)
            if base is not node.base:
                node.base = base
                time = node.start - 1
        rebuild(versions, node.base, index)
        node.latest = versions[-1]
        node.versions = versions if len(versions) > 1 else None
        self._spread(node, time)
        if len(versions) > VERSIONS_LIMIT:
            self._thin(node)
        return True

    def _thin(self, node: Process | Thread) -> None:
        gaps = node.extra.gaps = node.rare.gaps or []
        assert node.versions is not None
        self.dropped_versions += thin(node.versions, gaps)

    def _learn_ns_pid(self, node: Process, ns_pid: int) -> None:
        node.ns_pid = ns_pid
        if ns_pid == 1:
            self.census.inits[node.entity_id] = node

    def _learn_subreaper(self, node: Process, time: int, flag: bool | None) -> None:
        if flag is None:
            return
        changes = node.extra.subreaper = node.rare.subreaper or []
        if (time, flag) not in changes:
            changes.append((time, flag))
            changes.sort(key=lambda change: change[0])
            del changes[1 : max(1, len(changes) - PARENTS_LIMIT)]

    def _learn_parent(self, node: Process, time: int, ref: Task | None) -> None:
        """A later event names the parent: the first such stands for a fork that was not seen."""
        if ref is None or ref.tid == 0:
            if ref is not None:
                node.extra.has_no_parent = True
            return
        original = node.parent.task if node.parent is not None else None
        if ref.start_time is None:
            if original is None:
                self._adopt(node, self._parent_of(node, ref))
            return
        if ref == node.task:
            self.faults["cycle"] += 1
            return
        if node.fork is not None:
            if ref != original or node.rare.parents:
                node.extra.parents = _distinct(original, [*(node.rare.parents or ()), (time, ref)])
            return
        statements = _distinct(None, [*(node.rare.parents or ()), (time, ref)])
        assert statements is not None
        node.extra.parents = statements
        if statements[0][1] != original:
            self._adopt(node, self._parent_of(node, statements[0][1]))

    def _adopt(self, node: Process, parent: Process | None) -> None:
        """Take `parent` for the original parent of a process whose fork was not seen."""
        if parent is None:
            return
        self.census.set_parent(node, parent)
        if node.start > parent.last_branch:
            parent.last_branch = node.start
        _note_ties(node, parent)
        if parent.ended != NEVER:
            self._bequeath(parent)
        self._reinherit(node)

    # ------------------------------------------------------------------------------- exits

    def _learn_exit(self, event: Exit) -> None:
        if event.leader is not None and event.leader != event.task:
            thread = self._thread_of(event.task, event.leader)
            if thread is not None:
                self._end_thread(thread, event)
            return
        assert event.task.start_time is not None
        node = self.census.holder(event.task.tid, event.task.start_time)
        if isinstance(node, Thread):
            self._end_thread(node, event)
            return
        node = self._process_of(event.task)
        if node is None:
            return
        self._learn_parent(node, event.time, event.parent)
        if self._learn_leader_exit(node, event):
            self._settle(node)

    def _learn_leader_exit(self, node: Process, event: Exit) -> bool:
        exits = node.extra.leader_exits = node.rare.leader_exits or []
        if event in exits:
            return False
        exits.append(event)
        exits.sort(key=lambda leader_exit: leader_exit.time)
        del exits[1 : max(1, len(exits) - PARENTS_LIMIT)]
        return True

    def _end_thread(self, thread: Thread, event: Exit) -> None:
        known = thread.exit
        if known is not None and not (known.origin != "event" and event.origin == "event"):
            return
        thread.exit = event
        process = thread.process
        if thread.ended == NEVER:
            process.extra.living_threads -= 1
        if event.time < thread.ended or known is not None:
            thread.ended = event.time
        self._queue_thread(thread)
        if event.group_exit or (process.rare.living_threads == 0 and process.rare.leader_exits):
            self._settle(process)

    def _queue_thread(self, thread: Thread) -> None:
        if not thread.queued:
            thread.queued = True
            self.census.exited_threads.append(thread)

    def _sign_of_life(self, node: Process, time: int) -> None:
        """An event after an end that was only inferred disproves it."""
        if node.ended <= time:
            if node.exit is not None and node.exit.origin == "event":
                self.faults["event_after_exit"] += 1
            else:
                self._settle(node)

    def _infer_end(self, node: Process | Thread, time: int) -> None:
        """Another task has the tid since `time`: the holder before it had ended by then."""
        if isinstance(node, Thread):
            if node.exit is None:
                if node.ended == NEVER:
                    node.process.extra.living_threads -= 1
                node.ended = time
                self._queue_thread(node)
        elif node.exit is None or node.exit.origin != "event":
            self._end(node, time, None)

    def _settle(self, node: Process) -> None:
        """Work out anew when the threads of a process ended, and when it did. O(its threads)."""
        if node.exit is not None and node.exit.task.tid == node.tid:
            self._learn_leader_exit(node, node.exit)
        threads = [self.census.threads[i] for i in node.threads or ()]
        execs = [version.time for version in node.log if version.is_exec]
        living = 0
        for thread in threads:
            ended = min((time for time in execs if time > thread.start), default=NEVER)
            if thread.exit is not None:
                ended = min(ended, thread.exit.time)
            thread.ended = min(ended, self._next_start(thread))
            if thread.ended == NEVER:
                living += 1
            else:
                self._queue_thread(thread)
        if living != node.rare.living_threads:
            node.extra.living_threads = living
        ending = self._ending(node, threads, execs)
        if ending is not None:
            end = ending.time
            if ending.origin == "event":
                end = max(
                    [end]
                    + [x.time for x in node.rare.leader_exits or () if x.origin == "event"]
                    + [t.exit.time for t in threads if t.exit is not None]
                )
            self._end(node, end, ending)
            return
        end = self._next_start(node)
        if end != NEVER:
            self._end(node, end, None)
        elif node.ended != NEVER:
            node.ended, node.exit = NEVER, None
            if not node.pins:
                self.census.hold(node)

    def _ending(self, node: Process, threads: list[Thread], execs: list[int]) -> Exit | None:
        """The exit that ended the process, None if nothing says that it did."""
        exits = list(node.rare.leader_exits or ())
        if node.exit is not None and node.exit not in exits:
            exits.append(node.exit)
        exits.extend(t.exit for t in threads if t.exit is not None and t.exit not in exits)
        seen = [x for x in exits if x.origin == "event"]
        final = [x for x in seen if x.group_exit]
        if final:
            return max(final, key=lambda x: x.time)
        leader_exits = [x for x in node.rare.leader_exits or () if x.origin == "event"]
        if leader_exits and node.rare.living_threads == 0:
            leader_exit = leader_exits[-1]
            last = max([leader_exit, *(t.exit for t in threads if t.exit)], key=lambda x: x.time)
            others = leader_exit.group_exit is False or any(
                t.start <= leader_exit.time < t.ended for t in threads
            )
            revived = others and any(time >= leader_exit.time for time in execs)
            if not revived and last.group_exit is not False:
                return last
        inferred = [x for x in exits if x.origin != "event"]
        if inferred and not seen:
            first = min(inferred, key=lambda x: x.time)
            if self._last_sign_of_life(node) < first.time:
                return first
        return None

    def _last_sign_of_life(self, node: Process) -> int:
        return max(
            node.start,
            node.last_branch,
            node.latest.time if node.latest else -1,
        )

    def _next_start(self, node: Process | Thread) -> int:
        """When the next holder of the tid started; `NEVER` if there is none."""
        newer = self._by_tid.get(node.tid)
        if newer is node:
            return NEVER
        while newer is not None and newer.older is not node:
            newer = newer.older
        return newer.start if newer is not None else NEVER

    def _end(self, node: Process, time: int, event: Exit | None) -> None:
        lived = node.ended == NEVER
        node.ended = time
        node.exit = event
        if node.children:
            self._bequeath(node)
        if lived and not node.pins:
            self.census.release(node)

    def _bequeath(self, node: Process) -> None:
        """Note at the heir that the children of an exited process are its own now."""
        census = self.census
        if node.rare.heir is not None and node.rare.heir.rare.estates is not None:
            node.rare.heir.rare.estates.discard(node.entity_id)
            node.extra.heir = None
        if node.exit is None or node.exit.reaper is None:
            census.intestate.add(node.entity_id)
            return
        heir = named_process(census, node.exit.reaper, node.ended)
        if heir is None or heir is node:
            census.intestate.add(node.entity_id)
            return
        census.intestate.discard(node.entity_id)
        node.extra.heir = heir
        estates = heir.extra.estates = heir.rare.estates or set()
        estates.add(node.entity_id)

    # ------------------------------------------------------------- what follows from late facts

    def _reinherit(self, node: Process | Thread) -> None:
        """Work out anew what `node` was born with, and what follows for those it made."""
        if self._refresh(node):
            self._spread(node, node.start - 1)

    def _spread(self, node: Process | Thread, since: int) -> None:
        """Hand a change at `since` on to everything made later. O(what changes)."""
        todo: list[tuple[Process | Thread, int]] = [(node, since)]
        while todo:
            origin, since = todo.pop()
            todo.extend(
                (branch, branch.start - 1)
                for branch in self._branches(origin, since)
                if self._refresh(branch)
            )

    def _branches(self, origin: Process | Thread, since: int) -> Iterator[Process | Thread]:
        if isinstance(origin, Process):
            if origin.last_branch < since:
                return
            process, creator = origin, None
        else:
            process, creator = origin.process, origin
        for child_id in process.children or ():
            child = self._processes.get(child_id)
            if child is not None and child.start >= since:
                if creator is None or child.rare.creator is creator:
                    yield child
        for thread_id in process.threads or ():
            thread = self.census.threads[thread_id]
            if thread.start >= since and thread is not origin:
                if creator is None or thread.rare.creator is creator:
                    yield thread

    def _refresh(self, node: Process | Thread) -> bool:
        """Recompute the state at birth and every version after it. True if anything changed."""
        changed = False
        if isinstance(node, Process):
            origin = node.rare.copied_from or node.parent
            if origin is not None and not origin.evicted and node.start >= origin.rare.horizon:
                born_of = _state_before(origin, node.start, node.rare.ties)
                changed = born_of is not node.born_of and born_of != node.born_of
                node.born_of = born_of
        versions = node.log
        base = _base_of(node, versions)
        if base is node.base or base == node.base:
            return changed
        node.base = base
        if versions:
            rebuild(versions, base, 0)
            node.latest = versions[-1]
        return True

    # ------------------------------------------------------------------------ stream events

    def _header(self, event: Header) -> None:
        self.boot_time = event.boot_time
        self.host = event.host
        self.boot_id = event.boot_id

    def _loss(self, event: Loss) -> None:
        losses = self.losses
        if event in losses:
            return
        losses.append(event)
        if len(losses) > LOSSES_LIMIT:
            first, second = losses.popleft(), losses.popleft()
            known = first.lost is not None and second.lost is not None
            losses.appendleft(
                Loss(
                    max(first.time, second.time),
                    min(first.since, second.since),
                    (first.lost or 0) + (second.lost or 0) if known else None,
                )
            )


def _overlay(base: State, comm: str | None, context: Any) -> State:
    """`base` with the child's own comm and context, or `base` itself where they are its own."""
    if context is None or context == base.context:
        context = base.context
    if comm is None:
        comm = base.comm
    if context is base.context and comm == base.comm:
        return base
    return State(comm, base.image, base.cwd, base.root, context)


def _base_of(node: Process | Thread, versions: list[Version]) -> State:
    """What `node` was from its start until the first of `versions`."""
    fork = node.fork
    if fork is None and versions and versions[0].origin != "event":
        # It was there before the capture: the first values that are known stand for earlier ones.
        facts = versions[0].facts
        return facts if isinstance(facts, State) else merge(UNKNOWN_STATE, facts)
    if isinstance(node, Process):
        base = node.born_of
    else:
        base = _state_before(node.process, node.start, 0 if node.rare.creator else node.rare.ties)
    if node.rare.creator is not None:
        creator = _state_before(node.rare.creator, node.start, node.rare.ties)
        base = State(creator.comm, base.image, base.cwd, base.root, creator.context)
    if fork is not None:
        base = _overlay(base, fork.comm, fork.context)
        if fork.given:
            base = merge(base, fork.given)
    return base


def _state_before(origin: Process | Thread, start: int, ties: int) -> State:
    """What `origin` was when it made something at `start`, that saw `ties` equal-time versions."""
    versions = origin.log
    index = before(versions, start, ties)
    return versions[index - 1].state if index else origin.base


def _note_ties(node: Process | Thread, origin: Process | Thread) -> None:
    ties = sum(version.time == node.start for version in origin.log)
    if ties != node.rare.ties:
        node.extra.ties = ties


def _last_exec(node: Process) -> int:
    return max((version.time for version in node.log if version.is_exec), default=-1)


def _distinct(
    original: Task | None, statements: list[tuple[int, Task]]
) -> list[tuple[int, Task]] | None:
    """The statements in order of time, without those that name the same parent again."""
    distinct: list[tuple[int, Task]] = []
    for time, parent in sorted(statements, key=lambda statement: statement[0]):
        if parent != (distinct[-1][1] if distinct else original):
            distinct.append((time, parent))
    if len(distinct) > PARENTS_LIMIT:
        del distinct[1 : len(distinct) - PARENTS_LIMIT + 1]
    return distinct or None
