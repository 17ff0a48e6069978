"""Victims on a stage: real processes, watched by a source, and then told to trees.

A test module runs all its victims during one capture (`Stage`), and asks about each of them in
several trees (`Told`): one that got the events as they came, and others that got them backwards,
shuffled, twice, or through an event log. Only public questions are asked, as of instants that
the victims or the events name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from pathlib import Path
from random import Random
from threading import Thread
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Any, TypeVar

from scenarios.story import everything, id_of, through_a_log

from proctree_ds import DataSource, ProcessInfo, ProcessTree, ThreadInfo
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Loss, Picture, Snapshot, Task
from proctree_ds.sources.ebpf import EbpfSource

__all__ = ["Command", "Life", "Stage", "Told", "Victim", "told_in_order"]

E = TypeVar("E", Fork, Exec, Exit, Change, Snapshot)

Command = Sequence[str | bytes | Path]

PATIENCE = 1_000
"""Batches; where nothing happens, one comes every second."""

_time_of = attrgetter("time")


@dataclass(frozen=True)
class Life:
    """One victim: who it was, how it ended, and what it said."""

    pid: int
    status: int
    began: int
    ended: int
    """Boot-clock ns just before and just after."""
    said: dict[str, list[int]]

    def __getitem__(self, name: str) -> int:
        """The only number that was said by this name: a pid, a tid or an instant."""
        (number,) = self.said[name]
        return number


class Victim:
    """A victim that waits for the test: it reads lines from its standard input."""

    def __init__(self, command: Command, **options: Any) -> None:
        self.began = clock_gettime_ns(CLOCK_BOOTTIME)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        self.pid = self.process.pid
        self._lines: list[bytes] = []

    def wait_for(self, name: str) -> int:
        """The number that it says by this name, once it does."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if line.split()[0] == name.encode():
                return int(line.split()[1])
        raise AssertionError(f"the victim ended and never said {name}")

    def leave(self) -> int:
        """Let it read to the end of its standard input. An instant after it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        return clock_gettime_ns(CLOCK_BOOTTIME)

    def go_on(self) -> None:
        """Let it take the next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> Life:
        """Wait for it, and for everybody who holds its standard output."""
        if self.process.stdin is not None and self.process.stdin.closed:
            self.process.stdin = None  # communicate() would flush it
        output, _ = self.process.communicate()
        said: dict[str, list[int]] = {}
        for line in [*self._lines, *output.splitlines()]:
            name, number = line.split()
            said.setdefault(name.decode(), []).append(int(number))
        ended = clock_gettime_ns(CLOCK_BOOTTIME)
        return Life(self.pid, self.process.returncode, self.began, ended, said)


class Stage:
    """A capture: whatever runs between its making and its `end` is told.

    It is read all the time, as a live run does; with `reads=False` only when the test says so.
    """

    def __init__(self, *, reads: bool = True, **options: Any) -> None:
        self._source = EbpfSource(**options)
        self._batches = self._source.batches()
        self._events = list(next(self._batches))
        self._lives: dict[str, Life] = {}
        self._reader = Thread(target=self._read_on, daemon=True) if reads else None
        if self._reader is not None:
            self._reader.start()

    def _read_on(self) -> None:
        for batch in self._batches:
            self._events.extend(batch)

    def run(self, name: str, command: Command, **options: Any) -> Life:
        """Run a victim to its end and remember its life by `name`."""
        with self.running(name, command, **options):
            pass
        return self._lives[name]

    @contextmanager
    def running(self, name: str, command: Command, **options: Any) -> Iterator[Victim]:
        """A victim that the test talks with; it is waited for in the end."""
        victim = Victim(command, **options)
        try:
            yield victim
        finally:
            self._lives[name] = victim.end()

    def read_until(self, is_enough: Callable[[Event], bool]) -> Event:
        """The first such event. It may have been taken before; if not, read until it comes."""
        fresh: Sequence[Event] = tuple(self._events)
        for _ in range(PATIENCE):
            for event in fresh:
                if is_enough(event):
                    return event
            fresh = next(self._batches)
            self._events.extend(fresh)
        raise AssertionError("the source never told of it")

    def meet(self, victim: Victim) -> Exec | Snapshot:
        """Read until the source has told what the victim executes; a repair may tell it, too."""
        met = self.read_until(
            lambda event: (
                isinstance(event, Exec | Snapshot)
                and event.task.tid == victim.pid
                and event.time > victim.began
            )
        )
        assert isinstance(met, Exec | Snapshot)
        return met

    def end(self, *, may_lose: bool = False) -> Told:
        """Stop the capture, and take all that it has seen."""
        self._source.stop()
        if self._reader is not None:
            self._reader.join()
        self._read_on()
        counters = self._source.counters()
        self._source.close()
        lost = {n: count for n, count in counters.items() if count and n.startswith("lost_")}
        assert may_lose or not lost, lost
        return Told(self._events, self._lives)

    @contextmanager
    def closing(self) -> Iterator[Stage]:
        """For a stage that fails before its end."""
        try:
            yield self
        finally:
            self._source.stop()
            if self._reader is not None:
                self._reader.join()
            self._source.close()


