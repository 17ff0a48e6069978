"""What a loss leaves in doubt, field by field, and what makes it certain again."""

from __future__ import annotations

from proctree_ds import DataSource
from proctree_ds.model import Event, Fork, Header, Loss, Namespaces, Picture, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings

P, CHILD, OTHER = Task(25, 100), Task(30, 700), Task(40, 120)
LOSS = Loss(600, 500, 3)


def doubts(ds: DataSource, task: Task, time: int) -> set[str]:
    return set(ds.process(id_of(task), time).certainty.inferred)


def full(task: Task, time: int, parent: Task | None = INIT) -> Event:
    given = {"comm": "p", "cwd": "/", "uid": 0, "argv": ("p",), "executable": None}
    return S(task, time, parent, subreaper=False, **given)


STORY = (init(), F(INIT, P), X(P, "/bin/p", 200, uid=0, cwd="/"), LOSS)


def test_a_change_after_a_loss_makes_certain_what_it_states_and_nothing_else() -> None:
    for ds in tellings(*STORY, C(P, 650, comm="new")):
        assert doubts(ds, P, 499) == set()
        after = doubts(ds, P, 650)
        assert "name" not in after
        assert after >= {"cwd", "uid", "execution_binary", "cmd", "child_process_ids"}


def test_an_exec_after_a_loss_makes_its_threads_and_its_image_certain() -> None:
    for ds in tellings(*STORY, X(P, "/bin/q", 650)):
        after = doubts(ds, P, 650)
        assert not after & {"name", "execution_binary", "cmd", "exec_time", "thread_ids"}
        assert after >= {"cwd", "uid", "child_process_ids"}


def test_a_complete_picture_makes_relatives_certain() -> None:
    events = (*STORY, full(P, 720), full(INIT, 730, Task(0, 0)), Picture(800, 700))
    for ds in tellings(*events):
        assert doubts(ds, P, 799) >= {"child_process_ids", "thread_ids"}
        assert doubts(ds, P, 800) == {"exec_time"}  # no picture tells when it executed its image


def test_what_a_child_inherits_it_has_with_its_parents_doubts() -> None:
    for ds in tellings(*STORY, F(P, CHILD)):
        assert doubts(ds, CHILD, 750) >= {"name", "cwd", "execution_binary"}
        assert not doubts(ds, CHILD, 750) & {"child_process_ids", "thread_ids"}
        assert ds.process(id_of(CHILD), 750).certainty.loss_windows == ()
    for ds in tellings(*STORY, X(P, "/bin/q", 650), F(P, CHILD)):
        assert not doubts(ds, CHILD, 750) & {"name", "execution_binary"}
        assert "cwd" in doubts(ds, CHILD, 750)


def test_a_parent_may_have_died_unseen_until_something_is_heard_of_it() -> None:
    events = (*STORY[:2], F(P, OTHER), LOSS, C(OTHER, 650, comm="x"))
    for ds in tellings(*events):
        assert "parent_entity_id" in doubts(ds, OTHER, 650)
        assert "parent_entity_id" not in doubts(ds, OTHER, 499)
    for ds in tellings(*events, C(P, 700, comm="y")):
        assert "parent_entity_id" not in doubts(ds, OTHER, 650)
    for ds in tellings(*events, E(P, 900)):
        assert "parent_entity_id" not in doubts(ds, OTHER, 650)


def test_a_leader_that_ended_may_be_back_by_an_exec_that_was_lost() -> None:
    thread = Task(26, 110)
    events = (*STORY, T(P, thread), E(P, 550, group_exit=False), full(P, 720), Picture(800, 700))
    for ds in tellings(*events, C(thread, 850, leader=P, comm="t")):
        assert "thread_ids" in doubts(ds, P, 850)
        assert "exit_time" in ds.thread(id_of(P), 850).certainty.inferred


def test_a_flag_that_nobody_spoke_of_is_not_known() -> None:
    for ds in tellings(init(), F(INIT, P), C(P, 300, subreaper=True), LOSS):
        assert ds.process(id_of(INIT), 400).is_subreaper is None
        assert ds.process(id_of(P), 200).is_subreaper is False
        assert ds.process(id_of(P), 400).is_subreaper is True
        assert "is_subreaper" in doubts(ds, P, 650)


def test_before_the_first_picture_is_complete_relatives_may_be_missing() -> None:
    header = Header(boot_id="b", time=400)
    for ds in tellings(header, full(P, 450), full(INIT, 460, Task(0, 0)), Picture(480, 410)):
        assert doubts(ds, P, 470) >= {"child_process_ids", "thread_ids"}
        assert not doubts(ds, P, 480) & {"child_process_ids", "thread_ids"}


def test_who_was_killed_with_a_namespace_may_have_been_a_moment_longer() -> None:
    ns_init, member, child = Task(40, 200), Task(41, 210), Task(42, 220)
    events = (
        init(namespaces=Namespaces(pid=1)),
        F(INIT, P),
        Fork(200, ns_init, P, ns_pid=1, given={"namespaces": Namespaces(pid=2)}),
        F(ns_init, member),
        F(member, child),
        E(ns_init, 500),
        E(member, 520, None, exit_signal=9),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(member), 510).child_process_ids == {}
        assert "child_process_ids" in doubts(ds, member, 510)
        assert doubts(ds, child, 510) == {"exit_time"}
