"""The naive model of the tree: it keeps every event and works out each answer from all of them.

Nothing here is clever, and nothing is shared with the tree but the frozen facts and the identity
of a task. What an event means is written down once more, as plainly as it goes; `docs/time.md`
says the same in words. Only what was worked out once is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import msgspec

from proctree_ds.model import (
    CLOCK_TICK_NS,
    NEVER,
    UNKNOWN_STATE,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Header,
    Image,
    Loss,
    Picture,
    Snapshot,
    State,
    Task,
    entity_id,
)

TaskEvent = Fork | Exec | Exit | Change | Snapshot
SHARED = ("session_id", "process_group", "tty", "cgroup", "cgroup_id", "container_id")
"""Of a context: what all threads of a process have in common."""

R = TypeVar("R")


class Told(NamedTuple):
    """An event, and the how manieth it was to arrive."""

    time: int
    arrival: int
    event: Any


class Version(NamedTuple):
    """What was stated about a task at one time."""

    time: int
    arrival: int
    facts: State | Given
    origin: str


class End(NamedTuple):
    """When a task ended; `exit` tells how, where that was seen."""

    time: int
    exit: Exit | None


def remembered(method: Callable[..., R]) -> Callable[..., R]:
    @wraps(method)
    def ask(self: Model, *arguments: Any) -> R:
        key = (method.__name__, arguments)
        if key not in self.answers:
            self.answers[key] = method(self, *arguments)
        answer: R = self.answers[key]
        return answer

    return ask


def id_of(task: Task) -> int:
    assert task.start_time is not None
    return entity_id(task.start_time, task.tid)


def leader_of(event: Any) -> Task | None:
    leader: Task | None = getattr(event, "leader", None)
    return leader


def start(task: Task) -> int:
    assert task.start_time is not None
    return task.start_time


class Model:
    """Every event that arrived, and what follows from all of them."""

    def __init__(self, arrivals: Iterable[Event]) -> None:
        self.answers: dict[Any, Any] = {}
        log: list[Event] = []
        for event in arrivals:
            if event not in log:
                log.append(event)
        self.losses = _losses(log)
        self.pictures = [event for event in log if isinstance(event, Picture)]
        told = [event for event in log if isinstance(event, TaskEvent)]
        named = _named_exactly(told)
        self._exact = {(t.tid, start(t) - start(t) % CLOCK_TICK_NS): t for t in named}
        self.events = sorted(
            Told(event.time, arrival, self._with_exact_names(event))
            for arrival, event in enumerate(told)
        )
        self.threads: dict[Task, Task] = {}
        """Threads that are no leaders, and the leader of each."""
        for _, _, event in self.events:
            leader = leader_of(event)
            if leader is not None and leader != event.task:
                self.threads[event.task] = leader
        leaders = [task for _, _, event in self.events for task in (event.task, leader_of(event))]
        self.processes = sorted(
            {task for task in leaders if task is not None} - self.threads.keys(),
            key=lambda task: (start(task), task.tid),
        )
        self.by_tick = {task for task in (*self.processes, *self.threads) if task not in named}

    # -------------------------------------------------------------------------- who is meant

    def _with_exact_names(self, event: TaskEvent) -> TaskEvent:
        """/proc knows starts by the tick: who is meant started within it."""
        if not isinstance(event, (Snapshot, Exit)) or event.origin != "procfs":
            return event
        names = {name: self._exactly(getattr(event, name)) for name in ("task", "leader", "parent")}
        return msgspec.structs.replace(event, **names)

    def _exactly(self, task: Task | None) -> Task | None:
        if task is None or task.tid == 0:
            return task
        return self._exact.get((task.tid, start(task)), task)

    @remembered
    def told_of(self, task: Task) -> list[Told]:
        """The events about a task."""
        return [told for told in self.events if told.event.task == task]

    @remembered
    def told_of_process(self, process: Task) -> list[Told]:
        """The events about a process or any thread of it."""
        return [told for told in self.events if process in (told.event.task, leader_of(told.event))]

    @remembered
    def fork(self, task: Task) -> Told | None:
        forks = [told for told in self.told_of(task) if isinstance(told.event, Fork)]
        return min(forks, key=lambda told: told.arrival, default=None)

    # ------------------------------------------------------------------------ who made whom

    @remembered
    def statements(self, process: Task) -> list[tuple[int, Task]]:
        """Who was said to be the parent, other than by the fork."""
        return [
            (time, event.parent)
            for time, _, event in self.told_of_process(process)
            if event.parent is not None
            and event.parent.tid != 0
            and not (isinstance(event, Fork) and event.task == process)
        ]

    @remembered
    def original_parent(self, process: Task) -> Task | None:
        fork = self.fork(process)
        if fork is not None:
            parent: Task | None = fork.event.parent
            return None if parent is None or parent.tid == 0 else parent
        statements = self.statements(process)
        return statements[0][1] if statements else None

    @remembered
    def later_parents(self, process: Task) -> list[tuple[int, Task]]:
        """Who was said to be the parent, wherever that was another one than before."""
        later: list[tuple[int, Task]] = []
        last = self.original_parent(process)
        for time, parent in self.statements(process):
            if parent != last:
                later.append((time, parent))
                last = parent
        return later

    @remembered
    def has_no_parent(self, process: Task) -> bool:
        return any(
            event.parent is not None and event.parent.tid == 0
            for _, _, event in self.told_of_process(process)
        )

    @remembered
    def creator(self, task: Task) -> Task | None:
        """Who called clone, where that was not the parent."""
        fork = self.fork(task)
        if fork is None or fork.event.creator in (None, fork.event.parent):
            return None
        creator: Task = fork.event.creator
        return creator

    def is_known(self, task: Task) -> bool:
        return task in self.threads or task in self.processes

    @remembered
    def maker(self, process: Task) -> Task | None:
        """The process that it is a copy of."""
        creator = self.creator(process)
        if creator is not None and self.is_known(creator):
            return self.threads.get(creator, creator)
        return self.original_parent(process)

    # --------------------------------------------------------------------------- attributes

    @remembered
    def versions(self, task: Task) -> list[Version]:
        versions: list[Version] = []
        for time, arrival, event in self.told_of(task):
            match event:
                case Exec():
                    version = Version(time, arrival, event.facts, "event")
                case Change() if event.given:
                    version = Version(time, arrival, event.given, "event")
                case Snapshot():
                    version = Version(time, arrival, event.given, event.origin)
                case _:
                    continue
            if not any((v.time, *v[2:]) == (time, *version[2:]) for v in versions):
                versions.append(version)
        return versions

    @remembered
    def state_after(self, task: Task, count: int) -> State:
        """What a task was after so many versions."""
        if count == 0:
            return self.base(task)
        facts = self.versions(task)[count - 1].facts
        if isinstance(facts, State):
            return facts
        return stated(self.state_after(task, count - 1), facts)

    def state_at(self, task: Task, time: int) -> State:
        return self.state_after(task, sum(v.time <= time for v in self.versions(task)))

    def state_before(self, task: Task, child: Task) -> State:
        """What `task` was when it made `child`."""
        if not self.is_known(task):
            return UNKNOWN_STATE
        born = start(child)
        fork = self.fork(child)
        before = [
            v
            for v in self.versions(task)
            if v.time < born or (v.time == born and fork is not None and v.arrival < fork.arrival)
        ]
        return self.state_after(task, len(before))

    @remembered
    def born_of(self, process: Task) -> State:
        maker = self.maker(process)
        return UNKNOWN_STATE if maker is None else self.state_before(maker, process)

    @remembered
    def base(self, task: Task) -> State:
        """What a task was from its start until the first version."""
        fork = self.fork(task)
        versions = self.versions(task)
        if fork is None and versions and versions[0].origin != "event":
            facts = versions[0].facts
            return facts if isinstance(facts, State) else stated(UNKNOWN_STATE, facts)
        creator = self.creator(task)
        if creator is not None and not self.is_known(creator):
            base = UNKNOWN_STATE
        elif task in self.threads:
            base = self.state_before(self.threads[task], task)
        else:
            base = self.born_of(task)
        if creator in self.threads:
            own = self.state_before(creator, task)
            shared = {name: getattr(base.context, name) for name in SHARED}
            context = msgspec.structs.replace(own.context, **shared)
            base = State(own.comm, base.image, base.cwd, base.root, context)
        if fork is not None:
            given = dict(fork.event.given or {})
            if fork.event.comm is not None:
                given["comm"] = fork.event.comm
            if fork.event.context is not None:
                given["context"] = fork.event.context
            base = stated(base, given)
        return base

    @remembered
    def ns_pid(self, task: Task) -> int | None:
        """The pid in its own namespace; it is stated again and again, always the same."""
        if task in self.threads:
            stated = [getattr(event, "ns_tid", None) for _, _, event in self.told_of(task)]
        else:
            stated = [getattr(event, "ns_pid", None) for _, _, event in self.told_of_process(task)]
        return max((number for number in stated if number is not None), default=None)

    # ---------------------------------------------------------------------------------- ends

    def exits(self, task: Task, seen: bool = True) -> list[Exit]:
        return [
            event
            for _, _, event in self.told_of(task)
            if isinstance(event, Exit) and (event.origin == "event") is seen
        ]

    @remembered
    def threads_of(self, process: Task) -> list[Task]:
        return [thread for thread, leader in self.threads.items() if leader == process]

    @remembered
    def execs(self, process: Task) -> list[int]:
        return [event.time for _, _, event in self.told_of(process) if isinstance(event, Exec)]

    @remembered
    def last_heard(self, task: Task) -> int:
        """The last sign of life of a process or a thread."""
        told = self.told_of(task) if task in self.threads else self.told_of_process(task)
        signs = [start(task)]
        for time, _, event in told:
            if isinstance(event, Fork):
                signs.append(start(event.task))
            elif not isinstance(event, Exit) or event.origin == "event":
                signs.append(time)
        for child in self.processes:
            makers = {self.creator(child), self.maker(child), self.original_parent(child)}
            if task in makers or task in {parent for _, parent in self.statements(child)}:
                signs.append(start(child))
        signs += [start(thread) for thread in self.threads if self.creator(thread) == task]
        return max(signs)

    def missing_at(self, task: Task) -> int:
        """When the first picture ended that does not show it, though it should."""
        heard = self.last_heard(task)
        return min((p.time for p in self.pictures if p.since > heard), default=NEVER)

    def next_start(self, task: Task) -> int:
        """When another task had got its tid."""
        later = [
            other
            for other in (*self.processes, *self.threads)
            if other.tid == task.tid and start(other) > start(task)
        ]
        if not later:
            return NEVER
        next_one = min(later, key=start)
        return start(next_one) + (CLOCK_TICK_NS - 1 if next_one in self.by_tick else 0)

    @remembered
    def end_of_thread(self, thread: Task) -> End:
        """Its own end; its process may take it with it before."""
        born = start(thread)
        if thread in self.by_tick:  # an exec within its tick may have been before it
            born = min(self.last_heard(thread), born + CLOCK_TICK_NS - 1)
        ends = [End(t, None) for t in self.execs(self.threads[thread]) if t > born]
        exits = self.exits(thread)
        if exits:
            ends.append(End(exits[0].time, exits[0]))
        else:
            ends += [End(self.next_start(thread), None), End(self.missing_at(thread), None)]
        return min(ends, key=lambda end: end.time)

    @remembered
    def end(self, process: Task) -> End:
        threads = self.threads_of(process)
        exits = [e for task in (process, *threads) for e in self.exits(task)]
        last = [e for e in exits if e.group_exit]
        if last:
            return End(max(e.time for e in exits), max(last, key=lambda e: e.time))
        known = [End(self.next_start(process), None), End(self.missing_at(process), None)]
        init = self.init_of(process)
        if init is not None and self.end(init).time != NEVER:
            known.append(End(max(self.end(init).time, self.last_heard(process) + 1), None))
        end = self._end_of_the_last(process)
        if end is not None and end.exit is not None:
            return end
        if end is not None:
            known.append(end)
        return min(known, key=lambda end: end.time)

    def _end_of_the_last(self, process: Task) -> End | None:
        """The end of the last thread, if all that are known have ended, the leader included."""
        own = self.exits(process)
        threads = [self.end_of_thread(thread) for thread in self.threads_of(process)]
        if not own or any(end.time == NEVER for end in threads):
            return None
        leader = End(own[-1].time, own[-1])
        lived_on = own[-1].group_exit is False or any(
            start(thread) <= leader.time < self.end_of_thread(thread).time
            for thread in self.threads_of(process)
        )
        if lived_on and any(time >= leader.time for time in self.execs(process)):
            return None
        last = max([leader, *threads], key=lambda end: end.time)
        if (last.exit or own[-1]).group_exit is False:
            return None
        if last is not leader and self.last_heard(process) > last.time:
            return None  # there is another thread that nobody told of
        return last

    def leader_end(self, process: Task, time: int) -> int | None:
        """When the leader thread had ended, as of `time`; an exec by another brings it back."""
        exits = [*self.exits(process), *reversed(self.exits(process, seen=False))]
        end = self.end(process).time
        if end > time:
            exits = [e for e in exits if e.time <= time]
        exits = [e for e in exits if not any(e.time <= t <= time for t in self.execs(process))]
        seen = [e.time for e in exits if e.origin == "event"]
        if exits:
            return seen[-1] if seen else min(e.time for e in exits)
        return end if end <= time else None

    # ------------------------------------------------------------------------ pid namespaces

    def inode(self, state: State) -> int | None:
        namespaces = state.context.namespaces
        return None if namespaces is None else namespaces.pid

    @remembered
    def last_inode(self, process: Task) -> int | None:
        return self.inode(self.state_after(process, len(self.versions(process))))

    @remembered
    def is_init(self, process: Task) -> bool:
        """Whether a namespace, not the host's, ends with it."""
        if self.ns_pid(process) != 1 or process.tid == 1:
            return False
        own = self.last_inode(process)
        return own is not None and own != self.inode(self.born_of(process))

    @remembered
    def init_of(self, process: Task) -> Task | None:
        """The init with which it ends."""
        inode = self.last_inode(process)
        if self.is_init(process):
            inode = self.inode(self.born_of(process))
        if inode is None or inode in self.host_inodes():
            return None
        inits = [
            init
            for init in self.processes
            if self.is_init(init)
            and self.last_inode(init) == inode
            and start(init) < start(process)
            and start(process) < self.end(init).time
        ]
        return max(inits, key=start, default=None)

    @remembered
    def host_inodes(self) -> set[int | None]:
        return {self.last_inode(task) for task in self.processes if task.tid == 1}

    def holder_in_namespace(self, inode: int, ns_pid: int, time: int) -> Task | None:
        holders = [
            process
            for process in self.processes
            if self.ns_pid(process) == ns_pid
            and (process.tid == ns_pid or inode not in self.host_inodes())
            and start(process) <= time < self.end(process).time
            and self.inode(self.state_at(process, time)) == inode
        ]
        return max(holders, key=start, default=None)

    # -------------------------------------------------------------------------- parents then

    def ended(self, process: Task) -> int:
        return self.end(process).time if process in self.processes else NEVER

    @remembered
    def parent_at(self, process: Task, time: int) -> Task | None:
        parent = self.original_parent(process)
        for since, named in self.later_parents(process):
            if since <= time:
                parent = named
        gone = set()
        while parent is not None and self.ended(parent) <= time:
            if parent in gone:
                return None  # they leave their children to each other
            gone.add(parent)
            heir = self.heir(parent)
            if heir is None and self.is_init(parent):
                return parent  # it waits for them to end, and nobody takes over
            parent = heir
        return parent

    def heir(self, dead: Task) -> Task | None:
        """Who takes over the children: whom the exit names, or whom the kernel's rule gives."""
        end = self.end(dead)
        named = end.exit.reaper if end.exit is not None else None
        if named is not None and self.is_known(named):
            return named
        inode = self.inode(self.state_at(dead, end.time))
        ancestor = self.parent_at(dead, end.time)
        while ancestor is not None and self._inode_then(ancestor, end.time) in (inode, None):
            if ancestor.tid == 1 or self.ns_pid(ancestor) == 1:
                return ancestor
            if self.is_subreaper_at(ancestor, end.time):
                return ancestor
            ancestor = self.parent_at(ancestor, end.time)
        found = self._init_then(dead, inode, end.time)
        return found if found is not None else named

    def _inode_then(self, process: Task, time: int) -> int | None:
        return self.inode(self.state_at(process, time)) if process in self.processes else None

    def _init_then(self, dead: Task, inode: int | None, time: int) -> Task | None:
        hosts = [task for task in self.processes if task.tid == 1 and start(task) <= time]
        host = hosts[-1] if hosts else None
        if inode is None or (host and self._inode_then(host, time) in (inode, None)):
            return host
        if self.is_init(dead):
            return None
        # One that has ended takes over the children of those that end after it, until all have.
        return self.holder_in_namespace(inode, 1, time) or self.init_of(dead)

    def is_subreaper_at(self, process: Task, time: int) -> bool | None:
        flag = None if self.fork(process) is None else False
        for when, _, event in self.told_of_process(process):
            if when <= time and getattr(event, "subreaper", None) is not None:
                flag = event.subreaper
        return flag

    def children_at(self, process: Task, time: int) -> list[Task]:
        """By start. Two have one pid where it is known to the tick only when it passed on."""
        if self.ended(process) <= time:
            return []
        return [
            child
            for child in self.processes
            if start(child) <= time < self.end(child).time
            and self.parent_at(child, time) == process
        ]

    def threads_at(self, process: Task, time: int) -> dict[int, int]:
        if process not in self.processes:
            return {process.tid: id_of(process)}
        living = [] if self.leader_end(process, time) is not None else [process]
        for thread in sorted(self.threads_of(process), key=start):
            end = min(self.end_of_thread(thread).time, self.end(process).time)
            if start(thread) <= time < end:
                living.append(thread)
        return {task.tid: id_of(task) for task in living}

    # ------------------------------------------------------------------------------- answers

    def process(self, process: Task, time: int, state: State | None = None) -> dict[str, Any]:
        """What is answered about a process as of an instant at which it had started."""
        known = process in self.processes
        end = self.end(process) if known else End(NEVER, None)
        if state is None:
            state = self.state_at(process, min(time, end.time)) if known else UNKNOWN_STATE
        alive = end.time > time
        exit = end.exit if not alive else None
        image, context = state.image, state.context
        parent = self.parent_at(process, min(time, end.time - 1)) if known else None
        original = self.original_parent(process) if known else None
        fork = self.fork(process)
        creator = (self.creator(process) or original) if fork is not None else None
        is_root = (known and self.has_no_parent(process)) or (original is None and process.tid == 1)
        exec_time = image.exec_time
        return {
            "time": time,
            "entity_id": id_of(process),
            "pid": process.tid,
            "ns_pid": self.ns_pid(process) if known else None,
            "ppid": parent.tid if parent is not None else 0 if is_root else None,
            "ns_ppid": self._ns_ppid(state, parent, is_root, time),
            "parent_entity_id": None if parent is None else id_of(parent),
            "original_parent_entity_id": None if original is None else id_of(original),
            "creator_entity_id": None if creator is None else id_of(creator),
            "name": state.comm,
            "cmd": image.argv,
            "cmd_truncated": image.argv_truncated,
            "execution_binary": image.executable,
            "interpreter": image.interpreter,
            "script": image.script,
            "env": image.env,
            "env_truncated": image.env_truncated,
            "cwd": state.cwd,
            "root": state.root,
            **{
                name: getattr(context, name)
                for name in Context.__struct_fields__
                if name != "cgroup_id"
            },
            "is_subreaper": self.is_subreaper_at(process, time),
            "start_time": start(process),
            "exec_time": exec_time if exec_time and exec_time >= start(process) else None,
            "is_alive": alive,
            "exit_time": None if alive else end.time,
            "exit_code": exit.exit_code if exit is not None else None,
            "exit_signal": exit.exit_signal if exit is not None else None,
            "core_dumped": exit.core_dumped if exit is not None else None,
            "thread_ids": self.threads_at(process, time)
            if known
            else {process.tid: id_of(process)},
            "child_process_ids": {c.tid: id_of(c) for c in self.children_at(process, time)},
            "forgotten_children": 0,
        }

    def _ns_ppid(self, state: State, parent: Task | None, is_root: bool, time: int) -> int | None:
        if parent is None:
            return 0 if is_root else None
        if parent not in self.processes:
            return None
        own, others = state.context.namespaces, self.state_at(parent, time).context.namespaces
        if own is not None and others is not None and own.pid != others.pid:
            return 0
        return self.ns_pid(parent)

    def thread(self, task: Task, time: int) -> dict[str, Any]:
        """What is answered about a thread, a leader or another."""
        process = self.threads.get(task, task)
        if task == process:
            end = self.leader_end(task, time)
            until = self.end(task).time
        else:
            until = min(self.end_of_thread(task).time, self.end(process).time)
            end = until if until <= time else None
        state = self.state_at(task, min(time, until))
        return {
            "entity_id": id_of(task),
            "tid": task.tid,
            "ns_tid": self.ns_pid(task),
            "pid": process.tid,
            "process_entity_id": id_of(process),
            "uid": state.context.uid,
            "gid": state.context.gid,
            "name": state.comm,
            "start_time": start(task),
            "exit_time": end,
            "is_alive": end is None,
        }

    def certainty(self, task: Task, time: int) -> dict[str, Any]:
        """Where the facts of an answer come from, and what may be missing from it."""
        process = self.threads.get(task, task)
        end = self.end(process)
        if task != process:
            own = self.end_of_thread(task)
            end = End(min(own.time, end.time), own.exit)
        versions = [v for v in self.versions(task) if v.time <= time]
        fork = self.fork(task)
        source = versions[-1].origin if versions else "event" if fork else "inferred"
        inferred = set()
        if fork is None and source == "inferred":
            inferred.add("attributes")
        if task in self.by_tick:
            inferred.add("start_time")
        if task == process and fork is None and self.original_parent(task) is not None:
            inferred.add("original_parent_entity_id")
        if end.time <= time and end.exit is None and not self.took_over(task, end.time):
            inferred.add("exit_time")
        known = max([start(task), *(v.time for v in versions)])
        until = min(time, end.time)
        return {
            "source": source,
            "inferred": inferred,
            "loss_windows": [
                (loss.since, loss.time, loss.lost)
                for loss in self.losses
                if loss.since <= until and loss.time >= known
            ],
        }

    def took_over(self, thread: Task, time: int) -> bool:
        """Whether a thread became the leader then, by an exec."""
        return any(
            event.time == time and event.old_tid == thread.tid
            for _, _, event in self.told_of(self.threads.get(thread, thread))
            if isinstance(event, Exec)
        )

    def lineage(self, process: Task, time: int) -> tuple[list[tuple[Task, int, State]], str]:
        """The original parents, each as of the start of its child, and why there are no more."""
        chain = [(process, time, self.state_at(process, min(time, self.ended(process))))]
        child, parent = process, self.original_parent(process)
        while parent is not None:
            chain.append((parent, start(child), self.state_before(parent, child)))
            known = parent in self.processes
            child, parent = parent, self.original_parent(parent) if known else None
        is_root = child in self.processes and self.has_no_parent(child)
        return chain, "root" if is_root or child.tid == 1 else "unknown_parent"

    def living_at(self, time: int) -> set[int]:
        return {
            id_of(process)
            for process in self.processes
            if start(process) <= time < self.end(process).time
        }

    def holder(self, pid: int, time: int) -> Task | None:
        """The last process that got this pid, whether it still lives or not."""
        holders = [p for p in self.processes if p.tid == pid and start(p) <= time]
        return max(holders, key=start, default=None)


