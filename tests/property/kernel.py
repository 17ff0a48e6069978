"""A small simulated kernel: it makes random histories and remembers what was true at each instant.

Processes are plain records. After every event a copy of all of them is put aside, so that what is
said about an instant is obviously right. `told` is what a capture saw: it begins some time after
the machine did, with a complete picture, and may be interrupted and begin anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple

from proctree_ds.model import (
    CLOCK_TICK_NS,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Header,
    Image,
    Namespaces,
    Origin,
    Picture,
    Snapshot,
    State,
    Task,
)

PIDS = range(2, 15)
"""So few that they are used again and again."""

HOST_INODE = 100
IDLE = Task(0, 0)


@dataclass
class Namespace:
    """A pid namespace; `init` is None until its first process is there."""

    inode: int
    outer: Namespace | None
    init: Proc | None = None


@dataclass
class Thread:
    """A thread: what is its own and not its process's."""

    task: Task
    ns_tid: int
    comm: str
    uid: int
    gid: int


@dataclass
class Proc:
    """A process. `leader` stays what it was at its end, after that ended before the others."""

    task: Task
    leader: Thread
    parent: Task | None
    original_parent: Task | None
    creator: Task | None
    namespace: Namespace
    image: Image
    cwd: str = "/"
    session: int = 1
    group: int = 1
    cgroup: str = "/"
    subreaper: bool = False
    threads: dict[Task, Thread] = field(default_factory=dict)
    """Those that live, the leader included."""
    ended: int | None = None
    code: int | None = None
    signal: int | None = None

    def context(self, thread: Thread) -> Context:
        return Context(
            uid=thread.uid,
            euid=thread.uid,
            gid=thread.gid,
            egid=thread.gid,
            session_id=self.session,
            process_group=self.group,
            cgroup=self.cgroup,
            namespaces=Namespaces(pid=self.namespace.inode, mnt=1),
        )

    def state(self, thread: Thread) -> State:
        return State(thread.comm, self.image, self.cwd, "/", self.context(thread))


class Truth(NamedTuple):
    """What is so about one process at one instant."""

    task: Task
    state: State
    ns_pid: int
    parent: Task | None
    original_parent: Task | None
    creator: Task | None
    subreaper: bool
    threads: dict[Task, tuple[str, int, int, int]]
    """Living threads: name, uid, gid, tid in the namespace."""
    ended: int | None
    code: int | None
    signal: int | None


World = dict[Task, Truth]


