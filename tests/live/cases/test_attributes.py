"""What real processes change of themselves, and how they end.

Each change stands between two instants that the victim names. What the source follows is right at
once; of the rest the certainty says that it may have changed, and the next event tells it.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from proctree_ds.model import Exec, Exit, Fork
from proctree_ds.sources.procfs import picture

from .stage import Life, Stage, Told

RENAMES = 20_000
ODD_NAME = ") R 1 ("
CAP_OF_CHOICE = 25
"""CAP_SYS_TIME."""

CREDENTIALS = ("uid", "euid", "suid", "gid", "egid", "sgid")
CHANGES = ("setuid", "setresuid", "setresgid", "chdir", "chroot", "setsid", "setpgid", "capset")
NAMES = ("prctl", "odd_name", "thread", "another")


def run_changes(stage: Stage, victims: Path, place: Path) -> None:
    program = victims / "attributes"
    for name in (*CHANGES, *NAMES):
        stage.run(name, [program, name, place], cwd="/usr")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to go to, for every user."""
    place = tmp_path_factory.mktemp("place")
    for directory in (place, *place.parents[:2]):
        directory.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def told(victims: Path, place: Path) -> Told:
    program = victims / "attributes"
    with Stage().closing() as stage:
        run_changes(stage, victims, place)
        stage.run("flood", [program, "flood", str(RENAMES)])
        for name in ("core", "coreless", "killed"):
            stage.run(name, [program, name], cwd=place)
        for code in ("3", "0", "259"):
            stage.run(f"exit {code}", [program, "exits", code])
        return stage.end()


@pytest.fixture(scope="module")
def followed(victims: Path, place: Path, tracefs: None) -> Told:
    setuid = shutil.copy(victims / "target", place / "setuid")
    os.chown(setuid, 0, 0)
    os.chmod(setuid, 0o4755)
    with Stage(follow_changes=True).closing() as stage:
        run_changes(stage, victims, place)
        stage.run("setuid program", [victims / "images", "user", setuid])
        return stage.end()


def who_changes(life: Life) -> int:
    return life["self"] if "self" in life.said else life.pid


