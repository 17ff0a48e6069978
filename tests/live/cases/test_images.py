"""What real processes ran, when: execs, what forks inherit, and attempts that came to nothing."""

from __future__ import annotations

import os
import shutil
import signal
import struct
from pathlib import Path

import pytest

from proctree_ds import BeyondHorizon, NotStartedYet
from proctree_ds.model import Exec, Exit, Fork

from .stage import Life, Stage, Told, told_in_order

ARGV_BYTES = 7168
"""PT_ARGV_BYTES."""

ARGUMENTS: dict[str, list[str]] = {
    "plain": ["other name", "0"],
    "one empty": [""],
    "controls": ["a\nb", "0", "\t", "'", '"', "\\", "\x1b[2J"],
    "no UTF-8": ["\udcff\udc80", "0", "ü", "\udc00".encode("utf-16", "surrogatepass").hex()],
    "long": ["x", "0", "y" * ARGV_BYTES],
}


@pytest.fixture(scope="module")
def place(victims: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to execute, and some that cannot be."""
    place = tmp_path_factory.mktemp("place")
    for name in ("curl", "sh", "old", "new", "hundred"):
        shutil.copy(victims / "execs", place / name)
    for name in ("unlinked", "odd (deleted)", "setuid", "real"):
        shutil.copy(victims / "target", place / name)
    (place / "setuid").chmod(0o4755)
    for name, text, mode in (
        ("forbidden", "", 0o644),
        ("no_program", "junk\n", 0o755),
        ("no_interpreter", "#!/nowhere\n", 0o755),
        ("script", "#!/bin/sh -u\nexit 6\n", 0o755),
        ("outer", f"#!{place}/script -x\n", 0o755),
    ):
        (place / name).write_text(text)
        (place / name).chmod(mode)
    spoil(victims / "target", place / "spoilt")
    for directory in (place, *place.parents[:2]):
        directory.chmod(0o755)
    return place


def spoil(program: Path, copy: Path) -> None:
    """A program that the kernel begins to execute and then cannot map: it has no way back."""
    code = bytearray(program.read_bytes())
    (table,) = struct.unpack_from("<Q", code, 32)
    size, count = struct.unpack_from("<HH", code, 54)
    for at in range(table, table + size * count, size):
        (kind,) = struct.unpack_from("<I", code, at)
        if kind == 1:  # PT_LOAD: an address that does not fit the offset
            (address,) = struct.unpack_from("<Q", code, at + 16)
            struct.pack_into("<Q", code, at + 16, address + 8)
    copy.write_bytes(code)
    copy.chmod(0o755)


@pytest.fixture(scope="module")
def told(victims: Path, place: Path) -> Told:
    execs, images, target = victims / "execs", victims / "images", victims / "target"
    with Stage().closing() as stage:
        stage.run("ages", [execs, "ages", place / "curl", place / "sh"])
        stage.run("hundred", [place / "hundred", "again", place / "hundred", "100"])
        stage.run("family", [place / "old", "family", place / "new"], cwd="/usr")
        stage.run("vfork", [execs, "vfork", target, "3"])
        bad = ("forbidden", "no_program", "no_interpreter")
        stage.run("fails", [execs, "fails", *(place / name for name in bad)])
        stage.run("spoilt", [images, "descriptor", place / "spoilt"])
        stage.run("setuid", [images, "user", place / "setuid"])
        stage.run("memfd", [images, "memfd", target])
        stage.run("unlinked", [images, "unlinked", place / "unlinked"])
        stage.run("odd", [place / "odd (deleted)"])
        stage.run("script", ["zero", "one"], executable=place / "script")
        stage.run("outer", [place / "outer", "two"])
        stage.run("relative", ["./script"], cwd=place)
        stage.run("descriptor", [images, "descriptor", place / "real"])
        stage.run("empty", [images, "empty_argv", target])
        for name, argv in ARGUMENTS.items():
            stage.run(name, argv, executable=target)
        return stage.end()


def last_exec(told: Told, life: Life) -> Exec:
    return told.all_of(Exec, life)[-1]


def test_case_09_versions_are_half_open(told: Told, victims: Path, place: Path) -> None:
    life = told["ages"]
    fork = told.one(Fork, life, life["child"])
    entity = told.entity(fork)
    first, second = told.all_of(Exec, life, life["child"])
    moments = {
        victims / "execs": (fork.time, life["forked"], first.time - 1),
        place / "curl": (first.time, life["first"], second.time - 1),
        place / "sh": (second.time, life["second"], life.ended),
    }
    assert fork.task.start_time is not None
    for ds in told:
        with pytest.raises(NotStartedYet) as caught:
            ds.process(entity, told.at(fork.task.start_time - 1))
        assert caught.value.start_time == told.at(fork.task.start_time)
        for path, instants in moments.items():
            for instant in instants:
                info = ds.process(entity, told.at(instant))
                assert info.execution_binary is not None
                assert info.execution_binary.path == str(path)
                assert info.name == path.name
        assert ds.process(entity, told.at(life["forked"])).exec_time is None
        assert ds.process(entity, told.at(life["second"])).exec_time == told.at(second.time)


def test_case_10_a_hundred_execs(told: Told, place: Path) -> None:
    life = told["hundred"]
    entity, execs = told.id(life), told.all_of(Exec, life)
    assert len(execs) == 101
    for ds in told:
        for number, event in enumerate(execs):
            argv = (str(place / "hundred"), "again", str(place / "hundred"), str(100 - number))
            try:
                info = ds.process(entity, told.at(event.time))
            except BeyondHorizon as error:
                assert 0 < number < 100
                assert told.at(event.time) < error.horizon <= told.at(execs[-1].time)
            else:
                assert info.cmd == argv
                assert info.exec_time == told.at(event.time)
        with pytest.raises(NotStartedYet):
            ds.process(entity, told.at(life.began))


def test_case_11_an_exec_that_comes_before_its_fork(told: Told, victims: Path) -> None:
    life = told["ages"]
    fork = told.one(Fork, life, life["child"])
    entity = told.entity(fork)
    instants = [fork.time, *(event.time for event in told.all_of(Exec, life, life["child"]))]
    late = told_in_order([*told.without(fork).events, fork])
    for instant in (*instants, *(time - 1 for time in instants[1:]), life.ended):
        lineages = [ds.lineage(entity, told.at(instant)) for ds in (told.in_order, late)]
        first, second = ([info.to_dict() for info in lineage] for lineage in lineages)
        assert first == second
    assert late.process(entity, told.at(fork.time)).name == "execs"


def test_case_12_each_child_has_the_image_that_its_parent_had(told: Told, place: Path) -> None:
    life = told["family"]
    for ds in told:
        for name, path in (("before", place / "old"), ("after", place / "new")):
            entity = told.id(life, life[name])
            lineage = ds.lineage(entity, told.at(life.ended), max_depth=1)
            assert [i.execution_binary and i.execution_binary.path for i in lineage] == [
                str(path)
            ] * 2
            assert [i.name for i in lineage] == [path.name] * 2
        now = told.info(ds, life, life["new"])
        assert now.name == "new"


def test_case_13_a_fork_inherits_as_of_the_fork_and_nothing_later(told: Told, place: Path) -> None:
    life = told["family"]
    parents = last_exec(told, life)
    exit_ = told.one(Exit, life, life["before"])
    born = told.one(Fork, life, life["before"])
    for ds in told:
        for instant in (born.time, life["old"], parents.time, life["new"], exit_.time - 1):
            child = told.info(ds, life, instant, life["before"])
            assert child.is_alive
            assert child.cmd == (str(place / "old"), "family", str(place / "new"))
            assert (child.cwd, child.uid, child.gid, child.name) == ("/usr", 0, 0, "old")
            assert child.exec_time is None
        parent = told.info(ds, life, life["new"])
        assert (parent.cwd, parent.uid, parent.gid, parent.name) == ("/", 1000, 1000, "new")
        later = told.info(ds, life, life.ended, life["after"])
        assert (later.cwd, later.uid, later.name) == ("/", 1000, "new")


def test_case_14_failed_execs_and_clones_leave_no_version(told: Told, victims: Path) -> None:
    life = told["fails"]
    assert life.status == 5
    assert len(life.said["failed"]) == 10
    entity, executed, ended = told.id(life), told.one(Exec, life), told.one(Exit, life)
    made = [e for e in told.family_of(life) if e.tid != life.pid]
    assert made == []
    for ds in told:
        entries = ds.timeline(entity)
        assert [e.time for e in entries if e.kind == "exec"] == [told.at(executed.time)]
        assert {e.process.name for e in entries[1:]} == {"execs"}
        for instant in (executed.time, life["done"], ended.time - 1):
            info = ds.process(entity, told.at(instant))
            assert info.execution_binary is not None
            assert info.execution_binary.path == str(victims / "execs")
            assert info.cmd is not None and info.cmd[1] == "fails"
            assert info.child_process_ids == {}
            assert info.thread_ids == {life.pid: entity}
            assert info.forgotten_children == 0


def test_case_14_an_exec_that_fails_without_a_way_back(told: Told, victims: Path) -> None:
    """The kernel has torn the old program down, cannot map the new one, and kills the process."""
    life = told["spoilt"]
    assert life.status == -signal.SIGSEGV
    executed, ended = told.one(Exec, life), told.one(Exit, life)
    for ds in told:
        for instant in (executed.time, ended.time - 1, ended.time):
            info = told.info(ds, life, instant)
            assert info.execution_binary is not None
            assert info.execution_binary.path == str(victims / "images")
            assert info.exec_time == told.at(executed.time)
        gone = told.info(ds, life, ended.time)
        assert (gone.exit_signal, gone.exit_code) == (signal.SIGSEGV, None)


def test_case_23_a_vfork_child_ends_before_its_parent_goes_on(told: Told) -> None:
    life = told["vfork"]
    ended, executed = told.id(life, life["ended"]), told.id(life, life["executed"])
    exits = [told.one(Exit, life, life[name]).time for name in ("ended", "executed")]
    begun = told.one(Exec, life, life["executed"])
    for ds in told:
        for instant in (exits[0], life["returned"], life.ended):
            gone = ds.process(ended, told.at(instant))
            assert (gone.is_alive, gone.exit_code) == (False, 4)
            assert gone.exit_time == told.at(exits[0]) < told.at(life["returned"])
            assert gone.parent_entity_id == told.id(life)
        assert ds.process(ended, told.at(exits[0] - 1)).is_alive
        assert ds.process(executed, told.at(begun.time - 1)).name == "execs"
        assert ds.process(executed, told.at(begun.time)).name == "target"
        gone = ds.process(executed, told.at(life["after"]))
        assert (gone.is_alive, gone.exit_code, gone.ppid) == (False, 3, life.pid)
        assert told.info(ds, life, life["after"]).child_process_ids == {}


def test_case_45_a_setuid_program(told: Told, place: Path) -> None:
    life = told["setuid"]
    executed = last_exec(told, life)
    for ds in told:
        for instant in (executed.time, life.ended):
            info = told.info(ds, life, instant)
            assert (info.uid, info.euid, info.suid) == (1000, 0, 0)
            assert (info.gid, info.egid, info.sgid) == (1000, 1000, 1000)
            assert info.execution_binary is not None
            assert info.execution_binary.path == str(place / "setuid")
            assert info.execution_binary.mode == (place / "setuid").stat().st_mode
        assert told.info(ds, life, told.all_of(Exec, life)[0].time).euid == 0


def test_case_45_files_that_are_not_what_they_are_called(told: Told, place: Path) -> None:
    kinds = {
        "memfd": ("/memfd:hidden (deleted)", True, False),
        "unlinked": (str(place / "unlinked"), False, True),
        "odd": (str(place / "odd (deleted)"), False, False),
    }
    for name, (path, is_memfd, is_deleted) in kinds.items():
        life = told[name]
        for ds in told:
            binary = told.info(ds, life, last_exec(told, life).time).execution_binary
            assert binary is not None
            assert binary.path == path
            assert (binary.is_memfd, binary.is_deleted) == (is_memfd, is_deleted)
    assert not (place / "unlinked").exists()


@pytest.mark.parametrize(
    ("name", "script", "argv", "status"),
    [
        ("script", "script", ("/bin/sh", "-u", "script", "one"), 6),
        ("relative", "script", ("/bin/sh", "-u", "./script"), 6),
        ("outer", "outer", ("/bin/sh", "-u", "script", "-x", "outer", "two"), 6),
    ],
)
def test_case_46_a_script_runs_its_interpreter_and_keeps_its_own_path(
    told: Told, place: Path, name: str, script: str, argv: tuple[str, ...], status: int
) -> None:
    life = told[name]
    assert life.status == status
    passed = tuple(str(place / a) if a in ("script", "outer") else a for a in argv)
    for ds in told:
        info = told.info(ds, life, told.one(Exec, life).time)
        assert info.execution_binary is not None
        assert info.execution_binary.path == os.path.realpath("/bin/sh")
        assert info.interpreter == info.execution_binary
        assert info.script == str(place / script)
        assert info.cmd == passed
        assert info.name == script


def test_case_46_a_descriptor_is_executed_as_the_file_that_it_is(told: Told, place: Path) -> None:
    life = told["descriptor"]
    for ds in told:
        info = told.info(ds, life, last_exec(told, life).time)
        assert info.execution_binary is not None
        assert info.execution_binary.path == str(place / "real")
        assert info.execution_binary.inode == (place / "real").stat().st_ino
        assert (info.script, info.cmd) == (None, (str(place / "real"),))


@pytest.mark.parametrize("name", [*ARGUMENTS, "empty"])
def test_case_47_arguments_are_kept_as_they_were(told: Told, name: str) -> None:
    life = told[name]
    for ds in told:
        info = told.info(ds, life, last_exec(told, life).time)
        assert info.cmd is not None
        assert info.cmd_truncated is (name == "long")
        if name == "long":
            assert info.cmd[:2] == ("x", "0")
            assert set(info.cmd[2]) == {"y"}
            assert sum(len(argument) + 1 for argument in info.cmd) == ARGV_BYTES + 1
        elif name == "empty":
            # The kernel passes one empty string since 5.18 (fs/exec.c, do_execveat_common()).
            assert info.cmd in ((), ("",))
        else:
            assert info.cmd == tuple(ARGUMENTS[name])


def test_all_tellings_agree(told: Told) -> None:
    told.assert_that_all_tellings_agree(but=["hundred"])
