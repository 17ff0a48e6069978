"""What the kernel is, and what it shows: version, types, lockdown, mounts, namespaces, clocks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from proctree_ds.clock import boot_now, format_time, measure_boot_time, wall_clock_error
from proctree_ds.diagnosis.checks import Check, Places
from proctree_ds.model import INITIAL_PID_NAMESPACE

__all__ = [
    "Mount",
    "architecture",
    "boot_clock",
    "bpf_file_system",
    "cgroups",
    "kernel",
    "kernel_types",
    "lockdown",
    "mounts",
    "namespace",
    "pid_namespace",
    "tracing",
    "version_of",
    "wall_clock",
]

LOWEST_KERNEL: Final = (5, 13)
_TRIED: Final = "x86_64"
_TYPES_MAGIC: Final = (b"\x9f\xeb", b"\xeb\x9f")
"""How BTF begins, in either order of bytes (include/uapi/linux/btf.h)."""
_REPLAY: Final = "an event log can be replayed anywhere (--replay FILE)"


class Mount(msgspec.Struct, frozen=True):
    """A mounted file system: its type, where it is, its device number as `major:minor`."""

    kind: str
    place: str
    device: str


def mounts(proc: Path) -> Iterator[Mount]:
    """What is mounted, as this process sees it (proc_pid_mountinfo(5)); nothing without /proc."""
    try:
        text = os.fsdecode((proc / "self/mountinfo").read_bytes())
    except OSError:
        return
    for line in text.split("\n"):
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if rest and len(words) > 4:
            place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
            yield Mount(rest.partition(" ")[0], place, words[2])


def namespace(places: Places, kind: str) -> int | None:
    """The inode of the namespace that this process is in; None where that cannot be seen."""
    try:
        return os.stat(places.proc / "self/ns" / kind).st_ino
    except OSError:
        return None


def version_of(release: str) -> tuple[int, int] | None:
    """The first two numbers of a kernel's release; None where there are none."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})", release, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None


def kernel(release: str) -> Check:
    """Whether the kernel is new enough; `release` as of uname(2)."""
    version = version_of(release)
    lowest = ".".join(map(str, LOWEST_KERNEL))
    if version is not None and version >= LOWEST_KERNEL:
        return Check("kernel", "ok", f"Linux {release}", is_required=True)
    return Check(
        "kernel",
        "missing",
        f"Linux {release}, and {lowest} is the oldest that is supported",
        "nothing can be captured live",
        f"boot Linux {lowest} or newer; {_REPLAY}",
        is_required=True,
    )


def architecture(machine: str | None = None) -> Check:
    """The kind of processor."""
    machine = machine or platform.machine()
    if machine == _TRIED:
        return Check("architecture", "ok", machine)
    return Check(
        "architecture",
        "degraded",
        f"{machine}: built for, and not tried",
        "what goes wrong here may be news to everybody",
        "compare what `proctree ps live` shows with ps(1)",
    )


def kernel_types(places: Places) -> Check:
    """Whether the kernel describes its types (BTF), which the programs are fitted to."""
    path = places.kernel_types
    remedy = f"boot a kernel that is built with CONFIG_DEBUG_INFO_BTF=y; {_REPLAY}"
    try:
        with path.open("rb") as file:
            is_description = file.read(2) in _TYPES_MAGIC
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        found = f"{path} is missing"
    except OSError as error:
        found = f"{path} cannot be read: {error.strerror}"
        remedy = f"run as root, or make {path} readable"
    else:
        if is_description:
            return Check("types (BTF)", "ok", f"{path}, {size:,} bytes", is_required=True)
        found = f"{path} holds something else than BTF"
    return Check(
        "types (BTF)",
        "missing",
        found,
        "the kernel programs cannot be fitted to this kernel: nothing can be captured live",
        remedy,
        is_required=True,
    )


def lockdown(places: Places) -> Check:
    """The kernel's lockdown (kernel_lockdown(7)), where it can be seen."""
    try:
        chosen = re.search(r"\[(\w+)\]", places.lockdown.read_text())
    except (OSError, UnicodeDecodeError):
        return Check("lockdown", "ok", "none that can be seen")
    mode = chosen[1] if chosen else "unknown"
    if mode != "confidentiality":
        return Check("lockdown", "ok", mode)
    return Check(
        "lockdown",
        "missing",
        "confidentiality: no BPF program may read kernel memory",
        "nothing can be captured live",
        f"boot with lockdown=integrity, or without lockdown; {_REPLAY}",
        is_required=True,
    )