class Kernel:
    """Takes random steps.

    `terse`: events state as little as an event log may, and not all that the kernel source does.
    `spread`: hundreds of clock ticks pass, and not some nanoseconds, so that pictures from /proc,
    which know starts by the tick, are possible.
    """

    def __init__(self, random: Random, *, terse: bool = False, spread: bool = False) -> None:
        self.random = random
        self.terse = terse
        self.spread = spread
        self.now = 100
        self.told: list[Event] = []
        self.began: int | None = None
        """When the capture began."""
        self.seen: set[Task] = set()
        """Tasks that the capture knows as they are: shown, or made by such."""
        self.born_in_sight: set[Task] = set()
        """Those of them whose birth was seen."""
        self.interrupted: list[tuple[int, int]] = []
        """When it did not run, later on: after the first and before the second instant."""
        self._capturing = False
        self._in_picture = False
        host = Namespace(HOST_INODE, None)
        self._namespaces = [host]
        task = Task(1, 10)
        leader = Thread(task, 1, "init", 0, 0)
        init = Proc(task, leader, None, None, None, host, _image("/sbin/init", None))
        init.threads[task] = leader
        host.init = init
        self._procs: dict[Task, Proc] = {task: init}
        self._dying: list[Proc] = []
        """Killed with the init of their namespace, and not gone yet."""
        self._starts: dict[int, int] = {}
        """When each tid was last given to a task."""
        self._times: list[int] = []
        self._worlds: list[World] = [{}]
        self._remember()

    # ------------------------------------------------------------------------- what was true

    def world_at(self, time: int) -> World:
        """Every process that has been so far, as of `time`."""
        return self._worlds[bisect_right(self._times, time)]

    @property
    def instants(self) -> list[int]:
        """When anything happened, one before and one after."""
        return sorted({i for t in self._times for i in (t - 1, t, t + 1) if i >= self._times[0]})

    # ----------------------------------------------------------------------------- the course

    def run(self, steps: int, unseen: int = 0, restarts: bool = False) -> None:
        """`unseen` steps before the capture begins, and then `steps`."""
        for _ in range(unseen):
            self._step()
        self.begin()
        for _ in range(steps):
            chance = self.random.random()
            if chance < 0.02:
                self.picture()
            elif chance < 0.03 and restarts:
                self._interrupt()
            else:
                self._step()
        while self._dying:
            self._pass()
            self._reap()

    def begin(self) -> None:
        """The capture begins (anew): a header, and a complete picture."""
        self._pass()
        self._capturing = True
        if self.began is None:
            self.began = self.now
        self._tell(Header(host="host", boot_id="boot", time=self.now))
        self.picture()

    def picture(self) -> None:
        """A complete look at every task, while life goes on."""
        self._pass()
        since = self.now
        by_tick = self.spread and self.random.random() < 0.4
        seen = [task for proc in self._living() for task in {**proc.threads, proc.task: None}]
        self.random.shuffle(seen)
        self._in_picture = True
        for task in seen:
            if self.random.random() < 0.1:
                self._step()
            self._pass()
            self.snapshot(task, by_tick)
        self._in_picture = False
        self._pass()
        self._tell(Picture(self.now, since))

    def _interrupt(self) -> None:
        if self._in_picture:
            return
        since = self.now
        self._capturing = False
        for _ in range(self.random.randint(0, 6)):
            self._step()
        self.begin()
        self.interrupted.append((since, self.now))

    def _step(self) -> None:
        self._pass()
        if self._dying and self.random.random() < 0.7:
            self._reap()
            return
        operation: Callable[[], None] = self.random.choices(
            [
                self.fork,
                self.thread,
                self.exec,
                self.exit_thread,
                self.exit_group,
                self.rename,
                self.set_user,
                self.change_process,
                self.set_subreaper,
                self.enter_namespace,
                self.glance,
            ],
            [6, 3, 4, 4, 3, 2, 1, 2, 1, 1.5, 0.5],
        )[0]
        operation()

    def _pass(self) -> None:
        if self.spread:
            self.now += self.random.choice([2, 1_000_000, 4_000_000, 17_000_000])
        else:
            self.now += self.random.randint(2, 4)

    def _tell(self, event: Event) -> None:
        if self._capturing:
            self.told.append(event)
        self._remember()

    def _remember(self) -> None:
        world = dict(self._worlds[-1])
        for task, proc in self._procs.items():
            if proc.ended is None or world[task].ended is None:
                world[task] = _truth(proc)
        self._times.append(self.now)
        self._worlds.append(world)

    # --------------------------------------------------------------------------------- births

    def fork(self) -> None:
        """A child, of the caller or, with CLONE_PARENT, a sibling of it."""
        caller = self._some_thread()
        if caller is not None:
            self._born(*caller, caller[0].namespace, self.random.random() < 0.15)

    def enter_namespace(self) -> None:
        """A child in a namespace of its own, or in one that is there (setns(2), then fork)."""
        caller = self._some_thread()
        if caller is None:
            return
        inner = [n for n in self._namespaces if n.outer is caller[0].namespace and _lives(n)]
        if inner and self.random.random() < 0.4:
            self._born(*caller, self.random.choice(inner), False)
            return
        taken = {n.inode for n in self._namespaces}
        inode = next(i for i in range(HOST_INODE, 2 * HOST_INODE) if i not in taken)
        namespace = Namespace(inode, caller[0].namespace)
        if self._born(*caller, namespace, False):
            self._namespaces.append(namespace)

    def _born(self, proc: Proc, thread: Thread, namespace: Namespace, sibling: bool) -> bool:
        task = self._free_task()
        ns_tid = self._free_ns_tid(namespace, task)
        if task is None or ns_tid is None:
            return False
        is_init = namespace.init is None
        if proc.parent is None or proc is proc.namespace.init:
            sibling = False  # an init may not use CLONE_PARENT: copy_process(), kernel/fork.c
        parent = proc.parent if sibling else proc.task
        child_thread = replace(thread, task=task, ns_tid=1 if is_init else ns_tid)
        child = Proc(
            task,
            child_thread,
            parent,
            parent,
            thread.task,
            namespace,
            proc.image,
            proc.cwd,
            proc.session,
            proc.group,
            proc.cgroup,
        )
        child.threads[task] = child_thread
        self._procs[task] = child
        self._starts[task.tid] = self.now
        if is_init:
            namespace.init = child
        moved = namespace is not proc.namespace
        facts: dict[str, Any] = {}
        if not self.terse or self.random.random() < 0.3:
            facts["comm"] = thread.comm
        if not self.terse or moved:
            facts["context"] = child.context(child_thread)
        if not self.terse or moved or self.random.random() < 0.5:
            facts["ns_tid"] = facts["ns_pid"] = child_thread.ns_tid
        self._remember()
        self.now += 1
        creator = None if thread.task == parent else thread.task
        self._tell_birth(Fork(self.now, task, parent, creator=creator, **facts), proc, thread)
        return True

    def thread(self) -> None:
        caller = self._some_thread()
        if caller is None:
            return
        proc, thread = caller
        task = self._free_task()
        ns_tid = self._free_ns_tid(proc.namespace, task)
        if task is None or ns_tid is None:
            return
        proc.threads[task] = fresh = replace(thread, task=task, ns_tid=ns_tid)
        self._starts[task.tid] = self.now
        facts: dict[str, Any] = {}
        if not self.terse:
            facts = {"comm": fresh.comm, "context": proc.context(fresh), "parent": proc.parent}
            facts |= {"ns_tid": ns_tid, "ns_pid": proc.leader.ns_tid}
        self._remember()
        self.now += 1
        event = Fork(self.now, task, leader=proc.task, creator=thread.task, **facts)
        self._tell_birth(event, proc, thread)

    def _tell_birth(self, event: Fork, proc: Proc, thread: Thread) -> None:
        if self._capturing and {proc.task, thread.task} <= self.seen:
            self.seen.add(event.task)
            self.born_in_sight.add(event.task)
        self._tell(event)

    # ---------------------------------------------------------------------------------- execs

    def exec(self) -> None:
        """From any thread: the others end, and the caller takes the leader's place."""
        caller = self._some_thread()
        if caller is None:
            return
        proc, thread = caller
        for other in list(proc.threads.values()):
            if other is not thread:
                self._thread_ends(proc, other)
        self.now += 1
        path = f"/bin/{self.random.choice('abcdef')}{self.now}"
        proc.leader = replace(thread, task=proc.task, ns_tid=proc.leader.ns_tid, comm=path[5:20])
        proc.threads = {proc.task: proc.leader}
        proc.image = _image(path, self.now)
        state = proc.state(proc.leader)
        facts: State | Given = state
        if self.terse and self.random.random() < 0.6:
            facts = {"comm": state.comm, "image": state.image}
            if thread.task != proc.task:
                facts["context"] = state.context
        told = not self.terse or self.random.random() < 0.5
        self._tell(
            Exec(
                self.now,
                proc.task,
                facts,
                (proc.parent or IDLE) if told else None,
                None if thread.task == proc.task else thread.task.tid,
                proc.leader.ns_tid if told else None,
                proc.leader.ns_tid if told else None,
            )
        )

    # -------------------------------------------------------------------------------- changes

    def rename(self) -> None:
        caller = self._some_thread()
        if caller is not None:
            caller[1].comm = f"n{self.now}"
            self._tell_change(*caller, {"comm": caller[1].comm})

    def set_user(self) -> None:
        caller = self._some_thread()
        if caller is not None:
            caller[1].uid = caller[1].gid = self.now % 2**32
            names = ("uid", "euid", "gid", "egid")
            self._tell_change(*caller, dict.fromkeys(names, caller[1].uid))

    def change_process(self) -> None:
        """What all threads share: told of the process, whichever thread did it."""
        caller = self._some_thread()
        if caller is None:
            return
        proc = caller[0]
        kind = self.random.randrange(3)
        if kind == 0:
            proc.cwd = f"/dir{self.now}"
            given: Given = {"cwd": proc.cwd}
        elif kind == 1:
            proc.session = proc.group = proc.task.tid
            given = {"session_id": proc.session, "process_group": proc.group}
        else:
            proc.cgroup = f"/slice{self.now}"
            given = {"cgroup": proc.cgroup}
        self._tell_change(proc, proc.leader, given)

    def set_subreaper(self) -> None:
        caller = self._some_thread()
        if caller is not None:
            proc = caller[0]
            proc.subreaper = not proc.subreaper
            self._tell(Change(self.now, proc.task, {}, subreaper=proc.subreaper))

    def _tell_change(self, proc: Proc, thread: Thread, given: Given) -> None:
        leader = None if thread.task == proc.task else proc.task
        parent = proc.parent if self.random.random() < 0.2 else None
        self._tell(Change(self.now, thread.task, given, leader, parent))

    # --------------------------------------------------------------------------------- looks

    def glance(self) -> None:
        """A picture of one task."""
        proc = self.random.choice(self._living())
        task = self.random.choice([*proc.threads, proc.task])
        self.snapshot(task, self.spread and self.random.random() < 0.5)

    def snapshot(self, task: Task, by_tick: bool) -> None:
        """What the task iterator or a row of /proc tells of a task, if it is still there."""
        found = [p for p in self._living() if task in p.threads or task == p.task]
        if not found:
            return
        self._tell_snapshot(found[0], task, by_tick)
        if task not in found[0].threads:
            origin: Origin = "procfs" if by_tick else "iterator"
            leader = _to_the_tick(task) if by_tick else task
            self._tell(Exit(self.now, leader, group_exit=False, origin=origin))

    def _tell_snapshot(self, proc: Proc, task: Task, by_tick: bool) -> None:
        thread = proc.threads.get(task, proc.leader)
        state = proc.state(thread)
        given: Given = {"comm": state.comm, "context": state.context}
        if task in proc.threads:  # a leader that has ended has let go of these: do_exit()
            given |= {"executable": state.image.executable, "argv": state.image.argv}
            given |= {"cwd": state.cwd, "root": state.root}
        if self._capturing and task in proc.threads:
            self.seen.add(task)
        named = _to_the_tick if by_tick else lambda task: task
        parent = proc.parent or IDLE
        self._tell(
            Snapshot(
                self.now,
                named(task),
                given,
                None if task == proc.task else named(proc.task),
                parent if parent == IDLE else named(parent),
                None,
                thread.ns_tid,
                proc.leader.ns_tid,
                None if by_tick else proc.subreaper,
                "procfs" if by_tick else "iterator",
            )
        )

    # ---------------------------------------------------------------------------------- exits

    def exit_thread(self) -> None:
        caller = self._some_thread(spare_init=True)
        if caller is None:
            return
        proc, thread = caller
        if len(proc.threads) > 1:
            self._thread_ends(proc, thread)
        else:
            self._process_ends(proc, thread, self.random.randrange(256), None)

    def exit_group(self) -> None:
        caller = self._some_thread(spare_init=True)
        if caller is not None:
            self._all_end(caller[0], self.random.randrange(256), None)

    def _all_end(self, proc: Proc, code: int | None, signal: int | None) -> None:
        threads = list(proc.threads.values())
        self.random.shuffle(threads)
        for thread in threads[:-1]:
            self._thread_ends(proc, thread)
            self.now += 1
        self._process_ends(proc, threads[-1], code, signal)

    def _thread_ends(self, proc: Proc, thread: Thread) -> None:
        del proc.threads[thread.task]
        is_leader = thread.task == proc.task
        self._tell(
            Exit(
                self.now,
                thread.task,
                None if is_leader else proc.task,
                None if self.terse else proc.parent or IDLE,
                exit_code=0,
                group_exit=None if self.terse and not is_leader else False,
            )
        )
        self.now += 1

    def _process_ends(
        self, proc: Proc, thread: Thread, code: int | None, signal: int | None
    ) -> None:
        del proc.threads[thread.task]
        proc.ended, proc.code, proc.signal = self.now, code, signal
        is_init = proc is proc.namespace.init
        heir = None if is_init else self._heir(proc)
        if is_init:
            self._kill_namespace(proc)
        else:
            for child in self._living():
                if child.parent == proc.task:
                    child.parent = heir
        is_leader = thread.task == proc.task
        if proc in self._dying:
            self._dying.remove(proc)
        self._tell(
            Exit(
                self.now,
                thread.task,
                None if is_leader else proc.task,
                None if self.terse else proc.parent or IDLE,
                code,
                signal,
                signal == 11,
                None if self.terse and is_leader else True,
                None if self.terse and self.random.random() < 0.5 else heir,
            )
        )
        self._namespaces = [
            namespace
            for namespace in self._namespaces
            if _lives(namespace) or any(p.namespace is namespace for p in self._living())
        ]

    def _kill_namespace(self, init: Proc) -> None:
        """zap_pid_ns_processes(): everything in it and in inner ones is killed, a little later."""
        for proc in self._living():
            namespace: Namespace | None = proc.namespace
            while namespace is not None:
                if namespace.init is init and proc not in self._dying:
                    self._dying.append(proc)
                namespace = namespace.outer

    def _reap(self) -> None:
        self._all_end(self.random.choice(self._dying), None, 9)

    def _heir(self, proc: Proc) -> Task:
        """find_new_reaper(), kernel/exit.c."""
        ancestor = self._procs[proc.parent] if proc.parent is not None else None
        while ancestor is not None and ancestor.namespace is proc.namespace:
            if ancestor.subreaper and ancestor.ended is None:
                return ancestor.task
            ancestor = self._procs[ancestor.parent] if ancestor.parent is not None else None
        assert proc.namespace.init is not None
        return proc.namespace.init.task

    # -------------------------------------------------------------------------------- choices

    def _living(self) -> list[Proc]:
        return [proc for proc in self._procs.values() if proc.ended is None]

    def _some_thread(self, spare_init: bool = False) -> tuple[Proc, Thread] | None:
        """Whoever acts next; who has been killed does not."""
        threads = [
            (proc, thread)
            for proc in self._living()
            if proc not in self._dying and not (spare_init and proc.task.tid == 1)
            for thread in proc.threads.values()
        ]
        return self.random.choice(threads) if threads else None

    def _free_task(self) -> Task | None:
        living = self._living()
        taken = {task.tid for proc in living for task in (proc.task, *proc.threads)}
        if self.spread:  # a kernel does not use a pid twice within a tick: /proc would mix them up
            tick = self.now // CLOCK_TICK_NS
            taken.update(tid for tid, at in self._starts.items() if at // CLOCK_TICK_NS == tick)
        free = [tid for tid in PIDS if tid not in taken]
        return Task(self.random.choice(free), self.now) if free else None

    def _free_ns_tid(self, namespace: Namespace, task: Task | None) -> int | None:
        if namespace.outer is None or task is None:
            return None if task is None else task.tid
        taken = {
            thread.ns_tid
            for proc in self._living()
            if proc.namespace is namespace
            for thread in (proc.leader, *proc.threads.values())
        }
        free = [tid for tid in PIDS if tid not in taken]
        return self.random.choice(free) if free else None


def _lives(namespace: Namespace) -> bool:
    return namespace.init is None or namespace.init.ended is None


def _image(path: str, exec_time: int | None) -> Image:
    return Image(executable=FileInfo(path), argv=(path,), exec_time=exec_time)


def _to_the_tick(task: Task) -> Task:
    assert task.start_time is not None
    return Task(task.tid, task.start_time - task.start_time % CLOCK_TICK_NS)


def _truth(proc: Proc) -> Truth:
    return Truth(
        proc.task,
        proc.state(proc.leader),
        proc.leader.ns_tid,
        proc.parent,
        proc.original_parent,
        proc.creator,
        proc.subreaper,
        {t.task: (t.comm, t.uid, t.gid, t.ns_tid) for t in proc.threads.values()},
        proc.ended,
        proc.code,
        proc.signal,
    )
