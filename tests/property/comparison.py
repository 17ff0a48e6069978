"""Asks the tree and the naive model everything, at every instant, and tells where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from proctree_ds import (
    DataNotFound,
    DataSource,
    NotStartedYet,
    ProcessInfo,
    ProcessTree,
    ThreadInfo,
)
from proctree_ds.model import Task

from .model import Model, id_of, start

__all__ = ["Comparison"]


class Comparison:
    """Everything that can be asked, of both. `answers` counts what was compared."""

    def __init__(
        self, tree: ProcessTree, model: Model, in_order: ProcessTree | None = None
    ) -> None:
        """`in_order` has learned the same in order: it must be just as sure of what it says."""
        self.ds = DataSource(tree)
        self.model = model
        self.in_order = None if in_order is None else DataSource(in_order)
        self.answers = 0
        self.instants = sorted(
            {i for time, _, _ in model.events for i in (time - 1, time, time + 1)}
            | {i for task in model.processes for i in (start(task) - 1, start(task))}
        )

    def differences(self) -> Iterator[str]:
        for time in self.instants:
            for difference in self._at(time):
                yield f"at {time}: {difference}"

    def _at(self, time: int) -> Iterator[str]:
        model, ds = self.model, self.ds
        yield from self._same(
            "who lived",
            lambda: {info.entity_id for info in ds.snapshot(time)},
            model.living_at(time),
        )
        for pid in {task.tid for task in model.processes}:
            holder = model.holder(pid, time)
            if holder is not None and model.end(holder).time <= time:
                holder = None
            expected = None if holder is None else id_of(holder)
            yield from self._same(f"holder of pid {pid}", self._pid(pid, time), expected)
        for process in model.processes:
            if start(process) > time:
                yield from self._not_started(process, time)
                continue
            yield from self._process(process, time)
        for thread in (*model.processes, *model.threads):
            if start(thread) <= time:
                answer = ds.thread(id_of(thread), time)
                yield from self._fields(f"thread {thread}", answer, model.thread(thread, time))
                sure = model.certainty(thread, time)
                sure["inferred"] -= {"original_parent_entity_id"}  # no question about a thread
                is_leader_alone = thread in model.processes and model.end(thread).time > time
                yield from self._certainty(answer, sure, is_leader_alone)

    def _process(self, process: Task, time: int) -> Iterator[str]:
        model, ds = self.model, self.ds
        expected = model.process(process, time)
        info = ds.process(id_of(process), time)
        yield from self._fields(f"process {process}", info, expected)
        yield from self._certainty(info, model.certainty(process, time))
        if self.in_order is not None:
            other = self.in_order.process(id_of(process), time).certainty
            if other != info.certainty:
                yield f"process {process}: {info.certainty}, in order it was {other}"
        chain, end = model.lineage(process, time)
        lineage = ds.lineage(id_of(process), time)
        yield from self._same(
            f"lineage of {process}",
            lambda: ([(i.entity_id, i.time, i._state) for i in lineage], lineage.end),
            ([(id_of(task), at, state) for task, at, state in chain], end),
        )
        children = [child.entity_id for child in ds.children(id_of(process), time)]
        told = {id_of(child) for child in model.children_at(process, time)}
        yield from self._same(f"children of {process}", lambda: set(children), told)
        inode, ns_pid = model.inode(model.state_at(process, time)), model.ns_pid(process)
        if inode is not None and ns_pid is not None:
            holder = model.holder_in_namespace(inode, ns_pid, time)
            yield from self._same(
                f"holder of pid {ns_pid} in {inode}",
                self._pid(ns_pid, time, inode),
                None if holder is None else id_of(holder),
            )

    def _pid(self, pid: int, time: int, inode: int | None = None) -> Callable[[], int]:
        return lambda: self.ds.pid(pid, time, pid_namespace=inode).entity_id

    def _fields(self, what: str, answer: Any, expected: dict[str, Any]) -> Iterator[str]:
        for name, value in expected.items():
            self.answers += 1
            given = getattr(answer, name)
            if given != value:
                yield f"{what}: {name} is {given!r}, the model says {value!r}"

    def _certainty(
        self,
        answer: ProcessInfo | ThreadInfo,
        expected: dict[str, Any],
        may_have_ended: bool = False,
    ) -> Iterator[str]:
        """What is in doubt because of a loss is for `truth.py` to judge."""
        certainty = answer.certainty
        marks = set(certainty.inferred) & {"attributes", "start_time", "original_parent_entity_id"}
        if "exit_time" in certainty.inferred and not answer.is_alive and not may_have_ended:
            marks.add("exit_time")
        windows = [(w.since, w.until, w.lost) for w in certainty.loss_windows]
        given = {"source": certainty.source, "inferred": marks, "loss_windows": windows}
        if given != expected:
            yield f"{answer!r}: {given}, the model says {expected}"

    def _same(self, what: str, ask: Callable[[], Any], expected: Any) -> Iterator[str]:
        self.answers += 1
        try:
            given = ask()
        except DataNotFound:
            given = None
        if given != expected:
            yield f"{what}: {given!r}, the model says {expected!r}"

    def _not_started(self, process: Task, time: int) -> Iterator[str]:
        self.answers += 1
        try:
            self.ds.process(id_of(process), time)
        except NotStartedYet as error:
            if error.start_time != start(process):
                yield f"{process} has not started, but with another start"
        else:
            yield f"{process} is answered before its start"
