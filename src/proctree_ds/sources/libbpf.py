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

__all__ = [
    "BpfObject",
    "LibbpfError",
    "LibbpfMissing",
    "clear_map",
    "load_library",
    "map_entries",
    "map_items",
    "open_iterator",
    "open_pin",
    "pin",
    "recursion_misses",
    "set_item",
]

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
    "bpf_obj_get": (ctypes.c_char_p,),
    "bpf_obj_pin": (ctypes.c_int, ctypes.c_char_p),
    "bpf_map_get_next_key": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    "bpf_map_delete_elem": (ctypes.c_int, ctypes.c_void_p),
    "bpf_map_lookup_elem": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    "bpf_map_update_elem": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64),
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


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
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
        self.functions.bpf_link__disconnect.argtypes = (ctypes.c_void_p,)
        self.functions.bpf_link__disconnect.restype = None
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


def pin(fd: int, path: str) -> None:
    """Give a map, program or link a name in a BPF file system, which keeps it alive."""
    load_library().number(f"pin {path}", "bpf_obj_pin", fd, os.fsencode(path))


def open_pin(path: str) -> int:
    """A new file descriptor of what is pinned at `path`."""
    return load_library().number(f"open {path}", "bpf_obj_get", os.fsencode(path))


def open_iterator(link: int) -> int:
    """A new file descriptor that reads what the iterator program of this link writes."""
    return load_library().number(f"iterate link {link}", "bpf_iter_create", link)


def recursion_misses(program: int) -> int:
    """How often the kernel skipped a program since it was already running on that CPU.

    Always 0 before Linux 5.12, which does not count it.
    """
    info = _ProgramInfo()
    _read_info(program, info)
    misses: int = info.recursion_misses
    return misses


def map_entries(fd: int) -> int:
    """The size of a map; of a ring buffer, in bytes."""
    info = _MapInfo()
    _read_info(fd, info)
    entries: int = info.max_entries
    return entries


def clear_map(fd: int) -> None:
    """Take everything out of a hash map whose keys are numbers of 64 bits."""
    functions = load_library().functions
    key = ctypes.c_uint64()
    for _ in range(map_entries(fd)):
        if functions.bpf_map_get_next_key(fd, None, ctypes.byref(key)) < 0:
            return
        functions.bpf_map_delete_elem(fd, ctypes.byref(key))


def map_items(fd: int) -> dict[int, bytes]:
    """What is in a hash map whose keys are numbers of 64 bits."""
    functions = load_library().functions
    info = _MapInfo()
    _read_info(fd, info)
    key, value = ctypes.c_uint64(), ctypes.create_string_buffer(info.value_size)
    last, items = None, {}
    for _ in range(info.max_entries):
        if functions.bpf_map_get_next_key(fd, last, ctypes.byref(key)) < 0:
            break
        last = ctypes.byref(key)
        if functions.bpf_map_lookup_elem(fd, last, value) == 0:
            items[key.value] = value.raw
    return items


def set_item(fd: int, number: int, value: bytes) -> bool:
    """Put something into a map whose keys are numbers of 64 bits; False if there is no room."""
    key = ctypes.byref(ctypes.c_uint64(number))
    return bool(load_library().functions.bpf_map_update_elem(fd, key, value, 0) == 0)


def _read_info(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    load_library().number(
        f"info of {fd}", "bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size)
    )


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
        return open_iterator(self._link_fd(program))

    def program_fd(self, name: str) -> int:
        """The file descriptor of a program; it belongs to this object."""
        return self._library.number(f"program {name}", "bpf_program__fd", self._program(name))

    def recursion_misses(self, program: str) -> int:
        """See the function of that name."""
        return recursion_misses(self.program_fd(program))

    def link_fds(self) -> dict[str, int]:
        """The file descriptors of what is attached, by what to detach; they belong to this object.

        One of a tracepoint can only be pinned since Linux 5.15.
        """
        return {name: self._link_fd(name) for name in self._links}

    def leave_attached(self) -> None:
        """The links were pinned: closing this object leaves them as they are.

        Of a tracepoint's link libbpf would switch the event off, pinned or not
        (bpf_link_perf_detach(), 1.1), and so it never gets to close the event's own descriptor.
        """
        for name in [name for name in self._links if ":" in name]:
            fd = self._link_fd(name)
            link = self._links.pop(name)
            self._library.functions.bpf_link__disconnect(link)
            self._library.functions.bpf_link__destroy(link)
            os.close(fd)

    def _link_fd(self, name: str) -> int:
        return self._library.number(f"link of {name}", "bpf_link__fd", self._links[name])

    def close(self) -> None:
        """Detach and free everything. Closing twice is fine."""
        for program in list(self._links):
            self.detach(program)
        if self._object:
            self._library.functions.bpf_object__close(self._object)
            self._object = 0
