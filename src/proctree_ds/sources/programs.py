"""The kernel programs in bpf/: configured, loaded, attached. What they write is read elsewhere.

A machine that does not allow them is told apart by cause, and each cause has its remedy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import EACCES, ENOMEM, EPERM
from pathlib import Path
from struct import Struct
from typing import Final

from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.sources.libbpf import BpfObject, LibbpfError, LibbpfMissing

__all__ = ["KernelPrograms", "unavailable"]

_OBJECT: Final = Path(__file__).parent.parent / "_bpf" / "proctree.bpf.o"
_KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_TRACEFS: Final = Path("/sys/kernel/tracing/events")

_LIFECYCLE: Final = ("on_fork", "on_exec", "on_exit")
_CHANGES: Final = ("on_rename", "on_cgroup_move")
"""Hooks that run when something changes, and cost nothing while nothing does."""
_CALL_PROGRAM: Final = "on_call"
_CALLS: Final = (
    "capset",
    "chdir",
    "chroot",
    "fchdir",
    "pivot_root",
    "prctl",
    "setgid",
    "setns",
    "setpgid",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setsid",
    "setuid",
    "unshare",
)
"""System calls by which a task changes itself. Any one that is traced slows every system call."""
_PLAIN_PICTURE: Final = "picture_plain"
_WHOLE_PICTURE: Final = "picture_sleeping"
"""This one also reads argv and environment, for which the kernel may have to wait."""

_MAX_NAMES: Final = 16
_NAME_BYTES: Final = 32
_config: Final = Struct("=IIQ8sI4x")
"""The head of struct pt_config; the names follow, each as 32 bytes and 32 bytes of mask."""
_RINGS: Final = {"events": 1, "changes": 2}
_HIERARCHIES: Final = ((0, ""), (1, "memory"), (2, "pids"))


class KernelPrograms:
    """The object of bpf/, loaded with rings of these sizes, and attached by `attach()`.

    `rings` names those that get lifecycle events, "events" and "changes", one or both.
    Raises `ConfigurationError` for names that cannot be kept and `SourceUnavailable` where the
    machine does not allow it.
    """

    def __init__(
        self,
        events_bytes: int,
        changes_bytes: int,
        env_names: Sequence[str],
        follows_calls: bool,
        object_path: str | os.PathLike[str] | None = None,
        rings: Sequence[str] = ("events",),
    ) -> None:
        self._sizes = {"events": events_bytes, "changes": changes_bytes}
        self._constants = _config_bytes(_hierarchy(), env_names, rings)
        self._follows_calls = follows_calls
        self._attached: list[str] = []
        self.reads_arguments = True
        """Whether pictures can hold arguments and environment: Linux 6.0 and newer."""
        self._object = self._open(Path(object_path or _OBJECT))

    def attach(self) -> None:
        """From here on events are written. Raises OSError."""
        for program in (*_LIFECYCLE, *_CHANGES):
            self._object.attach(program)
            self._attached.append(program)
        if self._follows_calls:
            _require_tracefs()
            for call in _CALLS:
                link = self._object.attach_tracepoint(_CALL_PROGRAM, "syscalls", f"sys_exit_{call}")
                self._attached.append(link)
        self._object.attach(_PLAIN_PICTURE)
        if self.reads_arguments:
            self._object.attach(_WHOLE_PICTURE)

    def detach(self) -> None:
        """From here on nothing more is written; a program that runs just now finishes."""
        for link in self._attached:
            self._object.detach(link)

    def map_fd(self, name: str) -> int:
        """The file descriptor of a map."""
        return self._object.map_fd(name)

    def skipped(self) -> int:
        """How often the kernel skipped a program that was already running on that CPU."""
        calls = (_CALL_PROGRAM,) if self._follows_calls else ()
        return sum(map(self._object.recursion_misses, (*_LIFECYCLE, *_CHANGES, *calls)))

    def picture(self, with_arguments: bool) -> int:
        """A file descriptor that reads a record of every task, one after the other.

        With arguments and environment, where `reads_arguments` allows it; then a read lasts as
        long as it takes to get at that memory, which the tasks themselves may draw out.
        """
        return self._object.iterator(_WHOLE_PICTURE if with_arguments else _PLAIN_PICTURE)

    def close(self) -> None:
        """Detach and free everything."""
        self._object.close()

    def _open(self, path: Path) -> BpfObject:
        """The loaded object, without what reads arguments where the kernel does not take that."""
        if _is_missing(path):
            raise SourceUnavailable(
                f"the compiled kernel programs are missing ({path}): clang was not there at"
                " installation. Install clang, llvm and libbpf-dev, then run `make -C bpf` or"
                " install proctree-ds again."
            )
        if not _KERNEL_BTF.exists():
            raise SourceUnavailable(
                f"this kernel does not describe its types ({_KERNEL_BTF} is missing). Use a kernel"
                " built with CONFIG_DEBUG_INFO_BTF, or another source."
            )
        try:
            return self._load(path)
        except OSError as error:
            if _is_refusal(error):
                raise unavailable(error) from None
        self.reads_arguments = False
        try:
            return self._load(path)
        except OSError as error:
            raise unavailable(error) from None

    def _load(self, path: Path) -> BpfObject:
        loading = BpfObject(str(path))
        try:
            if not self.reads_arguments:
                loading.leave_out(_WHOLE_PICTURE)
            if not self._follows_calls:
                loading.leave_out(_CALL_PROGRAM)
            for ring, size in self._sizes.items():
                loading.set_entries(ring, size)
            loading.set_entries("drafts", 1 + loading.possible_cpus())
            loading.set_constants(self._constants)
            loading.load()
        except OSError:
            loading.close()
            raise
        return loading


def _require_tracefs() -> None:
    if not (_TRACEFS / "syscalls").is_dir():
        raise SourceUnavailable(
            f"system calls cannot be followed: {_TRACEFS}/syscalls is missing. Mount it"
            f" (mount -t tracefs none {_TRACEFS.parent}), boot a kernel with"
            " CONFIG_FTRACE_SYSCALLS, or leave follow-changes out."
        )


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except PermissionError:
        return False  # whoever may not look will be told so by the loader


def _config_bytes(hierarchy: int, names: Sequence[str], rings: Sequence[str]) -> bytes:
    """struct pt_config of bpf/proctree.h."""
    if len(names) > _MAX_NAMES:
        raise ConfigurationError(f"{len(names)} environment variables: at most {_MAX_NAMES}")
    letters = 0
    parts = []
    for name in names:
        raw = os.fsencode(name) + b"="
        if not 1 < len(raw) <= _NAME_BYTES or raw.count(b"=") > 1 or b"\0" in raw:
            raise ConfigurationError(
                f"{name!r} is no environment variable to keep: give a name of 1 to"
                f" {_NAME_BYTES - 1} bytes without '='"
            )
        letters |= 1 << (raw[0] + 5 * raw[1]) % 64
        parts.append(raw.ljust(_NAME_BYTES, b"\0"))
        parts.append((b"\xff" * len(raw)).ljust(_NAME_BYTES, b"\0"))
    wanted = sum(_RINGS[ring] for ring in rings)
    head = _config.pack(hierarchy, len(names), letters, os.urandom(8), wanted)
    return head + b"".join(parts)


def _hierarchy() -> int:
    """The cgroup hierarchy that tells processes apart: v2, or one of v1 where v2 has no cgroups."""
    mounted: dict[str, str] = {}
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n")[:-1]:
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        place = fields.split(" ")[4]
        if kind == "cgroup2":
            mounted[""] = place
        elif kind == "cgroup":
            for name in options.rpartition(" ")[2].split(","):
                mounted[name] = place
    for number, name in _HIERARCHIES:
        place = mounted.get(name, "")
        if place and any(child.is_dir() for child in Path(place).iterdir()):
            return number
    return 0


def _is_refusal(error: OSError) -> bool:
    """Whether nothing else needs to be tried. The verifier says EACCES as well, but to root."""
    if isinstance(error, LibbpfMissing) or error.errno == EPERM:
        return True
    return error.errno == EACCES and os.geteuid() != 0


def unavailable(error: OSError) -> SourceUnavailable:
    """What went wrong in one sentence, and what to do about it in another."""
    if isinstance(error, LibbpfMissing):
        return SourceUnavailable(
            "libbpf.so.1 cannot be loaded. Install libbpf 1.x (Debian, Ubuntu: libbpf1)."
        )
    if _is_refusal(error):
        return SourceUnavailable(
            "the kernel does not let this user load BPF programs. Run as root, or with the"
            " capabilities CAP_BPF and CAP_PERFMON."
        )
    if error.errno == ENOMEM:
        return SourceUnavailable(
            f"there is no memory for the ring ({_reason(error)}). Give a smaller ring."
        )
    return SourceUnavailable(
        f"the kernel refuses the programs ({_reason(error)}). Use Linux 5.13 or newer, or another"
        " source."
    )


def _reason(error: OSError) -> str:
    log = error.log if isinstance(error, LibbpfError) else ()
    return "; ".join((error.strerror or str(error), *log))
