"""Parents and images one after the other, and lineages by the parents of the time."""

from __future__ import annotations

import pytest

from proctree_ds import DataSource, LineageKey
from proctree_ds.model import Fork, Namespaces, Task

from .story import INIT, C, E, F, S, X, id_of, init, tellings, tree_of

A, B, CHILD = Task(10, 60), Task(11, 100), Task(12, 150)
STORY = (
    init(),
    F(INIT, A),
    C(A, 70, subreaper=True),
    X(A, "/bin/a", 80),
    F(A, B),
    X(B, "/bin/first", 110),
    X(B, "/bin/second", 120),
    F(B, CHILD),
    X(B, "/bin/third", 160),
    E(B, 200, reaper=A),
    X(A, "/bin/later", 250),
    E(A, 300, reaper=INIT),
    E(CHILD, 400),
)


def test_case_28_the_history_of_heirs() -> None:
    for ds in tellings(*STORY):
        held = ds.process(id_of(CHILD), 350).parents()
        assert [(p.pid, p.since, p.until) for p in held] == [
            (11, 150, 200),
            (10, 200, 300),
            (1, 300, None),
        ]
        assert [p.entity_id for p in held] == [id_of(B), id_of(A), id_of(INIT)]
        # What came later is not told.
        assert [p.pid for p in ds.process(id_of(CHILD), 299).parents()] == [11, 10]
        assert [p.pid for p in ds.process(id_of(CHILD), 500).parents()] == [11, 10, 1]


def test_case_28_a_lineage_by_the_parents_of_the_time() -> None:
    for ds in tellings(*STORY):
        original = ds.lineage(id_of(CHILD), 350)
        assert [info.pid for info in original] == [12, 11, 10, 1]
        for time, pids in ((199, [12, 11, 10, 1]), (200, [12, 10, 1]), (300, [12, 1])):
            lineage = ds.lineage(id_of(CHILD), time, parents="as_of")
            assert [info.pid for info in lineage] == pids
            assert lineage.end == "root"
            assert all(info.time == time for info in lineage)
        key = LineageKey(id_of(CHILD), 260, 1, parents="as_of")
        cut = ds.get(key)["process_lineage"]
        assert [(info.pid, info.name) for info in cut] == [(12, "second"), (10, "later")]
        assert cut.end == "max_depth"
        # Who has exited is told with the last parents that it had.
        last = ds.lineage(id_of(CHILD), 10_000, parents="as_of")
        assert [info.pid for info in last] == [12, 1]


def test_a_lineage_follows_no_other_parents() -> None:
    ds = next(iter(tellings(*STORY)))
    with pytest.raises(ValueError, match="as_of"):
        ds.lineage(id_of(CHILD), 300, parents="present")  # type: ignore[arg-type]


def test_case_12_every_image_that_an_ancestor_has_held() -> None:
    for ds in tellings(*STORY):
        lineage = ds.lineage(id_of(CHILD), 350)
        own, father, grandfather, root = lineage.images()
        assert [(i.name, i.since, i.until) for i in own] == [("second", 150, None)]
        assert [(i.name, i.since, i.until, i.made_branch) for i in father] == [
            ("a", 100, 110, False),
            ("first", 110, 120, False),
            ("second", 120, 160, True),
            ("third", 160, None, False),
        ]
        assert [i.name for i in grandfather if i.made_branch] == ["a"]
        assert [i.name for i in grandfather] == ["init", "a", "later"]
        assert len(root) == 1
        # Up to the time that the lineage is as of, and no further.
        early = ds.lineage(id_of(CHILD), 155).images()
        assert [i.name for i in early[1]][-1] == "second"
        assert [i.name for i in ds.process(id_of(B), 115).images()] == ["a", "first"]


def test_images_that_a_limit_dropped_are_a_gap() -> None:
    tree = tree_of([init(), F(INIT, A)])
    for i in range(500):
        tree.apply(X(A, f"/bin/x{i}", 100 + i))
    images = DataSource(tree).process(id_of(A), 10_000).images()
    (gap,) = (image for image in images if image.is_gap)
    assert images[1].name == "x0"
    assert images[-1].name == "x499"
    assert gap.until is not None
    assert gap.since > images[1].since
    names = [image.name for image in images if image.since >= gap.until]
    assert names == [f"x{i}" for i in range(500 - len(names), 500)]


def test_a_parent_who_is_not_known_is_told_as_unknown() -> None:
    ds = DataSource(tree_of([S(CHILD, 900, comm="c")]))
    (parent,) = ds.process(id_of(CHILD), 900).parents()
    assert (parent.pid, parent.entity_id) == (None, None)
    lineage = ds.lineage(id_of(CHILD), 900, parents="as_of")
    assert (len(lineage), lineage.end) == (1, "unknown_parent")


def test_an_init_keeps_its_children_beyond_its_end() -> None:
    """Nobody takes over from it: what is left in its namespace ends with it, and may be told
    of later (zap_pid_ns_processes, kernel/pid_namespace.c).
    """
    inner = Namespaces(pid=7)
    events = (
        init(namespaces=Namespaces(pid=1)),
        Fork(A.start_time or 0, A, INIT, ns_pid=1, given={"namespaces": inner}),
        Fork(B.start_time or 0, B, A, ns_pid=2, given={"namespaces": inner}),
        E(B, 400, group_exit=True),
        E(A, 300, group_exit=True),
    )
    for ds in tellings(*events):
        held = ds.process(id_of(B), 350).parents()
        assert [(p.pid, p.since, p.until) for p in held] == [(A.tid, 100, None)]