def values_of(name: str, life: Life, place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that a change is about, as they are before it and after it."""
    own = who_changes(life)
    if name == "setuid":
        fields = dict.fromkeys(("uid", "euid", "suid"), 0)
        return fields, dict.fromkeys(fields, 1000)
    if name in ("setresuid", "setresgid"):
        ids = CREDENTIALS[:3] if name == "setresuid" else CREDENTIALS[3:]
        return dict.fromkeys(ids, 0), dict(zip(ids, (7, 8, 9), strict=True))
    here: dict[str, Any] = {"session_id": os.getsid(0), "process_group": os.getpgrp()}
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "chdir": ({"cwd": "/usr"}, {"cwd": str(place)}),
        "chroot": ({"root": "/"}, {"root": str(place)}),
        "setsid": (here, {"session_id": own, "process_group": own}),
        "setpgid": (here, {"session_id": here["session_id"], "process_group": own}),
        "capset": ({"capable": True}, {"capable": False}),
    }
    return changes[name]


def value(info: Any, name: str) -> object:
    if name == "capable":
        return bool(info.capabilities.effective >> CAP_OF_CHOICE & 1)
    return getattr(info, name)


def unfollowed(info: Any, name: str) -> bool:
    return ("capabilities" if name == "capable" else name) in info.certainty.unfollowed


@pytest.mark.parametrize(
    ("code", "seen"), [("3", 3), ("0", 0), ("259", 3)], ids=["3", "0", "259, of which one byte"]
)
def test_case_42_an_exit_code_is_no_signal(told: Told, code: str, seen: int) -> None:
    life = told[f"exit {code}"]
    end = told.one(Exit, life).time
    for ds in told:
        alive, gone = told.info(ds, life, end - 1), told.info(ds, life, end)
        assert (alive.is_alive, alive.exit_code, alive.exit_time) == (True, None, None)
        assert (gone.exit_code, gone.exit_signal, gone.core_dumped) == (seen, None, False)
        assert gone.exit_time == told.at(end)


@pytest.mark.parametrize(
    ("name", "number", "core"),
    [
        ("killed", signal.SIGKILL, False),
        ("core", signal.SIGSEGV, True),
        ("coreless", signal.SIGSEGV, False),
    ],
)
def test_case_42_a_signal_is_no_exit_code_and_a_core_is_told(
    told: Told, name: str, number: int, core: bool
) -> None:
    life = told[name]
    end = told.one(Exit, life).time
    for ds in told:
        gone = told.info(ds, life, end)
        assert (gone.exit_code, gone.exit_signal, gone.core_dumped) == (None, number, core)
        assert told.info(ds, life, end - 1).exit_signal is None


@pytest.mark.parametrize(("name", "new"), [("prctl", "renamed"), ("odd_name", ODD_NAME)])
def test_case_43_the_leaders_name_is_the_processs_and_its_file_stays(
    told: Told, victims: Path, name: str, new: str
) -> None:
    life = told[name]
    for ds in told:
        old = told.info(ds, life, life["before"])
        assert old.name == "attributes"
        for instant in (life["after"], life["end"]):
            info = told.info(ds, life, instant)
            assert info.name == new
            assert info.execution_binary == old.execution_binary
            assert info.execution_binary is not None
            assert info.execution_binary.path == str(victims / "attributes")
            assert info.cmd == old.cmd
            assert told.thread(ds, life, instant, life.pid).name == new
        child = told.one(Fork, life, life["child"]).time
        assert told.info(ds, life, child, life["child"]).name == new


@pytest.mark.parametrize(("name", "new"), [("thread", "worker"), ("another", "by another")])
def test_case_43_another_threads_name_is_only_its_own(told: Told, name: str, new: str) -> None:
    life = told[name]
    by_thread = name == "thread"
    for ds in told:
        assert told.thread(ds, life, life["before"], life["thread"]).name == "attributes"
        assert told.thread(ds, life, life["after"], life["thread"]).name == new
        for instant in (life["before"], life["after"], life["end"]):
            assert told.info(ds, life, instant).name == "attributes"
        # A child begins with the name of the thread that forked it.
        child = told.one(Fork, life, life["child"]).time
        born = told.info(ds, life, child, life["child"])
        assert born.name == (new if by_thread else "attributes")


def test_case_43_an_odd_name_is_read_right_from_proc(victims: Path) -> None:
    with Stage().closing() as stage:
        with stage.running("stays", [victims / "attributes", "stays", ODD_NAME]) as victim:
            victim.wait_for("there")
            row = picture(victim.pid, victim.pid)
            victim.go_on()
        told = stage.end()
    assert row is not None and row.parent is not None
    assert row.given["comm"] == ODD_NAME
    assert (row.parent.tid, row.ns_pid) == (os.getpid(), victim.pid)
    life = told["stays"]
    for ds in Told([*told.events, row], told.lives):
        info = told.info(ds, life, row.time)
        assert (info.name, info.ppid) == (ODD_NAME, os.getpid())


@pytest.mark.parametrize("name", CHANGES)
def test_case_44_the_next_event_tells_a_change_and_the_child_has_it(
    told: Told, place: Path, name: str
) -> None:
    life = told[name]
    pid, (old, new) = who_changes(life), values_of(name, life, place)
    born = told.one(Fork, life, life["child"]).time
    for ds in told:
        before, after = (told.info(ds, life, life[i], pid) for i in ("before", "after"))
        assert {field: value(before, field) for field in old} == old
        for field in new:
            assert value(after, field) == new[field] or unfollowed(after, field)
        for who in (pid, life["child"]):
            info = told.info(ds, life, born, who)
            assert {field: value(info, field) for field in new} == new
            assert not any(unfollowed(info, field) for field in new)
        late = told.info(ds, life, life.ended, life["child"])
        assert {field: value(late, field) for field in new} == new


@pytest.mark.parametrize("name", CHANGES)
def test_case_44_with_changes_followed_each_is_a_version_from_its_instant_on(
    followed: Told, place: Path, name: str
) -> None:
    life = followed[name]
    pid, (old, new) = who_changes(life), values_of(name, life, place)
    changes = [life["before"], life["after"]]
    for ds in followed:
        before, after = (followed.info(ds, life, instant, pid) for instant in changes)
        assert {field: value(before, field) for field in old} == old
        assert {field: value(after, field) for field in new} == new
        between = [
            entry
            for entry in ds.timeline(followed.id(life, pid))
            if followed.at(changes[0]) < entry.time <= followed.at(changes[1])
        ]
        assert [entry.kind for entry in between] == ["change"]
        born = followed.one(Fork, life, life["child"]).time
        child = followed.info(ds, life, born, life["child"])
        assert {field: value(child, field) for field in new} == new


def test_case_45_euid_of_a_setuid_program_from_the_exec_on(followed: Told) -> None:
    life = followed["setuid program"]
    executed = followed.all_of(Exec, life)[-1].time
    for ds in followed:
        before = followed.info(ds, life, executed - 1)
        assert (before.uid, before.euid, before.suid, before.name) == (1000, 1000, 1000, "images")
        for instant in (executed, life.ended):
            info = followed.info(ds, life, instant)
            assert (info.uid, info.euid, info.suid, info.name) == (1000, 0, 0, "setuid")


def test_case_15_a_flood_of_renames_is_bounded_and_its_ends_are_exact(told: Told) -> None:
    life = told["flood"]
    born = told.one(Fork, life, life["child"]).time
    last = f"n{RENAMES - 1}"
    for ds in told:
        assert told.info(ds, life, life["before"]).name == "attributes"
        assert told.info(ds, life, life["first"]).name == "n0"
        meanwhile = told.info(ds, life, life["after"])
        assert meanwhile.name == last or not meanwhile.certainty.is_certain
        assert told.info(ds, life, born).name == last
        assert told.info(ds, life, born, life["child"]).name == last
        assert len(ds.timeline(told.id(life))) < RENAMES // 10


def test_all_tellings_agree(told: Told, followed: Told) -> None:
    told.assert_that_all_tellings_agree(but=["flood"])
    followed.assert_that_all_tellings_agree()
