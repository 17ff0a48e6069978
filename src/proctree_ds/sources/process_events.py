"""From the kernel's process events, which say who, to events, which say what.

What a task is like is read from /proc right after the message about it. Who is gone by then keeps
what the message said, and nothing is made up: the rest is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from proctree_ds.model import (
    CLOCK_TICK_NS,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Image,
    Snapshot,
    Task,
)
from proctree_ds.sources.connector import COMM, EXEC, EXIT, FORK, GID, UID, Message
from proctree_ds.sources.procfs import picture, program, start_of, with_arguments

__all__ = ["Narrator", "told_image"]

_IMAGE: Final = ("executable", "argv", "env")


class Narrator:
    """Knows who lives, by what names, and tells messages as events with what /proc adds.

    It remembers living tasks only. `env_names` are the environment variables that are kept.
    """

    def __init__(self, env_names: Sequence[str]) -> None:
        self._env_names = env_names
        self._names: dict[int, Task] = {}
        """Living tasks by tid: a start as /proc has it, or the time of the fork."""
        self._threads: dict[int, set[int]] = {}
        """Tids of the threads of a process, other than its leader's."""
        self._absent: set[int] = set()
        """Those of `_names` that were not in the last picture: perhaps too new for it."""
        self.vanished = 0
        """Execs and changes of tasks that had gone before /proc was read."""
        self.unplaced = 0
        """Messages about tasks whose beginning was missed, and that had gone before any look."""

    def learn_picture(self, rows: Iterable[Snapshot]) -> list[Snapshot]:
        """All who live, as /proc lists them, by the names that they have here.

        Whoever is not among them twice is forgotten.
        """
        names, threads = self._names, self._threads
        self._names, self._threads = {}, {}
        told = []
        for row in rows:
            tid = row.task.tid
            known = names.get(tid)
            task = known if known is not None and _is_same(known, row.task) else row.task
            self._names[tid] = task
            if row.leader is not None:
                self._threads.setdefault(row.leader.tid, set()).add(tid)
            told.append(msgspec.structs.replace(row, task=task))
        absent = names.keys() - self._names.keys() - self._absent
        self._names |= {tid: names[tid] for tid in absent}
        for pid, tids in threads.items():
            if kept := tids & absent:
                self._threads.setdefault(pid, set()).update(kept)
        self._absent = absent
        return told

    def look_at(self, messages: Sequence[Message]) -> list[Given]:
        """What those who executed show at once, by the index of the message; the rest can wait.

        Of the newest first: they are the likeliest to be there still.
        """
        shown: list[Given] = [{} for _ in messages]
        overtaken = _overtaken(messages)
        for index in range(len(messages) - 1, -1, -1):
            if messages[index].kind == EXEC and not overtaken[index]:
                shown[index] = program(messages[index].tid)
        return shown

    def tell(self, messages: Sequence[Message], shown: Sequence[Given]) -> list[Event]:
        """The events of `messages`, which are in the order of their times, and looked at."""
        overtaken = _overtaken(messages)
        events = []
        for index, message in enumerate(messages):
            event = self._tell_one(message, overtaken[index], shown[index])
            if event is not None:
                events.append(event)
        return events

    def retract(self, events: Sequence[Event], later: Sequence[Message]) -> list[Event]:
        """`events` without what /proc showed too late: `later` arrived while it was read."""
        replaced = {message.tid for message in later if message.kind == EXEC}
        return [
            msgspec.structs.replace(event, facts=_image_alone({}, event.time), parent=None)
            if isinstance(event, Exec) and event.task.tid in replaced
            else event
            for event in events
        ]

    def _tell_one(self, message: Message, is_overtaken: bool, shown: Given) -> Event | None:
        if message.kind == FORK:
            return self._fork(message)
        tid, pid = message.numbers[:2]
        task = self._name(tid, pid, is_overtaken)
        if task is None:
            self.unplaced += 1
            return None
        leader = None
        if tid != pid:
            leader = self._name(pid, pid, is_overtaken) or Task(pid)
        if message.kind == EXIT:
            return self._exit(message, task, leader)
        if message.kind == COMM:
            return Change(message.time, task, {"comm": message.comm}, leader, origin="netlink")
        row = None if is_overtaken else self._look(pid, task)
        self.vanished += row is None
        if message.kind == EXEC:
            for ended in self._threads.pop(pid, ()):  # one of them may be the leader by now
                self._names.pop(ended, None)
            return _exec(message, task, row, shown)
        return _change(message, task, leader, row)

    def _fork(self, message: Message) -> Fork | None:
        parent_tid, parent_pid, tid, pid = message.numbers[:4]
        task = Task(tid, message.time)
        known = self._names.get(tid)
        if known is not None and _is_same(task, known):
            return None  # a picture has it
        self._names[tid] = task
        leader = None
        if tid != pid:
            leader = self._names.get(pid, Task(pid))
            self._threads.setdefault(pid, set()).add(tid)
        # Of a thread they are those of its process's parent.
        has_other_creator = tid == pid and parent_tid != parent_pid
        return Fork(
            message.time,
            task,
            self._parent(parent_pid),
            leader,
            self._names.get(parent_tid) if has_other_creator else None,
            origin="netlink",
        )

    def _exit(self, message: Message, task: Task, leader: Task | None) -> Exit:
        tid, pid, status = message.numbers[:3]
        parent_pid = message.numbers[5]
        threads = self._threads.get(pid)
        if tid != pid:
            self._names.pop(tid, None)
            if threads is not None:
                threads.discard(tid)
        elif not threads:  # else others go on, and name it
            self._names.pop(tid, None)
            self._threads.pop(pid, None)
        signal = status & 0x7F
        return Exit(
            message.time,
            task,
            leader,
            self._parent(parent_pid) if parent_pid else None,
            None if signal else status >> 8 & 0xFF,
            signal or None,
            bool(status & 0x80),
            origin="netlink",
        )

    def _look(self, pid: int, task: Task) -> Snapshot | None:
        """What /proc shows of this very task now, with its environment."""
        row = picture(pid, task.tid)
        if row is None or not _is_same(task, row.task):
            return None
        return with_arguments(row, self._env_names)

    def _parent(self, pid: int) -> Task:
        return self._names.get(pid, Task(pid, 0 if pid == 0 else None))

    def _name(self, tid: int, pid: int, is_overtaken: bool) -> Task | None:
        known = self._names.get(tid)
        if known is None and not is_overtaken:  # its fork was lost
            start = start_of(pid, tid)
            if start is not None:
                known = self._names[tid] = Task(tid, start)
        return known


