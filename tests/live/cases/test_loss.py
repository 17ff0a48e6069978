"""What real captures miss: lost events, the time between two captures, and the first picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from scenarios.story import id_of, through_a_log

from proctree_ds import DataNotFound, DataSource, LossWindow, ProcessInfo
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Loss, Picture, Snapshot

from .stage import Command, Stage, Told, Victim, told_in_order

RING_BYTES = 32 << 10
FLOOD = 300
"""Processes whose events are far more than the ring holds."""
CHURN = 20_000


# -------------------------------------------------------------------------------- a full ring


@dataclass
class Flooded:
    """While nobody reads, a flood fills the ring. In it "gone" ends and "unseen" begins; "stays"
    lives all the time. Then a picture repairs what it can, and "late" comes.
    """

    told: Told
    met: dict[str, Exec | Snapshot]
    """What was first told of each."""
    left: int
    """When "gone" had ended."""
    repair: Picture
    window: Loss
    """What was lost around that instant."""

    def info(self, ds: DataSource, name: str, time: int) -> ProcessInfo:
        return ds.process(id_of(self.met[name].task), self.told.at(time))

    def row(self, name: str) -> Snapshot:
        """What the repair shows of a process."""
        (row,) = (
            event
            for event in self.told.all_of(Snapshot, self.told[name])
            if self.repair.since <= event.time <= self.repair.time
        )
        return row


@pytest.fixture(scope="module")
def flooded(victims: Path) -> Flooded:
    wait: Command = [victims / "pids", "wait"]
    met = {}
    with Stage(reads=False, ring_bytes=RING_BYTES).closing() as stage:
        with stage.running("stays", wait) as stays, stage.running("gone", wait) as gone:
            met["stays"], met["gone"] = stage.meet(stays), stage.meet(gone)
            stage.run("flood", [victims / "parents", "children", str(FLOOD)])
            with stage.running("unseen", wait) as unseen:
                unseen.wait_for("there")
                left = gone.leave()
                repair = stage.read_until(lambda e: isinstance(e, Picture) and e.since > left)
                with stage.running("late", wait) as late:
                    met["late"] = stage.meet(late)
        told = stage.end(may_lose=True)
    assert isinstance(repair, Picture)
    window = next(e for e in told.events if isinstance(e, Loss) and e.since < left < e.time)
    return Flooded(told, met, left, repair, window)


def test_case_33_whose_fork_was_lost_has_the_parent_that_the_repair_names(
    flooded: Flooded,
) -> None:
    told, life = flooded.told, flooded.told["unseen"]
    assert (told.all_of(Fork, life), told.all_of(Exec, life)) == ([], [])
    row = flooded.row("unseen")
    for ds in told:
        info = ds.process(id_of(row.task), told.at(row.time))
        assert (info.pid, info.name, info.ppid) == (life.pid, "pids", os.getpid())
        assert info.start_time == told.at(row.task.start_time or 0)
        assert info.certainty.source == "iterator"
        assert "original_parent_entity_id" in info.certainty.inferred
        assert not info.certainty.is_certain


def test_case_34_a_lost_exit_is_found_by_the_next_repair(flooded: Flooded) -> None:
    told, life, known = flooded.told, flooded.told["gone"], flooded.met["gone"].time
    assert told.all_of(Exit, life) == []
    for ds in told:
        assert flooded.info(ds, "gone", known).is_alive
        for instant in (flooded.repair.time, life.ended, flooded.met["late"].time):
            gone = flooded.info(ds, "gone", instant)
            assert not gone.is_alive
            assert gone.exit_time is not None
            assert told.at(known) < gone.exit_time <= told.at(flooded.repair.time)
            assert "exit_time" in gone.certainty.inferred
            assert (gone.exit_code, gone.exit_signal) == (None, None)
        with pytest.raises(DataNotFound, match="had exited"):
            ds.pid(life.pid, told.at(flooded.repair.time))
        assert flooded.info(ds, "stays", flooded.repair.time).is_alive


def test_case_34_a_picture_comes_now_and_then_though_nobody_counted_a_loss(victims: Path) -> None:
    with Stage(reads=False, picture_seconds=0.05).closing() as stage:
        life = stage.run("gone", [victims / "target", "3"])
        picture = stage.read_until(lambda e: isinstance(e, Picture) and e.since > life.ended)
        told = stage.end()
    assert isinstance(picture, Picture)
    for ds in told.without(told.one(Exit, life)):
        gone = told.info(ds, life, picture.time)
        assert (gone.is_alive, gone.exit_code) == (False, None)
        assert "exit_time" in gone.certainty.inferred


def test_case_38_answers_that_touch_the_loss_say_so_and_others_do_not(flooded: Flooded) -> None:
    told, loss = flooded.told, flooded.window
    window = LossWindow(told.at(loss.since), told.at(loss.time), loss.lost)
    assert loss.lost is not None and loss.lost > FLOOD
    instants = (loss.since - 1, loss.since, flooded.left, loss.time, flooded.row("stays").time)
    for ds in told:
        answers = [flooded.info(ds, "stays", instant).certainty for instant in instants]
        touched = [window in certainty.loss_windows for certainty in answers]
        assert touched == [False, True, True, True, False]
        assert not answers[2].is_certain
        late = flooded.info(ds, "late", flooded.met["late"].time)
        assert window not in late.certainty.loss_windows


# ------------------------------------------------------------------------------- two captures


@dataclass
class Restarted:
    """Two captures, one after the other: "stays" lives through both, "gone" ends in between, and
    "between" begins there.
    """

    first: Told
    second: Told
    gap: int
    """When "gone" had ended."""

    def __iter__(self) -> Iterator[DataSource]:
        """Both captures told to one tree; a header stands where it came, all else in any order."""
        random = Random(1)
        for shuffled in (False, True):
            whole: list[Event] = []
            for told in (self.first, self.second):
                header, *events = told.events
                whole += [header, *(random.sample(events, len(events)) if shuffled else events)]
            yield told_in_order(whole)
            yield told_in_order(through_a_log(whole))


@pytest.fixture(scope="module")
def restarted(victims: Path) -> Restarted:
    wait: Command = [victims / "pids", "wait"]
    with (
        Stage().closing() as one,
        one.running("stays", wait) as stays,
        one.running("gone", wait) as gone,
    ):
        for victim in (stays, gone):
            victim.wait_for("there")
        first = one.end()
        gap = gone.leave()
        between = Victim(wait)
        between.wait_for("there")
        with Stage().closing() as two:
            stays.leave()
            second = two.end()
        second.lives["between"] = between.end()
    return Restarted(first, second, gap)


def test_case_41_who_lives_through_a_restart_has_the_same_id(restarted: Restarted) -> None:
    first, second, life = restarted.first, restarted.second, restarted.first["stays"]
    entity, ended = first.id(life), second.one(Exit, life)
    (row,) = second.all_of(Snapshot, life)
    assert id_of(row.task) == entity == id_of(ended.task)
    assert second.header.boot_id == first.header.boot_id
    for ds in restarted:
        for instant in (first.one(Exec, life).time, restarted.gap, row.time):
            info = ds.pid(life.pid, first.at(instant))
            assert (info.entity_id, info.name, info.ppid) == (entity, "pids", os.getpid())
            assert info.exec_time == first.at(first.one(Exec, life).time)
        gone = ds.process(entity, first.at(ended.time))
        assert (gone.is_alive, gone.exit_code, gone.exit_time) == (False, 0, first.at(ended.time))
        born = ds.pid(second["between"].pid, first.at(row.time))
        assert (born.name, born.ppid, born.is_alive) == ("pids", os.getpid(), True)


def test_case_41_between_two_captures_is_a_window_of_loss(restarted: Restarted) -> None:
    first, second, life = restarted.first, restarted.second, restarted.first["stays"]
    (row,) = second.all_of(Snapshot, life)
    assert second.header.time is not None
    begun = first.at(second.header.time)
    for ds in restarted:
        before = first.info(ds, life, first.one(Exec, life).time)
        assert before.certainty.loss_windows == ()
        (window,) = first.info(ds, life, restarted.gap).certainty.loss_windows
        assert window.since <= first.at(restarted.gap) <= window.until == begun
        assert first.info(ds, life, row.time).certainty.loss_windows == ()
        gone = first.info(ds, first["gone"], row.time + 1_000_000_000)
        assert not gone.is_alive
        assert "exit_time" in gone.certainty.inferred


def test_case_41_another_boot_is_another_life_of_the_host(restarted: Restarted) -> None:
    """The second capture, as if the machine had been booted in between."""
    first, second = restarted.first, restarted.second
    there = second.header
    header = Header(there.boot_time, there.host, "another boot", there.time, there.unfollowed)
    ds = told_in_order([*first.events, header, *second.events[1:]])
    now = there.boot_time + second.all_of(Snapshot, first["stays"])[0].time
    with pytest.raises(DataNotFound):
        ds.process(first.id(first["gone"]), now)
    info = ds.pid(first["stays"].pid, now)
    assert info.exec_time is None
    assert info.certainty.source == "iterator"
    assert info.certainty.loss_windows == ()


# ---------------------------------------------------------------------------- the first picture


@pytest.fixture(scope="module")
def churned(victims: Path) -> Told:
    """A capture that begins while a process makes one child after the other."""
    churn = Victim([victims / "pids", "churn", str(CHURN)])
    churn.wait_for("busy")
    with Stage().closing() as stage:
        churn.go_on()
        life = churn.end()
        told = stage.end()
    assert life.status == 0
    told.lives["churn"] = life
    return told


def test_case_35_processes_that_start_during_the_first_picture_are_one_node_each(
    churned: Told,
) -> None:
    life = churned["churn"]
    forks = {
        event.task
        for event in churned.events
        if isinstance(event, Fork) and event.parent is not None and event.parent.tid == life.pid
    }
    rows = [
        event
        for event in churned.events
        if isinstance(event, Snapshot) and event.parent is not None and event.parent.tid == life.pid
    ]
    assert forks and rows
    # A row of /proc that was read after the iterator knows a start to the tick.
    exact = {row.task for row in rows if row.origin == "iterator"}
    for ds in churned:
        for row in rows:
            (held,) = [i for i in ds.snapshot(churned.at(row.time)) if i.pid == row.task.tid]
            assert (held.ppid, held.is_alive) == (life.pid, True)
            assert row.task not in exact or held.entity_id == id_of(row.task)
        # Pictures that are older than the exits do not bring anybody back.
        for task in forks | exact:
            gone = ds.process(id_of(task), churned.at(life.ended))
            assert (gone.is_alive, gone.exit_signal) == (False, 9)
        last = churned.at(max(event.time for event in churned.events if isinstance(event, Exit)))
        assert life.pid not in {info.ppid for info in ds.snapshot(last)}


def test_case_36_a_picture_in_any_order_links_children_to_their_parents(churned: Told) -> None:
    header, *events = churned.events
    rows = [event for event in events if isinstance(event, Snapshot)]
    processes = [row for row in rows if row.leader is None and row.origin == "iterator"]
    now = churned.at(max(row.time for row in rows))
    for order in (rows, rows[::-1], Random(1).sample(rows, len(rows))):
        ds = told_in_order([header, *order])
        for row in processes:
            info = ds.process(id_of(row.task), now)
            assert row.parent is not None
            assert info.ppid == row.parent.tid
            assert ds.lineage(info.entity_id, now).end == "root"
        assert ds.pid(2, now).ppid == 0
        own = ds.lineage(ds.pid(os.getpid(), now).entity_id, now)
        assert [own[0].pid, own[1].pid, own[-1].pid] == [os.getpid(), os.getppid(), 1]


def test_case_33_real_execs_without_their_forks(victims: Path) -> None:
    with Stage().closing() as stage:
        stage.run("vfork", [victims / "execs", "vfork", victims / "target", "3"])
        told = stage.end()
    life = told["vfork"]
    fork, executed = told.one(Fork, life, life["executed"]), told.one(Exec, life, life["executed"])
    for ds in told.without(fork):
        info = ds.process(id_of(fork.task), told.at(executed.time))
        assert (info.name, info.ppid) == ("target", life.pid)
        assert info.start_time == told.at(fork.task.start_time or 0)
        assert info.parent_entity_id == told.id(life)
        assert info.certainty.source == "event"
        assert "original_parent_entity_id" in info.certainty.inferred
        gone = ds.process(id_of(fork.task), told.at(life.ended))
        assert (gone.is_alive, gone.exit_code) == (False, 3)
