"""The part of libbpf that is used here, through ctypes. Nothing here knows about processes.

libbpf comes from the system as `libbpf.so.1`. Functions fail by returning NULL or a negative
number, with `errno` set; here that is a `LibbpfError`, which carries the last words of libbpf's
own log, for the kernel's reason is only found there.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from typing import Any, Final

from proctree_ds.sources.loading import LoaderError

__all__ = ["BpfObject", "LibbpfError", "LibbpfMissing", "load_library"]

SONAME: Final = "libbpf.so.1"
_LOG_LINES: Final = 6
"""How many of libbpf's last log lines an error carries."""
_LOG_BYTES: Final = 1 << 16
_DEBUG: Final = 2
"""LIBBPF_DEBUG, the level that is left out."""

_PrintFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_POINTERS: Final[dict[str, tuple[Any, ...]]] = {
    "bpf_object__open_file": (ctypes.c_char_p, ctypes.c_void_p),
    "bpf_object__find_program_by_name": (ctypes.c_void_p, ctypes.c_char_p),
    "bpf_object__find_map_by_name": (ctypes.c_void_p, ctypes.c_char_p),
    "bpf_map__initial_value": (ctypes.c_void_p, ctypes.c_void_p),
    "bpf_program__attach": (ctypes.c_void_p,),
    "bpf_program__attach_tracepoint": (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p),
}
_NUMBERS: Final[dict[str, tuple[Any, ...]]] = {
    "bpf_object__load": (ctypes.c_void_p,),
    "bpf_program__set_autoload": (ctypes.c_void_p, ctypes.c_bool),
    "bpf_program__fd": (ctypes.c_void_p,),
    "bpf_map__set_max_entries": (ctypes.c_void_p, ctypes.c_uint32),
    "bpf_map__fd": (ctypes.c_void_p,),
    "bpf_link__fd": (ctypes.c_void_p,),
    "bpf_link__destroy": (ctypes.c_void_p,),
    "libbpf_num_possible_cpus": (),
    "bpf_iter_create": (ctypes.c_int,),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
}


class LibbpfMissing(OSError):
    """There is no libbpf of major version 1 on this system."""


class LibbpfError(LoaderError):
    """A call to libbpf failed. `log` holds the last lines that libbpf wrote about it."""


class _ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info (include/uapi/linux/bpf.h), through 5.12's fields."""

    _fields_ = (
        ("head", ctypes.c_uint8 * 192),
        ("run_time_ns", ctypes.c_uint64),
        ("run_count", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
    )


class Library:
    """libbpf's functions with their types, and its log in memory instead of on stderr."""

    def __init__(self) -> None:
        try:
            self.functions: Any = ctypes.CDLL(SONAME, use_errno=True)
        except OSError as error:
            raise LibbpfMissing(error.errno or 2, f"{SONAME} cannot be loaded") from error
        for name, arguments in _POINTERS.items():
            self._declare(name, ctypes.c_void_p, arguments)
        for name, arguments in _NUMBERS.items():
            self._declare(name, ctypes.c_int, arguments)
        self.functions.bpf_object__close.argtypes = (ctypes.c_void_p,)
        self.functions.bpf_object__close.restype = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._text = ctypes.create_string_buffer(_LOG_BYTES)
        self._format: Any = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_void_p,
        )
        self._print = _PrintFunction(self._keep)  # libbpf holds only the address
        self.functions.libbpf_set_print.argtypes = (_PrintFunction,)
        self.functions.libbpf_set_print.restype = ctypes.c_void_p
        self.functions.libbpf_set_print(self._print)

    def _declare(self, name: str, result: Any, arguments: tuple[Any, ...]) -> None:
        function = getattr(self.functions, name)
        function.restype = result
        function.argtypes = arguments

    def _keep(self, level: int, text: bytes, arguments: int) -> int:
        if level < _DEBUG:
            self._format(self._text, _LOG_BYTES, text, arguments)
            lines = self._text.value.decode("utf-8", "replace").splitlines()
            self._log.extend(line.strip() for line in lines if line.strip())
        return 0

    def error(self, action: str, code: int = 0) -> LibbpfError:
        """The error for a call that just failed, with the log lines since the last one."""
        log = tuple(self._log)
        self._log.clear()
        return LibbpfError(abs(code) or ctypes.get_errno() or 22, action, log)

    def pointer(self, action: str, name: str, *arguments: Any) -> int:
        """Call a function that returns a pointer; raises `LibbpfError` for NULL."""
        pointer: int | None = getattr(self.functions, name)(*arguments)
        if not pointer:
            raise self.error(action)
        return pointer

    def number(self, action: str, name: str, *arguments: Any) -> int:
        """Call a function that returns a number; raises `LibbpfError` for a negative one."""
        number: int = getattr(self.functions, name)(*arguments)
        if number < 0:
            raise self.error(action, number)
        return number


