"""Who is who: pid reuse, unknown holders, duplicates. The numbers are the cases' own."""

from __future__ import annotations

import pytest

from proctree_ds import DataNotFound, DataSource, NeverSeen, NotStartedYet
from proctree_ds.model import CLOCK_TICK_NS, Event, Loss, Picture, Task

from .story import (
    INIT,
    C,
    E,
    F,
    S,
    T,
    X,
    everything,
    id_of,
    init,
    path_at,
    tellings,
    tree_of,
)


def test_case_01_a_pid_that_is_used_again_is_another_process() -> None:
    first, second = Task(600, 100), Task(600, 250)
    thread, child = Task(601, 110), Task(602, 120)
    events = (
        init(uid=0, cwd="/"),
        F(INIT, first),
        T(first, thread),
        F(first, child),
        X(first, "/bin/a", 150, uid=1000, cwd="/srv"),
        E(first, 200, 7),
        F(INIT, second),
    )
    for ds in tellings(*events):
        assert id_of(first) != id_of(second)
        for time in (100, 150, 199):
            assert ds.pid(600, time).entity_id == id_of(first)
        for time in (250, 300):
            assert ds.pid(600, time).entity_id == id_of(second)
        for time in (200, 220, 249):
            with pytest.raises(DataNotFound, match=r"last holder.*had exited"):
                ds.pid(600, time)
        with pytest.raises(NeverSeen):
            ds.pid(600, 99)
        old, new = ds.process(id_of(first), 300), ds.process(id_of(second), 300)
        assert (old.is_alive, old.exit_time, old.exit_code) == (False, 200, 7)
        assert (old.name, old.uid, old.cwd) == ("a", 1000, "/srv")
        assert (new.is_alive, new.exit_time, new.exit_code) == (True, None, None)
        assert (new.name, new.uid, new.cwd, new.cmd) == ("init", 0, "/", None)
        assert (new.thread_ids, new.child_process_ids) == ({600: id_of(second)}, {})
        assert path_at(ds, second, 300) is None


def test_case_02_starts_three_milliseconds_apart() -> None:
    first, second = Task(600, 1_000_000), Task(600, 4_000_000)
    for ds in tellings(init(), F(INIT, first), E(first, 2_000_000), F(INIT, second)):
        assert id_of(first) != id_of(second)
        assert ds.pid(600, 1_500_000).entity_id == id_of(first)
        assert ds.pid(600, 5_000_000).entity_id == id_of(second)
        with pytest.raises(DataNotFound, match="had exited"):
            ds.pid(600, 3_000_000)
        assert ds.tree.counters["processes"] == 3


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
        orphan = ds.process(id_of(child), 300)
        assert orphan.creator_entity_id == orphan.original_parent_entity_id == id_of(first)
        assert orphan.ppid == 1
        lineage = ds.lineage(id_of(child), 300)
        assert [info.entity_id for info in lineage] == list(map(id_of, (child, first, INIT)))


def test_case_05_a_lost_exit_is_closed_when_the_pid_is_used_again() -> None:
    first, second = Task(600, 100), Task(600, 250)
    events = (init(), F(INIT, first), X(first, "/bin/a", 150), F(INIT, second))
    for ds in tellings(*events):
        gone, fresh = ds.process(id_of(first), 300), ds.process(id_of(second), 300)
        assert not gone.is_alive
        assert gone.exit_time is not None and 150 < gone.exit_time <= 250
        assert "exit_time" in gone.certainty.inferred
        assert (gone.exit_code, gone.exit_signal, gone.core_dumped) == (None, None, None)
        assert ds.process(id_of(first), 200).is_alive
        assert (gone.name, gone.start_time) == ("a", 100)
        assert (fresh.name, fresh.start_time, fresh.is_alive) == ("init", 250, True)
        assert fresh.certainty.inferred == ()
        assert ds.process(id_of(INIT), 300).child_process_ids == {600: id_of(second)}


def test_case_06_an_exec_with_a_later_start_begins_a_new_process() -> None:
    first, second, parent = Task(600, 100), Task(600, 250), Task(40, 60)
    events = (
        init(),
        F(INIT, parent),
        F(INIT, first),
        X(first, "/bin/old", 150),
        X(second, "/bin/new", 270, parent=parent),
    )
    for ds in tellings(*events):
        old = ds.process(id_of(first), 300)
        assert (old.is_alive, old.name) == (False, "old")
        assert "exit_time" in old.certainty.inferred
        fresh = ds.process(id_of(second), 300)
        assert (fresh.name, fresh.start_time, fresh.ppid) == ("new", 250, 40)
        assert fresh.parent_entity_id == id_of(parent)
        assert ds.process(id_of(second), 260).execution_binary is None


def test_case_07_a_holder_that_started_after_the_child_is_not_its_parent() -> None:
    child, later = Task(700, 200), Task(600, 300)
    for ds in tellings(init(), F(Task(600), child), F(INIT, later)):
        info = ds.process(id_of(child), 400)
        assert (info.parent_entity_id, info.original_parent_entity_id, info.ppid) == (None,) * 3
        assert ds.process(id_of(later), 400).child_process_ids == {}
        lineage = ds.lineage(id_of(child), 400)
        assert (len(lineage), lineage.end) == (1, "unknown_parent")


