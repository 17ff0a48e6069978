"""Input that cannot be true is counted by its kind, and changes nothing that is known."""

from __future__ import annotations

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import NEVER, Event, Fork, Loss, Picture, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, tree_of

P, OTHER, THREAD = Task(25, 100), Task(30, 120), Task(26, 110)
STORY = (init(), F(INIT, P), X(P, "/bin/p", 200), T(P, THREAD), F(INIT, OTHER))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (X(P, "/bin/early", 99), "event_before_start"),
        (E(P, 99), "event_before_start"),
        (C(P, 99, uid=5), "event_before_start"),
        (S(P, 99, uid=5), "event_before_start"),
        (E(THREAD, 109, leader=P), "event_before_start"),
        (X(P, "/bin/never", NEVER), "time_out_of_range"),
        (E(P, NEVER), "time_out_of_range"),
        (F(INIT, Task(31, NEVER)), "time_out_of_range"),
        (X(Task(25), "/bin/who", 300), "task_without_start"),
        (E(Task(25), 300), "task_without_start"),
        (C(THREAD, 300, leader=OTHER), "two_leaders"),
        (C(P, 300, leader=OTHER), "leader_as_thread"),
        (X(THREAD, "/bin/t", 300), "thread_as_leader"),
        (Fork(100, P, OTHER), "contradictory_fork"),
        (F(Task(50, 400), Task(51, 300)), "parent_younger_than_child"),
        (F(INIT, Task(51, 300), creator=Task(50, 400)), "creator_younger_than_child"),
        (T(OTHER, Task(52, 300), creator=THREAD), "creator_of_another_process"),
        (C(P, 300, parent=P), "cycle"),
        (S(INIT, 300, ns_pid=2), "contradictory_ns_pid"),
        (Picture(300, 301), "window_ends_before_it_begins"),
        (Loss(300, 301), "window_ends_before_it_begins"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_is_counted(event: Event, kind: str) -> None:
    tree = tree_of(STORY)
    assert tree.faults == {}
    before = {task: answer(tree_of(STORY), task) for task in (INIT, P, OTHER)}
    tree.apply(event)
    tree._check()
    assert tree.faults == {kind: 1}
    assert tree.counters[f"fault_{kind}"] == 1
    for task, known in before.items():
        assert answer(tree, task) | {"child_process_ids": None} == known | {
            "child_process_ids": None
        }


def answer(tree: ProcessTree, task: Task) -> dict[str, object]:
    return DataSource(tree).process(id_of(task), 250).to_dict()


def test_an_event_after_a_seen_exit_is_counted_and_revives_nobody() -> None:
    tree = tree_of([*STORY, E(OTHER, 300, group_exit=True), X(OTHER, "/bin/late", 400)])
    assert tree.faults == {"event_after_exit": 1}
    assert DataSource(tree).process(id_of(OTHER), 500).exit_time == 300


def test_an_exec_at_the_very_start_is_no_contradiction() -> None:
    tree = tree_of([init(), F(INIT, P), X(P, "/bin/p", 100), E(P, 100)])
    assert tree.faults == {}
    assert DataSource(tree).process(id_of(P), 100).name == "p"
