"""A cgroup path names its container as each runtime writes it, and nothing else does."""

from __future__ import annotations

import pytest

from proctree_ds.containers import container_id

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
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
