"""One capture after another: of the same boot, with a hole in between, or of another boot.

A header stands where it came; what comes between two of them may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from proctree_ds import DataNotFound, DataSource, LossWindow
from proctree_ds.model import Event, Header, Task

from .story import INIT, E, F, S, X, id_of, init, through_a_log, tree_of

BOOT = 1_000_000_000
A, GONE, NEW = Task(10, 60), Task(11, 100), Task(12, 260)
FIRST = Header(BOOT, "host", "boot one", time=40)
SECOND = Header(BOOT + 3, "host", "boot one", time=300)
OTHER_BOOT = Header(2 * BOOT, "host", "boot two", time=40)

BEFORE: tuple[Event, ...] = (
    init(uid=0),
    F(INIT, A, uid=0),
    X(A, "/bin/a", 70),
    F(A, GONE),
    X(GONE, "/bin/gone", 150),
)
AFTER: tuple[Event, ...] = (
    S(INIT, 310, Task(0, 0), comm="init", ns_pid=1),
    S(A, 310, INIT, comm="a", uid=0),
    S(NEW, 310, A, comm="new", uid=0),
    X(A, "/bin/later", 400),
)


def captures(*parts: tuple[Header, tuple[Event, ...]]) -> Iterator[DataSource]:
    """The captures one after the other, each told in several orders, and through an event log."""
    random = Random(len(parts))
    shuffled = [[header, *random.sample(events, len(events))] for header, events in parts]
    for stories in (
        [[header, *events] for header, events in parts],
        [[header, *events[::-1]] for header, events in parts],
        shuffled,
        [[header, *(event for event in events for _ in range(2))] for header, events in parts],
    ):
        whole = [event for story in stories for event in story]
        yield DataSource(tree_of(whole))
        yield DataSource(tree_of(through_a_log(whole)))


def test_case_41_who_still_lives_is_the_same_after_a_restart() -> None:
    for ds in captures((FIRST, BEFORE), (SECOND, AFTER)):
        names = [ds.process(id_of(A), BOOT + t).name for t in (70, 250, 310, 400)]
        assert names == ["a", "a", "a", "later"]
        assert ds.process(id_of(A), BOOT + 310).start_time == BOOT + 60
        assert ds.pid(10, BOOT + 70).entity_id == ds.pid(10, BOOT + 400).entity_id == id_of(A)
        assert ds.tree.counters["processes"] == 4
        born = ds.process(id_of(NEW), BOOT + 310)
        assert (born.ppid, born.name, born.start_time) == (10, "new", BOOT + 260)
        assert [i.name for i in ds.lineage(id_of(NEW), BOOT + 400)] == ["new", "a", "init"]


def test_case_41_between_two_captures_is_a_window_of_loss() -> None:
    window = LossWindow(BOOT + 150, BOOT + 300, None)
    for ds in captures((FIRST, BEFORE), (SECOND, AFTER)):
        touched = [
            ds.process(id_of(A), BOOT + t).certainty.loss_windows
            for t in (149, 151, 250, 300, 310, 400)
        ]
        assert touched == [(), (window,), (window,), (window,), (), ()]
        gone = ds.process(id_of(GONE), BOOT + 250).certainty
        assert gone.loss_windows == (window,)
        assert not gone.is_certain


def test_case_41_another_boot_is_another_life_of_the_host() -> None:
    task = Task(10, 60)
    second_life = (
        S(INIT, 50, Task(0, 0), comm="init", ns_pid=1),
        S(task, 80, INIT, comm="other", uid=7),
    )
    for ds in captures((FIRST, BEFORE), (OTHER_BOOT, second_life)):
        for time in (60, 80, 10**6):
            info = ds.process(id_of(task), 2 * BOOT + time)
            assert (info.name, info.uid, info.execution_binary) == ("other", 7, None)
            assert info.start_time == 2 * BOOT + 60
            assert info.child_process_ids == {}
            assert info.certainty.loss_windows == ()
        assert {i.pid for i in ds.snapshot(2 * BOOT + 100)} == {1, 10}
        with pytest.raises(DataNotFound):
            ds.process(id_of(GONE), 2 * BOOT + 150)
        with pytest.raises(DataNotFound):
            ds.pid(11, 2 * BOOT + 150)


def test_case_41_the_end_of_a_process_after_a_restart_is_its_own() -> None:
    for ds in captures((FIRST, BEFORE), (SECOND, (*AFTER, E(A, 500, 3)))):
        gone = ds.process(id_of(A), BOOT + 500)
        assert (gone.is_alive, gone.exit_code, gone.exit_time) == (False, 3, BOOT + 500)
        assert ds.process(id_of(A), BOOT + 499).is_alive
