"""Real threads: whose end is whose, execs from any thread, creators."""

from __future__ import annotations

from pathlib import Path

import pytest

from proctree_ds import DataSource
from proctree_ds.model import Exec, Exit, Fork, Snapshot

from .stage import Life, Stage, Told, Victim

MANY = 64


@pytest.fixture(scope="module")
def told(victims: Path) -> Told:
    program = victims / "threads"
    with Stage().closing() as stage:
        for name in ("many", "leader_first", "exit_group", "thread_forks", "clone_parent"):
            stage.run(name, [program, name])
        for name in ("exec", "leaderless_exec"):
            stage.run(name, [program, name, program])
        return stage.end()


def images_of(told: Told, ds: DataSource, life: Life, *instants: int) -> list[str]:
    """The second word of the command line as of each instant: which of its lives it leads."""
    words = []
    for instant in instants:
        command = told.info(ds, life, instant).cmd
        assert command is not None
        words.append(command[1])
    return words


def test_case_17_many_threads_end_and_the_process_lives_on(told: Told) -> None:
    life = told["many"]
    entity = told.id(life)
    threads = {tid: told.id(life, tid) for tid in life.said["thread"]}
    assert len(threads) == MANY
    for ds in told:
        together = told.info(ds, life, life["together"])
        assert together.thread_ids == threads | {life.pid: entity}
        alone = told.info(ds, life, life["alone"])
        assert (alone.is_alive, alone.thread_ids) == (True, {life.pid: entity})
        for tid, thread in threads.items():
            ended = told.one(Exit, life, tid).time
            assert ds.thread(thread, told.at(ended - 1)).is_alive
            info = ds.thread(thread, told.at(life["alone"]))
            assert (info.exit_time, info.pid) == (told.at(ended), life.pid)
            assert info.process_entity_id == entity
        last = told.one(Exit, life).time
        assert told.info(ds, life, last - 1).is_alive
        assert told.info(ds, life, last).exit_time == told.at(last)


def test_case_17_one_thread_ends_them_all(told: Told) -> None:
    life = told["exit_group"]
    assert life.status == 9
    tids = (life.pid, life["sibling"], life["thread"])
    exits = {tid: told.one(Exit, life, tid).time for tid in tids}
    last = max(exits.values())
    for ds in told:
        assert told.info(ds, life, last - 1).is_alive
        gone = told.info(ds, life, last)
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, told.at(last), 9)
        assert gone.thread_ids == {}
        for tid, ended in exits.items():
            assert told.thread(ds, life, ended - 1, tid).is_alive
            assert told.thread(ds, life, ended, tid).exit_time == told.at(ended)


def test_case_18_the_leader_exits_first(told: Told) -> None:
    life = told["leader_first"]
    entity, thread = told.id(life), told.id(life, life["thread"])
    child = told.one(Fork, life, life["child"])
    leader_end, end = told.one(Exit, life).time, told.one(Exit, life, life["thread"]).time
    for ds in told:
        for instant in (leader_end, life["without"], child.time, life["still"], end - 1):
            info = told.info(ds, life, instant)
            assert (info.is_alive, info.exit_time, info.exit_code) == (True, None, None)
            assert info.thread_ids == {life["thread"]: thread}
            assert ds.pid(life.pid, told.at(instant)).entity_id == entity
            assert not ds.thread(entity, told.at(instant)).is_alive
            assert ds.thread(entity, told.at(instant)).exit_time == told.at(leader_end)
        born = told.info(ds, life, child.time, life["child"])
        assert (born.parent_entity_id, born.creator_entity_id) == (entity, thread)
        gone = told.info(ds, life, end)
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, told.at(end), 5)


def test_case_18_whose_leader_ended_before_the_capture_has_its_other_threads(victims: Path) -> None:
    victim = Victim([victims / "threads", "leader_left"])
    thread, without = victim.wait_for("thread"), victim.wait_for("without")
    with Stage().closing() as stage:
        victim.leave()
        life = victim.end()
        told = Told(stage.end().events, {"leader_left": life})
    picture = next(e for e in told.all_of(Snapshot, life) if e.origin == "iterator")
    assert picture.time > without
    entity = told.entity(picture)
    end = told.one(Exit, life, thread).time
    for ds in told:
        info = ds.process(entity, told.at(end - 1))
        assert info.is_alive
        assert list(info.thread_ids) == [thread]
        assert not ds.thread(entity, told.at(end - 1)).is_alive
        gone = ds.process(entity, told.at(end))
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, told.at(end), 5)


