"""Who is who: pid reuse, unknown holders, duplicates. The numbers are the cases' own."""

from __future__ import annotations

import pytest

from proctree_ds import DataNotFound, NeverSeen, NotStartedYet
from proctree_ds.model import CLOCK_TICK_NS, Event, Task

from .story import INIT, E, F, S, T, X, id_of, init, path_at, tellings, tree_of


def test_case_01_a_pid_that_is_used_again_is_another_process() -> None:
    first, second = Task(600, 100), Task(600, 250)
    for ds in tellings(
        init(), F(INIT, first), X(first, "/bin/a", 150), E(first, 200), F(INIT, second)
    ):
        assert id_of(first) != id_of(second)
        assert ds.pid(600, 150).entity_id == id_of(first)
        assert ds.pid(600, 300).entity_id == id_of(second)
        with pytest.raises(DataNotFound, match="had exited"):
            ds.pid(600, 220)
        assert ds.process(id_of(first), 300).exit_time == 200
        assert ds.process(id_of(second), 300).name == "init"
        assert path_at(ds, second, 300) is None


def test_case_02_starts_three_milliseconds_apart() -> None:
    first, second = Task(600, 1_000_000), Task(600, 4_000_000)
    for ds in tellings(init(), F(INIT, first), E(first, 2_000_000), F(INIT, second)):
        assert id_of(first) != id_of(second)
        assert ds.pid(600, 1_500_000).entity_id == id_of(first)
        assert ds.pid(600, 5_000_000).entity_id == id_of(second)


def test_case_03_the_exit_of_the_first_comes_after_the_fork_of_the_second() -> None:
    first, second = Task(600, 100), Task(600, 250)
    tree_events = (init(), F(INIT, first), F(INIT, second), E(first, 200, 7))
    for ds in tellings(*tree_events):
        gone = ds.process(id_of(first), 300)
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, 200, 7)
        assert gone.certainty.inferred == ()
        assert ds.process(id_of(second), 300).is_alive


def test_case_04_the_second_holder_has_none_of_the_first_ones_children() -> None:
    first, child, second = Task(600, 100), Task(601, 150), Task(600, 250)
    for ds in tellings(init(), F(INIT, first), F(first, child), E(first, 200), F(INIT, second)):
        assert ds.process(id_of(second), 300).child_process_ids == {}
        assert ds.process(id_of(first), 199).child_process_ids == {601: id_of(child)}
        assert ds.process(id_of(child), 300).creator_entity_id == id_of(first)


def test_case_05_a_lost_exit_is_closed_when_the_pid_is_used_again() -> None:
    first, second = Task(600, 100), Task(600, 250)
    for ds in tellings(init(), F(INIT, first), F(INIT, second)):
        gone = ds.process(id_of(first), 300)
        assert not gone.is_alive
        assert gone.exit_time is not None and gone.exit_time <= 250
        assert "exit_time" in gone.certainty.inferred
        assert ds.process(id_of(first), 200).is_alive
        assert ds.process(id_of(second), 300).is_alive


def test_case_06_an_exec_with_a_later_start_begins_a_new_process() -> None:
    first, second, parent = Task(600, 100), Task(600, 250), Task(40, 60)
    events = (init(), F(INIT, parent), F(INIT, first), X(second, "/bin/new", 270, parent=parent))
    for ds in tellings(*events):
        assert not ds.process(id_of(first), 300).is_alive
        fresh = ds.process(id_of(second), 300)
        assert (fresh.name, fresh.start_time, fresh.ppid) == ("new", 250, 40)
        assert fresh.parent_entity_id == id_of(parent)


def test_case_07_a_holder_that_started_after_the_child_is_not_its_parent() -> None:
    child, later = Task(700, 200), Task(600, 300)
    for ds in tellings(init(), F(Task(600), child), F(INIT, later)):
        assert ds.process(id_of(child), 400).parent_entity_id is None
        lineage = ds.lineage(id_of(child), 400)
        assert (len(lineage), lineage.end) == (1, "unknown_parent")


def test_case_07_a_parent_named_by_pid_alone_is_found_whenever_it_comes() -> None:
    parent, child = Task(600, 100), Task(700, 200)
    for ds in tellings(init(), F(Task(600), child), F(INIT, parent)):
        assert ds.process(id_of(child), 250).parent_entity_id == id_of(parent)


def test_case_08_the_same_event_twice_changes_nothing() -> None:
    task, thread = Task(600, 100), Task(601, 120)
    events: list[Event] = [
        init(),
        F(INIT, task),
        T(task, thread),
        X(task, "/bin/x", 150),
        E(task, 200),
    ]
    once = tree_of(events)
    twice = tree_of([event for event in events for _ in range(3)])
    assert once.counters == twice.counters
    node = twice.process(id_of(task))
    assert node is not None and len(node.log) == 1


def test_case_08_a_proc_row_of_the_same_tick_is_the_known_task() -> None:
    start = 5 * CLOCK_TICK_NS + 1234
    exact = Task(600, start)
    row = S(Task(600, 5 * CLOCK_TICK_NS), 8 * CLOCK_TICK_NS, origin="procfs", comm="seen")
    for ds in tellings(init(), F(INIT, exact), row):
        info = ds.process(id_of(exact), 9 * CLOCK_TICK_NS)
        assert (info.name, info.start_time) == ("seen", start)
        assert ds.tree.counters["processes"] == 2
    other = S(Task(600, 7 * CLOCK_TICK_NS), 8 * CLOCK_TICK_NS, origin="procfs", comm="seen")
    for ds in tellings(init(), F(INIT, exact), other):
        assert ds.tree.counters["processes"] == 3


def test_case_08_a_proc_row_stands_for_a_parent_that_was_only_named() -> None:
    start = 5 * CLOCK_TICK_NS + 1234
    parent, child = Task(600, start), Task(700, 9 * CLOCK_TICK_NS + 5)
    row = S(Task(600, 5 * CLOCK_TICK_NS), 8 * CLOCK_TICK_NS, origin="procfs", comm="seen")
    for ds in tellings(init(), F(parent, child), row):
        lineage = ds.lineage(id_of(child), 10 * CLOCK_TICK_NS)
        assert [(info.pid, info.entity_id) for info in lineage[1:]] == [(600, id_of(parent))]
        assert lineage[1].name == "seen"


def test_case_33_a_process_whose_fork_was_lost_has_the_parent_that_its_exec_names() -> None:
    parent, child = Task(40, 60), Task(41, 100)
    for ds in tellings(
        init(), F(INIT, parent), X(parent, "/bin/p", 70), X(child, "/bin/c", 150, parent=parent)
    ):
        info = ds.process(id_of(child), 160)
        assert (info.ppid, info.start_time, info.name) == (40, 100, "c")
        assert "original_parent_entity_id" in info.certainty.inferred
        assert path_at(ds, child, 120) == "/bin/p"
        assert ds.process(id_of(child), 120).certainty.source == "inferred"


def test_nothing_known_at_all_is_said_so() -> None:
    ds = next(tellings(init()))
    with pytest.raises(NeverSeen, match="was ever seen"):
        ds.process(12345, 100)
    with pytest.raises(NeverSeen, match="pid 9"):
        ds.pid(9, 100)
    with pytest.raises(NotStartedYet) as caught:
        ds.process(id_of(INIT), 0)
    assert caught.value.start_time == 1