def tracing(places: Places) -> Check:
    """Whether system calls can be traced, as follow-changes needs."""
    cost = "--proctree follow-changes is refused; everything else works"
    place = places.tracing / "syscalls"
    try:
        place.stat()
    except PermissionError:
        return Check("tracefs", "missing", f"this user may not see {place}", cost, "run as root")
    except OSError:
        remedy = f"mount -t tracefs none {places.tracing.parent}"
        return Check(
            "tracefs",
            "missing",
            f"{place} is not there",
            cost,
            f"{remedy}, as root; the kernel needs CONFIG_FTRACE_SYSCALLS=y",
        )
    return Check("tracefs", "ok", str(place))


def bpf_file_system(places: Places) -> Check:
    """Whether the file system that pins programs is mounted and can be written to."""
    cost = "programs cannot be pinned: while no reader runs, nothing is captured"
    place = str(places.bpf_mount)
    if not any(m.kind == "bpf" and m.place == place for m in mounts(places.proc)):
        return Check(
            "bpffs", "missing", f"{place} is not mounted", cost, f"mount -t bpf bpf {place}"
        )
    if os.access(place, os.W_OK | os.X_OK):
        return Check("bpffs", "ok", f"{place}, writable")
    is_fixed = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    return Check(
        "bpffs",
        "degraded",
        f"{place} is mounted {'read-only' if is_fixed else 'and not writable by this user'}",
        cost,
        f"mount -o remount,rw {place}" if is_fixed else "run as root",
    )


def cgroups(places: Places) -> Check:
    """Which kinds of cgroups there are: they tell containers apart."""
    kinds = {mount.kind for mount in mounts(places.proc)} & {"cgroup", "cgroup2"}
    if kinds:
        names = {"cgroup": "v1", "cgroup2": "v2"}
        return Check("cgroups", "ok", " and ".join(names[kind] for kind in sorted(kinds)))
    return Check(
        "cgroups",
        "missing",
        "no cgroup file system is mounted here",
        "cgroups and containers may stay unknown",
        "mount -t cgroup2 none /sys/fs/cgroup",
    )


def pid_namespace(places: Places) -> Check:
    """Whether /proc and the kernel's events count processes alike."""
    inode = namespace(places, "pid")
    if inode == INITIAL_PID_NAMESPACE:
        return Check("pid namespace", "ok", "the host's")
    return Check(
        "pid namespace",
        "degraded",
        "it cannot be told which" if inode is None else f"an inner one ({inode})",
        "/proc has other pids than the kernel's events, and is not read: what the kernel's list"
        " of tasks does not show at the start stays unknown",
        "run on the host, or in a container with the host's pids (--pid=host)",
    )


def boot_clock(places: Places) -> Check:
    """Whether the boot clock here is the one that the kernel programs read."""
    try:
        offsets = (places.proc / "self/timens_offsets").read_text()
    except OSError:  # before Linux 5.6, and without CONFIG_TIME_NS: there is one clock
        offsets = ""
    moved = re.search(r"^boottime\s+(-?\d+)\s+(\d+)", offsets, re.MULTILINE)
    if moved and (int(moved[1]) or int(moved[2])):
        return Check(
            "boot clock",
            "degraded",
            f"moved by {moved[1]} s in this time namespace",
            "times of events are wrong by as much",
            "run in the host's time namespace: nsenter --target 1 --time",
        )
    zero = format_time(measure_boot_time())
    return Check("boot clock", "ok", f"{boot_now() // 1_000_000_000:,} s since {zero}")


def wall_clock() -> Check:
    """Whether something keeps the wall clock right."""
    error_ns = wall_clock_error()
    if error_ns is not None:
        return Check("wall clock", "ok", f"synchronised to within {error_ns // 1_000_000:,} ms")
    return Check(
        "wall clock",
        "degraded",
        "not synchronised",
        "times shown may be off as a whole, and the clock may step; the order of events and the"
        " time between them stay right",
        "run a time service, such as chrony or systemd-timesyncd",
    )
