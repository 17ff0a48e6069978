"""Pids that are used again within milliseconds, and what tells their holders apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from proctree_ds import DataNotFound, NeverSeen
from proctree_ds.model import CLOCK_TICK_NS, Exec, Exit, Fork, Snapshot
from proctree_ds.sources.procfs import picture

from .stage import Stage, Told, told_in_order

OFTEN = 20


@pytest.fixture(scope="module")
def told(victims: Path) -> Told:
    with Stage().closing() as stage:
        stage.run("again", [victims / "pids", "again", victims / "target", "3"])
        stage.run("often", [victims / "pids", "often", str(OFTEN)])
        stage.run("inside", [victims / "pids", "inside"])
        return stage.end()


@pytest.fixture(scope="module")
def holders(told: Told) -> tuple[Fork, Fork]:
    """The first and the second holder of the pid in "again"."""
    first, second = told.all_of(Fork, told["again"], told["again"]["pid"])
    return first, second


def ids(told: Told, name: str) -> list[int]:
    life = told[name]
    return [told.entity(fork) for fork in told.all_of(Fork, life, life["pid"])]


def test_case_01_a_pid_that_is_used_again_is_another_process(
    told: Told, holders: tuple[Fork, Fork]
) -> None:
    life = told["again"]
    pid = life["pid"]
    first, second = ids(told, "again")
    gone, executed = told.all_of(Exit, life, pid), told.one(Exec, life, pid)
    for ds in told:
        assert first != second
        assert ds.pid(pid, told.at(holders[0].time)).entity_id == first
        assert ds.pid(pid, told.at(gone[0].time - 1)).entity_id == first
        for instant in (gone[0].time, life["between"]):
            with pytest.raises(DataNotFound, match="had exited"):
                ds.pid(pid, told.at(instant))
        assert ds.pid(pid, told.at(life["started"])).entity_id == second
        old, new = (ds.process(i, told.at(executed.time)) for i in (first, second))
        assert (old.is_alive, old.exit_code, old.exit_time) == (False, 7, told.at(gone[0].time))
        assert (new.is_alive, new.exit_code, new.name) == (True, None, "target")
        assert ds.process(second, told.at(life["started"])).name == "pids"
        assert new.exec_time == told.at(executed.time)
        assert old.exec_time is None
        assert ds.process(second, told.at(life["after"])).exit_code == 3
        with pytest.raises(DataNotFound, match="had exited"):
            ds.pid(pid, told.at(life["after"]))


def test_case_02_one_pid_many_times_in_a_few_milliseconds(told: Told) -> None:
    life = told["often"]
    pid, exits = life["pid"], told.all_of(Exit, life, life["pid"])
    entities = ids(told, "often")
    assert len(set(entities)) == len(exits) == OFTEN
    for ds in told:
        for number, (entity, ended) in enumerate(zip(entities, exits, strict=True)):
            assert ds.pid(pid, told.at(ended.time - 1)).entity_id == entity
            gone = ds.process(entity, told.at(life.ended))
            assert (gone.exit_code, gone.exit_time) == (number, told.at(ended.time))
            assert "exit_time" not in gone.certainty.inferred


def test_case_03_the_exit_of_the_first_arrives_after_everything_else(told: Told) -> None:
    life = told["again"]
    first, second = ids(told, "again")
    late = told.all_of(Exit, life, life["pid"])[0]
    ds = told_in_order([*told.without(late).events, late])
    gone = ds.process(first, told.at(life["after"]))
    assert (gone.exit_time, gone.exit_code) == (told.at(late.time), 7)
    assert gone.certainty.inferred == ()
    assert ds.process(second, told.at(life["started"])).is_alive


def test_case_04_the_second_holder_has_none_of_the_first_ones_children(told: Told) -> None:
    life = told["again"]
    first, second = ids(told, "again")
    kept = told.id(life, life["kept"])
    for ds in told:
        for instant in (life["started"], life["after"]):
            assert ds.process(second, told.at(instant)).child_process_ids == {}
            child = ds.process(kept, told.at(instant))
            assert child.is_alive
            assert child.creator_entity_id == child.original_parent_entity_id == first
            assert child.parent_entity_id not in (first, second)
        before = told.one(Fork, life, life["kept"]).time
        assert ds.process(first, told.at(before)).child_process_ids == {life["kept"]: kept}


def test_case_05_a_lost_exit_is_closed_when_the_pid_is_used_again(told: Told) -> None:
    life = told["again"]
    first, second = ids(told, "again")
    lost = told.all_of(Exit, life, life["pid"])[0]
    start = told.all_of(Fork, life, life["pid"])[1].task.start_time
    assert start is not None
    for ds in told.without(lost):
        gone = ds.process(first, told.at(start))
        assert not gone.is_alive
        assert gone.exit_time is not None and gone.exit_time <= told.at(start)
        assert "exit_time" in gone.certainty.inferred
        assert (gone.exit_code, gone.exit_signal) == (None, None)
        assert ds.process(second, told.at(life["started"])).is_alive
        assert ds.process(second, told.at(life["after"])).exit_code == 3


def test_case_06_an_exec_with_a_later_start_begins_a_new_process(told: Told) -> None:
    life = told["again"]
    first, second = ids(told, "again")
    lost_exit = told.all_of(Exit, life, life["pid"])[0]
    lost_fork = told.all_of(Fork, life, life["pid"])[1]
    executed = told.one(Exec, life, life["pid"])
    for ds in told.without(lost_exit, lost_fork):
        fresh = ds.process(second, told.at(executed.time))
        assert (fresh.name, fresh.ppid, fresh.is_alive) == ("target", life.pid, True)
        assert fresh.parent_entity_id == told.id(life)
        old = ds.process(first, told.at(executed.time))
        assert not old.is_alive
        assert "exit_time" in old.certainty.inferred


def test_case_08_a_row_of_proc_is_the_process_that_the_kernel_told_of(victims: Path) -> None:
    with Stage().closing() as stage:
        with stage.running("one", [victims / "pids", "wait"]) as victim:
            victim.wait_for("there")
            row = picture(victim.pid, victim.pid)
        told = stage.end()
    assert row is not None
    life = told["one"]
    entity = told.id(life)
    assert row.task.start_time is not None
    assert row.task != told.one(Fork, life).task
    header, *events = told.events
    for order in ([*events, row], [row, *events], [row, *events[::-1]]):
        ds = told_in_order([header, *order])
        assert ds.pid(life.pid, told.at(life["there"])).entity_id == entity
        assert ds.process(entity, told.at(row.time)).name == "pids"
        held = [info.entity_id for info in ds.snapshot(told.at(row.time)) if info.pid == life.pid]
        assert held == [entity]
    other = Snapshot(
        row.time,
        type(row.task)(life.pid, row.task.start_time - CLOCK_TICK_NS),
        row.given,
        origin="procfs",
    )
    ds = told_in_order([header, *events, other])
    before = ds.pid(life.pid, told.at(row.task.start_time - 1))
    assert before.entity_id != entity


def test_case_30_a_pid_that_is_used_again_inside_of_a_namespace(told: Told) -> None:
    life = told["inside"]
    init = told.one(Fork, life, life["init"])
    children = [
        event for event in told.events if isinstance(event, Fork) and event.parent == init.task
    ]
    assert [event.ns_pid for event in children] == life.said["ns_pid"] == [42, 42]
    assert init.context is not None and init.context.namespaces is not None
    namespace = init.context.namespaces.pid
    assert namespace is not None
    for ds in told:
        for number, child in enumerate(children):
            info = ds.pid(42, told.at(child.time), pid_namespace=namespace)
            assert (info.entity_id, info.pid) == (told.entity(child), child.task.tid)
            gone = ds.process(info.entity_id, told.at(life["after"]))
            assert gone.exit_code == number + 1
        for instant in (life["between"], life["after"]):
            with pytest.raises(DataNotFound):
                ds.pid(42, told.at(instant), pid_namespace=namespace)
        with pytest.raises(DataNotFound):
            ds.pid(42, told.at(children[0].time), pid_namespace=namespace + 1)


def test_a_pid_that_nobody_has_had_was_never_seen(told: Told) -> None:
    for ds in told:
        with pytest.raises(NeverSeen):
            ds.pid(2**22 + 1, told.at(told["again"].ended))


def test_all_tellings_agree(told: Told) -> None:
    told.assert_that_all_tellings_agree()
