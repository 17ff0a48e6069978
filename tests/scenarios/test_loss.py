"""What was lost, what was there before, and what a picture can and cannot tell."""

from __future__ import annotations

import pytest

from proctree_ds import LossWindow, ProcessTree
from proctree_ds.model import CLOCK_TICK_NS, Loss, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, path_at, tellings

A, B, CHILD = Task(10, 60), Task(11, 100), Task(12, 150)


def test_case_33_a_process_whose_fork_was_lost_has_the_parent_that_its_exec_names() -> None:
    parent, child = Task(40, 60), Task(41, 100)
    for ds in tellings(
        init(), F(INIT, parent), X(parent, "/bin/p", 70), X(child, "/bin/c", 150, parent=parent)
    ):
        info = ds.process(id_of(child), 160)
        assert (info.ppid, info.start_time, info.name) == (40, 100, "c")
        assert info.certainty.source == "event"
        assert info.certainty.inferred == ("original_parent_entity_id",)
        assert not info.certainty.is_certain
        early = ds.process(id_of(child), 120)
        assert (path_at(ds, child, 120), early.ppid) == ("/bin/p", 40)
        assert early.certainty.source == "inferred"
        assert "attributes" in early.certainty.inferred
        assert ds.process(id_of(parent), 160).child_process_ids == {41: id_of(child)}
        assert [i.pid for i in ds.lineage(id_of(child), 160)] == [41, 40, 1]


def test_case_33_a_change_or_an_exit_alone_makes_a_node_too() -> None:
    one, two = Task(41, 100), Task(42, 110)
    for ds in tellings(init(), F(INIT, A), C(one, 150, parent=A, uid=7), E(two, 200, 3, parent=A)):
        changed, gone = ds.process(id_of(one), 160), ds.process(id_of(two), 200)
        assert (changed.uid, changed.ppid, changed.start_time) == (7, 10, 100)
        assert (gone.exit_code, gone.start_time, gone.original_parent_entity_id) == (
            3,
            110,
            id_of(A),
        )


def test_case_35_a_process_that_starts_during_the_first_picture_is_one_node() -> None:
    thread = Task(13, 185)
    events = (
        init(),
        F(INIT, A),
        F(A, B, at=103),
        S(B, 105, A, comm="a", uid=0),
        X(B, "/bin/b", 107, parent=A, uid=1000),
        S(B, 110, A, comm="b", uid=1000),
        T(B, thread),
        S(thread, 190, leader=B, comm="b"),
    )
    for ds in tellings(*events):
        assert (ds.tree.counters["processes"], ds.tree.counters["threads"]) == (3, 4)
        assert [ds.process(id_of(B), t).name for t in (105, 106, 107, 110)] == ["a", "a", "b", "b"]
        assert [ds.process(id_of(B), t).uid for t in (105, 107, 110)] == [0, 1000, 1000]
        assert ds.process(id_of(B), 200).certainty.inferred == ()
        assert ds.process(id_of(B), 200).thread_ids.keys() == {11, 13}
        assert ds.process(id_of(A), 110).child_process_ids == {11: id_of(B)}


def test_case_35_a_proc_row_of_a_process_that_starts_meanwhile_is_the_same_node() -> None:
    start = 7 * CLOCK_TICK_NS + 77
    task = Task(11, start)
    row = S(Task(11, 7 * CLOCK_TICK_NS), start + 500, INIT, origin="procfs", comm="row")
    for ds in tellings(init(), F(INIT, task), row, X(task, "/bin/x", start + 900)):
        assert ds.tree.counters["processes"] == 2
        assert ds.pid(11, start + 500).entity_id == id_of(task)
        assert [ds.process(id_of(task), start + t).name for t in (500, 900)] == ["row", "x"]


@pytest.mark.parametrize("origin", ["iterator", "procfs"])
def test_case_35_a_picture_older_than_an_exit_does_not_bring_the_dead_back(origin: str) -> None:
    tick = CLOCK_TICK_NS
    child, thread = Task(12, 5 * tick), Task(13, 6 * tick)
    events = (
        init(),
        F(INIT, B),
        F(B, child),
        T(child, thread),
        S(child, 8 * tick, B, comm="c", origin=origin),
        S(thread, 8 * tick, leader=child, comm="t", origin=origin),
        E(thread, 9 * tick, leader=child),
        E(child, 10 * tick, 4),
    )
    for ds in tellings(*events):
        assert ds.tree.counters["processes"] == 3
        gone = ds.process(id_of(child), 10 * tick)
        assert (gone.is_alive, gone.exit_code, gone.exit_time) == (False, 4, 10 * tick)
        assert not ds.thread(id_of(thread), 9 * tick).is_alive
        assert ds.process(id_of(child), 10 * tick - 1).is_alive
        assert ds.process(id_of(child), 9 * tick).name == "c"
        assert ds.process(id_of(B), 10 * tick).child_process_ids == {}


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
        for parent, child in ((INIT, A), (A, B), (B, CHILD)):
            assert ds.process(id_of(parent), 950).child_process_ids == {child.tid: id_of(child)}
        assert (ds.process(id_of(INIT), 950).ppid, ds.tree.counters["processes"]) == (0, 4)


