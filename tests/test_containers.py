"""A cgroup path names its container as each runtime writes it, and nothing else does."""

from __future__ import annotations

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.containers import CONTAINERS_LIMIT, Container, container_id, container_of
from proctree_ds.model import Snapshot, Task
from proctree_ds.sinks.process_view import facts

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
UID = "6f1c0b9e-52d4-4c1b-9a37-0d9a4f6b2e71"
HASH = "0123456789abcdef" * 2
POD = "kubepods-besteffort-pod6f1c0b9e_52d4_4c1b_9a37_0d9a4f6b2e71.slice"


@pytest.mark.parametrize(
    "cgroup",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/system.slice/crio-{ID}.scope",
        f"/machine.slice/libpod-{ID}.scope",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/kubepods.slice/kubepods-besteffort.slice/{POD}/cri-containerd-{ID}.scope",
        f"/kubepods/burstable/pod6f1c0b9e-52d4-4c1b-9a37-0d9a4f6b2e71/{ID}",
        f"/docker/{ID}/system.slice/nginx.service",
        f"/docker/{OTHER}/docker/{ID}",
        f"/docker/{OTHER}/kubepods/besteffort/pod1/{ID}/init",
        f"/../../docker/{ID}",
    ],
)
def test_the_innermost_container(cgroup: str) -> None:
    assert container_id(cgroup) == ID


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "/",
        "/init.scope",
        "/user.slice/user-1000.slice/session-4.scope",
        "/system.slice/docker.service",
        "/docker/0123456789ab",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        f"/system.slice/backup-{ID}.scope",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/system.slice/crio-conmon-{ID}.scope",
        f"/{ID}.slice",
        f"/default/{ID}",
    ],
)
def test_outside_of_any_container(cgroup: str) -> None:
    assert container_id(cgroup) is None


V1_PODS = f"/kubepods/burstable/pod{UID}"
V2_PODS = f"/kubepods.slice/kubepods-besteffort.slice/{POD}"
KIND = f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-{POD}"


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"/docker/{ID}", Container(ID, "docker")),
        (f"/system.slice/docker-{ID}.scope", Container(ID, "docker")),
        (f"/user.slice/user@1000.service/docker-{ID}.scope", Container(ID, "docker")),
        (f"/machine.slice/libpod-{ID}.scope/container", Container(ID, "podman")),
        (f"/libpod_parent/libpod-{ID}", Container(ID, "podman")),
        (f"/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", Container(ID, "podman")),
        (f"/system.slice/nerdctl-{ID}.scope", Container(ID, "containerd")),
        (f"{V1_PODS}/{ID}", Container(ID, None, UID)),
        (f"{V1_PODS}/cri-containerd-{ID}", Container(ID, "containerd", UID)),
        (f"{V1_PODS}/crio-{ID}", Container(ID, "crio", UID)),
        (f"/kubepods/besteffort/pod{HASH}/{ID}", Container(ID, None, HASH)),
        (f"{V2_PODS}/cri-containerd-{ID}.scope", Container(ID, "containerd", UID)),
        (f"{V2_PODS}/crio-{ID}.scope", Container(ID, "crio", UID)),
        (f"{V2_PODS}/docker-{ID}.scope/init.scope", Container(ID, "docker", UID)),
        (f"/containerd.service/{POD}:cri-containerd:{ID}", Container(ID, "containerd", UID)),
        (V2_PODS, Container(None, None, UID)),
        (f"{V2_PODS}/crio-conmon-{ID}.scope", Container(None, None, UID)),
        (f"{KIND}/cri-containerd-{ID}.scope", Container(ID, "containerd", UID)),
        (f"{V2_PODS}/cri-containerd-{OTHER}.scope/docker/{ID}", Container(ID, "docker", UID)),
        (f"/docker/{OTHER}/system.slice/crio-{ID}.scope", Container(ID, "crio")),
        ("/lxc/web", Container(None, "lxc")),
        ("/lxc.payload.web/system.slice/nginx.service", Container(None, "lxc")),
        (f"/lxc.payload.web/system.slice/docker-{ID}.scope", Container(ID, "docker")),
        ("/lxc.monitor.web", Container()),
        ("/lxc", Container()),
        ("/machine.slice/machine-web.scope/payload/init.scope", Container(None, "systemd-nspawn")),
        ("/machine.slice/systemd-nspawn@web.service/payload", Container(None, "systemd-nspawn")),
        ("/machine.slice/machine-web.scope/supervisor", Container()),
        ("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt", Container()),
        (f"/user.slice/pod{UID}", Container()),
        (f"/docker:{ID}", Container()),
        (f"/system.slice/docker-{ID}.scope\x1b[2J", Container()),
        (f"/\udcff\u202edocker-{ID}.scope", Container()),
        ("/" * 4096, Container()),
        (None, Container()),
    ],
)  # fmt: skip
def test_what_a_path_tells_of_the_container(cgroup: str | None, container: Container) -> None:
    assert container_of(cgroup) == container


def test_few_paths_are_remembered() -> None:
    for number in range(2 * CONTAINERS_LIMIT):
        container_of(f"/system.slice/{number}.service")
    assert container_of.cache_info().currsize == CONTAINERS_LIMIT


def test_answers_name_runtime_and_pod() -> None:
    task = Task(600, 100)
    path = f"{V2_PODS}/crio-{ID}.scope"
    tree = ProcessTree()
    tree.apply(Snapshot(200, task, {"cgroup": path, "container_id": ID}))
    tree.apply(Snapshot(300, task, {"cgroup": path, "container_id": OTHER}))
    tree.apply(Snapshot(400, task, {"cgroup": "/lxc/\x1b[31m", "container_id": None}))
    ds = DataSource(tree)
    told = [ds.pid(600, tree.boot_time + time) for time in (200, 300, 400)]
    assert [info.container_runtime for info in told] == ["crio", None, "lxc"]
    assert [info.pod_uid for info in told] == [UID, UID, None]
    assert told[0].to_dict()["container_runtime"] == "crio"
    shown = "\n".join(facts(told[2], width=500))
    assert "/lxc/\\x1b[31m" in shown and "\x1b" not in shown
