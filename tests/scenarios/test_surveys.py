"""Questions about many processes: children, subtrees, everybody, what changed, one whole life."""

from __future__ import annotations

import pytest

from proctree_ds import (
    BeyondHorizon,
    ChildrenKey,
    DataSource,
    DiffKey,
    InvalidTime,
    NeverSeen,
    ProcessInfo,
    SnapshotKey,
    SubtreeKey,
    TimelineKey,
)
from proctree_ds.model import Task

from .story import INIT, C, E, F, X, id_of, init, tellings, tree_of

A, B, CHILD = Task(10, 60), Task(11, 100), Task(12, 150)
STORY = (
    init(uid=0),
    F(INIT, A),
    X(A, "/bin/a", 70, uid=0),
    F(A, B),
    F(B, CHILD),
    C(CHILD, 180, comm="renamed"),
    E(B, 200, 3, reaper=INIT),
    C(A, 250, uid=1000),
    X(CHILD, "/bin/c", 300),
    E(CHILD, 400),
)


def pids(infos: list[ProcessInfo]) -> list[int]:
    return [info.pid for info in infos]


def test_children_and_everybody_as_of_an_instant() -> None:
    for ds in tellings(*STORY):
        assert pids(ds.children(id_of(INIT), 199)) == [10]
        assert pids(ds.get(ChildrenKey(id_of(INIT), 200))["process_children"]) == [10, 12]
        assert pids(ds.children(id_of(B), 199)) == [12]
        assert pids(ds.get(SnapshotKey(120))["processes"]) == [1, 10, 11]
        assert pids(ds.snapshot(400)) == [1, 10]


def test_a_subtree_is_by_the_parents_of_that_time() -> None:
    for ds in tellings(*STORY):
        before = ds.get(SubtreeKey(id_of(INIT), 199))["process_subtree"]
        assert before.children[0].children[0].children[0].process.pid == 12
        after = ds.subtree(id_of(INIT), 200)
        assert [twig.process.pid for twig in after.children] == [10, 12]
        cut = ds.subtree(id_of(INIT), 199, max_depth=1)
        assert cut.children[0].is_cut
        assert not cut.is_cut
        assert cut.children[0].children == []


def test_what_changed_between_two_instants() -> None:
    for ds in tellings(*STORY):
        diff = ds.get(DiffKey(110, 350))["process_diff"]
        assert pids(diff.born) == [12]
        assert pids(diff.died) == [11]
        assert pids(diff.executed) == [12]
        assert pids(diff.reparented) == [12]
        assert pids(diff.renamed) == [12]
        assert pids(diff.changed_credentials) == [10]
        whole = ds.diff(0, 500)
        assert pids(whole.born) == [1, 10, 11, 12]
        assert pids(whole.died) == [11, 12]
        with pytest.raises(InvalidTime):
            ds.diff(300, 200)


def test_one_whole_life() -> None:
    for ds in tellings(*STORY):
        timeline = ds.get(TimelineKey(id_of(CHILD)))["process_timeline"]
        kinds = [(entry.time, entry.kind) for entry in timeline]
        assert kinds == [
            (150, "start"),
            (180, "change"),
            (200, "parent"),
            (300, "exec"),
            (400, "exit"),
        ]
        assert timeline[1].changed == ("name",)
        assert set(timeline[2].changed) >= {"ppid", "parent_entity_id"}
        assert timeline[3].process.execution_binary.path == "/bin/c"
        assert "is_alive" in timeline[4].changed
        with pytest.raises(NeverSeen):
            ds.timeline(1)


def test_what_was_dropped_is_not_passed_over_in_silence() -> None:
    tree = tree_of([init(), F(INIT, A)], process_cache=4, thread_cache=8)
    for i in range(20):
        task = Task(100 + i, 1_000 + 10 * i)
        tree.apply_all([F(A, task), E(task, 1_005 + 10 * i)])
    ds = DataSource(tree)
    for ask in (lambda: ds.snapshot(1_050), lambda: ds.diff(1_050, 2_000)):
        with pytest.raises(BeyondHorizon):
            ask()
    assert pids(ds.snapshot(5_000)) == [1, 10]