def test_case_07_a_parent_named_by_pid_alone_is_found_whenever_it_comes() -> None:
    parent, child = Task(600, 100), Task(700, 200)
    for ds in tellings(init(), F(Task(600), child), F(INIT, parent)):
        assert ds.process(id_of(child), 250).parent_entity_id == id_of(parent)


def test_case_08_the_same_event_twice_changes_nothing() -> None:
    task, thread, child = Task(600, 100), Task(601, 120), Task(602, 130)
    events: list[Event] = [
        init(),
        F(INIT, task),
        T(task, thread),
        F(task, child),
        C(task, 140, comm="renamed", subreaper=True),
        X(task, "/bin/x", 150),
        S(task, 160, INIT, comm="seen"),
        Loss(170, 165, 3),
        *(S(seen, 178) for seen in (INIT, task, child)),
        Picture(180, 175),
        E(task, 200),
    ]
    once = tree_of(events)
    told = everything(DataSource(once), (INIT, task, thread, child), range(40, 220, 5))
    for again in ([e for e in events for _ in range(3)], events * 3, events + events[::-1]):
        tree = tree_of(again)
        assert tree.counters == once.counters
        assert everything(DataSource(tree), (INIT, task, thread, child), range(40, 220, 5)) == told
        entries = DataSource(tree).timeline(id_of(task))
        assert [entry.time for entry in entries] == [100, 140, 150, 160, 178, 200]


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


def test_case_08_a_proc_row_of_a_thread_is_the_known_thread() -> None:
    start = 5 * CLOCK_TICK_NS + 1234
    exact, thread = Task(600, start), Task(601, start + 99)
    tick = 5 * CLOCK_TICK_NS
    row = S(
        Task(601, tick),
        8 * CLOCK_TICK_NS,
        leader=Task(600, tick),
        origin="procfs",
        comm="worker",
    )
    for ds in tellings(init(), F(INIT, exact), T(exact, thread), row):
        assert ds.process(id_of(exact), 9 * CLOCK_TICK_NS).thread_ids == {
            600: id_of(exact),
            601: id_of(thread),
        }
        assert ds.thread(id_of(thread), 9 * CLOCK_TICK_NS).name == "worker"
        assert (ds.tree.counters["processes"], ds.tree.counters["threads"]) == (2, 3)


def test_case_08_a_parent_that_a_proc_row_names_by_its_tick_is_the_known_process() -> None:
    start = 5 * CLOCK_TICK_NS + 1234
    parent, child = Task(600, start), Task(700, 6 * CLOCK_TICK_NS)
    row = S(child, 8 * CLOCK_TICK_NS, Task(600, 5 * CLOCK_TICK_NS), origin="procfs", comm="seen")
    for ds in tellings(init(), F(INIT, parent), row):
        info = ds.pid(700, 9 * CLOCK_TICK_NS)
        assert (info.ppid, info.parent_entity_id) == (600, id_of(parent))
        assert ds.process(id_of(parent), 9 * CLOCK_TICK_NS).child_process_ids == {
            700: info.entity_id
        }
        assert ds.tree.counters["processes"] == 3


def test_case_08_a_proc_row_of_a_child_that_started_in_its_parents_tick() -> None:
    tick = 5 * CLOCK_TICK_NS
    parent, child = Task(600, tick + 1_000), Task(700, tick + 2_000)
    now = 9 * CLOCK_TICK_NS
    row = S(Task(700, tick), now, Task(600, tick), origin="procfs", comm="seen")
    exact = S(Task(700, tick), now, parent, origin="procfs", comm="seen")
    for seen in (row, exact):
        for ds in tellings(init(), F(INIT, parent), seen):
            info = ds.pid(700, now)
            assert (info.name, info.ppid, info.parent_entity_id) == ("seen", 600, id_of(parent))
            assert ds.process(id_of(parent), now).child_process_ids == {700: info.entity_id}
        for ds in tellings(init(), F(INIT, parent), F(parent, child), seen):
            info = ds.pid(700, now)
            assert (info.entity_id, info.parent_entity_id) == (id_of(child), id_of(parent))
            assert info.start_time == tick + 2_000
            assert ds.tree.counters["processes"] == 3


def test_case_08_a_proc_row_stands_for_a_parent_that_was_only_named() -> None:
    start = 5 * CLOCK_TICK_NS + 1234
    parent, child = Task(600, start), Task(700, 9 * CLOCK_TICK_NS + 5)
    row = S(Task(600, 5 * CLOCK_TICK_NS), 8 * CLOCK_TICK_NS, origin="procfs", comm="seen")
    for ds in tellings(init(), F(parent, child), row):
        lineage = ds.lineage(id_of(child), 10 * CLOCK_TICK_NS)
        assert [(info.pid, info.entity_id) for info in lineage[1:]] == [(600, id_of(parent))]
        assert lineage[1].name == "seen"


def test_nothing_known_at_all_is_said_so() -> None:
    ds = next(tellings(init()))
    with pytest.raises(NeverSeen, match="was ever seen"):
        ds.process(12345, 100)
    with pytest.raises(NeverSeen, match="pid 9"):
        ds.pid(9, 100)
    with pytest.raises(NotStartedYet) as caught:
        ds.process(id_of(INIT), 0)
    assert caught.value.start_time == 1
