"""A small simulated kernel: it makes random histories and remembers what was true at each instant.

It keeps processes as plain dictionaries and copies the whole world after every step, so that what
it says about an instant is obviously right.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random
from typing import Any

from proctree_ds.model import (
    UNKNOWN_CONTEXT,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Image,
    State,
    Task,
)

PIDS = range(2, 14)


@dataclass
class Proc:
    """One process as the simulated kernel knows it."""

    task: Task
    parent: Task | None
    original_parent: Task | None
    comm: str
    image: str
    cwd: str
    uid: int
    subreaper: bool = False
    threads: dict[Task, str] = field(default_factory=dict)
    """Living threads, the leader included, with their names."""
    alive: bool = True
    code: int | None = None


World = dict[Task, Proc]


class Kernel:
    """Takes random steps; `events` is what a perfect observer saw, `worlds` what was true when."""

    def __init__(self, random: Random, *, name_reapers: bool = True) -> None:
        self.random = random
        self.name_reapers = name_reapers
        self.now = 100
        self.events: list[Event] = []
        init = Task(1, 10)
        self.world: World = {
            init: Proc(init, None, None, "init", "/sbin/init", "/", 0, threads={init: "init"})
        }
        self.events.append(
            Exec(20, init, _state("init", "/sbin/init", "/", 0, 20), parent=Task(0, 0))
        )
        self.worlds: list[tuple[int, World]] = []
        self._remember()

    def run(self, steps: int) -> None:
        choices = [
            (self.fork, 6),
            (self.thread, 3),
            (self.exec, 4),
            (self.exit_thread, 4),
            (self.exit_group, 3),
            (self.rename, 2),
            (self.set_uid, 1),
            (self.chdir, 1),
            (self.set_subreaper, 1),
        ]
        operations = [operation for operation, _ in choices]
        weights = [weight for _, weight in choices]
        for _ in range(steps):
            self.now += self.random.randint(2, 4)
            self.random.choices(operations, weights)[0]()
            self._remember()

    def world_at(self, time: int) -> World:
        """The world as of `time`, which is not before the first event."""
        return next(world for since, world in reversed(self.worlds) if since <= time)

    # ---------------------------------------------------------------------------- steps

    def fork(self) -> None:
        task = self._free_task()
        creator = self._some_thread()
        if task is None or creator is None:
            return
        proc, thread = creator
        clone_parent = proc.parent is not None and self.random.random() < 0.15
        parent = proc.parent if clone_parent else proc.task
        assert parent is not None
        child = Proc(task, parent, parent, proc.threads[thread], proc.image, proc.cwd, proc.uid)
        child.threads = {task: child.comm}
        self.world[task] = child
        states_comm = self.random.random() < 0.5
        self.events.append(
            Fork(
                self.now + 1,
                task,
                parent,
                creator=None if thread == parent else thread,
                ns_tid=task.tid,
                ns_pid=task.tid,
                comm=child.comm if states_comm else None,
            )
        )

    def thread(self) -> None:
        task = self._free_task()
        creator = self._some_thread()
        if task is None or creator is None:
            return
        proc, thread = creator
        proc.threads[task] = proc.threads[thread]
        self.events.append(
            Fork(
                self.now + 1,
                task,
                proc.parent,
                leader=proc.task,
                creator=thread,
                ns_tid=task.tid,
                ns_pid=proc.task.tid,
            )
        )

    def exec(self) -> None:
        creator = self._some_thread()
        if creator is None:
            return
        proc, thread = creator
        image = f"/bin/{self.random.choice('abcdef')}{self.now}"
        for other in list(proc.threads):
            if other not in (thread, proc.task):
                self._thread_exit(proc, other, group_exit=False)
        if thread != proc.task and proc.task in proc.threads:
            self._thread_exit(proc, proc.task, group_exit=False)
        self.now += 1
        comm = image[5:20]
        proc.threads = {proc.task: comm}
        proc.comm, proc.image = comm, image
        facts: Any = _state(comm, image, proc.cwd, proc.uid, self.now)
        if self.random.random() < 0.3:
            facts = {"comm": comm, "image": facts.image}
        self.events.append(
            Exec(
                self.now,
                proc.task,
                facts,
                parent=proc.parent,
                old_tid=thread.tid if thread != proc.task else None,
            )
        )

    def exit_thread(self) -> None:
        creator = self._some_thread(spare_init=True)
        if creator is None:
            return
        proc, thread = creator
        if len(proc.threads) > 1:
            stated = False if thread == proc.task else self.random.choice([False, None])
            self._thread_exit(proc, thread, group_exit=stated)
        else:
            self._last_exit(proc, thread)

    def exit_group(self) -> None:
        creator = self._some_thread(spare_init=True)
        if creator is None:
            return
        proc, _ = creator
        threads = list(proc.threads)
        self.random.shuffle(threads)
        for thread in threads[:-1]:
            self._thread_exit(proc, thread, group_exit=False)
            self.now += 1
        self._last_exit(proc, threads[-1])

    def rename(self) -> None:
        creator = self._some_thread()
        if creator is None:
            return
        proc, thread = creator
        name = f"n{self.now}"
        proc.threads[thread] = name
        if thread == proc.task:
            proc.comm = name
        leader = None if thread == proc.task else proc.task
        self.events.append(Change(self.now, thread, {"comm": name}, leader=leader))

    def set_uid(self) -> None:
        creator = self._some_thread()
        if creator is None:
            return
        proc, _ = creator
        if proc.task in proc.threads and len(proc.threads) == 1:
            proc.uid = self.now
            self.events.append(Change(self.now, proc.task, {"uid": self.now}))

    def chdir(self) -> None:
        creator = self._some_thread()
        if creator is None:
            return
        proc, _ = creator
        if proc.task in proc.threads:
            proc.cwd = f"/dir{self.now}"
            self.events.append(Change(self.now, proc.task, {"cwd": proc.cwd}))

    def set_subreaper(self) -> None:
        creator = self._some_thread()
        if creator is None:
            return
        proc, _ = creator
        if proc.task.tid != 1:
            proc.subreaper = not proc.subreaper
            self.events.append(Change(self.now, proc.task, {}, subreaper=proc.subreaper))

    # --------------------------------------------------------------------------- details

    def _thread_exit(self, proc: Proc, thread: Task, group_exit: bool | None) -> None:
        del proc.threads[thread]
        leader = None if thread == proc.task else proc.task
        self.events.append(
            Exit(self.now, thread, leader=leader, exit_code=0, group_exit=group_exit)
        )
        self._remember()
        self.now += 1

    def _last_exit(self, proc: Proc, thread: Task) -> None:
        code = self.random.randint(0, 255)
        del proc.threads[thread]
        proc.alive, proc.code = False, code
        heir = self._heir(proc)
        for child in self.world.values():
            if child.alive and child.parent == proc.task:
                child.parent = heir
        leader = None if thread == proc.task else proc.task
        alone = thread == proc.task
        self.events.append(
            Exit(
                self.now,
                thread,
                leader=leader,
                exit_code=code,
                group_exit=self.random.choice([True, None]) if alone else True,
                reaper=heir if self.name_reapers and self.random.random() < 0.7 else None,
            )
        )

    def _heir(self, proc: Proc) -> Task:
        ancestor = proc.parent
        while ancestor is not None:
            candidate = self.world[ancestor]
            assert candidate.alive
            if candidate.subreaper or ancestor.tid == 1:
                return ancestor
            ancestor = candidate.parent
        raise AssertionError("everything descends from init")

    def _some_thread(self, spare_init: bool = False) -> tuple[Proc, Task] | None:
        threads = [
            (proc, thread)
            for proc in self.world.values()
            if proc.alive and not (spare_init and proc.task.tid == 1)
            for thread in proc.threads
        ]
        return self.random.choice(threads) if threads else None

    def _free_task(self) -> Task | None:
        taken = {proc.task.tid for proc in self.world.values() if proc.alive}
        for proc in self.world.values():
            taken.update(thread.tid for thread in proc.threads)
        free = [tid for tid in PIDS if tid not in taken]
        return Task(self.random.choice(free), self.now) if free else None

    def _remember(self) -> None:
        self.worlds.append((self.now, copy.deepcopy(self.world)))


def _state(comm: str, image: str, cwd: str, uid: int, time: int) -> State:
    return State(
        comm,
        Image(executable=FileInfo(image), argv=(image,), exec_time=time),
        cwd,
        "/",
        Context(uid=uid) if uid else UNKNOWN_CONTEXT_ROOT,
    )


UNKNOWN_CONTEXT_ROOT = Context(uid=0)
assert UNKNOWN_CONTEXT != UNKNOWN_CONTEXT_ROOT
