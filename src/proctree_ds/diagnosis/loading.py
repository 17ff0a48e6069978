"""Whether the kernel takes the programs: each hook on its own, then a capture as a whole.

Nothing is concluded that can be tried. A hook is tried by loading and attaching its program, and
detaching it at once; a capture by opening the live source and reading one picture of all
tasks. Each takes some milliseconds, and nobody notices.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from errno import ENOENT, EPERM
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from proctree_ds.diagnosis.checks import Check, Places
from proctree_ds.errors import ProctreeError
from proctree_ds.model import Snapshot
from proctree_ds.sources.ebpf import DEFAULT_RING_BYTES, EbpfSource
from proctree_ds.sources.libbpf import LibbpfError, LibbpfMissing, Library, load_library

__all__ = ["OBJECT", "capture", "compiled_object", "hooks", "libbpf", "ring"]

OBJECT: Final = Path(__file__).parent.parent / "_bpf" / "proctree.bpf.o"
_RING_MAP: Final = 27
"""BPF_MAP_TYPE_RINGBUF (include/uapi/linux/bpf.h)."""
_TRACEPOINT: Final = "tracepoint"
_A_TRACEPOINT: Final = (b"syscalls", b"sys_exit_setsid")
"""Where a program for tracepoints of system calls is tried."""

_OPTIONAL: Final = {
    _TRACEPOINT: (
        "--proctree follow-changes is refused; everything else works",
        "see tracefs below",
    ),
    "iter.s/task": (
        "arguments of what ran before the capture come from /proc",
        "nothing needs to be done; Linux 6.0 and newer have it",
    ),
}
"""What is lost without hooks that a capture can do without, and what to do."""
_ONLY_BCC: Final = "BCC, if it is there, compiles the kernel programs at every start: a second"
_NEEDED: Final = (
    "what it tells of is not captured",
    "look at `capture` below, which tells whether anything is",
)


def compiled_object(path: Path = OBJECT) -> Check:
    """Whether the kernel programs were compiled when this was installed."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return Check(
            "programs",
            "missing",
            f"{path}: {error.strerror}",
            _ONLY_BCC,
            "install clang, llvm and libbpf-dev, then run `make -C bpf` or install proctree-ds"
            " again",
        )
    return Check("programs", "ok", f"{path}, {size:,} bytes")


def libbpf() -> Check:
    """Whether libbpf 1.x is there, and which."""
    try:
        functions = load_library().functions
    except LibbpfMissing as error:
        return Check(
            "libbpf",
            "missing",
            error.strerror or "it cannot be loaded",
            _ONLY_BCC,
            "apt-get install libbpf1",
        )
    functions.libbpf_version_string.restype = ctypes.c_char_p
    version: bytes = functions.libbpf_version_string()
    return Check("libbpf", "ok", f"libbpf {version.decode()}")


def ring(size_bytes: int = DEFAULT_RING_BYTES) -> Check:
    """Whether the kernel makes a ring of the default size. It is given back at once."""
    name = "ring"
    try:
        functions = load_library().functions
        create = functions.bpf_map_create
        create.argtypes = (
            *(ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32),
            ctypes.c_void_p,
        )
        fd = create(_RING_MAP, b"proctree_probe", 0, 0, size_bytes, None)
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd))
    except LibbpfMissing:
        return Check(
            name,
            "degraded",
            "not tried, for libbpf is not there",
            "whether there is room for one, only the capture tells",
            "look at `capture` below",
        )
    except OSError as error:
        return Check(
            name,
            "missing",
            f"the kernel makes no ring of {size_bytes:,} bytes: {error.strerror}",
            "events have nowhere to go: nothing can be captured live",
            "see to the rights above; if it is memory, give --ring-size 1M",
            is_required=True,
        )
    os.close(fd)
    return Check(name, "ok", f"one of {size_bytes:,} bytes can be made", is_required=True)


# ---------------------------------------------------------------------------------- the hooks


class _Program(msgspec.Struct, frozen=True):
    name: str
    hook: str
    handle: int


def hooks(places: Places, path: Path = OBJECT) -> list[Check]:
    """A check for each program of the object: loaded, attached, and detached at once.

    All are loaded together; where that fails, each one alone, to tell which the kernel refuses.
    """
    try:
        library = load_library()
        with closing(_Opened(library, path)) as opened:
            programs = list(opened.programs())
            try:
                opened.load()
            except OSError as error:
                refusal = error
            else:
                return [_hook(p, partial(opened.attach, p, places)) for p in programs]
    except OSError:  # told by the checks of libbpf and of the object
        return []
    if refusal.errno == EPERM:  # that is about who asks, and not about what
        return [_refused(program, refusal) for program in programs]
    return [_hook(p, partial(_alone, library, places, path, p.name)) for p in programs]


