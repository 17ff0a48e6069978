"""Threads: whose end is whose, execs from any thread, creators."""

from __future__ import annotations

from proctree_ds.model import Task

from .story import INIT, E, F, T, X, id_of, init, path_at, tellings

P, LEADER_END = Task(25, 100), 300
T1, T2 = Task(26, 110), Task(27, 120)


def test_case_17_the_process_lives_until_its_last_thread_exits() -> None:
    for ds in tellings(init(), F(INIT, P), T(P, T1), E(T1, 200, leader=P), E(P, 300)):
        assert ds.process(id_of(P), 250).is_alive
        assert ds.process(id_of(P), 150).thread_ids == {25: id_of(P), 26: id_of(T1)}
        assert ds.process(id_of(P), 250).thread_ids == {25: id_of(P)}
        assert ds.thread(id_of(T1), 199).is_alive
        assert ds.thread(id_of(T1), 200).exit_time == 200
        assert ds.process(id_of(P), 299).exit_time is None
        gone = ds.process(id_of(P), 300)
        assert (gone.is_alive, gone.exit_time, gone.thread_ids) == (False, 300, {})


def test_case_17_a_thread_that_ends_last_ends_the_process() -> None:
    events = (
        init(),
        F(INIT, P),
        T(P, T1),
        T(P, T2),
        E(T1, 200, leader=P, group_exit=False),
        E(P, 250, 0, group_exit=False),
        E(T2, 300, 6, leader=P, group_exit=True),
    )
    for ds in tellings(*events):
        assert [ds.process(id_of(P), t).is_alive for t in (200, 250, 299, 300)] == [True] * 3 + [
            False
        ]
        gone = ds.process(id_of(P), 300)
        assert (gone.exit_time, gone.exit_code) == (300, 6)


def test_case_18_the_leader_exits_first() -> None:
    events = (
        init(),
        F(INIT, P),
        T(P, T1),
        E(P, 200, 1, group_exit=False),
        E(T1, 5_000_000_200, 9, leader=P, group_exit=True),
    )
    for ds in tellings(*events):
        for time in (200, 3_000_000_000, 5_000_000_199):
            between = ds.process(id_of(P), time)
            assert (between.is_alive, between.exit_time, between.exit_code) == (True, None, None)
            assert between.thread_ids == {26: id_of(T1)}
            assert not ds.thread(id_of(P), time).is_alive
            assert ds.pid(25, time).entity_id == id_of(P)
        gone = ds.process(id_of(P), 5_000_000_200)
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, 5_000_000_200, 9)


def test_case_18_without_flags_the_threads_that_are_known_decide() -> None:
    for ds in tellings(init(), F(INIT, P), T(P, T1), E(P, 200), E(T1, 400, leader=P)):
        assert ds.process(id_of(P), 399).is_alive
        assert ds.process(id_of(P), 400).exit_time == 400


def test_case_19_an_exec_by_another_thread() -> None:
    events = (
        init(),
        F(INIT, P),
        X(P, "/bin/old", 105),
        T(P, T1),
        T(P, T2),
        E(P, 198, group_exit=False),
        X(P, "/bin/new", 200, old_tid=27),
        E(P, 300),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(P), 200)
        assert (info.pid, info.start_time, info.is_alive) == (25, 100, True)
        assert path_at(ds, P, 199) == "/bin/old"
        assert path_at(ds, P, 200) == "/bin/new"
        assert info.thread_ids == {25: id_of(P)}
        assert ds.thread(id_of(T1), 200).exit_time == 200
        assert ds.thread(id_of(T2), 200).exit_time == 200
        assert ds.thread(id_of(T2), 199).is_alive
        assert not ds.thread(id_of(P), 199).is_alive
        assert ds.thread(id_of(P), 200).is_alive
        assert ds.process(id_of(P), 199).thread_ids == {26: id_of(T1), 27: id_of(T2)}
        assert ds.process(id_of(P), 250).ppid == 1
        assert ds.process(id_of(P), 300).exit_time == 300


