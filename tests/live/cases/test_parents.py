"""Real parents: heirs one after the other, subreapers, tracers, deep chains and many children.

The kernel itself says who the parent is: a victim asks getppid(2) at the instants that it names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import Exec, Exit, Fork, Header, Picture, Snapshot
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.procfs import picture

from .stage import Life, Stage, Told

DEPTH = 200
CHILDREN = 600
SMALL_CACHE = 400
"""More than live at once on a machine that is not overloaded, and fewer than the children."""


class TracedPictures:
    """What pictures that were taken meanwhile say about the one that is traced."""

    def __init__(self, pid: int) -> None:
        source = EbpfSource()
        first = next(iter(source.batches()))
        source.close()
        self.by_iterator = next(
            event for event in first if isinstance(event, Snapshot) and event.task.tid == pid
        )
        self.by_procfs = picture(pid, pid)
        status = Path(f"/proc/{pid}/status").read_text()
        self.tracer = int(status.partition("TracerPid:")[2].split()[0])


@pytest.fixture(scope="module")
def scene(victims: Path) -> tuple[Told, TracedPictures]:
    program = victims / "parents"
    with Stage().closing() as stage:
        for name in ("double_fork", "subreaper", "heirs"):
            stage.run(name, [program, name])
        stage.run("chain", [program, "chain", str(DEPTH)])
        stage.run("children", [program, "children", str(CHILDREN)])
        with stage.running("tracer", [program, "tracer", victims / "target"]) as victim:
            traced = victim.wait_for("traced")
            victim.wait_for("seized")
            pictures = TracedPictures(traced)
            victim.go_on()
        return stage.end(), pictures


@pytest.fixture(scope="module")
def told(scene: tuple[Told, TracedPictures]) -> Told:
    return scene[0]


def ppid(told: Told, ds: DataSource, life: Life, instant: int, tid: int) -> int | None:
    return told.info(ds, life, instant, tid).ppid


def assert_handed_over(told: Told, life: Life, which: str) -> None:
    """The orphan had its middle process as parent until that ended, and then whom it said."""
    middle, orphan = life[f"{which}_middle"], life[f"{which}_orphan"]
    heir, handed = life[f"{which}_heir"], life[f"{which}_handed"]
    entity = told.id(life, orphan)
    begun, end = told.one(Fork, life, orphan).time, told.one(Exit, life, middle).time
    for ds in told:
        for instant in (begun, end - 1):
            assert ppid(told, ds, life, instant, orphan) == middle
        for instant in (end, handed):
            assert ppid(told, ds, life, instant, orphan) == heir
            new = ds.pid(heir, told.at(instant))
            assert new.child_process_ids[orphan] == entity
        for instant in (begun, handed):
            info = told.info(ds, life, instant, orphan)
            assert info.original_parent_entity_id == told.id(life, middle)
            assert info.creator_entity_id == told.id(life, middle)
        changes = [entry for entry in ds.timeline(entity) if entry.kind == "parent"]
        assert [entry.time for entry in changes] == [told.at(end)]


def test_case_24_double_fork(told: Told) -> None:
    life = told["double_fork"]
    assert_handed_over(told, life, "only")
    for ds in told:
        lineage = ds.lineage(told.id(life, life["only_orphan"]), told.at(life["only_handed"]))
        pids = [info.pid for info in lineage]
        assert pids[:4] == [life["only_orphan"], life["only_middle"], life.pid, os.getpid()]
        assert lineage.end == "root"


def test_case_25_an_orphan_goes_to_the_subreaper_whose_thread_set_the_flag(told: Told) -> None:
    life = told["subreaper"]
    assert life["first_heir"] == life.pid
    assert_handed_over(told, life, "first")


def test_case_25_a_fork_does_not_inherit_the_flag(told: Told) -> None:
    life = told["subreaper"]
    assert life["lower_heir"] == life.pid
    assert_handed_over(told, life, "lower")
    lower_fork = told.one(Fork, life, life["lower_middle"]).time
    for ds in told:
        assert not told.info(ds, life, lower_fork, life["between"]).is_subreaper


def test_case_25_after_the_flag_is_given_up_orphans_go_further(told: Told) -> None:
    life = told["subreaper"]
    assert life["last_heir"] != life.pid
    assert_handed_over(told, life, "last")


def test_case_27_the_heir_is_worked_out_where_the_exit_names_none(told: Told) -> None:
    """The kernel names the heir; without it, the tree finds the same one by itself."""
    life = told["double_fork"]
    middle = told.one(Exit, life, life["only_middle"])
    assert middle.reaper is not None
    assert middle.reaper.tid == life["only_heir"]
    nameless = Exit(middle.time, middle.task, parent=middle.parent, exit_code=0, group_exit=True)
    events = [nameless if event is middle else event for event in told.events]
    for ds in Told(events, told.lives):
        parent = ppid(told, ds, life, life["only_handed"], life["only_orphan"])
        assert parent == life["only_heir"]


def test_case_28_two_heirs_one_after_the_other(told: Told) -> None:
    life = told["heirs"]
    child, first, second = life["child"], life["first"], life["second"]
    assert life["first_heir"] == first
    ends = [told.one(Exit, life, pid).time for pid in (second, first)]
    entity = told.id(life, child)
    for ds in told:
        parents = [
            ppid(told, ds, life, instant, child)
            for instant in (
                ends[0] - 1, ends[0], life["at_first"], ends[1] - 1, ends[1], life["at_second"],
            )
        ]  # fmt: skip
        heir = life["second_heir"]
        assert parents == [second, first, first, first, heir, heir]
        changes = [entry for entry in ds.timeline(entity) if entry.kind == "parent"]
        assert [entry.time for entry in changes] == [told.at(end) for end in ends]
        for instant in (life["at_first"], life["at_second"]):
            lineage = ds.lineage(entity, told.at(instant), max_depth=3)
            assert [info.pid for info in lineage] == [child, second, first, life.pid]


def test_case_28_a_lineage_by_the_parents_of_the_time(told: Told) -> None:
    life = told["heirs"]
    entity = told.id(life, life["child"])
    for ds in told:
        for instant, heir in (
            (told.one(Fork, life, life["child"]).time, "second"),
            (life["at_first"], "first"),
            (life["at_second"], "second_heir"),
        ):
            lineage = ds.lineage(entity, told.at(instant), max_depth=1, parents="as_of")
            assert [info.pid for info in lineage] == [life["child"], life[heir]]
            assert [info.time for info in lineage] == [told.at(instant)] * 2
        held = [
            parent.pid for parent in told.info(ds, life, life["at_second"], life["child"]).parents()
        ]
        assert held == [life["second"], life["first"], life["second_heir"]]


def test_case_29_a_tracer_is_not_a_parent(scene: tuple[Told, TracedPictures]) -> None:
    told, pictures = scene
    life = told["tracer"]
    traced, tracer = life["traced"], life["tracer"]
    assert life["tracers_status"] == 0
    assert pictures.tracer == tracer
    for row in (pictures.by_iterator, pictures.by_procfs):
        assert row is not None and row.parent is not None
        assert row.parent.tid == life.pid
    child = told.one(Fork, life, life["child"])
    executed, ended = told.one(Exec, life, traced).time, told.one(Exit, life, traced).time
    for ds in told:
        for instant in (life["attached"], life["seized"], child.time, executed, ended - 1):
            info = told.info(ds, life, instant, traced)
            assert info.parent_entity_id == info.original_parent_entity_id == told.id(life)
            assert told.info(ds, life, instant, tracer).child_process_ids == {}
            assert told.info(ds, life, instant).child_process_ids.keys() == {traced, tracer}
        born = told.info(ds, life, child.time, life["child"])
        assert (born.ppid, born.creator_entity_id) == (traced, told.id(life, traced))
        lineage = ds.lineage(told.id(life, traced), told.at(executed), max_depth=1)
        assert [info.pid for info in lineage] == [traced, life.pid]


def test_case_39_a_parent_that_has_had_many_children(told: Told) -> None:
    life = told["children"]
    parent, living = told.id(life), told.id(life, life["living"])
    for ds in told:
        info = told.info(ds, life, life["many"])
        assert info.child_process_ids == {life["living"]: living}
        assert info.forgotten_children == 0
    tree = ProcessTree(process_cache=SMALL_CACHE, thread_cache=2 * SMALL_CACHE)
    tree.apply_all(
        event
        for event in told.events
        if isinstance(event, Header | Snapshot | Picture) or event.time > life.began
    )
    tree._check()
    small = DataSource(tree)
    info = small.process(parent, told.at(life["many"]))
    assert info.is_alive
    assert info.child_process_ids == {life["living"]: living}
    assert CHILDREN - SMALL_CACHE <= info.forgotten_children <= CHILDREN
    lineage = small.lineage(living, told.at(life["many"]), max_depth=2)
    assert [i.pid for i in lineage] == [life["living"], life.pid, os.getpid()]


def test_case_40_a_deep_chain(told: Told) -> None:
    life = told["chain"]
    last = told.id(life, life["last"])
    for ds in told:
        for max_depth, length in ((0, 1), (1, 2), (5, 6)):
            lineage = ds.lineage(last, told.at(life["deepest"]), max_depth=max_depth)
            assert (len(lineage), lineage.end) == (length, "max_depth")
        whole = ds.lineage(last, told.at(life["deepest"]))
        assert whole.end == "root"
        assert [i.pid for i in whole][DEPTH : DEPTH + 2] == [life.pid, os.getpid()]
        assert {i.name for i in whole[: DEPTH + 1]} == {"parents"}
        above = told.id(life)
        subtree = ds.subtree(above, told.at(life["deepest"]))
        depth = 0
        while subtree.children:
            (subtree,) = subtree.children
            depth += 1
        assert (depth, subtree.process.entity_id) == (DEPTH, last)


def test_all_tellings_agree(told: Told) -> None:
    told.assert_that_all_tellings_agree(but=["chain", "children"])