def stated(state: State, facts: Given) -> State:
    """`state` with what was stated put over it."""
    for name, value in facts.items():
        if name in State.__struct_fields__:
            state = msgspec.structs.replace(state, **{name: value})
        elif name in Image.__struct_fields__:
            image = msgspec.structs.replace(state.image, **{name: value})
            state = msgspec.structs.replace(state, image=image)
        else:
            context = msgspec.structs.replace(state.context, **{name: value})
            state = msgspec.structs.replace(state, context=context)
    return state


def _named_exactly(events: list[TaskEvent]) -> set[Task]:
    """Every task that something else than /proc named."""
    return {
        task
        for event in events
        if not isinstance(event, (Snapshot, Exit)) or event.origin != "procfs"
        for task in (event.task, leader_of(event), event.parent, getattr(event, "creator", None))
        if task is not None and task.start_time is not None
    }


def _losses(log: list[Event]) -> list[Loss]:
    """What was said to be lost, and what was missed while no capture ran."""
    losses = []
    last = -1
    began = False
    for event in log:
        if isinstance(event, Header):
            if began and event.time is not None and last < event.time:
                losses.append(Loss(event.time, last, None))
            began = True
            continue
        if isinstance(event, Loss):
            losses.append(event)
        last = max(last, event.time)
    counted = [loss for loss in losses if loss.lost is not None]
    uncounted: list[Loss] = []
    for window in sorted((x for x in losses if x.lost is None), key=lambda loss: loss.since):
        if uncounted and window.since <= uncounted[-1].time:
            before = uncounted.pop()
            window = Loss(max(before.time, window.time), before.since, None)
        uncounted.append(window)
    return sorted([*counted, *uncounted], key=lambda loss: (loss.since, loss.time, loss.lost or -1))
