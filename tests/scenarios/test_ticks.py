"""Rows of /proc, which know starts by the clock tick: who is meant, and what is put right later."""

from __future__ import annotations

import msgspec

from proctree_ds import NeverSeen, ProcessTree
from proctree_ds.model import CLOCK_TICK_NS, Event, Exec, Header, Snapshot, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, path_at, tellings

TICK = CLOCK_TICK_NS
PARENT, CHILD = Task(20, 5 * TICK + 100), Task(30, 8 * TICK + 7)
LATE = 20 * TICK


def row(task: Task, time: int, parent: Task | None = None, **given: object) -> Snapshot:
    """What /proc shows of a task: every start is rounded down."""
    leader = given.pop("leader", None)
    return S(
        tick(task),
        time,
        None if parent is None else tick(parent),
        origin="procfs",
        leader=tick(leader) if isinstance(leader, Task) else None,
        **given,
    )


def tick(task: Task) -> Task:
    assert task.start_time is not None
    return Task(task.tid, task.start_time - task.start_time % TICK)


def test_a_row_that_names_its_parent_by_the_tick() -> None:
    for ds in tellings(
        init(), F(INIT, PARENT), F(PARENT, CHILD), row(CHILD, LATE, PARENT, comm="c")
    ):
        info = ds.process(id_of(CHILD), LATE)
        assert (info.name, info.ppid, info.parent_entity_id) == ("c", 20, id_of(PARENT))
        assert info.certainty.inferred == ()


def test_a_parent_that_is_known_by_the_tick_alone_until_its_own_event_comes() -> None:
    story = (init(), row(CHILD, LATE, PARENT, comm="c"))
    for ds in tellings(*story):
        assert ds.process(id_of(tick(CHILD)), LATE).parent_entity_id == id_of(tick(PARENT))
    for ds in tellings(*story, F(INIT, PARENT), C(CHILD, LATE + 5, uid=1)):
        assert ds.process(id_of(CHILD), LATE).parent_entity_id == id_of(PARENT)
        assert ds.process(id_of(tick(CHILD)), LATE).entity_id == id_of(CHILD)
        assert ds.tree.counters["processes"] == 3


def test_what_was_inherited_is_that_of_the_exact_start() -> None:
    events = (
        init(),
        F(INIT, PARENT),
        X(PARENT, "/bin/old", 7 * TICK),
        X(PARENT, "/bin/new", 8 * TICK + 3),
        row(CHILD, LATE, PARENT, comm="c"),
        F(PARENT, CHILD),
    )
    for ds in tellings(*events):
        assert path_at(ds, CHILD, 9 * TICK) == "/bin/new"


def test_an_exec_within_the_tick_does_not_end_a_thread_that_is_seen_later() -> None:
    thread = Task(21, 8 * TICK + 50)
    events = (
        init(),
        F(INIT, PARENT),
        X(PARENT, "/bin/x", 8 * TICK + 20),
        row(thread, LATE, leader=PARENT, comm="t"),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(PARENT), LATE).thread_ids.keys() == {20, 21}
    for ds in tellings(*events, X(PARENT, "/bin/y", LATE + 1)):
        assert ds.process(id_of(PARENT), LATE + 1).thread_ids.keys() == {20}


def test_the_holder_before_may_have_lived_through_the_tick_of_the_next() -> None:
    second = Task(20, 12 * TICK + 9_000_000)
    for ds in tellings(
        init(),
        F(INIT, PARENT),
        C(PARENT, 12 * TICK + 5, comm="p"),
        row(second, LATE, INIT, comm="s"),
    ):
        assert ds.process(id_of(PARENT), 12 * TICK + 5).is_alive
        assert ds.process(id_of(PARENT), 13 * TICK - 1).exit_time == 13 * TICK - 1
        assert ds.pid(20, 13 * TICK).entity_id == id_of(tick(second))


def test_a_pid_that_passes_on_within_a_tick_is_that_of_the_later_one() -> None:
    first = [Task(tid, 6 * TICK + tid) for tid in range(21, 31)]
    second = [Task(tid, 12 * TICK + tid) for tid in range(21, 31)]
    later = {task.tid: id_of(tick(task)) for task in second}
    for ds in tellings(
        init(),
        F(INIT, PARENT),
        *(F(PARENT, t) for t in first),
        *(row(t, LATE, PARENT) for t in second),
    ):
        parent = ds.process(id_of(PARENT), 12 * TICK)
        assert parent.child_process_ids == later
        both = ds.children(id_of(PARENT), 12 * TICK)
        assert {c.entity_id for c in both} == {*map(id_of, first), *later.values()}
        assert all({"is_alive", "start_time"} & {*c.certainty.inferred} for c in both)
    for ds in tellings(
        init(),
        F(INIT, PARENT),
        *(T(PARENT, t) for t in first),
        *(row(t, LATE, leader=PARENT) for t in second),
    ):
        parent = ds.process(id_of(PARENT), 12 * TICK)
        assert parent.thread_ids == {PARENT.tid: id_of(PARENT), **later}


def test_a_thread_that_only_rows_know_is_corrected_too() -> None:
    thread = Task(21, 8 * TICK + 50)
    events = (init(), F(INIT, PARENT), row(thread, LATE, leader=PARENT, comm="t"))
    for ds in tellings(*events, E(thread, LATE + 9, leader=PARENT), T(PARENT, thread)):
        assert ds.thread(id_of(thread), LATE).name == "t"
        assert ds.thread(id_of(tick(thread)), LATE).entity_id == id_of(thread)
        assert ds.thread(id_of(thread), LATE + 9).exit_time == LATE + 9


