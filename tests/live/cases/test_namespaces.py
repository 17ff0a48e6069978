"""Real pid namespaces and cgroups: who is whose inside and outside, and which container it is."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctree_ds import DataNotFound
from proctree_ds.model import Exec, Exit, Fork

from .stage import Stage, Told

ID, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4

CONTAINERS = {
    f"docker-{ID}.scope": ID,
    f"crio-{ID}.scope": ID,
    f"libpod-{OTHER}.scope/container": OTHER,
    f"cri-containerd-{ID}.scope": ID,
    f"kubepods/besteffort/pod1/{OTHER}": OTHER,
    f"docker/{ID}": ID,
    f"docker/{ID}/docker/{OTHER}": OTHER,
    "user.slice/user-1000.slice/session-4.scope": None,
    "docker/0123456789ab": None,
}


@pytest.fixture(scope="module")
def hierarchy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the cgroup v2 hierarchy is mounted; in a place of the test's own if it is nowhere."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in mounts:
        if mount[2] == "cgroup2":
            yield Path(mount[1])
            return
    place = tmp_path_factory.mktemp("cgroup2")
    subprocess.run(["mount", "-t", "cgroup2", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def cgroups(hierarchy: Path) -> Iterator[dict[str, Path]]:
    """A cgroup for each name of `CONTAINERS`. They are there before the capture begins, so that it
    follows this hierarchy.
    """
    top = hierarchy / f"proctree-cases-{os.getpid()}"
    try:
        for name in CONTAINERS:
            (top / name).mkdir(parents=True)
        yield {name: top / name for name in CONTAINERS}
    finally:
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)


@pytest.fixture(scope="module")
def told(victims: Path, cgroups: dict[str, Path]) -> Told:
    namespaces, moves = victims / "namespaces", victims / "cgroups"
    with Stage().closing() as stage:
        for name in ("dies", "two"):
            stage.run(name, [namespaces, name])
        stage.run("enter", [namespaces, "enter", victims / "target"])
        stage.run("moves", [moves, "moves", *cgroups.values()])
        stage.run("is_moved", [moves, "is_moved", *cgroups.values()])
        return stage.end()


INSIDE = ("orphan", "sleeper", "inner_init", "inner_sleeper")


def test_case_26_in_a_pid_namespace_orphans_go_to_its_init(told: Told) -> None:
    life = told["dies"]
    assert life["orphans_parent"] == 1
    orphan, init = told.id(life, life["orphan"]), told.id(life, life["init"])
    handed_over = told.one(Exit, life, life["middle"]).time
    for ds in told:
        before = ds.process(orphan, told.at(handed_over - 1))
        assert before.ppid == life["middle"]
        for instant in (handed_over, life["adopted"], life["full"]):
            info = ds.process(orphan, told.at(instant))
            assert (info.ppid, info.parent_entity_id, info.ns_ppid) == (life["init"], init, 1)
        above = ds.process(init, told.at(life["full"]))
        assert above.child_process_ids.keys() == {life["orphan"], life["sleeper"]}
        assert (above.ns_pid, above.ns_ppid, above.ppid) == (1, 0, life.pid)


def test_case_26_with_its_init_everything_in_the_namespace_has_died(told: Told) -> None:
    life = told["dies"]
    end = told.one(Exit, life, life["init"]).time
    exits = [told.one(Exit, life, life[name]) for name in INSIDE]
    for ds in told:
        for name in INSIDE:
            assert told.info(ds, life, life["full"], life[name]).is_alive
            gone = told.info(ds, life, life["dead"], life[name])
            assert (gone.is_alive, gone.exit_signal, gone.exit_code) == (
                False,
                signal.SIGKILL,
                None,
            )
        assert told.info(ds, life, life["dead"], life["init"]).exit_code == 3
        assert ds.children(told.id(life), told.at(life["dead"])) == []
    for ds in told.without(*exits):
        for name in INSIDE:
            gone = told.info(ds, life, life["dead"], life[name])
            assert (gone.is_alive, gone.exit_time) == (False, told.at(end))
            assert "exit_time" in gone.certainty.inferred
        assert told.info(ds, life, life["dead"]).is_alive


def test_case_30_pid_1_in_two_pid_namespaces(told: Told) -> None:
    life = told["two"]
    spaces = {name: life[f"{name}_namespace"] for name in ("one", "two")}
    entities = {name: told.id(life, life[name]) for name in spaces}
    assert len(set(entities.values())) == len(set(spaces.values())) == 2
    for ds in told:
        for name, namespace in spaces.items():
            info = ds.pid(1, told.at(life["both"]), pid_namespace=namespace)
            assert (info.entity_id, info.pid, info.ns_pid) == (entities[name], life[name], 1)
            with pytest.raises(DataNotFound):
                ds.pid(1, told.at(life["neither"]), pid_namespace=namespace)
            with pytest.raises(DataNotFound):
                ds.pid(1, told.at(life.began), pid_namespace=namespace)
        with pytest.raises(DataNotFound):
            ds.pid(1, told.at(life["both"]), pid_namespace=max(spaces.values()) + 1000)
        host = ds.pid(1, told.at(life["both"]))
        assert (host.pid, host.ppid) == (1, 0)
        assert host.entity_id not in entities.values()


def test_case_31_who_enters_a_namespace_has_no_parent_there_and_a_whole_lineage(
    told: Told,
) -> None:
    life = told["enter"]
    assert (life["its_parent_inside"], life["belows_parent_inside"]) == (0, life["entered_inside"])
    below = told.id(life, life["below"])
    executed = told.one(Exec, life, life["below"]).time
    for ds in told:
        info = told.info(ds, life, life["inside"], life["entered"])
        assert (info.ns_pid, info.ns_ppid) == (life["entered_inside"], 0)
        assert (info.pid, info.ppid) == (life["entered"], life["enters"])
        assert info.namespaces is not None
        assert info.namespaces.pid == life["namespace"]
        found = ds.pid(
            life["entered_inside"], told.at(life["inside"]), pid_namespace=life["namespace"]
        )
        assert found.entity_id == info.entity_id
        lowest = ds.process(below, told.at(executed))
        assert (lowest.ns_pid, lowest.ns_ppid) == (life["below_inside"], life["entered_inside"])
        lineage = ds.lineage(below, told.at(executed))
        pids = [i.pid for i in lineage]
        assert pids[:5] == [
            life["below"], life["entered"], life["enters"], life.pid, os.getpid(),
        ]  # fmt: skip
        assert (lineage.end, pids[-1]) == ("root", 1)
        assert [i.name for i in lineage[:4]] == ["target"] + ["namespaces"] * 3
        init = told.info(ds, life, life["inside"], life["init"])
        assert init.child_process_ids == {}


def test_case_32_moving_between_cgroups_is_a_version(
    told: Told, hierarchy: Path, cgroups: dict[str, Path]
) -> None:
    life = told["moves"]
    entity = told.id(life)
    paths = [f"/{place.relative_to(hierarchy)}" for place in cgroups.values()]
    moves = list(
        zip(
            CONTAINERS.values(), paths, life.said["before"], life.said["after"], life.said["child"],
            strict=True,
        )
    )  # fmt: skip
    for ds in told:
        last: tuple[str | None, str | None] | None = None
        for container, path, before, after, child in moves:
            earlier = ds.process(entity, told.at(before))
            assert last in (None, (earlier.cgroup, earlier.container_id))
            for info in (
                ds.process(entity, told.at(after)),
                told.info(ds, life, told.one(Fork, life, child).time, child),
                told.info(ds, life, life.ended, child),
            ):
                assert (info.cgroup, info.container_id) == (path, container)
            last = (path, container)
        inherited = told.info(ds, life, life.said["before"][0])
        assert (inherited.container_id, inherited.cgroup in paths) == (None, False)


def test_case_32_who_is_moved_by_another_is_in_the_container(
    told: Told, hierarchy: Path, cgroups: dict[str, Path]
) -> None:
    life = told["is_moved"]
    child = told.id(life, life["child"])
    paths = [f"/{place.relative_to(hierarchy)}" for place in cgroups.values()]
    for ds in told:
        for container, path, after in zip(
            CONTAINERS.values(), paths, life.said["after"], strict=True
        ):
            info = ds.process(child, told.at(after))
            assert (info.cgroup, info.container_id) == (path, container)
            assert told.info(ds, life, after).container_id is None


def test_all_tellings_agree(told: Told) -> None:
    told.assert_that_all_tellings_agree()
