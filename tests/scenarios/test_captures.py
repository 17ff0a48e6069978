"""Captures that end and begin anew, and hosts that boot."""

from __future__ import annotations

import pytest

from proctree_ds import BeyondHorizon, DataSource, LossWindow, NeverSeen, ProcessTree
from proctree_ds.model import Header, Loss, Picture, Task

from .story import INIT, C, E, F, S, X, id_of, init, tree_of

P, CHILD = Task(25, 100), Task(30, 150)
FIRST = Header(1_000, "host", "boot", time=40)
AGAIN = Header(1_003, "host", "boot", time=900)
STORY = (FIRST, init(), F(INIT, P), X(P, "/bin/p", 200), F(P, CHILD), E(CHILD, 300))


def windows(ds: DataSource, task: Task, time: int) -> tuple[LossWindow, ...]:
    return ds.process(id_of(task), 1_000 + time).certainty.loss_windows


def test_case_41_a_restart_is_a_window_of_loss_and_the_living_stay() -> None:
    tree = tree_of([*STORY, AGAIN, S(P, 910, INIT, comm="p"), Picture(950, 905)])
    ds = DataSource(tree)
    (window,) = windows(ds, P, 900)
    assert window == LossWindow(1_300, 1_900, None)
    assert windows(ds, P, 910) == ()
    assert ds.process(id_of(P), 2_000).is_alive
    assert (tree.boot_time, tree.counters["host_lives"]) == (1_000, 1)
    assert tree.counters["processes"] == 3


def test_case_41_without_its_time_the_first_event_ends_the_window() -> None:
    tree = tree_of([*STORY, Header(1_000, "host", "boot"), E(CHILD, 300), C(P, 700, uid=1)])
    assert tree.losses == [Loss(700, 300)]
    tree.apply(C(P, 800, uid=2))
    assert tree.losses == [Loss(700, 300)]


def test_case_41_the_same_header_again_and_a_capture_that_overlaps_lose_nothing() -> None:
    tree = tree_of([*STORY, FIRST, Header(1_000, "host", "boot", time=250), FIRST])
    assert tree.losses == []


def test_a_header_that_comes_last_is_the_first() -> None:
    tree = tree_of([Header(), *STORY[1:], FIRST])
    assert (tree.boot_time, tree.boot_id, tree.losses) == (1_000, "boot", [])


def test_case_41_another_boot_is_another_life_of_the_host() -> None:
    other = Header(9_000_000, "host", "other", time=40)
    tree = tree_of([*STORY, Loss(310, 300), other, init(), F(INIT, Task(25, 120))])
    ds = DataSource(tree)
    assert tree.counters["host_lives"] == 2
    assert tree.boot_time == 9_000_000
    assert tree.losses == []
    for task in (P, CHILD):
        with pytest.raises(BeyondHorizon) as caught:
            ds.process(id_of(task), 1_250)
        assert caught.value.horizon == 9_000_000
    with pytest.raises(BeyondHorizon):
        ds.snapshot(1_250)
    with pytest.raises(NeverSeen):
        ds.process(12_345, 9_000_500)
    assert [info.pid for info in ds.snapshot(9_000_500)] == [1, 25]
    assert ds.process(id_of(INIT), 9_000_500).child_process_ids == {25: id_of(Task(25, 120))}


def test_another_boot_ends_the_wait_for_a_first_event() -> None:
    tree = ProcessTree()
    tree.apply_all([*STORY, Header(1_000, "host", "boot"), Header(5_000, "host", "other")])
    tree.apply_all([init(), F(INIT, P)])
    tree._check()
    assert tree.losses == []
