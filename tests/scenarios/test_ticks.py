"""Rows of /proc, which know starts by the clock tick: who is meant, and what is put right later."""

from __future__ import annotations

from proctree_ds import NeverSeen, ProcessTree
from proctree_ds.model import CLOCK_TICK_NS, Snapshot, Task

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


def test_ids_made_from_ticks_are_remembered_up_to_a_limit() -> None:
    tree = ProcessTree(process_cache=4, thread_cache=8)
    tree.apply(init())
    tasks = [Task(40 + i, (30 + i) * TICK + 1) for i in range(6)]
    for task in tasks:
        tree.apply_all([row(task, LATE * 3), E(task, LATE * 3 + 1)])
    tree._check()
    assert tree.counters["dropped_aliases"] == 2
    assert tree.process(id_of(tick(tasks[-1]))) is tree.process(id_of(tasks[-1])) is not None
