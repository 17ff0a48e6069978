"""Parents, children and threads where events are few: each of these was wrong once."""

from __future__ import annotations

from proctree_ds import DataSource
from proctree_ds.model import Exec, Fork, Image, Namespaces, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings, tree_of

A, B, CHILD = Task(10, 60), Task(11, 100), Task(12, 150)
THREAD = Task(13, 110)
NS_INIT, MEMBER, ORPHAN = Task(40, 200), Task(41, 210), Task(42, 220)
CONTAINER = (
    init(namespaces=Namespaces(pid=1)),
    Fork(200, NS_INIT, INIT, ns_pid=1, given={"namespaces": Namespaces(pid=2)}),
    F(NS_INIT, MEMBER),
    F(MEMBER, ORPHAN),
)


def test_a_child_is_one_of_whoever_is_said_to_be_its_parent() -> None:
    events = (init(), F(INIT, A), F(A, B), F(B, CHILD), C(CHILD, 300, parent=A))
    for ds in tellings(*events):
        assert ds.process(id_of(A), 300).child_process_ids.keys() == {11, 12}
        assert ds.process(id_of(A), 299).child_process_ids.keys() == {11}
        assert ds.process(id_of(B), 300).child_process_ids == {}
    for ds in tellings(*events, E(A, 400, reaper=INIT)):
        assert ds.process(id_of(INIT), 400).child_process_ids.keys() == {11, 12}


def test_whoever_is_said_to_be_a_parent_lived_when_the_child_began() -> None:
    events = (init(), F(INIT, A), F(B, CHILD), C(CHILD, 300, parent=A))
    for ds in tellings(*events):
        node = ds.tree.process(id_of(A))
        assert node is not None
        assert node.last_sign_of_life == 150


def test_an_event_of_a_thread_tells_of_its_process() -> None:
    events = (init(), F(A, CHILD), C(THREAD, 300, leader=B, parent=A, comm="t"))
    for ds in tellings(*events):
        assert ds.process(id_of(B), 300).ppid == 10
    snapshot = S(THREAD, 300, A, leader=B, ns_pid=7, ns_tid=8, subreaper=True, comm="t")
    for ds in tellings(init(), snapshot):
        info = ds.process(id_of(B), 300)
        assert (info.ppid, info.ns_pid, info.is_subreaper) == (10, 7, True)
        assert ds.thread(id_of(THREAD), 300).ns_tid == 8


def test_a_thread_whose_fork_was_lost_has_what_its_process_had() -> None:
    for ds in tellings(init(), F(INIT, B), X(B, "/bin/b", 105), E(THREAD, 300, leader=B)):
        answer = ds.thread(id_of(THREAD), 200)
        assert (answer.name, answer.certainty.source) == ("b", "inferred")


def test_a_child_of_a_thread_is_in_the_session_of_the_process() -> None:
    events = (
        init(),
        F(INIT, B),
        T(B, THREAD),
        C(B, 120, session_id=11, cgroup="/x"),
        C(THREAD, 130, leader=B, uid=7, comm="t"),
        F(B, CHILD, creator=THREAD),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(CHILD), 200)
        assert (info.session_id, info.cgroup, info.uid, info.name) == (11, "/x", 7, "t")


def test_a_fork_without_a_parent_keeps_what_it_states() -> None:
    for ds in tellings(init(), Fork(150, CHILD, None, comm="alone", given={"cwd": "/srv"})):
        info = ds.process(id_of(CHILD), 150)
        assert (info.name, info.cwd, info.ppid) == ("alone", "/srv", None)


def test_the_thread_that_executes_gives_up_its_tid_for_certain() -> None:
    program = Exec(200, B, {"comm": "x", "image": Image(exec_time=200)}, old_tid=13)
    for ds in tellings(init(), F(INIT, B), T(B, THREAD), E(B, 199, group_exit=False), program):
        answer = ds.thread(id_of(THREAD), 200)
        assert (answer.exit_time, answer.certainty.inferred) == (200, ())


def test_a_thread_that_is_first_heard_of_after_an_exec_ended_with_it() -> None:
    for ds in tellings(init(), F(INIT, B), S(THREAD, 120, leader=B), X(B, "/bin/b", 200)):
        assert ds.process(id_of(B), 200).thread_ids == {11: id_of(B)}
        assert ds.thread(id_of(THREAD), 199).is_alive


def test_a_leader_that_a_look_finds_ended_is_seen_to_have_ended_before() -> None:
    events = (init(), F(INIT, B), T(B, THREAD))
    look = E(B, 300, None, group_exit=False, origin="iterator")
    for ds in tellings(*events, look):
        assert ds.process(id_of(B), 300).thread_ids == {13: id_of(THREAD)}
        assert ds.process(id_of(B), 300).is_alive
    for ds in tellings(*events, look, E(B, 250, group_exit=False)):
        assert ds.process(id_of(B), 250).thread_ids == {13: id_of(THREAD)}


def test_case_26_children_of_a_namespaces_init_stay_its_own_until_they_end() -> None:
    for ds in tellings(*CONTAINER, E(NS_INIT, 500), E(MEMBER, 510, None), E(ORPHAN, 520, None)):
        assert ds.process(id_of(MEMBER), 505).ppid == 40
        assert ds.process(id_of(ORPHAN), 505).ppid == 41
        assert ds.process(id_of(ORPHAN), 515).ppid == 40
        assert ds.process(id_of(INIT), 515).child_process_ids == {}


def test_case_26_who_was_killed_with_another_life_of_the_number_lives_on() -> None:
    second, later = Task(60, 600), Task(61, 610)
    events = (
        *CONTAINER,
        Fork(610, later, second, given={"namespaces": Namespaces(pid=2)}),
        Fork(600, second, INIT, ns_pid=1, given={"namespaces": Namespaces(pid=2)}),
        F(INIT, Task(40, 700)),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(later), 800).is_alive
        assert not ds.process(id_of(MEMBER), 800).is_alive


def test_an_heir_that_memory_has_forgotten_is_not_taken_for_alive() -> None:
    tree = tree_of([init(), F(INIT, A), C(A, 70, subreaper=True)], process_cache=6, thread_cache=9)
    tree.apply_all([F(A, B), F(B, CHILD), E(B, 200, reaper=A), E(A, 250, reaper=INIT)])
    for i in range(20):
        task = Task(100 + i, 1_000 + i)
        tree.apply_all([F(INIT, task), E(task, 1_500 + i)])
    tree._check()
    assert DataSource(tree).process(id_of(CHILD), 2_000).ppid in (1, None)


def test_a_process_that_is_its_own_pids_next_holder() -> None:
    for ds in tellings(init(), F(INIT, A), F(A, Task(10, 90))):
        assert ds.process(id_of(A), 90).exit_time == 90
        assert ds.process(id_of(Task(10, 90)), 95).original_parent_entity_id == id_of(A)
