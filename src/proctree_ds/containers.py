"""Which container a cgroup belongs to, by the names that container runtimes give their cgroups."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

__all__ = ["CONTAINERS_LIMIT", "Container", "container_id", "container_of"]

CONTAINERS_LIMIT: Final = 1_024
"""Paths whose container is remembered; of more, the least recently asked about goes."""

_ID: Final = "[0-9a-f]{64}"

_WORDS: Final = "docker|crio|libpod|cri-containerd|nerdctl"
_SCOPE: Final = re.compile(rf"(?:({_WORDS})-|[^:]+:({_WORDS}):)({_ID})(?:\.scope)?")
"""A systemd scope of Docker, CRI-O, Podman or containerd. Where a runtime that does not use
systemd was told a systemd path, it writes it as it was told: `SLICE:cri-containerd:ID`."""

_RUNTIMES: Final = {
    "docker": "docker",
    "crio": "crio",
    "libpod": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
}
"""The runtime, by the word that stands before the id."""

_BARE: Final = re.compile(_ID)
"""The id alone: the cgroupfs driver, below `docker` or a `kubepods` tree."""

_PODS: Final = re.compile(r"(?:[a-z]+-)*kubepods(?:[.:-].*)?")
"""What all pods are below; of a cluster within a container, such as kind, with a prefix."""

_POD: Final = re.compile(
    r"(?:[a-z]+-)*pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice)?(?::.*)?"
)
"""A pod's uid; systemd's driver writes `_` for `-`, and that of a static pod is a plain hash."""

_LXC: Final = re.compile(r"lxc\.payload(?:\..+)?")
"""Since LXC 4; before, the name stood below `lxc`. A monitor (`lxc.monitor.NAME`) is outside."""

_NSPAWN: Final = re.compile(r"machine-.+\.scope|systemd-nspawn@.+\.service")
"""What systemd-nspawn is in; the container itself is below, in `payload`."""


class Container(msgspec.Struct, frozen=True):
    """What a cgroup's path tells of the container around it; None is what it does not tell.

    `runtime` is `docker`, `containerd`, `crio`, `podman`, `lxc` or `systemd-nspawn`. The latter two
    have names and no ids. `pod_uid` is Kubernetes' uid of the pod, always written with `-`.
    """

    id: str | None = None
    runtime: str | None = None
    pod_uid: str | None = None


_NONE: Final = Container()


@lru_cache(CONTAINERS_LIMIT)
def container_of(cgroup_path: str | None) -> Container:
    """The innermost container that owns `cgroup_path`. O(path); remembered for 1,024 paths.

    Anyone who may make cgroups may name them so: it is what the name says, and no proof.

    The runtime's own helper below a container (`.../init.scope`) belongs to it; a monitor of it
    (`crio-conmon-<id>`, `libpod-conmon-<id>`) does not. A bare id counts only directly below
    `docker`, or anywhere below `kubepods`, where nothing tells the runtime. A container without an
    id only counts where there is none with one.
    """
    if not cgroup_path:
        return _NONE
    found = _NONE
    unnumbered = pod = None
    parent = ""
    in_pods = False
    for name in cgroup_path.split("/"):
        in_pods = in_pods or name.startswith("kubepods") or bool(_PODS.fullmatch(name))
        if in_pods and (of_pod := _POD.fullmatch(name)):
            pod = of_pod[1].replace("_", "-")
        if scope := _SCOPE.fullmatch(name):
            found = Container(scope[3], _RUNTIMES[scope[1] or scope[2]], pod)
        elif _BARE.fullmatch(name) and (in_pods or parent == "docker"):
            found = Container(name, "docker" if parent == "docker" else None, pod)
        elif _LXC.fullmatch(name) or (parent == "lxc" and name):
            unnumbered = "lxc"
        elif name == "payload" and _NSPAWN.fullmatch(parent):
            unnumbered = "systemd-nspawn"
        parent = name
    if found is _NONE and (unnumbered or pod):
        return Container(None, unnumbered, pod)
    return found


def container_id(cgroup_path: str | None) -> str | None:
    """The 64 hex digits of the innermost container that owns `cgroup_path`, None outside of any."""
    return container_of(cgroup_path).id