def test_case_19_an_exec_by_a_thread_that_does_not_lead(told: Told) -> None:
    life = told["exec"]
    entity, executed = told.id(life), told.all_of(Exec, life)[-1].time
    sibling, thread = (told.id(life, life[name]) for name in ("sibling", "thread"))
    start = told.one(Fork, life).task.start_time
    assert start is not None
    for ds in told:
        words = images_of(told, ds, life, life["old"], executed - 1, executed, life["new"])
        assert words == ["exec"] * 2 + ["after_exec"] * 2
        for instant in (life["old"], executed, life["new"]):
            info = ds.pid(life.pid, told.at(instant))
            assert (info.entity_id, info.start_time) == (entity, told.at(start))
            assert info.is_alive
        old, new = told.info(ds, life, life["old"]), told.info(ds, life, executed)
        assert old.thread_ids == {
            life.pid: entity, life["sibling"]: sibling, life["thread"]: thread,
        }  # fmt: skip
        assert new.thread_ids == {life.pid: entity}
        assert ds.thread(thread, told.at(executed - 1)).is_alive
        assert ds.thread(thread, told.at(executed)).exit_time == told.at(executed)
        dying = ds.thread(sibling, told.at(executed)).exit_time
        assert dying is not None and told.at(life["old"]) < dying <= told.at(executed)
        assert ds.thread(entity, told.at(executed)).is_alive
        assert told.info(ds, life, life.ended).exit_code == 4


def test_case_20_a_sibling_had_forked_a_child_before(told: Told) -> None:
    life = told["exec"]
    entity, child = told.id(life), told.id(life, life["child"])
    creator = told.id(life, life["sibling"])
    executed = told.all_of(Exec, life)[-1].time
    for ds in told:
        for instant in (life["old"], executed, life["new"]):
            info = ds.process(child, told.at(instant))
            assert info.is_alive
            assert info.parent_entity_id == info.original_parent_entity_id == entity
            assert info.creator_entity_id == creator
            assert info.cmd is not None and info.cmd[1] == "exec"
            assert told.info(ds, life, instant).child_process_ids == {life["child"]: child}
        lineage = ds.lineage(child, told.at(life["new"]), max_depth=1)
        assert [info.cmd and info.cmd[1] for info in lineage] == ["exec", "exec"]
        assert told.info(ds, life, life["alone"]).child_process_ids == {}


def test_case_21_the_leader_has_exited_and_a_sibling_executes(told: Told) -> None:
    life = told["leaderless_exec"]
    entity, thread = told.id(life), told.id(life, life["thread"])
    executed = told.all_of(Exec, life)[-1].time
    leader_end, end = (event.time for event in told.all_of(Exit, life))
    assert leader_end < executed < end
    for ds in told:
        instants = (leader_end, life["without"], executed - 1, executed, life["new"], end - 1)
        for instant in instants:
            info = told.info(ds, life, instant)
            assert (info.is_alive, info.exit_time) == (True, None)
        assert told.info(ds, life, life["without"]).thread_ids == {life["thread"]: thread}
        assert told.info(ds, life, executed).thread_ids == {life.pid: entity}
        assert [ds.thread(entity, told.at(i)).is_alive for i in (life["without"], executed)] == [
            False,
            True,
        ]
        assert ds.thread(thread, told.at(executed)).exit_time == told.at(executed)
        words = images_of(told, ds, life, executed - 1, executed)
        assert words == ["leaderless_exec", "after_exec"]
        gone = told.info(ds, life, end)
        assert (gone.exit_time, gone.exit_code) == (told.at(end), 4)


def test_case_22_a_child_of_a_thread_belongs_to_the_process(told: Told) -> None:
    life = told["thread_forks"]
    child, thread = told.id(life, life["child"]), told.id(life, life["thread"])
    for ds in told:
        info = ds.process(child, told.at(life["forked"]))
        assert info.parent_entity_id == info.original_parent_entity_id == told.id(life)
        assert (info.ppid, info.creator_entity_id) == (life.pid, thread)
        parent = told.info(ds, life, life["forked"])
        assert parent.child_process_ids == {life["child"]: child}
        # The thread has ended since, and the child's creator stays.
        after = ds.process(child, told.at(life["joined"]))
        assert after.creator_entity_id == thread


@pytest.mark.parametrize("name", ["by_leader", "by_thread"])
def test_case_22_clone_parent_gives_the_callers_parent(told: Told, name: str) -> None:
    life = told["clone_parent"]
    parent, caller = told.id(life), told.id(life, life["caller"])
    sibling = told.id(life, life[name])
    creator = told.id(life, life.said["creator"][name == "by_thread"])
    assert (creator == caller) is (name == "by_leader")
    for ds in told:
        for instant in (life["made"], life["after"]):
            info = ds.process(sibling, told.at(instant))
            assert info.is_alive
            assert info.parent_entity_id == info.original_parent_entity_id == parent
            assert (info.ppid, info.creator_entity_id) == (life.pid, creator)
            lineage = ds.lineage(sibling, told.at(instant), max_depth=1)
            assert [i.entity_id for i in lineage] == [sibling, parent]
        assert told.info(ds, life, life["made"], life["caller"]).child_process_ids == {}
        children = told.info(ds, life, life["made"]).child_process_ids
        assert children.keys() == {life["caller"], life["by_leader"], life["by_thread"]}


def test_all_tellings_agree(told: Told) -> None:
    told.assert_that_all_tellings_agree()