_library: Library | None = None


def load_library() -> Library:
    """libbpf, opened once in this process. Raises `LibbpfMissing`."""
    global _library
    if _library is None:
        _library = Library()
    return _library


class BpfObject:
    """A compiled object: set it up, `load()` it, attach its programs, `close()` it.

    Closing detaches the programs and frees programs and maps, unless something else holds them.
    """

    def __init__(self, path: str) -> None:
        self._library = load_library()
        self._links: dict[str, int] = {}
        self._object = self._library.pointer(
            f"open {path}", "bpf_object__open_file", os.fsencode(path), None
        )

    def _program(self, name: str) -> int:
        return self._library.pointer(
            f"find program {name}",
            "bpf_object__find_program_by_name",
            self._object,
            name.encode(),
        )

    def _map(self, name: str) -> int:
        return self._library.pointer(
            f"find map {name}", "bpf_object__find_map_by_name", self._object, name.encode()
        )

    def leave_out(self, program: str) -> None:
        """Before loading: this program is not given to the kernel."""
        self._library.number(
            f"leave out {program}", "bpf_program__set_autoload", self._program(program), False
        )

    def set_entries(self, map_name: str, entries: int) -> None:
        """Before loading: the size of a map; of a ring buffer, in bytes."""
        self._library.number(
            f"resize {map_name}", "bpf_map__set_max_entries", self._map(map_name), entries
        )

    def possible_cpus(self) -> int:
        """How many CPUs this machine can have: CPU numbers are below it."""
        return self._library.number("count CPUs", "libbpf_num_possible_cpus")

    def set_constants(self, data: bytes) -> None:
        """Before loading: the bytes of the read-only data section, from its beginning."""
        size = ctypes.c_size_t()
        address = self._library.pointer(
            "find .rodata", "bpf_map__initial_value", self._map(".rodata"), ctypes.byref(size)
        )
        if len(data) > size.value:
            raise ValueError(f"{len(data)} bytes of constants, but .rodata has {size.value}")
        ctypes.memmove(address, data, len(data))

    def load(self) -> None:
        """Give programs and maps to the kernel, which verifies them."""
        self._library.number("load", "bpf_object__load", self._object)

    def map_fd(self, name: str) -> int:
        """The file descriptor of a map; it belongs to this object."""
        return self._library.number(f"map {name}", "bpf_map__fd", self._map(name))

    def attach(self, program: str) -> None:
        """Attach a program where its section name says."""
        self._links[program] = self._library.pointer(
            f"attach {program}", "bpf_program__attach", self._program(program)
        )

    def attach_tracepoint(self, program: str, category: str, name: str) -> str:
        """Attach a program to a tracepoint, beside others it may have. Returns what to detach."""
        key = f"{program}:{category}:{name}"
        self._links[key] = self._library.pointer(
            f"attach {key}",
            "bpf_program__attach_tracepoint",
            self._program(program),
            category.encode(),
            name.encode(),
        )
        return key

    def detach(self, name: str) -> None:
        """Undo `attach` of a program, or `attach_tracepoint`; once is enough."""
        link = self._links.pop(name, None)
        if link is not None:
            self._library.functions.bpf_link__destroy(link)

    def iterator(self, program: str) -> int:
        """A new file descriptor that reads what an attached iterator program writes."""
        link = self._library.number(f"link of {program}", "bpf_link__fd", self._links[program])
        return self._library.number(f"iterate {program}", "bpf_iter_create", link)

    def recursion_misses(self, program: str) -> int:
        """How often the kernel skipped the program since it was already running on that CPU.

        Always 0 before Linux 5.12, which does not count it.
        """
        info = _ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        fd = self._library.number(f"program {program}", "bpf_program__fd", self._program(program))
        self._library.number(
            f"info of {program}",
            "bpf_obj_get_info_by_fd",
            fd,
            ctypes.byref(info),
            ctypes.byref(size),
        )
        misses: int = info.recursion_misses
        return misses

    def close(self) -> None:
        """Detach and free everything. Closing twice is fine."""
        for program in list(self._links):
            self.detach(program)
        if self._object:
            self._library.functions.bpf_object__close(self._object)
            self._object = 0
