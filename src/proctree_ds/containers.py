"""Which container a cgroup belongs to, by the names that container runtimes give their cgroups."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["container_id"]

_ID: Final = "[0-9a-f]{64}"

_SCOPE: Final = re.compile(rf"(?:docker|crio|libpod|cri-containerd)-({_ID})(?:\.scope)?")
"""A systemd scope of Docker, CRI-O, Podman or containerd."""

_BARE: Final = re.compile(_ID)
"""The id alone: the cgroupfs driver, below `docker` or a `kubepods` tree."""


def container_id(cgroup_path: str | None) -> str | None:
    """The 64 hex digits of the innermost container that owns `cgroup_path`, None outside of any.

    The runtime's own helper below a container (`.../init.scope`) belongs to it; a monitor of it
    (`crio-conmon-<id>`, `libpod-conmon-<id>`) does not. A bare id counts only directly below
    `docker`, or anywhere below `kubepods`.
    """
    if not cgroup_path:
        return None
    found = None
    parent = ""
    in_pods = False
    for name in cgroup_path.split("/"):
        if scope := _SCOPE.fullmatch(name):
            found = scope[1]
        elif _BARE.fullmatch(name) and (in_pods or parent == "docker"):
            found = name
        elif name.startswith("kubepods"):
            in_pods = True
        parent = name
    return found
