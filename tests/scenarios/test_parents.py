"""Parents: original ones and heirs, subreapers, namespaces, cycles and depth."""

from __future__ import annotations

from itertools import pairwise

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import Exit, Fork, Namespaces, Snapshot, Task

from .story import INIT, C, E, F, S, X, id_of, init, tellings, tree_of

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


def test_case_25_orphans_go_to_the_nearest_subreaper() -> None:
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
        assert ds.process(id_of(CHILD), 200).ppid == 10
        assert ds.process(id_of(orphan), 320).ppid == 1
        assert ds.process(id_of(A), 220).child_process_ids == {12: id_of(CHILD)}
        assert not ds.process(id_of(B), 150).is_subreaper


def test_case_26_in_a_pid_namespace_orphans_go_to_its_init() -> None:
    host, inside = Namespaces(pid=1), Namespaces(pid=2)
    ns_init, middle, orphan = Task(30, 100), Task(31, 110), Task(32, 120)
    events = (
        init(namespaces=host),
        F(INIT, A),
        Fork(100, ns_init, A, ns_pid=1, ns_tid=1, given={"namespaces": inside}),
        F(ns_init, middle),
        F(middle, orphan),
        E(middle, 200),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(orphan), 250).ppid == 30
        assert ds.process(id_of(ns_init), 250).ns_ppid == 0
        assert ds.process(id_of(ns_init), 250).ppid == 10


def test_case_27_the_named_heir_wins_and_an_unknown_one_falls_back() -> None:
    other = Task(20, 80)
    story = (init(), F(INIT, A), F(INIT, other), F(A, B), F(B, CHILD))
    for ds in tellings(*story, E(B, 200, reaper=other)):
        assert ds.process(id_of(CHILD), 250).ppid == 20
        assert ds.process(id_of(other), 250).child_process_ids == {12: id_of(CHILD)}
    for ds in tellings(*story, E(B, 200, reaper=Task(999, 90))):
        assert ds.process(id_of(CHILD), 250).ppid == 1


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
        assert [info.pid for info in ds.lineage(id_of(CHILD), 400)] == [12, 11, 10, 1]


def test_case_31_outside_of_the_namespace_the_lineage_is_whole() -> None:
    host, inside = Namespaces(pid=1), Namespaces(pid=2)
    entered = Task(40, 200)
    events = (
        init(namespaces=host),
        F(INIT, A),
        Fork(200, entered, A, ns_pid=77, ns_tid=77, given={"namespaces": inside}),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(entered), 250)
        assert (info.ns_pid, info.ns_ppid, info.ppid) == (77, 0, 10)
        assert [i.pid for i in ds.lineage(id_of(entered), 250)] == [40, 10, 1]


def test_case_36_a_picture_that_lists_children_first() -> None:
    rows = (
        S(CHILD, 900, B, comm="c"),
        S(B, 900, A, comm="b"),
        S(A, 900, INIT, comm="a"),
        S(INIT, 900, Task(0, 0), comm="init"),
    )
    for ds in tellings(*rows):
        lineage = ds.lineage(id_of(CHILD), 950)
        assert [info.name for info in lineage] == ["c", "b", "a", "init"]
        assert lineage.end == "root"
        assert lineage[1].certainty.source == "inferred"
    for ds in tellings(*rows[:3]):
        lineage = ds.lineage(id_of(CHILD), 950)
        assert [info.pid for info in lineage] == [12, 11, 10, 1]
        assert lineage[3].name is None
        assert lineage.end == "root"


def test_case_37_cycles_end_and_are_counted() -> None:
    one, two, three = Task(10, 100), Task(11, 100), Task(12, 100)
    for ring in ([one], [one, two], [one, two, three]):
        forks = [Fork(100, task, ring[i - 1]) for i, task in enumerate(ring)]
        tree = tree_of([init(), *forks])
        ds = DataSource(tree)
        for task in ring:
            assert len(ds.lineage(id_of(task), 200)) <= len(ring)
            assert ds.process(id_of(task), 200).child_process_ids.keys() <= {10, 11, 12}
        assert sum(tree.faults.values()) == 1


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


def test_case_36_and_35_a_picture_does_not_bring_the_dead_back() -> None:
    row = Snapshot(180, CHILD, {"comm": "c"}, parent=B)
    for ds in tellings(init(), F(INIT, B), F(B, CHILD), row, E(CHILD, 200)):
        assert ds.tree.counters["processes"] == 3
        assert not ds.process(id_of(CHILD), 200).is_alive
        assert ds.process(id_of(CHILD), 190).name == "c"
