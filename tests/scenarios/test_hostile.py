"""Input that once gave a wrong answer, or cost too much: each must stay as it is here."""

from __future__ import annotations

import pytest

from proctree_ds import BeyondHorizon, DataNotFound, DataSource, ProcessTree
from proctree_ds.changelog import VERSIONS_LIMIT
from proctree_ds.model import Exit, Fork, Task

from .story import INIT, C, E, F, T, X, id_of, init, path_at, tellings, tree_of

P = Task(25, 100)


def test_a_second_fork_of_an_evicted_process_does_not_revive_it() -> None:
    tree = ProcessTree(process_cache=8, thread_cache=16)
    first = Task(600, 100)
    tree.apply_all([init(), F(INIT, first), E(first, 200)])
    for i in range(20):
        task = Task(700 + i, 300 + i)
        tree.apply_all([F(INIT, task), E(task, 400 + i)])
    tree.apply(F(INIT, first))
    tree._check()
    with pytest.raises(BeyondHorizon):
        DataSource(tree).process(id_of(first), 500)


def test_a_thread_asked_about_in_a_gap_is_no_wrong_answer() -> None:
    thread = Task(26, 110)
    tree = tree_of([init(), F(INIT, P), T(P, thread)])
    tree.apply_all(C(thread, 200 + i, leader=P, comm=f"n{i}") for i in range(200))
    ds = DataSource(tree)
    assert ds.thread(id_of(thread), 200).name == "n0"
    assert ds.thread(id_of(thread), 399).name == "n199"
    with pytest.raises(BeyondHorizon):
        ds.thread(id_of(thread), 210)


def test_a_child_keeps_what_it_inherited_from_a_version_that_was_dropped() -> None:
    child = Task(30, 251)
    tree = tree_of([init(), F(INIT, P)])
    tree.apply_all(X(P, f"/bin/x{i}", 200 + i) for i in range(52))
    tree.apply(F(P, child))
    tree.apply_all(X(P, f"/bin/x{i}", 200 + i) for i in range(52, 300))
    tree.apply(C(P, 150, cwd="/late"))
    tree._check()
    assert path_at(DataSource(tree), child, 300) == "/bin/x51"


def test_what_dropped_versions_stated_holds_on_after_a_late_event() -> None:
    tree = tree_of([init(), F(INIT, P), C(P, 200, comm="a"), C(P, 210, cwd="/x")])
    tree.apply_all(C(P, 220 + i, comm=f"n{i}") for i in range(3 * VERSIONS_LIMIT))
    tree.apply(C(P, 201, uid=7))
    info = DataSource(tree).process(id_of(P), 10**6)
    assert (info.cwd, info.name) == ("/x", f"n{3 * VERSIONS_LIMIT - 1}")


def test_starts_that_happen_to_be_whole_ticks_are_exact_all_the_same() -> None:
    first, second, child = Task(600, 100_000_000), Task(600, 103_000_000), Task(601, 104_000_000)
    for ds in tellings(
        init(), F(INIT, first), E(first, 102_000_000), F(INIT, second), F(first, child)
    ):
        assert ds.pid(600, 101_000_000).entity_id == id_of(first)
        assert ds.pid(600, 105_000_000).entity_id == id_of(second)
        assert ds.process(id_of(child), 105_000_000).original_parent_entity_id == id_of(first)


def test_a_circle_of_heirs_ends() -> None:
    one, two, child = Task(50, 100), Task(51, 100), Task(52, 110)
    events = (
        init(),
        F(INIT, one),
        F(INIT, two),
        F(one, child),
        C(one, 120, parent=two),
        C(two, 120, parent=one),
        E(one, 200),
        E(two, 200),
    )
    for ds in tellings(*events, orders=4):
        assert ds.process(id_of(child), 250).ppid in (1, None)
        assert ds.process(id_of(INIT), 250).child_process_ids.keys() <= {50, 51, 52}


def test_thousands_of_threads_that_end_together_are_settled_once() -> None:
    tree = tree_of([init(), F(INIT, P)])
    threads = [Task(1_000 + i, 1_000 + i) for i in range(4_000)]
    tree.apply_all(T(P, thread) for thread in threads)
    tree.apply(E(P, 9_000, group_exit=False))
    tree.apply_all(
        Exit(9_001 + i, thread, leader=P, exit_code=0, group_exit=i >= len(threads) - 3)
        for i, thread in enumerate(threads)
    )
    tree._check()
    assert DataSource(tree).process(id_of(P), 10**6).exit_time == 9_000 + len(threads)


def test_an_event_whose_leader_is_named_by_pid_alone() -> None:
    thread = Task(26, 110)
    for ds in tellings(init(), F(INIT, P), Fork(110, thread, leader=Task(25)), keep_order=True):
        assert ds.thread(id_of(thread), 120).process_entity_id == id_of(P)


def test_threads_that_a_limit_took_are_not_missing_in_silence() -> None:
    tree = ProcessTree(process_cache=4, thread_cache=8)
    tree.apply_all([init(), F(INIT, P)])
    threads = [Task(100 + i, 1_000 + 10 * i) for i in range(20)]
    for i, thread in enumerate(threads):
        tree.apply_all([T(P, thread), E(thread, 1_005 + 10 * i, leader=P)])
    tree._check()
    ds = DataSource(tree)
    assert "thread_ids" in ds.process(id_of(P), 1_002).certainty.dropped
    assert "thread_ids" not in ds.process(id_of(P), 5_000).certainty.dropped
    with pytest.raises(DataNotFound):
        ds.thread(id_of(threads[0]), 1_002)
    tree.apply(T(P, threads[0]))
    assert ds.process(id_of(P), 5_000).thread_ids == {25: id_of(P)}
