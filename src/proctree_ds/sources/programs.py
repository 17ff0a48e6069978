"""The kernel programs in bpf/: configured, loaded, attached. What they write is read elsewhere.

libbpf loads what was compiled at installation; BCC compiles the same source here and now, for
where there is no libbpf or nothing was compiled. A machine that does not allow them is told apart
by cause, and each cause has its remedy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EACCES, ENOMEM, EPERM
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final

from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.sources.libbpf import BpfObject, LibbpfMissing, pin
from proctree_ds.sources.loading import LoadedObject, LoaderError, MissingHere, require_types

__all__ = ["LOADERS", "KernelPrograms", "fingerprint", "unavailable"]

LOADERS: Final = ("auto", "libbpf", "bcc")
"""What may load the programs. `auto` is libbpf, and BCC where libbpf cannot."""

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

_PINNED_MAPS: Final = ("events", "changes", "lost", "cgroups_sent", "cgroup_paths", "reader")
"""What a reader needs to go on; the other maps live as long as the programs that use them."""

_MAX_NAMES: Final = 16
_NAME_BYTES: Final = 32
_config: Final = Struct("=IIQ8sI4x")
"""The head of struct pt_config; the names follow, each as 32 bytes and 32 bytes of mask."""
_SECRET: Final = slice(16, 24)
_RINGS: Final = {"events": 1, "changes": 2}
_HIERARCHIES: Final = ((0, ""), (1, "memory"), (2, "pids"))


class KernelPrograms:
    """The programs of bpf/, loaded with rings of these sizes, and attached by `attach()`.

    `loader` is one of `LOADERS`; `rings` names those that get lifecycle events, "events" and
    "changes", one or both. Raises `ConfigurationError` for names that cannot be kept and
    `SourceUnavailable` where the machine does not allow it.
    """

    def __init__(
        self,
        events_bytes: int,
        changes_bytes: int,
        env_names: Sequence[str],
        follows_calls: bool,
        object_path: str | os.PathLike[str] | None = None,
        loader: str = "auto",
        rings: Sequence[str] = ("events",),
    ) -> None:
        if loader not in LOADERS:
            raise ConfigurationError(f"{loader!r} is no loader: give one of {', '.join(LOADERS)}")
        self._sizes = {"events": events_bytes, "changes": changes_bytes}
        self._constants = _config_bytes(_hierarchy(), env_names, rings)
        self._follows_calls = follows_calls
        self._attached: list[str] = []
        self.reads_arguments = True
        """Whether pictures can hold arguments and environment: Linux 6.0 and newer."""
        self.loader = loader
        """What loaded the programs: libbpf or bcc."""
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
        return sum(map(self._object.recursion_misses, self._counted()))

    def _counted(self) -> tuple[str, ...]:
        calls = (_CALL_PROGRAM,) if self._follows_calls else ()
        return (*_LIFECYCLE, *_CHANGES, *calls)

    def picture(self, with_arguments: bool) -> int:
        """A file descriptor that reads a record of every task, one after the other.

        With arguments and environment, where `reads_arguments` allows it; then a read lasts as
        long as it takes to get at that memory, which the tasks themselves may draw out.
        """
        return self._object.iterator(_WHOLE_PICTURE if with_arguments else _PLAIN_PICTURE)

    def pin(self, directory: str) -> None:
        """Name in a BPF file system what the next reader needs; closing then detaches nothing.

        Raises OSError, and `SourceUnavailable` for what BCC has loaded.
        """
        if not isinstance(self._object, BpfObject):
            raise SourceUnavailable("what BCC loads cannot be pinned: install libbpf1")
        for name in _PINNED_MAPS:
            pin(self._object.map_fd(name), f"{directory}/{name}")
        for program in self._counted():
            pin(self._object.program_fd(program), f"{directory}/program_{program}")
        for name, fd in self._object.link_fds().items():
            pin(fd, f"{directory}/link_{name}")
        self._object.leave_attached()

    def close(self) -> None:
        """Detach and free everything."""
        self._object.close()

    def _open(self, path: Path) -> LoadedObject:
        """The loaded programs, by the loader that was asked for or the first that can."""
        if self.loader == "bcc":
            return self._load_what_is_taken(_open_by_bcc)
        try:
            programs = self._load_what_is_taken(lambda: _open_by_libbpf(path))
        except MissingHere as missing:
            if self.loader == "libbpf":
                raise
            self.loader = "bcc"
            try:
                return self._load_what_is_taken(_open_by_bcc)
            except SourceUnavailable as error:
                raise SourceUnavailable(f"{missing} BCC could do it as well, but {error}") from None
        self.loader = "libbpf"
        return programs

    def _load_what_is_taken(self, make: Callable[[], LoadedObject]) -> LoadedObject:
        """Without what reads arguments where the kernel does not take that."""
        try:
            return self._load(make)
        except OSError as error:
            if _is_refusal(error):
                raise unavailable(error) from None
        self.reads_arguments = False
        try:
            return self._load(make)
        except OSError as error:
            raise unavailable(error) from None

    def _load(self, make: Callable[[], LoadedObject]) -> LoadedObject:
        loading = make()
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


def fingerprint(
    events_bytes: int,
    changes_bytes: int,
    env_names: Sequence[str],
    follows_calls: bool,
    object_path: str | os.PathLike[str] | None = None,
) -> str:
    """The same for programs that write the same in the same way: 12 hexadecimal digits.

    Raises what `KernelPrograms` raises for these arguments.
    """
    constants = _config_bytes(_hierarchy(), env_names, ("events",))
    settings = (events_bytes, changes_bytes, follows_calls, constants[: _SECRET.start])
    digest = sha256(repr((settings, constants[_SECRET.stop :])).encode())
    with suppress(OSError):  # whoever loads it next says what is wrong
        digest.update(Path(object_path or _OBJECT).read_bytes())
    return digest.hexdigest()[:12]


def _open_by_libbpf(path: Path) -> LoadedObject:
    if _is_missing(path):
        raise MissingHere(
            f"the compiled kernel programs are missing ({path}): clang was not there at"
            " installation. Install clang, llvm and libbpf-dev, then run `make -C bpf` or"
            " install proctree-ds again."
        )
    require_types(_KERNEL_BTF)
    try:
        return BpfObject(str(path))
    except LibbpfMissing:
        raise MissingHere(
            "libbpf.so.1 cannot be loaded. Install libbpf 1.x (Debian, Ubuntu: libbpf1)."
        ) from None


def _open_by_bcc() -> LoadedObject:
    from proctree_ds.sources.bcc.object import BccObject

    return BccObject(_KERNEL_BTF)


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
    if error.errno == EPERM:
        return True
    return error.errno == EACCES and os.geteuid() != 0


def unavailable(error: OSError) -> SourceUnavailable:
    """What went wrong in one sentence, and what to do about it in another."""
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
    log = error.log if isinstance(error, LoaderError) else ()
    return "; ".join((error.strerror or str(error), *log))
