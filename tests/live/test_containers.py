"""Runtimes and users on the real kernel: cgroups named as runtimes name them, and /etc/passwd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command, environment

from proctree_ds import DataSource, ProcessTree
from proctree_ds.containers import Container
from proctree_ds.model import Change
from proctree_ds.sinks.process_view import facts
from proctree_ds.sources.ebpf import EbpfSource

from .conftest import collect

ID, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
UID = "6f1c0b9e-52d4-4c1b-9a37-0d9a4f6b2e71"
POD = f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"

CONTAINERS = {
    f"docker-{ID}.scope": Container(ID, "docker"),
    f"{POD}/cri-containerd-{ID}.scope": Container(ID, "containerd", UID),
    f"{POD}/crio-{OTHER}.scope/docker/{ID}": Container(ID, "docker", UID),
    f"libpod-{OTHER}.scope/container": Container(OTHER, "podman"),
    "lxc.payload.web/init.scope": Container(None, "lxc"),
    "machine-web.scope/payload": Container(None, "systemd-nspawn"),
    f"x\x1b[2J\u202edocker-{ID}.scope": Container(),
}


@pytest.fixture
def cgroups(tmp_path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Where the cgroup v2 hierarchy is, and a cgroup in it for each of `CONTAINERS`."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    hierarchy = place or tmp_path
    if place is None:
        subprocess.run(["mount", "-t", "cgroup2", "none", hierarchy], check=True)
    top = hierarchy / f"proctree-containers-{os.getpid()}"
    try:
        for name in CONTAINERS:
            (top / name).mkdir(parents=True)
        yield hierarchy, [top / name for name in CONTAINERS]
    finally:
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)
        if place is None:
            subprocess.run(["umount", hierarchy], check=True)


MOVES = """
import sys
for place in sys.argv[1:]:
    with open(place + "/cgroup.procs", "w") as file:
        file.write("0")
"""


def test_a_process_that_moves_is_in_one_container_after_the_other(
    cgroups: tuple[Path, list[Path]],
) -> None:
    hierarchy, places = cgroups
    source = EbpfSource()
    mover = subprocess.Popen([sys.executable, "-c", MOVES, *places])
    assert mover.wait() == 0
    header, events, _ = collect(source)
    tree = ProcessTree()
    tree.apply_all([header, *events])
    ds = DataSource(tree)
    moves = [
        ds.pid(mover.pid, tree.boot_time + event.time)
        for event in events
        if isinstance(event, Change) and event.task.tid == mover.pid
    ]
    assert [info.cgroup for info in moves] == [f"/{p.relative_to(hierarchy)}" for p in places]
    for info, expected in zip(moves, CONTAINERS.values(), strict=True):
        found = Container(info.container_id, info.container_runtime, info.pod_uid)
        assert found == expected, info.cgroup
    shown = "\n".join(facts(moves[-1], width=1000))
    assert r"x\x1b[2J\u202edocker-" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_the_name_of_a_user_does_not_act_on_a_terminal(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(b"root:x:0:0::/:/bin/sh\nx\x1b[2J\xe2\x80\xae:x:4242:4242::/:/bin/sh\n")
    held = subprocess.Popen(
        ["setpriv", "--reuid", "4242", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None and held.stdout is not None
    held.stdin.write(b"ready\n")
    held.stdin.flush()
    assert held.stdout.readline() == b"ready\n"  # it is cat by now, and that user
    try:
        for question in ("process", "lineage"):
            asked = command("proctree", question, "--pid", str(held.pid), "--output", "table")
            bind = f'mount --bind {passwd} /etc/passwd; exec "$@"'
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-e", "-c", bind, "sh", *asked],
                stdout=subprocess.PIPE,
                env=environment(),
                check=True,
            )
            shown = done.stdout.decode()
            assert r"x\x1b[2J\u202e" in shown
            assert "root" in shown
            assert "\x1b" not in shown and "\u202e" not in shown
    finally:
        held.communicate()
