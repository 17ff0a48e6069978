"""What hostile input may cost: every limit holds, and the rest of the tree is as it was.

Work is counted in executed lines, memory in allocated bytes, so that nothing here depends on how
busy the machine is. The attacks themselves are those of `benchmarks/attacks.py`, cut short: long
enough to go past every limit of a small tree several times.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from benchmarks.attacks import AFTER, ATTACKS, ask, bystanders
from proctree_ds import DataSource, ProcessTree, admission, inheritance
from proctree_ds.answers import CHILDREN_LIMIT
from proctree_ds.captures import LOSSES_LIMIT
from proctree_ds.census import EXITED_THREADS_LIMIT, THREADS_LIMIT
from proctree_ds.descent import PARENTS_LIMIT, WAITING_LIMIT
from proctree_ds.inheritance import SPREAD_AT_ONCE
from proctree_ds.lifespans import LEADER_EXITS_LIMIT
from proctree_ds.model import Event, Exit, Fork, Loss, Task
from proctree_ds.tree import SUBREAPER_LIMIT

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings, tree_of

P = Task(25, 100)


def work_of(action: Callable[[], object]) -> int:
    """How many lines of Python an action executes."""
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


def parts(name: str, count: int) -> list[list[Event]]:
    """An attack, in so many parts of equal length."""
    attack = ATTACKS[name]
    events = list(attack.stream(attack.short))
    size = len(events) // count
    return [events[i * size : (i + 1) * size] for i in range(count)]


def small_tree() -> ProcessTree:
    tree = ProcessTree(process_cache=256, thread_cache=512)
    tree.apply_all(bystanders())
    return tree


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_bystanders_nothing(name: str) -> None:
    tree = small_tree()
    ds = DataSource(tree)
    truth, work = ask(ds), work_of(lambda: ask(ds))
    for part in parts(name, 4):
        tree.apply_all(part)
        tree._check()
        assert ask(ds) == truth
        assert work_of(lambda: ask(ds)) <= 1.2 * work


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_takes_no_more_memory_the_longer_it_lasts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inheritance, "HISTORY_BYTES_LIMIT", 200_000)
    monkeypatch.setattr(admission, "NAMES_LIMIT", 256)
    tree = small_tree()
    attack = parts(name, 3)  # the first fills what is bounded
    peaks = []
    tracemalloc.start()
    try:
        for part in attack:
            tracemalloc.reset_peak()
            tree.apply_all(part)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 60_000


@pytest.mark.parametrize("name", ATTACKS)
def test_an_event_of_an_attack_costs_no_more_the_longer_it_lasts(name: str) -> None:
    tree = small_tree()
    costs = [work_of(partial(tree.apply_all, part)) / len(part) for part in parts(name, 8)]
    assert sum(costs[4:]) < 1.5 * sum(costs[:4])


# ------------------------------------------------------------------------------- limit by limit


def test_a_process_that_makes_threads_for_ever_keeps_only_the_last() -> None:
    tree = ProcessTree()
    tree.apply_all([init(), F(INIT, P)])
    for i in range(3 * EXITED_THREADS_LIMIT):
        thread = Task(1_000 + i, 1_000 + 10 * i)
        tree.apply_all([T(P, thread), E(thread, 1_005 + 10 * i, leader=P, group_exit=False)])
    tree._check()
    last = 10**6
    tree.apply(X(P, "/bin/x", last))
    tree._check()
    info = DataSource(tree).process(id_of(P), last)
    assert info.thread_ids == {25: id_of(P)}
    assert tree.counters["threads"] <= EXITED_THREADS_LIMIT + 3
    assert tree.counters["evicted_threads"] >= 2 * EXITED_THREADS_LIMIT - 1


def test_one_process_cannot_take_the_places_of_the_threads_of_others() -> None:
    other, mine = Task(26, 100), Task(27, 200)
    tree = tree_of([init(), F(INIT, P), F(INIT, other), T(other, mine)])
    tree.apply_all(T(P, Task(1_000 + i, 1_000 + i)) for i in range(2 * THREADS_LIMIT))
    tree._check()
    ds = DataSource(tree)
    later = Task(28, 10**6)
    tree.apply(T(other, later))
    assert ds.process(id_of(other), 10**6).thread_ids.keys() == {26, 27, 28}
    info = ds.process(id_of(P), 10**6)
    assert THREADS_LIMIT // 2 < len(info.thread_ids) <= THREADS_LIMIT + 1
    assert {1_000, 999 + 2 * THREADS_LIMIT} <= info.thread_ids.keys()
    assert "thread_ids" in ds.process(id_of(P), 1_000 + THREADS_LIMIT).certainty.dropped
    assert tree.counters["evicted_living_threads"] >= THREADS_LIMIT


def test_of_the_threads_that_ended_the_latest_are_kept() -> None:
    """Whoever asks about a thread right after its end finds it."""
    tree = ProcessTree()
    tree.apply_all([init(), F(INIT, P)])
    ds = DataSource(tree)
    for i in range(2 * EXITED_THREADS_LIMIT):
        thread = Task(1_000 + i, 1_000 + 10 * i)
        tree.apply_all([T(P, thread), E(thread, 1_005 + 10 * i, leader=P, group_exit=False)])
        tree.apply(T(P, Task(50_000 + i, 1_006 + 10 * i)))
        assert not ds.thread(id_of(thread), 10**6).is_alive
    tree._check()
    assert tree.counters["evicted_threads"] > 0


def test_creators_and_parents_that_never_come_are_not_waited_for_without_end() -> None:
    tree = ProcessTree(process_cache=64, thread_cache=128)
    tree.apply_all([init(), F(INIT, P)])
    for i in range(2 * WAITING_LIMIT):
        start = 1_000 + 10 * i
        ghost = Task(50_000 + i, start - 5)
        tree.apply(Fork(start, Task(100 + i % 5_000, start), P, creator=ghost))
        tree.apply(Fork(start + 1, Task(6_000 + i % 5_000, start + 1), Task(50_000 + i)))
    tree._check()
    descent = tree._descent
    for waiting in (descent.awaited, descent.by_pid):
        assert 0 < len(waiting) <= WAITING_LIMIT
    assert tree.counters["gave_up_waiting"] >= 2 * WAITING_LIMIT
    assert DataSource(tree).process(id_of(P), 10**9).is_alive


def test_a_storm_of_living_processes_spares_those_who_were_there_before() -> None:
    tree = ProcessTree(process_cache=256, thread_cache=512)
    old = [Task(10 + i, 60 + i) for i in range(100)]
    tree.apply_all([init(), *(F(INIT, task) for task in old)])
    bomb = Task(999, 500)
    tree.apply(F(INIT, bomb))
    tree.apply_all(F(bomb, Task(1_000 + i, 1_000 + i)) for i in range(20_000))
    tree._check()
    ds = DataSource(tree)
    for task in old:
        assert ds.process(id_of(task), 10**6).is_alive
    newest = Task(20_999, 20_999)
    assert [info.pid for info in ds.lineage(id_of(newest), 10**6)] == [20_999, 999, 1]
    assert tree.counters["evicted_living_processes"] > 19_000


def test_the_list_of_children_is_cut_and_says_by_how_much() -> None:
    tree = tree_of([init(), F(INIT, P)])
    for count in (CHILDREN_LIMIT, 3 * CHILDREN_LIMIT):
        first = len(tree.census.processes)
        tree.apply_all(F(P, Task(100 + i, 1_000 + i)) for i in range(first - 2, count))
        info = DataSource(tree).process(id_of(P), 10**6)
        assert list(info.child_process_ids) == [
            100 + i for i in range(count - CHILDREN_LIMIT, count)
        ]
        assert info.omitted_children == count - CHILDREN_LIMIT
        assert len(DataSource(tree).children(id_of(P), 10**6)) == count
    assert DataSource(tree).process(id_of(P), 1_000 + CHILDREN_LIMIT - 1).omitted_children == 0


def test_the_middle_of_many_subreaper_flags_is_unknown_and_not_wrong() -> None:
    count = 3 * SUBREAPER_LIMIT
    tree = tree_of([init(), F(INIT, P)])
    tree.apply_all(C(P, 200 + i, subreaper=i % 2 == 0) for i in range(count))
    ds = DataSource(tree)
    told = [ds.process(id_of(P), 200 + i).is_subreaper for i in range(count)]
    assert told[0] is True
    assert told[-1] is False
    assert all(flag in (i % 2 == 0, None) for i, flag in enumerate(told))
    unknown = told.index(None)
    assert "is_subreaper" in ds.process(id_of(P), 200 + unknown).certainty.dropped
    tree.apply(C(P, 200 + unknown, subreaper=unknown % 2 == 0))
    assert ds.process(id_of(P), 200 + unknown).is_subreaper is None
    assert tree.counters["fault_beyond_horizon"] == 1
    assert tree.counters["dropped_changes"] > SUBREAPER_LIMIT


def test_the_middle_of_many_parents_is_unknown_and_not_wrong() -> None:
    others = [Task(30 + i, 60 + i) for i in range(3)]
    count = 3 * PARENTS_LIMIT
    tree = tree_of([init(), *(F(INIT, other) for other in others), F(INIT, P)])
    tree.apply_all(C(P, 200 + i, parent=others[i % 3]) for i in range(count))
    tree._check()
    ds = DataSource(tree)
    told = [ds.process(id_of(P), 200 + i).ppid for i in range(count)]
    assert (told[0], told[-1]) == (30, 30 + (count - 1) % 3)
    assert all(ppid in (30 + i % 3, None) for i, ppid in enumerate(told))
    unknown = 200 + told.index(None)
    assert {"ppid", "parent_entity_id"} <= set(ds.process(id_of(P), unknown).certainty.dropped)
    tree.apply(C(P, unknown, parent=INIT))
    assert ds.process(id_of(P), unknown).ppid is None
    assert tree.counters["dropped_changes"] > PARENTS_LIMIT


def test_a_leader_that_comes_and_goes_leaves_a_bounded_trace() -> None:
    tree = tree_of([init(), F(INIT, P)])
    for i in range(4 * LEADER_EXITS_LIMIT):
        start, thread = 1_000 + 10 * i, Task(100 + i, 1_000 + 10 * i)
        tree.apply_all([T(P, thread), E(P, start + 2, group_exit=False)])
        tree.apply(X(P, f"/bin/{i}", start + 4, old_tid=thread.tid))
        tree._check()
    node = tree.process(id_of(P))
    assert node is not None and len(node.rare.leader_exits or ()) <= LEADER_EXITS_LIMIT
    ds = DataSource(tree)
    assert ds.process(id_of(P), 10**6).thread_ids == {25: id_of(P)}
    assert "thread_ids" in ds.process(id_of(P), 1_015).certainty.dropped


def test_loss_windows_are_joined_and_none_is_forgotten() -> None:
    tree = tree_of([init(), F(INIT, P)])
    count = 3 * LOSSES_LIMIT
    tree.apply_all(Loss(1_000 + 10 * i + 5, 1_000 + 10 * i, 2) for i in range(count))
    assert tree.counters["loss_windows"] == LOSSES_LIMIT
    windows = DataSource(tree).process(id_of(P), 10**6).certainty.loss_windows
    assert sum(window.lost or 0 for window in windows) == 2 * count
    assert min(window.since for window in windows) == 1_000


# --------------------------------------------------------------------------------- hard questions


@pytest.mark.parametrize("name", ["heirs", "no heirs", "daemons", "deep chain", "fork bomb"])
def test_who_ends_up_with_whom_is_worked_out_once_for_all(name: str) -> None:
    """The cost of questions about all grows as their number does, and not faster."""
    attack = ATTACKS[name]
    costs = []
    for count in (attack.short, 4 * attack.short):
        tree = ProcessTree()
        tree.apply_all([*bystanders(), *attack.stream(count)])
        ds = DataSource(tree)
        costs.append(work_of(lambda ds=ds: ds.children(id_of(INIT), AFTER - 1)))  # type: ignore[misc]
        costs.append(work_of(lambda ds=ds: ds.subtree(id_of(INIT), AFTER - 1)))  # type: ignore[misc]
    assert costs[2] < 5 * costs[0]
    assert costs[3] < 5 * costs[1]


def test_a_circle_of_heirs_costs_no_more_than_its_length() -> None:
    ring = [Task(50 + i, 100) for i in range(40)]
    tree = tree_of([init(), *(F(INIT, task) for task in ring), F(ring[0], P)])
    for i, task in enumerate(ring):
        tree.apply(C(task, 120, parent=ring[i - 1]))
    tree.apply_all(E(task, 200) for task in ring)
    tree._check()
    ds = DataSource(tree)
    assert work_of(lambda: ds.process(id_of(P), 250).ppid) < 100 * len(ring)
    assert work_of(lambda: ds.children(id_of(INIT), 250)) < 200 * len(ring)


def test_late_changes_to_a_parent_of_many_are_handed_on_once_a_batch() -> None:
    count = 2 * SPREAD_AT_ONCE
    children = [Task(1_000 + i, 1_000 + i) for i in range(count)]
    story: list[Event] = [init(), F(INIT, P), *(F(P, child) for child in children)]
    late: list[Event] = [C(P, 500 + i, uid=i, cwd=f"/{i}") for i in range(60)]
    one_by_one, together = tree_of(story), tree_of(story)
    many = sum(work_of(partial(one_by_one.apply, event)) for event in late)
    once = work_of(lambda: together.apply_all(late))
    assert once < many / 10
    for tree in (one_by_one, together):
        tree._check()
        ds = DataSource(tree)
        for child in (children[0], children[-1]):
            info = ds.process(id_of(child), 10**6)
            assert (info.uid, info.cwd) == (59, "/59")


def test_news_outlives_what_was_asked_about_long_ago() -> None:
    """Whoever asks about every process, a batch later, finds all of the batch."""
    tree = ProcessTree(process_cache=256, thread_cache=512)
    tree.apply_all([init(), F(INIT, P)])
    ds = DataSource(tree)
    for first in range(1_000, 10_000, 50):
        batch = [Task(number, number) for number in range(first, first + 50)]
        for number, task in enumerate(batch, first):
            tree.apply_all([F(P, task), E(task, number)])
        for task in batch:
            assert not ds.process(id_of(task), 10_000).is_alive
    tree._check()
    assert tree.counters["evicted_processes"] > 8_000
    assert tree.counters["evicted_living_processes"] == 0


def test_values_at_the_edges_of_their_types() -> None:
    edge = 2**63 - 2
    top = Task(2**31 - 1, edge - 10)
    tree = ProcessTree()
    tree.apply_all([init(), S(Task(7, 0), 0, INIT, comm="zero"), F(INIT, top)])
    tree.apply_all([X(top, "/bin/x", edge - 5), Exit(edge, top, exit_code=2**31 - 1)])
    tree._check()
    ds = DataSource(tree)
    assert ds.process(id_of(Task(7, 0)), 0).name == "zero"
    assert ds.process(id_of(top), edge - 1).name == "x"
    assert ds.process(id_of(top), edge).exit_code == 2**31 - 1


def test_an_exit_before_the_start_is_left_out() -> None:
    for ds in tellings(init(), F(INIT, P), E(P, 99), X(P, "/bin/x", 150)):
        assert ds.process(id_of(P), 10**6).is_alive
        assert ds.tree.faults == {"event_before_start": ds.tree.faults["event_before_start"]}
