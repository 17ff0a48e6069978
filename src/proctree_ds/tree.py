"""The versioned process tree: what an event means, and the short way for those in order.

It takes events in any order, duplicates welcome, and ends in the same state. It does no I/O,
reads no clock and starts no thread. Events that arrive in order take the short way through
`_fork`, `_exec` and `_exit`. Whatever is late, partial or contradictory goes to `_learn_*`, which
hands the facts to the rooms that put them in their place: `admission` (which record is this),
`descent` (who made whom), `inheritance` (versions, and what children carry on), `lifespans` (who
ended when). Together they are the only writers of process state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from struct import Struct as Layout
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from proctree_ds.admission import Admission
from proctree_ds.captures import Captures
from proctree_ds.census import Census
from proctree_ds.changelog import WHOLE, Version
from proctree_ds.descent import Descent
from proctree_ds.doubts import Hole
from proctree_ds.inheritance import Inheritance, image_shown, overlay
from proctree_ds.invariants import check_census
from proctree_ds.lifespans import Lifespans
from proctree_ds.model import (
    CONTEXT_FIELDS,
    NEVER,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Header,
    Loss,
    Namespaces,
    Origin,
    Picture,
    Snapshot,
    State,
)
from proctree_ds.process import NO_RARITIES, Process, Thread, forget_middle, is_forgotten

__all__ = ["SUBREAPER_LIMIT", "TAKEOVERS_LIMIT", "UNTOLD_LIMIT", "ProcessTree"]

UNTOLD_LIMIT: Final = 16
"""Windows kept of one task in which it changed too often; beyond it the first two are joined."""

SUBREAPER_LIMIT: Final = 16
"""Changes of the child-subreaper flag kept of one process."""

TAKEOVERS_LIMIT: Final = 64
"""Execs by a thread that was not the leader kept of one process."""

_FOLLOWED: Final = CONTEXT_FIELDS | {"cwd", "is_subreaper", "root"}
"""What a source may say that it does not follow: other names mean nothing here."""

_hash = xxh3_64_intdigest
_pack = Layout("<QI").pack  # entity_id, written out where every call counts


class ProcessTree:
    """Every process and thread that events told of, each with its history.

    `process_cache` and `thread_cache` bound how many stay in memory. Threads count their leaders,
    and a quarter of their places is never taken by leaders. `counters` says by name what was
    dropped and what input was refused.
    """

    def __init__(self, process_cache: int = 16_384, thread_cache: int = 32_768) -> None:
        if process_cache < 2 or thread_cache < 2:
            raise ValueError("process_cache and thread_cache must be at least 2")
        self.boot_time = 0
        self.host: str | None = None
        self.boot_id: str | None = None
        self.unfollowed: tuple[str, ...] = ()
        """What the source tells only with the next event of the task, see `Header`."""
        self.host_lives = 1
        """How many boots of the host were told of; all but the last are forgotten."""
        self.census = Census(process_cache, thread_cache)
        self._captures = Captures(self.census)
        self.losses = self._captures.losses
        self._holes: list[Hole] | None = None
        self.faults: Counter[str] = Counter()
        """Input that was contradictory or came too late to be placed, by kind."""
        self._lifespans = Lifespans(self.census, self.faults)
        self._inheritance = Inheritance(self.census, self.faults)
        self._admission = Admission(self.census, self.faults, self._lifespans)
        self._descent = Descent(
            self.census, self.faults, self._admission, self._inheritance, self._lifespans
        )
        self._inheritance.on_namespaces = self._lifespans.enrol
        self._host_namespaces: Namespaces | None = None
        """Those of a process in the host's pid namespace: most have just these."""
        self._awaited = self._descent.awaited.ids
        self._by_pid = self._descent.by_pid.ids
        self._put_off = self._inheritance.put_off
        self._processes = self.census.processes
        self._by_tid = self.census.by_tid
        self._earlier = self.census.earlier
        self._shadows = self.census.shadows
        self._exited = self.census.exited
        self._stop_waiting: Callable[[], object] = lambda: None
        """Gives up to wait for the first event of a capture."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            Header: self._header,
            Fork: self._fork,
            Exec: self._exec,
            Exit: self._exit,
            Change: self._change,
            Snapshot: self._snapshot,
            Picture: self._picture,
            Loss: self._loss,
        }

    def apply(self, event: Event) -> None:
        """Learn one event. O(1) in order; a late one costs what has to be worked out anew."""
        self._handlers[type(event)](event)
        if self._put_off:
            self._inheritance.catch_up()

    def apply_all(self, events: Iterable[Event]) -> None:
        """Learn many events: the same as `apply` for each, and faster above all for late ones."""
        handlers = self._handlers
        try:
            for event in events:
                handlers[type(event)](event)
        finally:
            if self._put_off:
                self._inheritance.catch_up()

    @property
    def holes(self) -> list[Hole]:
        """When events may be missing: windows of loss, and the time before the capture began."""
        if self._holes is None:
            self._holes = [
                Hole(since, until, self.complete_since(until))
                for since, until in self._captures.holes()
            ]
        return self._holes

    def complete_since(self, time: int) -> int:
        """When the first picture ended that had begun no earlier than `time`; `NEVER` if none."""
        return self._lifespans.complete_since(time)

    @property
    def header(self) -> Header:
        """Whose history this is, and when it began."""
        began = self._captures.began
        return Header(self.boot_time, self.host, self.boot_id, began, self.unfollowed)

    @property
    def pictures(self) -> list[Picture]:
        """The complete pictures that are kept, in order of time."""
        return self._lifespans.pictures

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
            "evicted_living_threads": census.evicted_living_threads,
            "dropped_versions": self._inheritance.dropped_versions,
            "dropped_aliases": self._admission.dropped_aliases,
            "dropped_pictures": self._lifespans.dropped_pictures,
            "dropped_changes": census.dropped_changes,
            "gave_up_waiting": self._descent.given_up,
            "loss_windows": len(self.losses),
            "host_lives": self.host_lives,
            **{f"fault_{name}": count for name, count in sorted(dict(self.faults).items())},
        }

    @property
    def aliases(self) -> dict[int, int]:
        """Ids that a task had before its exact start was known -> the one that it has."""
        return self._admission.aliases

    def process(self, entity: int) -> Process | None:
        """The record of a process by id, None if it is not in memory."""
        node = self._processes.get(entity)
        if node is None and self._admission.aliases:
            node = self._processes.get(self._admission.aliases.get(entity, 0))
        return node

    def thread(self, entity: int) -> Thread | None:
        """The record of a thread that is not a leader by id, None if it is not in memory."""
        thread = self.census.threads.get(entity)
        if thread is None and self._admission.aliases:
            thread = self.census.threads.get(self._admission.aliases.get(entity, 0))
        return thread

    def _check(self) -> None:
        """Raise AssertionError if any record contradicts another. O(everything in memory)."""
        check_census(self.census)
        self._captures.check()
        if not self.faults:  # of what cannot be true, the first that came may stand
            self._lifespans.check()
        self._inheritance.check()
        self._admission.check()
        self._descent.check()
        self.census.namespaces.check()
        for node in self._processes.values():
            assert len(node.rare.subreaper or ()) <= SUBREAPER_LIMIT + 1
            assert len(node.rare.takeovers or ()) <= TAKEOVERS_LIMIT

    # ---------------------------------------------------------------------- the short way

    def _fork(self, event: Fork) -> None:
        task = event.task
        tid = task.tid
        start = task.start_time
        ref = event.parent
        by_tid = self._by_tid
        holder = by_tid.get(tid)
        if (
            ref is None
            or start is None
            or event.leader is not None
            or event.creator is not None
            or event.given is not None
            or event.origin != "event"
            or not self.census.settled < start < NEVER
            or (holder is not None and (holder.start >= start or holder.rare is not NO_RARITIES))
        ):
            self._learn_fork(event)
            return
        parent = by_tid.get(ref.tid)
        if (
            parent is None
            or parent is holder
            or parent.start != ref.start_time
            or parent.start >= start
            or type(parent) is not Process
            or parent.ended != NEVER
        ):
            self._learn_fork(event)
            return
        latest = parent.latest
        if latest is None:
            born_of = parent.base
        elif latest.time < start:
            born_of = latest.state
        else:
            self._learn_fork(event)
            return
        entity = _hash(_pack(start, tid)) or 1
        if (
            entity in self._shadows
            or (self._by_pid and tid in self._by_pid)
            or (self._awaited and task in self._awaited)
        ):
            self._learn_fork(event)
            return

        base = born_of
        comm = event.comm
        context = event.context
        if (comm is not None and comm != base.comm) or (
            context is not None and context is not base.context
        ):
            base = overlay(base, comm, context)
        node = Process(entity, tid, start, parent, born_of, base, event, event.ns_pid)
        node.last_branch = start
        by_tid[tid] = node
        parent.pins += 1
        children = parent.children
        if children is None:
            parent.children = {entity}
        else:
            children.add(entity)
        if start > parent.last_branch:
            parent.last_branch = start
        processes = self._processes
        processes[entity] = node
        if holder is not None:
            self._earlier.setdefault(tid, []).append(holder)
            if holder.ended > start:
                self._lifespans.succeed(holder)
        namespaces = base.context.namespaces
        if namespaces is not self._host_namespaces:
            self._note_namespaces(node, namespaces)
        if len(processes) > self.census.process_room:
            self.census.make_room(start)

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
            or not node.last_branch < time < NEVER
            or node.ended != NEVER
            or node.threads is not None
            or event.old_tid is not None
            or (node.ns_pid is None and event.ns_pid is not None)
        ):
            self._learn_exec(event)
            return
        fork = node.fork
        ref = event.parent
        if ref is not None:
            parent = node.parent
            if parent is None or (
                (fork is None or ref is not fork.parent)
                and (parent.tid != ref.tid or parent.start != ref.start_time)
            ):
                self._learn_exec(event)
                return
        latest = node.latest
        if latest is None:
            if fork is None:
                self._learn_exec(event)
                return
            node.latest = Version(time, WHOLE, facts)
        elif latest.time < time:
            node.latest = version = Version(time, WHOLE, facts)
            versions = node.versions
            if versions is None:
                node.versions = versions = [latest, version]
            else:
                versions.append(version)
            self._inheritance.grew(node, len(versions) - 1)
        else:
            self._learn_exec(event)
            return
        namespaces = facts.context.namespaces
        if namespaces is not self._host_namespaces:
            self._note_namespaces(node, namespaces)

    def _exit(self, event: Exit) -> None:
        task = event.task
        node = self._by_tid.get(task.tid)
        time = event.time
        if (
            node is None
            or node.start != task.start_time
            or type(node) is not Process
            or node.ended != NEVER
            or not node.last_branch <= time < NEVER
            or node.threads is not None
            or node.children is not None
            or event.group_exit is False
            or event.origin != "event"
            or node.queued
            or node.rare.leader_exits is not None
        ):
            self._learn_exit(event)
            return
        parent = node.parent
        ref = event.parent
        fork = node.fork
        # Sources share names that are equal, so that mostly it is the very same one.
        if parent is None or (
            ref is not None
            and (fork is None or ref is not fork.parent)
            and (parent.tid != ref.tid or parent.start != ref.start_time)
        ):
            self._learn_exit(event)
            return
        node.ended = time
        node.exit = event
        node.queued = True
        self._exited.append(node)
        pins = parent.pins = parent.pins - 1
        if not pins and parent.ended != NEVER:
            self.census.release(parent)

    def _note_namespaces(self, node: Process, namespaces: Namespaces | None) -> None:
        inode = None if namespaces is None else namespaces.pid
        known = self.census.namespaces
        if inode is None:
            return
        if inode == known.host:
            self._host_namespaces = namespaces
        elif not known.has(node, inode):
            self._lifespans.enrol(node)

    # ----------------------------------------------------------------------- forks, late or odd

    def _is_sound(self, event: Fork | Exec | Exit | Change | Snapshot) -> bool:
        start = event.task.start_time
        if start is None:
            self.faults["task_without_start"] += 1
        elif start >= NEVER or event.time >= NEVER:
            self.faults["time_out_of_range"] += 1
        elif event.time < start and type(event) is not Fork:
            self.faults["event_before_start"] += 1
        else:
            return True
        return False

    def _learn_fork(self, event: Fork) -> None:
        if not self._is_sound(event):
            return
        if event.origin != "event":
            event = self._admission.with_estimated_name(event)
        self._learn_birth(event)
        self._admission.blurred = ()

    def _learn_birth(self, event: Fork) -> None:
        if event.leader is not None and event.leader != event.task:
            self._learn_thread(event)
            return
        node = self._admission.process_of(event.task, event.time)
        if node is None:
            return
        if node.fork is not None:
            if node.fork != event and event.origin == "event":
                self.faults["contradictory_fork"] += 1
            return
        node.fork = event
        if event.ns_pid is not None:
            self._learn_ns_pid(node, event.ns_pid)
        parent = self._descent.parent_of(node, event.parent)
        self.census.set_parent(node, parent)
        self._descent.restate_parents(node)
        self._descent.link_creator(node, event)
        self._lifespans.review(node, node.start)

    def _learn_thread(self, event: Fork) -> None:
        assert event.leader is not None
        thread = self._admission.thread_of(event.task, event.leader, event.time)
        if thread is None:
            return
        if thread.fork is not None:
            if thread.fork != event and event.origin == "event":
                self.faults["contradictory_fork"] += 1
            return
        thread.fork = event
        self._learn_ns_tid(thread, event)
        self._descent.learn_parent(thread.process, event.time, event.parent)
        self._descent.link_creator(thread, event)
        process = thread.process
        if thread.start <= self.census.settled:
            self._lifespans.settle(process)
        else:
            self._lifespans.review(process, thread.start)

    # --------------------------------------------------------------- execs, changes, pictures

    def _learn_exec(self, event: Exec) -> None:
        if event.origin != "event":
            event = self._admission.with_exact_names(event)
        self._learn_image(event)
        self._admission.blurred = ()

    def _learn_image(self, event: Exec) -> None:
        if not self._is_sound(event):
            return
        node = self._admission.process_of(event.task, event.time)
        if node is None:
            return
        if event.ns_pid is not None:
            self._learn_ns_pid(node, event.ns_pid)
        self._descent.learn_parent(node, event.time, event.parent)
        if event.old_tid is not None:
            takeovers = node.extra.takeovers = node.rare.takeovers or []
            if (event.time, event.old_tid) not in takeovers:
                takeovers.append((event.time, event.old_tid))
                del takeovers[:-TAKEOVERS_LIMIT]
        self._record(node, event.time, event.facts, event.origin)
        self._lifespans.sign_of_life(node, event.time)

    def _change(self, event: Change) -> None:
        if event.origin != "event":
            event = self._admission.with_exact_names(event)
        self._learn_change(event)
        self._admission.blurred = ()

    def _learn_change(self, event: Change) -> None:
        if not self._is_sound(event):
            return
        node: Process | Thread | None
        if event.leader is not None and event.leader != event.task:
            node = self._admission.thread_of(event.task, event.leader, event.time)
        else:
            node = self._admission.find(event.task)
            node = node or self._admission.process_of(event.task, event.time)
        if node is None:
            return
        process = node if isinstance(node, Process) else node.process
        self._descent.learn_parent(process, event.time, event.parent)
        self._learn_subreaper(process, event.time, event.subreaper)
        if event.given:
            self._record(node, event.time, event.given, event.origin)
        if event.untold_until is not None:
            _learn_untold(process, Loss(event.untold_until, event.time))
        self._lifespans.sign_of_life(node, event.time)

    def _snapshot(self, event: Snapshot) -> None:
        if event.origin == "procfs":
            event = self._admission.with_exact_names(event)
        self._learn_snapshot(event)
        self._admission.blurred = ()

    def _learn_snapshot(self, event: Snapshot) -> None:
        if not self._is_sound(event):
            return
        node: Process | Thread | None
        if event.leader is not None and event.leader != event.task:
            node = self._admission.thread_of(event.task, event.leader, event.time)
            if node is not None:
                self._descent.learn_parent(node.process, event.time, event.parent)
                self._learn_subreaper(node.process, event.time, event.subreaper)
                self._learn_ns_tid(node, event)
        else:
            node = self._admission.process_of(event.task, event.time)
            if node is not None:
                ns_pid = event.ns_pid if event.ns_pid is not None else event.ns_tid
                if ns_pid is not None:
                    self._learn_ns_pid(node, ns_pid)
                self._descent.learn_parent(node, event.time, event.parent)
                self._learn_subreaper(node, event.time, event.subreaper)
        if node is None:
            return
        given = event.given
        if isinstance(node, Process) and "executable" in given and event.origin != "event":
            given = image_shown(node, event.time, given)
        self._record(node, event.time, given, event.origin)
        self._lifespans.sign_of_life(node, event.time)

    def _record(
        self, node: Process | Thread, time: int, facts: State | Given, origin: Origin
    ) -> None:
        """A version, and if it may be an exec, what that does to the threads."""
        if time < node.start:  # another name in the event has just given it a later start
            self.faults["event_before_start"] += 1
            return
        if not self._inheritance.record(node, time, facts, origin) or isinstance(node, Thread):
            return
        may_be_exec = isinstance(facts, State) or "image" in facts or "exec_time" in facts
        if may_be_exec and (node.threads is not None or node.rare.leader_exits is not None):
            self._lifespans.settle(node)

    def _learn_ns_tid(self, thread: Thread, event: Fork | Snapshot) -> None:
        if event.ns_tid is not None:
            thread.ns_tid = event.ns_tid
        if event.ns_pid is not None:
            self._learn_ns_pid(thread.process, event.ns_pid)

    def _learn_ns_pid(self, node: Process, ns_pid: int) -> None:
        if node.ns_pid is None:
            node.ns_pid = ns_pid
            self._lifespans.enrol(node)
        elif node.ns_pid != ns_pid:
            self.faults["contradictory_ns_pid"] += 1

    def _learn_subreaper(self, node: Process, time: int, flag: bool | None) -> None:
        if flag is None:
            return
        changes = node.extra.subreaper = node.rare.subreaper or []
        if is_forgotten(changes, time):
            self.faults["beyond_horizon"] += 1
        elif (time, flag) not in changes:
            changes.append((time, flag))
            changes.sort(key=lambda change: change[0])
            self.census.dropped_changes += forget_middle(changes, SUBREAPER_LIMIT)

    # ------------------------------------------------------------------------------- exits

    def _learn_exit(self, event: Exit) -> None:
        if event.origin in ("netlink", "procfs"):
            event = self._admission.with_exact_names(event)
        self._learn_end(event)
        self._admission.blurred = ()

    def _learn_end(self, event: Exit) -> None:
        if not self._is_sound(event):
            return
        if event.leader is not None and event.leader != event.task:
            thread = self._admission.thread_of(event.task, event.leader, event.time)
            if thread is not None:
                self._descent.learn_parent(thread.process, event.time, event.parent)
                self._lifespans.end_thread(thread, event)
            return
        node = self._admission.find(event.task)
        if isinstance(node, Thread):
            self._descent.learn_parent(node.process, event.time, event.parent)
            self._lifespans.end_thread(node, event)
            return
        node = self._admission.process_of(event.task, event.time)
        if node is None:
            return
        self._descent.learn_parent(node, event.time, event.parent)
        if self._lifespans.learn_leader_exit(node, event):
            self._lifespans.settle(node)

    # ------------------------------------------------------------------------ stream events

    def _header(self, event: Header) -> None:
        """A capture begins: the first one, another one of the same boot, or one of another."""
        known = self._captures.has_begun
        if (not known and event == Header()) or not self._captures.keep(event):
            return  # sources put an empty one before events that have none, or have it later
        is_named = event.boot_id is not None
        if known and is_named and self.boot_id is not None and event.boot_id != self.boot_id:
            self._forget_this_life()
        elif known:
            self._resume(event.time)
        if not known or (is_named and event.boot_id != self.boot_id):
            self.boot_time = event.boot_time
            self.host = event.host
            self.boot_id = event.boot_id
        self.unfollowed = tuple(name for name in event.unfollowed if name in _FOLLOWED)
        self._captures.begin(event.time)
        self._holes = None

    def _resume(self, time: int | None) -> None:
        """What happened between the last known instant and `time`, nobody saw."""
        since = self._captures.last_instant()
        if time is None:
            self._await_first_event(since)
        elif since < time:
            self._loss(Loss(time, since))

    def _await_first_event(self, since: int) -> None:
        """The first event that is later than `since` ends a window of loss."""
        usual = dict(self._handlers)

        def first(event: Any) -> None:
            if event.time > since:
                self._stop_waiting()
                self._loss(Loss(event.time, since))
            usual[type(event)](event)

        self._stop_waiting = lambda: self._handlers.update(usual)
        self._handlers.update(dict.fromkeys(usual.keys() - {Header}, first))

    def _forget_this_life(self) -> None:
        """Another boot: nothing that was known is about anybody who lives now."""
        self.host_lives += 1
        self._stop_waiting()
        self._host_namespaces = None
        self.census.forget_all()
        self._captures.forget()
        self._lifespans.forget()
        self._admission.forget()
        self._descent.forget()

    def _picture(self, event: Picture) -> None:
        if event.since > event.time:
            self.faults["window_ends_before_it_begins"] += 1
            return
        self._lifespans.learn_picture(event)
        self._holes = None

    def _loss(self, event: Loss) -> None:
        if event.since > event.time:
            self.faults["window_ends_before_it_begins"] += 1
            return
        self._captures.learn_loss(event)
        self._holes = None


def _learn_untold(process: Process, window: Loss) -> None:
    windows = process.extra.untold = process.rare.untold or []
    if window in windows:
        return
    windows.append(window)
    windows.sort(key=lambda known: known.since)
    if len(windows) > UNTOLD_LIMIT:
        first, second = windows[:2]
        windows[:2] = [Loss(max(first.time, second.time), first.since)]
