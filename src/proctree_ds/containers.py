"""Container ids from cgroup paths: the one place that knows how the runtimes name theirs."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["container_id"]

_NAMED: Final = re.compile(r"(?:[a-z-]+[-:]|[^:]*:[a-z-]+:)?([0-9a-f]{64})(?:\.scope|\.service)?")


def container_id(cgroup: str) -> str | None:
    """The 64 hex digits of the innermost container in a cgroup path; None outside of any.

    Knows docker, containerd, CRI-O, podman and Kubernetes, with the systemd and the cgroupfs
    driver. The monitor that stands beside a container (`crio-conmon-...`) is not inside it.
    """
    for name in reversed(cgroup.split("/")):
        found = _NAMED.fullmatch(name)
        if found is not None and "conmon" not in name:
            return found[1]
    return None