@pytest.mark.parametrize("parent", [None, Task(1)], ids=["not named", "named by its pid alone"])
def test_case_36_without_init_the_parent_is_unknown(parent: Task | None) -> None:
    for ds in tellings(S(CHILD, 900, B, comm="c"), S(B, 900, A, comm="b"), S(A, 900, parent)):
        lineage = ds.lineage(id_of(CHILD), 950)
        assert [info.pid for info in lineage] == [12, 11, 10]
        assert lineage.end == "unknown_parent"
        assert (lineage[-1].ppid, lineage[-1].parent_entity_id) == (None, None)
        assert ds.process(id_of(A), 950).original_parent_entity_id is None


def test_case_36_of_an_init_that_is_only_named_nothing_is_known() -> None:
    for ds in tellings(S(B, 900, A, comm="b"), S(A, 900, INIT, comm="a")):
        lineage = ds.lineage(id_of(B), 950)
        assert [(info.pid, info.name) for info in lineage] == [(11, "b"), (10, "a"), (1, None)]
        assert not lineage[-1].certainty.is_certain
        assert lineage[-1].uid is None


def test_case_38_answers_that_touch_a_loss_say_so() -> None:
    early, late, gone, thread = Task(30, 100), Task(31, 700), Task(32, 100), Task(33, 160)
    window = LossWindow(500, 600, 17)
    events = (
        init(),
        F(INIT, early),
        X(early, "/bin/e", 150),
        T(early, thread),
        F(INIT, gone),
        E(gone, 400),
        Loss(600, 500, 17),
        F(early, late),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(early), 499).certainty.loss_windows == ()
        assert ds.process(id_of(early), 499).certainty.is_certain
        for time in (500, 550, 600, 900):
            info = ds.process(id_of(early), time)
            assert info.certainty.loss_windows == (window,)
            assert not info.certainty.is_certain
            assert ds.thread(id_of(thread), time).certainty.loss_windows == (window,)
        assert ds.thread(id_of(thread), 499).certainty.loss_windows == ()
        assert ds.process(id_of(gone), 900).certainty.loss_windows == ()
        lineage = ds.lineage(id_of(late), 900)
        windows = [info.certainty.loss_windows for info in lineage]
        assert windows == [(), (window,), ()]


def test_case_38_a_picture_after_the_loss_makes_certain_again() -> None:
    for ds in tellings(init(), F(INIT, A), Loss(600, 500, 17), S(A, 650, INIT, comm="x")):
        assert ds.process(id_of(A), 620).certainty.loss_windows != ()
        assert ds.process(id_of(A), 650).certainty.loss_windows == ()


def test_case_38_several_windows_are_told_apart() -> None:
    events = (init(), F(INIT, A), Loss(300, 200, 1), X(A, "/bin/a", 400), Loss(600, 500))
    for ds in tellings(*events):
        touched = [
            tuple(w.until for w in ds.process(id_of(A), t).certainty.loss_windows)
            for t in (150, 250, 399, 400, 499, 550, 900)
        ]
        assert touched == [(), (300,), (300,), (), (), (600,), (600,)]
        assert ds.process(id_of(A), 900).certainty.loss_windows[0].lost is None


def test_uncounted_windows_that_touch_are_one_in_any_order() -> None:
    """A source that only looks now and then loses sight all the time, and fills no memory."""
    windows = [Loss(10 * n + 10, 10 * n) for n in range(1_000)]
    for story in (windows, windows[::-1], windows[::2] + windows[1::2]):
        tree = ProcessTree()
        tree.apply_all(story)
        tree._check()
        assert tree.losses == [Loss(10_000, 0)]
    tree = ProcessTree()
    tree.apply_all([Loss(20, 10, 3), Loss(30, 20), Loss(50, 40), Loss(60, 50, 1)])
    assert tree.losses == [Loss(20, 10, 3), Loss(30, 20), Loss(50, 40), Loss(60, 50, 1)]
