"""What limits do to answers: what is dropped is counted and said, and the living stay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import pytest

from proctree_ds import BeyondHorizon, DataSource, FileInfo, ProcessTree
from proctree_ds.model import Event, Fork, Task

from .story import INIT, E, F, X, id_of, init, tree_of

P = Task(25, 100)


def many_children(count: int) -> Iterator[Event]:
    """Each has ended before the next one comes."""
    for i in range(count):
        child = Task(1_000 + i % 30_000, 1_000 + 10 * i)
        yield F(P, child)
        yield E(child, 1_005 + 10 * i)


def calls_of(ask: Callable[[], object]) -> int:
    """How many calls an answer takes, of Python and of C functions: what is not told by a clock."""
    count = 0

    def note(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    sys.setprofile(note)
    try:
        ask()
    finally:
        sys.setprofile(None)
    return count


def family(children: int) -> tuple[ProcessTree, Task]:
    """A tree in which `P` has had so many children, and has one more that lives."""
    tree = ProcessTree()
    tree.apply_all([init(), F(INIT, P), X(P, "/bin/p", 105)])
    tree.apply_all(many_children(children))
    last = Task(600, 10**9)
    tree.apply_all([F(P, last), X(last, "/bin/last", 10**9 + 1, parent=P)])
    tree._check()
    return tree, last


def costs(tree: ProcessTree, last: Task) -> list[int]:
    """What each kind of question about the parent and its living child takes."""
    ds = DataSource(tree)
    now = 10**10
    questions: list[Callable[[], object]] = []
    for task in (P, last):
        entity = id_of(task)
        questions += [partial(ask, entity, now) for ask in (ds.process, ds.thread, ds.lineage)]
        questions.append(partial(ds.pid, task.tid, now))
    for ask in questions:
        ask()  # the first one finds out what is noted for the next
    return [calls_of(ask) for ask in questions]


def test_case_39_a_parent_that_has_had_a_million_children() -> None:
    million = 1_000_000
    few, many = family(10), family(million)
    assert costs(*few) == costs(*many)

    tree, last = many
    ds = DataSource(tree)
    info = ds.process(id_of(P), 10**10)
    assert info.is_alive and info.name == "p"
    assert info.child_process_ids == {600: id_of(last)}
    kept = tree.counters["processes"] - 3
    assert info.forgotten_children == million - kept
    assert tree.counters["processes"] <= tree.census.process_cache
    assert tree.counters["evicted_processes"] == million + 3 - tree.counters["processes"]
    assert [i.pid for i in ds.lineage(id_of(last), 10**10)] == [600, 25, 1]
    with pytest.raises(BeyondHorizon):
        ds.process(id_of(Task(1_000, 1_000)), 1_001)


def test_case_39_ancestors_of_the_living_stay_however_long_ago_they_exited() -> None:
    tree = ProcessTree(process_cache=64, thread_cache=128)
    middle, worker = Task(30, 200), Task(31, 300)
    tree.apply_all([init(), F(INIT, P), X(P, "/bin/p", 105), F(P, middle), F(middle, worker)])
    tree.apply_all([E(middle, 400), *many_children(5_000)])
    tree._check()
    ds = DataSource(tree)
    lineage = ds.lineage(id_of(worker), 10**9)
    assert [info.pid for info in lineage] == [31, 30, 25, 1]
    assert lineage.end == "root"
    assert [info.name for info in lineage] == ["p", "p", "p", "init"]
    assert ds.process(id_of(worker), 10**9).ppid == 1
    assert ds.process(id_of(middle), 10**9).exit_time == 400
    assert tree.counters["processes"] == 64
    assert tree.counters["evicted_living_processes"] == 0


def test_what_a_child_inherited_outlives_the_parent_in_memory() -> None:
    tree = ProcessTree(process_cache=8, thread_cache=16)
    child = Task(30, 200)
    tree.apply_all([init(), F(INIT, P), X(P, "/bin/p", 110, cwd="/srv"), F(P, child), E(P, 300)])
    storm = [Task(100 + i, 1_000 + i) for i in range(100)]
    tree.apply_all(Fork(t.start_time or 0, t, child) for t in storm)
    tree._check()
    info = DataSource(tree).process(id_of(child), 5_000)
    assert (info.name, info.cwd, info.execution_binary) == ("p", "/srv", FileInfo("/bin/p"))


def test_the_least_recently_used_exited_process_goes_first() -> None:
    tree = tree_of([init()], process_cache=4, thread_cache=8)
    ds = DataSource(tree)
    a, b, c = (Task(10 + i, 100 + i) for i in range(3))
    for task in (a, b, c):
        tree.apply_all([F(INIT, task), E(task, 200)])
    assert not ds.process(id_of(a), 300).is_alive
    tree.apply(F(INIT, Task(20, 400)))
    tree._check()
    assert ds.process(id_of(a), 300).pid == 10
    with pytest.raises(BeyondHorizon):
        ds.process(id_of(b), 300)