def _overtaken(messages: Sequence[Message]) -> list[bool]:
    """Of each message whether a later one says that /proc shows something else by now."""
    last = {(m.kind, m.tid): index for index, m in enumerate(messages)}
    return [
        last.get((EXIT, m.tid), -1) > index or last.get((EXEC, m.tid), -1) > index
        for index, m in enumerate(messages)
    ]


def told_image(given: Given, time: int) -> Given:
    """A row of /proc as the facts of an exec at `time`: its image is whole."""
    facts = {name: value for name, value in given.items() if name not in _IMAGE}
    image = {name: given[name] for name in _IMAGE if name in given}
    facts["image"] = Image(exec_time=time, **image)
    return facts


def _image_alone(shown: Given, time: int) -> Given:
    """An exec of which little is known; a name that was not read is another one than before."""
    return {"comm": None} | told_image(shown, time)


def _exec(message: Message, task: Task, row: Snapshot | None, shown: Given) -> Exec:
    time = message.time
    if row is None:
        return Exec(time, task, _image_alone(shown, time), origin="netlink")
    facts = told_image(row.given, time)
    return Exec(time, task, facts, row.parent, None, row.ns_tid, row.ns_pid, "netlink")


def _change(
    message: Message, task: Task, leader: Task | None, row: Snapshot | None
) -> Change | None:
    given: Given
    if row is not None:
        given = {name: row.given[name] for name in ("cwd", "root", "context") if name in row.given}
    elif message.kind in (UID, GID):
        names = ("uid", "euid") if message.kind == UID else ("gid", "egid")
        given = dict(zip(names, message.numbers[2:4], strict=True))
    else:
        return None
    return Change(message.time, task, given, leader, origin="netlink")


def _is_same(told: Task, row: Task) -> bool:
    """Whether `row`, of /proc, is the task `told`, whose fork is told a little after its start."""
    assert told.start_time is not None
    assert row.start_time is not None
    tick = told.start_time - told.start_time % CLOCK_TICK_NS
    return tick - CLOCK_TICK_NS <= row.start_time <= told.start_time
