"""What this process may do: capabilities, filters on its system calls, and whose code it runs."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

from proctree_ds.diagnosis.checks import Check, Places
from proctree_ds.diagnosis.machine import namespace, version_of
from proctree_ds.registry import danger_of

__all__ = ["capabilities", "code", "system_call_filter"]

_SYS_ADMIN: Final = 21
_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD
"""PROC_USER_INIT_INO (include/linux/proc_ns.h, 6.18)."""
_UNCOUNTED_SINCE: Final = (5, 11)
"""Maps no longer count against RLIMIT_MEMLOCK (kernel/bpf/syscall.c)."""
_AS_ROOT: Final = "run as root (sudo), or with the capabilities CAP_BPF and CAP_PERFMON"
_BEYOND_ROOT: Final = (
    "root was left without: run on the host, or give CAP_BPF and CAP_PERFMON to this container or"
    " service"
)
_PACKAGE: Final = Path(__file__).parent.parent


class _Capability(msgspec.Struct, frozen=True):
    name: str
    number: int
    cost: str
    remedy: str
    is_required: bool = False
    admin_will_do: bool = False


_CAPABILITIES: Final = (
    _Capability(
        "CAP_BPF",
        39,
        "no program can be loaded: nothing can be captured live",
        _AS_ROOT,
        is_required=True,
        admin_will_do=True,
    ),
    _Capability(
        "CAP_PERFMON",
        38,
        "programs may not read what a task is: nothing can be captured live",
        _AS_ROOT,
        is_required=True,
        admin_will_do=True,
    ),
    _Capability(
        "CAP_SYS_PTRACE",
        19,
        "/proc keeps back what processes of other users execute and where they are: of tasks that"
        " are read from there it stays unknown",
        "run as root, or add CAP_SYS_PTRACE",
    ),
    _Capability(
        "CAP_SYS_RESOURCE",
        24,
        "before Linux 5.11 the rings may not fit into RLIMIT_MEMLOCK",
        "run as root, or raise it (ulimit -l)",
    ),
    _Capability(
        "CAP_NET_ADMIN",
        12,
        "the process events connector may not be used; events from BPF do not need it",
        "run as root, or add CAP_NET_ADMIN",
    ),
)


def capabilities(places: Places, release: str) -> list[Check]:
    """A check for each capability of use, by the effective set (capabilities(7))."""
    told = _status(places, "CapEff")
    if told is None:
        return [_untold(places, wanted) for wanted in _CAPABILITIES]
    effective = int(told, 16)
    inner = namespace(places, "user") not in (_INITIAL_USER_NAMESPACE, None)
    version = version_of(release)
    return [
        _capability(wanted, effective, inner, version is None or version >= _UNCOUNTED_SINCE)
        for wanted in _CAPABILITIES
    ]


def _capability(wanted: _Capability, effective: int, inner: bool, uncounted: bool) -> Check:
    has = bool(effective >> wanted.number & 1)
    by_admin = not has and wanted.admin_will_do and bool(effective >> _SYS_ADMIN & 1)
    if (has or by_admin) and not inner:
        found = "effective, by CAP_SYS_ADMIN" if by_admin else "effective"
        return Check(wanted.name, "ok", found, is_required=wanted.is_required)
    if wanted.name == "CAP_SYS_RESOURCE" and uncounted:
        return Check(wanted.name, "ok", "not effective, and not needed since Linux 5.11")
    found, remedy = "not in the effective set", wanted.remedy
    if wanted.is_required and os.geteuid() == 0:
        remedy = _BEYOND_ROOT
    if wanted.name == "CAP_SYS_RESOURCE":
        found += f"; RLIMIT_MEMLOCK is {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]:,} bytes"
    if has or by_admin:
        found = "effective in this user namespace only, which the kernel does not take"
        remedy = "run outside of the user namespace, as the host's root"
    return Check(wanted.name, "missing", found, wanted.cost, remedy, wanted.is_required)


def _untold(places: Places, wanted: _Capability) -> Check:
    status = places.proc / "self/status"
    return Check(
        wanted.name,
        "missing",
        f"it cannot be told: {status} cannot be read",
        wanted.cost,
        f"mount -t proc proc {places.proc}",
        wanted.is_required,
    )


def _status(places: Places, name: str) -> str | None:
    try:
        text = os.fsdecode((places.proc / "self/status").read_bytes())
    except OSError:  # without /proc nothing is known of it
        return None
    found = re.search(rf"^{name}:\s*(\S+)$", text, re.MULTILINE)
    return found[1] if found else None


def system_call_filter(places: Places) -> Check:
    """Whether this process's system calls are filtered (seccomp(2))."""
    if _status(places, "Seccomp") in (None, "0"):
        return Check("seccomp", "ok", "no filter")
    return Check(
        "seccomp",
        "degraded",
        "system calls of this process are filtered",
        "if the filter refuses bpf(2), nothing can be captured live; `capture` below tells",
        "run outside of the container, or allow bpf(2) in its profile"
        " (--security-opt seccomp=unconfined)",
    )


def code() -> Check:
    """Whether somebody else could change the code that root runs here."""
    if os.geteuid() != 0:
        return Check("code", "ok", "not root: nobody gains by changing it")
    for place in dict.fromkeys((_PACKAGE, Path(sys.prefix), Path(sys.base_prefix))):
        danger = danger_of(place.resolve())
        if danger is not None:
            problem, _, remedy = danger.partition("; ")
            return Check(
                "code",
                "degraded",
                problem,
                "whoever may write there becomes root with the next run",
                remedy,
            )
    return Check("code", "ok", f"only root can change {_PACKAGE}")