def test_two_that_start_in_one_tick_are_two() -> None:
    first, second = Task(20, 5 * TICK + 1), Task(20, 5 * TICK + 900)
    for ds in tellings(init(), F(INIT, first), E(first, 5 * TICK + 500), F(INIT, second)):
        assert ds.pid(20, 5 * TICK + 400).entity_id == id_of(first)
        assert ds.pid(20, 5 * TICK + 900).entity_id == id_of(second)
        try:
            ds.process(id_of(Task(20, 5 * TICK)), LATE)
        except NeverSeen:
            continue
        raise AssertionError("nobody was ever called by the tick")


# ------------------------------------------------------- process events, and estimated starts


def netlink(event: Event) -> Event:
    """The same event as netlink tells it."""
    return msgspec.structs.replace(event, origin="netlink")


ESTIMATE = Task(CHILD.tid, 8 * TICK + 900)
"""What the time of its fork says of the start of CHILD."""


def test_an_estimated_start_keeps_the_order_within_a_tick_and_says_that_it_is_one() -> None:
    parent = Task(20, 8 * TICK + 50)
    story = (
        init(),
        netlink(F(INIT, parent)),
        netlink(X(parent, "/bin/sh", 8 * TICK + 400)),
        netlink(F(parent, ESTIMATE)),
        netlink(X(ESTIMATE, "/bin/ls", 8 * TICK + 950)),
        netlink(E(ESTIMATE, LATE, 3)),
    )
    for ds in tellings(*story):
        info = ds.process(id_of(ESTIMATE), 8 * TICK + 950)
        assert info.certainty.inferred == ("start_time",)
        assert info.certainty.source == "netlink"
        assert [i.name for i in ds.lineage(info.entity_id, LATE)] == ["ls", "sh", "init"]
        info = ds.process(info.entity_id, LATE)
        assert (info.exit_code, info.core_dumped, info.certainty.exit_between) == (3, False, None)


def test_a_row_of_the_tick_means_the_estimated_task() -> None:
    story = (
        init(),
        F(INIT, PARENT),
        netlink(F(PARENT, ESTIMATE)),
        row(ESTIMATE, LATE, PARENT, cwd="/"),
    )
    for ds in tellings(*story):
        assert ds.tree.counters["processes"] == 3
        info = ds.process(id_of(ESTIMATE), LATE)
        assert (info.cwd, info.parent_entity_id) == ("/", id_of(PARENT))
        assert "start_time" in info.certainty.inferred
        assert ds.process(id_of(tick(ESTIMATE)), LATE).entity_id == id_of(ESTIMATE)


def test_an_exact_start_corrects_an_estimate() -> None:
    story = (
        init(),
        F(INIT, PARENT),
        netlink(F(PARENT, ESTIMATE)),
        F(PARENT, CHILD),
        C(CHILD, LATE, uid=1),
    )
    for ds in tellings(*story, keep_order=True):
        assert ds.tree.counters["processes"] == 3
        info = ds.process(id_of(CHILD), LATE)
        assert "start_time" not in info.certainty.inferred
        assert ds.process(id_of(ESTIMATE), LATE).entity_id == id_of(CHILD)
    for ds in tellings(*reversed(story), keep_order=True):
        assert ds.tree.counters["processes"] == 3
        assert ds.process(id_of(CHILD), LATE).uid == 1


def test_what_netlink_does_not_tell_nothing_confirms() -> None:
    """Who forks or exits is not looked at, so that neither says that all is as it was."""
    header = Header(unfollowed=("cwd",))
    story = (
        header,
        netlink(F(INIT, PARENT)),
        netlink(X(PARENT, "/bin/sh", 6 * TICK, cwd="/")),
        netlink(F(PARENT, ESTIMATE)),
        netlink(E(PARENT, LATE)),
    )
    for ds in tellings(*story, keep_order=True):
        assert ds.process(id_of(PARENT), 6 * TICK).certainty.unfollowed == ()
        assert ds.process(id_of(PARENT), 6 * TICK + 1).certainty.unfollowed == ("cwd",)


def test_ids_made_from_ticks_are_remembered_up_to_a_limit() -> None:
    tree = ProcessTree(process_cache=4, thread_cache=8)
    tree.apply(init())
    tasks = [Task(40 + i, (30 + i) * TICK + 1) for i in range(6)]
    for task in tasks:
        tree.apply_all([row(task, LATE * 3), E(task, LATE * 3 + 1)])
    tree._check()
    assert tree.counters["dropped_aliases"] == 2
    assert tree.process(id_of(tick(tasks[-1]))) is tree.process(id_of(tasks[-1])) is not None


def test_a_row_that_gives_one_task_two_starts_within_a_tick_means_one() -> None:
    tree = ProcessTree()
    tree.apply_all([init(), Exec(LATE, Task(40, 9), {}, Task(40, 8), origin="netlink")])
    tree.apply(X(Task(40, 8), "/bin/p", LATE))
    tree._check()
    assert tree.faults["cycle"] == 1
    assert [node.start for node in tree.census.processes.values() if node.tid == 40] == [8]