class Told:
    """What was captured, and trees that know it."""

    def __init__(self, events: Sequence[Event], lives: dict[str, Life]) -> None:
        header = events[0]
        assert isinstance(header, Header)
        self.header = header
        self.events = list(events)
        self.lives = lives

    def __getitem__(self, name: str) -> Life:
        return self.lives[name]

    def __iter__(self) -> Iterator[DataSource]:
        """The same history, told in every way that must not matter."""
        return iter(self._tellings)

    @cached_property
    def _tellings(self) -> list[DataSource]:
        header, *rest = self.events
        random = Random(len(rest))
        orders = [
            rest,
            rest[::-1],
            random.sample(rest, len(rest)),
            [event for event in random.sample(rest, len(rest)) for _ in range(2)],
        ]
        tellings = [told_in_order([header, *order]) for order in orders]
        logs = (through_a_log([header, *order]) for order in orders[::2])
        return tellings + [told_in_order(log) for log in logs]

    @property
    def in_order(self) -> DataSource:
        """The tree of a run that was there when it happened."""
        return self._tellings[0]

    def without(self, *lost: Event) -> Told:
        """The same capture, had these events been lost."""
        gone = set(map(id, lost))
        return Told([event for event in self.events if id(event) not in gone], self.lives)

    # ------------------------------------------------------------------------ who and when

    def at(self, boot_clock_ns: int) -> int:
        """An instant of an event or of a victim, as questions take it."""
        return self.header.boot_time + boot_clock_ns

    def all_of(self, kind: type[E], life: Life, tid: int | None = None) -> list[E]:
        """Events about one task during a life, in the order of their times."""
        who = life.pid if tid is None else tid
        found = [
            event
            for event in self.events
            if isinstance(event, kind)
            and event.task.tid == who
            and life.began <= event.time <= life.ended
        ]
        return sorted(found, key=_time_of)

    def one(self, kind: type[E], life: Life, tid: int | None = None) -> E:
        """The only event of its kind."""
        found = self.all_of(kind, life, tid)
        assert len(found) == 1, f"{len(found)} {kind.__name__} of {tid or life.pid}"
        return found[0]

    def id(self, life: Life, tid: int | None = None) -> int:
        """The entity id of a task that was made during a life."""
        return self.entity(self.one(Fork, life, tid))

    def entity(self, event: Fork | Exec | Exit | Snapshot) -> int:
        """The entity id of the task that an event is about."""
        return id_of(event.task)

    def info(self, ds: DataSource, life: Life, time: int, tid: int | None = None) -> ProcessInfo:
        """The process as of an instant of the boot clock."""
        return ds.process(self.id(life, tid), self.at(time))

    def thread(self, ds: DataSource, life: Life, time: int, tid: int) -> ThreadInfo:
        """The thread as of an instant of the boot clock."""
        return ds.thread(self.id(life, tid), self.at(time))

    def family_of(self, life: Life) -> set[Task]:
        """The victim, and all that it and its descendants made."""
        family: set[Task] = set()
        for event in sorted((e for e in self.events if isinstance(e, Fork)), key=_time_of):
            if life.began <= event.time <= life.ended:
                makers = (event.parent, event.leader, event.creator)
                if event.task.tid == life.pid or not family.isdisjoint(makers):
                    family.add(event.task)
        return family

    def answers(self, ds: DataSource, names: Iterable[str]) -> dict[tuple[int, int], object]:
        """All that a telling answers about the tasks of these lives around each of their events."""
        families = (self.family_of(self.lives[name]) for name in names)
        moments: dict[Task, set[int]] = {task: set() for task in chain.from_iterable(families)}
        for event in self.events:
            if not isinstance(event, Header | Loss | Picture) and event.task in moments:
                moments[event.task].update((event.time - 1, event.time))
        told: dict[tuple[int, int], object] = {}
        for task, times in moments.items():
            told |= everything(ds, [task], [self.at(time) for time in sorted(times)])
        return told

    def assert_that_all_tellings_agree(self, *, but: Iterable[str] = ()) -> None:
        """Every answer is the same, whatever the order was; `but` for lives that a limit cut."""
        names = self.lives.keys() - set(but)
        first, *others = self
        answers = self.answers(first, names)
        assert answers
        for other in others:
            again = self.answers(other, names)
            assert again.keys() == answers.keys()
            for key, answer in answers.items():
                assert again[key] == answer, f"{again[key]}\ninstead of\n{answer}"


def told_in_order(events: Sequence[Event] | Iterator[Event]) -> DataSource:
    """A tree that was told these events, and its invariants hold."""
    tree = ProcessTree()
    tree.apply_all(events)
    tree._check()
    return DataSource(tree)
