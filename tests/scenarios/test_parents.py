"""Parents: original ones and heirs, subreapers, cycles and depth."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest

from proctree_ds import DataNotFound, DataSource, ProcessTree
from proctree_ds.model import Event, Exit, Fork, Task

from .story import INIT, C, E, F, T, X, id_of, init, tellings, tree_of

A, B, CHILD = Task(10, 60), Task(11, 100), Task(12, 150)


@pytest.mark.parametrize("reaper", [INIT, None], ids=["named", "worked out"])
def test_case_24_double_fork(reaper: Task | None) -> None:
    for ds in tellings(init(), F(INIT, A), F(A, B), F(B, CHILD), E(B, 200, reaper=reaper)):
        before, after = ds.process(id_of(CHILD), 199), ds.process(id_of(CHILD), 200)
        assert before.parent_entity_id == id_of(B)
        assert (after.parent_entity_id, after.ppid) == (id_of(INIT), 1)
        for info in (before, after):
            assert info.creator_entity_id == info.original_parent_entity_id == id_of(B)
        assert ds.process(id_of(INIT), 200).child_process_ids.keys() == {10, 12}
        assert ds.process(id_of(INIT), 199).child_process_ids.keys() == {10}
        pids = [info.pid for info in ds.lineage(id_of(CHILD), 300)]
        assert pids == [12, 11, 10, 1]
        changes = [e.time for e in ds.timeline(id_of(CHILD)) if e.kind == "parent"]
        assert changes == [200]


def test_case_25_orphans_go_to_the_nearest_subreaper_until_it_gives_the_flag_up() -> None:
    other, orphan = Task(20, 300), Task(21, 310)
    events = (
        init(),
        F(INIT, A),
        C(A, 70, subreaper=True),
        F(A, B),
        F(B, CHILD),
        E(B, 200),
        C(A, 250, subreaper=False),
        F(A, other),
        F(other, orphan),
        E(other, 320),
    )
    for ds in tellings(*events):
        assert [ds.process(id_of(CHILD), t).ppid for t in (199, 200, 10**6)] == [11, 10, 10]
        assert [ds.process(id_of(orphan), t).ppid for t in (319, 320)] == [20, 1]
        assert ds.process(id_of(A), 220).child_process_ids == {12: id_of(CHILD)}
        assert ds.process(id_of(INIT), 320).child_process_ids.keys() == {10, 21}
        flags = [ds.process(id_of(A), t).is_subreaper for t in (69, 70, 249, 250)]
        assert flags == [False, True, True, False]


def test_case_25_threads_share_the_flag_and_an_exec_keeps_it() -> None:
    thread, orphan = Task(13, 65), Task(21, 310)
    middle = Task(20, 300)
    events = (
        init(),
        F(INIT, A),
        T(A, thread),
        C(thread, 70, leader=A, subreaper=True),
        F(A, B),
        F(B, CHILD),
        E(B, 200),
        E(thread, 210, leader=A),
        X(A, "/bin/a", 250),
        F(A, middle),
        F(middle, orphan),
        E(middle, 320),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(A), 70).is_subreaper
        assert ds.process(id_of(CHILD), 200).ppid == 10
        assert ds.process(id_of(A), 250).is_subreaper
        assert ds.process(id_of(orphan), 320).ppid == 10


def test_case_25_a_fork_does_not_inherit_the_flag() -> None:
    between, orphan = Task(20, 110), Task(21, 120)
    events = (
        init(),
        F(INIT, A),
        C(A, 70, subreaper=True),
        F(A, B),
        F(B, between),
        F(between, orphan),
        E(between, 200),
    )
    for ds in tellings(*events):
        assert not ds.process(id_of(B), 150).is_subreaper
        assert ds.process(id_of(orphan), 200).ppid == 10
        assert ds.process(id_of(B), 200).child_process_ids == {}


def test_case_27_the_named_heir_wins_and_an_unknown_one_falls_back() -> None:
    other = Task(20, 80)
    story = (init(), F(INIT, A), F(INIT, other), F(A, B), F(B, CHILD))
    for ds in tellings(*story, C(A, 70, subreaper=True), E(B, 200, reaper=other)):
        assert [ds.process(id_of(CHILD), t).ppid for t in (199, 200, 250)] == [11, 20, 20]
        assert ds.process(id_of(other), 250).child_process_ids == {12: id_of(CHILD)}
    for ds in tellings(*story, E(B, 200, reaper=Task(999, 90))):
        assert ds.process(id_of(CHILD), 250).ppid == 1
        assert ds.process(id_of(INIT), 250).child_process_ids.keys() == {10, 12, 20}
    subreaper = C(A, 70, subreaper=True)
    for ds in tellings(*story, subreaper, E(B, 200, reaper=Task(999, 90))):
        assert ds.process(id_of(CHILD), 250).ppid == 10


def test_case_28_two_heirs_one_after_the_other() -> None:
    events = (
        init(),
        F(INIT, A),
        C(A, 70, subreaper=True),
        F(A, B),
        F(B, CHILD),
        E(B, 200, reaper=A),
        E(A, 300, reaper=INIT),
    )
    for ds in tellings(*events):
        parents = [ds.process(id_of(CHILD), t).ppid for t in (199, 200, 299, 300)]
        assert parents == [11, 10, 10, 1]
        changes = [e for e in ds.timeline(id_of(CHILD)) if e.kind == "parent"]
        assert [(e.time, e.process.ppid) for e in changes] == [(200, 10), (300, 1)]
        for time in (150, 200, 300, 400):
            assert [info.pid for info in ds.lineage(id_of(CHILD), time)] == [12, 11, 10, 1]
            assert ds.process(id_of(CHILD), time).original_parent_entity_id == id_of(B)


def ask_everything(ds: DataSource, task: Task, *instants: int) -> None:
    """Every question there is about a process: each of them has to come to an end."""
    for time in instants:
        ds.process(id_of(task), time).to_dict()
        ds.thread(id_of(task), time).to_dict()
        ds.lineage(id_of(task), time)
        ds.children(id_of(task), time)
        ds.subtree(id_of(task), time)
        with suppress(DataNotFound):
            ds.pid(task.tid, time)
        ds.snapshot(time)
        ds.diff(50, time)
    ds.timeline(id_of(task))


@pytest.mark.parametrize("length", [1, 2, 3, 1_000])
def test_case_37_cycles_end_and_are_counted(length: int) -> None:
    ring = [Task(1_000 + i, 100) for i in range(length)]
    forks = [Fork(100, task, ring[i - 1]) for i, task in enumerate(ring)]
    first: list[Event] = [init()]
    for events in ([*first, *forks], [*reversed(forks), *first], [*first, *forks, *forks]):
        tree = ProcessTree()
        tree.apply_all(events)
        tree._check()
        ds = DataSource(tree)
        for task in ring[:3]:
            assert len(ds.lineage(id_of(task), 200)) <= length
            assert ds.process(id_of(task), 200).child_process_ids.keys() <= {t.tid for t in ring}
            ask_everything(ds, task, 100, 150, 300)
        assert tree.faults["cycle"] >= 1


def test_case_37_a_cycle_of_later_parents_ends() -> None:
    one, two, three = Task(10, 60), Task(11, 70), Task(12, 80)
    ring = (one, two, three)
    events: tuple[Event, ...] = (
        init(),
        *(F(INIT, task) for task in ring),
        *(C(task, 90, parent=ring[i - 1]) for i, task in enumerate(ring)),
        C(one, 95, parent=one),
        *(E(task, 200 + i) for i, task in enumerate(ring)),
    )
    for order in (events, events[::-1]):
        tree = tree_of(order)
        ds = DataSource(tree)
        ask_everything(ds, one, 100, 150)
        # Nobody can say who takes over when all of the circle have ended: a long way round.
        assert ds.process(id_of(two), 300).ppid in (1, 10, 11, 12, None)
        assert len(ds.lineage(id_of(three), 300)) == 2
        assert tree.faults["cycle"] >= 1


def test_case_37_a_parent_younger_than_its_child_is_refused() -> None:
    tree = tree_of([init(), F(Task(600, 900), Task(700, 200))])
    assert tree.faults == {"parent_younger_than_child": 1}
    assert DataSource(tree).process(id_of(Task(700, 200)), 300).ppid is None


def test_case_40_a_chain_ten_thousand_deep() -> None:
    depth = 10_000
    tree = ProcessTree()
    tree.apply(init())
    tasks = [INIT, *(Task(2 + i, 100 + i) for i in range(depth))]
    tree.apply_all(Fork(100 + i, task, parent) for i, (parent, task) in enumerate(pairwise(tasks)))
    tree.apply(X(INIT, "/sbin/init", 60))
    tree._check()
    ds = DataSource(tree)
    last = id_of(tasks[-1])
    for max_depth, length in ((0, 1), (1, 2), (5, 6), (None, depth + 1)):
        lineage = ds.lineage(last, 10**6, max_depth=max_depth)
        assert len(lineage) == length
        assert lineage.end == ("root" if max_depth is None else "max_depth")
    assert ds.process(last, 10**6).execution_binary is not None
    tree.apply_all(Exit(200_000 + i, task) for i, task in enumerate(tasks[1:-1]))
    assert ds.process(last, 10**6).ppid == 1
    tree._check()