def test_case_20_a_sibling_had_forked_before() -> None:
    child = Task(100, 150)
    events = (
        init(),
        F(INIT, P),
        T(P, T1),
        T(P, T2),
        F(P, child, creator=T1),
        E(P, 198, group_exit=False),
        X(P, "/bin/new", 200, old_tid=27),
    )
    for ds in tellings(*events):
        for time in (150, 199, 200, 250):
            info = ds.process(id_of(child), time)
            assert info.parent_entity_id == info.original_parent_entity_id == id_of(P)
            assert info.creator_entity_id == id_of(T1)
            assert path_at(ds, child, time) is None
        assert ds.process(id_of(P), 250).child_process_ids == {100: id_of(child)}


def test_case_21_the_leader_has_exited_and_a_sibling_executes() -> None:
    events = (
        init(),
        F(INIT, P),
        T(P, T1),
        E(P, 150, group_exit=False),
        X(P, "/bin/new", 200, old_tid=26),
        E(P, 300, 4),
    )
    for ds in tellings(*events):
        for time in (150, 199, 200, 299):
            assert ds.process(id_of(P), time).is_alive
        assert ds.process(id_of(P), 199).thread_ids == {26: id_of(T1)}
        assert ds.process(id_of(P), 200).thread_ids == {25: id_of(P)}
        assert ds.thread(id_of(T1), 200).exit_time == 200
        assert [ds.thread(id_of(P), t).is_alive for t in (149, 199, 200)] == [True, False, True]
        gone = ds.process(id_of(P), 300)
        assert (gone.exit_time, gone.exit_code) == (300, 4)
        assert path_at(ds, P, 250) == "/bin/new"


def test_case_21_the_exec_is_lost_and_the_leader_has_exited_twice() -> None:
    for ds in tellings(init(), F(INIT, P), E(P, 150, group_exit=False), E(P, 300, 4)):
        assert ds.process(id_of(P), 299).is_alive
        assert ds.thread(id_of(P), 299).exit_time == 150
        assert ds.process(id_of(P), 300).exit_time == 300
        assert ds.thread(id_of(P), 300).exit_time == 300


def test_case_22_a_thread_forks() -> None:
    child = Task(100, 150)
    for ds in tellings(init(), F(INIT, P), T(P, T1), F(P, child, creator=T1)):
        info = ds.process(id_of(child), 200)
        assert (info.parent_entity_id, info.creator_entity_id) == (id_of(P), id_of(T1))


def test_case_22_clone_parent_gives_the_callers_parent() -> None:
    grandparent, child = Task(10, 60), Task(100, 150)
    events = (
        init(),
        F(INIT, grandparent),
        X(grandparent, "/bin/gp", 65),
        F(grandparent, P),
        X(P, "/bin/p", 120),
        F(grandparent, child, creator=P),
        X(grandparent, "/bin/later", 160),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(child), 200)
        assert (info.ppid, info.creator_entity_id) == (10, id_of(P))
        assert info.original_parent_entity_id == id_of(grandparent)
        assert path_at(ds, child, 200) == "/bin/p"
        assert 100 in ds.process(id_of(grandparent), 200).child_process_ids
        assert 100 not in ds.process(id_of(P), 200).child_process_ids
        ancestor = ds.lineage(id_of(child), 200)[1]
        assert ancestor.execution_binary is not None
        assert ancestor.execution_binary.path == "/bin/gp"


def test_case_23_a_vfork_child_ends_before_its_parent_goes_on() -> None:
    child = Task(100, 150)
    events = (
        init(),
        F(INIT, P),
        X(child, "/bin/c", 160, parent=P),
        E(child, 170, 3),
        F(P, child, at=180),
    )
    for ds in tellings(*events):
        for time in (170, 180, 10**6):
            info = ds.process(id_of(child), time)
            assert (info.is_alive, info.exit_time, info.exit_code) == (False, 170, 3)
            assert info.parent_entity_id == id_of(P)
        assert ds.process(id_of(child), 169).is_alive
        assert (path_at(ds, child, 159), path_at(ds, child, 160)) == (None, "/bin/c")
        assert ds.process(id_of(P), 200).child_process_ids == {}
        assert ds.tree.faults == {}