def _alone(library: Library, places: Places, path: Path, name: str) -> None:
    with closing(_Opened(library, path)) as opened:
        chosen = opened.choose(name)
        opened.load()
        opened.attach(chosen, places)


def _hook(program: _Program, attempt: Callable[[], None]) -> Check:
    try:
        attempt()
    except OSError as error:
        return _refused(program, error)
    return Check(_title(program), "ok", f"{program.name} loads and attaches")


def _refused(program: _Program, error: OSError) -> Check:
    cost, remedy = _OPTIONAL.get(program.hook, _NEEDED)
    said = error.log[:1] if isinstance(error, LibbpfError) and error.errno != EPERM else ()
    found = "; ".join((error.strerror or str(error), *said)).rstrip(".")
    if error.errno == EPERM:
        remedy = "see to the rights above"
    return Check(_title(program), "missing", found, cost, remedy)


def _title(program: _Program) -> str:
    return f"hook {program.hook if program.hook != _TRACEPOINT else 'tracepoint/syscalls'}"


class _Opened:
    """The object, opened on its own account: `choose` one program or all, `load`, `attach`."""

    def __init__(self, library: Library, path: Path) -> None:
        self._library = library
        self._functions: Any = library.functions
        for name, result, arguments in (
            ("bpf_object__next_program", ctypes.c_void_p, 2),
            ("bpf_program__name", ctypes.c_char_p, 1),
            ("bpf_program__section_name", ctypes.c_char_p, 1),
        ):
            function = getattr(self._functions, name)
            function.restype, function.argtypes = result, (ctypes.c_void_p,) * arguments
        self._object = library.pointer(
            f"open {path}", "bpf_object__open_file", os.fsencode(path), None
        )

    def programs(self) -> Iterator[_Program]:
        """Every program, with the hook that its section names."""
        handle: int | None = None
        while handle := self._functions.bpf_object__next_program(self._object, handle):
            yield _Program(
                self._functions.bpf_program__name(handle).decode(),
                self._functions.bpf_program__section_name(handle).decode(),
                handle,
            )

    def choose(self, name: str) -> _Program:
        """Leave all other programs out."""
        programs = {program.name: program for program in self.programs()}
        for program in programs.values():
            self._library.number(
                f"choose {name}",
                "bpf_program__set_autoload",
                program.handle,
                program.name == name,
            )
        return programs[name]

    def load(self) -> None:
        """Give what is chosen to the kernel. Raises `LibbpfError`, an OSError."""
        self._library.number("load", "bpf_object__load", self._object)

    def attach(self, program: _Program, places: Places) -> None:
        """Attach a loaded program, and detach it. Raises `LibbpfError`, an OSError."""
        if program.hook == _TRACEPOINT:
            if not os.path.isdir(places.tracing / "syscalls"):
                raise OSError(ENOENT, "it loads, but there is no tracefs to attach it to")
            link = self._library.pointer(
                "attach", "bpf_program__attach_tracepoint", program.handle, *_A_TRACEPOINT
            )
        else:
            link = self._library.pointer("attach", "bpf_program__attach", program.handle)
        self._functions.bpf_link__destroy(link)

    def close(self) -> None:
        self._functions.bpf_object__close(self._object)


# -------------------------------------------------------------------------------- all together


def capture() -> Check:
    """Whether a live source opens with its defaults, and what its first picture shows."""
    name = "capture"
    cost = "nothing can be captured live"
    try:
        with closing(EbpfSource()) as source, closing(_batches(source)) as batches:
            tasks = sum(isinstance(event, Snapshot) for event in next(batches))
    except ProctreeError as error:
        problem, _, remedy = str(error).partition(". ")
        return Check(name, "missing", problem, cost, remedy or str(error), is_required=True)
    except OSError as error:
        return Check(
            name,
            "missing",
            f"reading a picture of all tasks fails: {error.strerror}",
            cost,
            "see the checks above",
            is_required=True,
        )
    found = f"all programs attached, and a picture of {tasks:,} tasks read"
    return Check(name, "ok", found, is_required=True)


def _batches(source: EbpfSource) -> Any:
    return source.batches()
