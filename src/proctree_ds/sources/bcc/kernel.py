"""The bpf() system call, as far as the loader needs it. Layouts: include/uapi/linux/bpf.h, 6.18.

Whatever a function returns is a file descriptor that the caller closes; it is not inherited by
programs that this process runs. Functions raise `LoaderError`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
from collections.abc import Sequence
from errno import ENOSYS
from pathlib import Path
from struct import pack, unpack_from
from typing import Any, Final

from proctree_ds.sources.loading import LoaderError

__all__ = [
    "create_constants",
    "create_iterator",
    "create_map",
    "link_iterator",
    "link_tracepoint",
    "link_tracing",
    "load_program",
    "load_types",
    "possible_cpus",
    "recursion_misses",
]

_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_PERF_EVENT_OPEN: Final = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "ppc64le": 319,
    "s390x": 331,
}
"""The numbers of the system calls, by machine."""

_MAP_CREATE: Final = 0
_MAP_UPDATE: Final = 2
_PROGRAM_LOAD: Final = 5
_OBJECT_INFO: Final = 15
_RAW_TRACEPOINT_OPEN: Final = 17
_BTF_LOAD: Final = 18
_MAP_FREEZE: Final = 22
_LINK_CREATE: Final = 28
_ITERATOR_CREATE: Final = 33

_ARRAY: Final = 2
_READ_ONLY_FOR_PROGRAMS: Final = 1 << 7
_ITERATION: Final = 28
_NAME_BYTES: Final = 16
_FUNCTION_INFO_BYTES: Final = 8
_LOG_BYTES: Final = 1 << 20
_LOG_LINES: Final = 6
"""How many of the verifier's last lines an error carries."""
_MISSES_AT: Final = 208
_INFO_BYTES: Final = 216

_PERF_TRACEPOINT: Final = 2
_PERF_ATTRIBUTE_BYTES: Final = 64
_PERF_CLOSE_ON_EXEC: Final = 8
_PERF_SET_PROGRAM: Final = 0x40042408
_PERF_ENABLE: Final = 0x2400
_TRACEFS: Final = Path("/sys/kernel/tracing/events")

_call: Any = ctypes.CDLL(None, use_errno=True).syscall
_call.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes, action: str) -> int:
    number = _BPF.get(platform.machine())
    if number is None:
        raise OSError(ENOSYS, f"bpf() has no known number on {platform.machine()}; use libbpf")
    result: int = _call(number, command, ctypes.c_char_p(attributes), len(attributes))
    if result < 0:
        raise LoaderError(ctypes.get_errno(), action)
    return result


def _address(data: Any) -> int:
    """Where bytes or a buffer lie; they must outlive the call."""
    return ctypes.cast(data, ctypes.c_void_p).value or 0


def _name(name: str) -> bytes:
    return name.encode()[: _NAME_BYTES - 1].ljust(_NAME_BYTES, b"\0")


def create_map(
    name: str, kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int
) -> int:
    """A new map."""
    attributes = pack("=7I16s", kind, key_bytes, value_bytes, entries, flags, 0, 0, _name(name))
    return _bpf(_MAP_CREATE, attributes, f"create map {name}")


def create_constants(data: bytes) -> int:
    """A map with one value, which nobody changes any more."""
    fd = create_map("constants", _ARRAY, 4, len(data), 1, _READ_ONLY_FOR_PROGRAMS)
    try:
        key = bytes(4)
        attributes = pack("=I4xQQQ", fd, _address(key), _address(data), 0)
        _bpf(_MAP_UPDATE, attributes, "set constants")
        _bpf(_MAP_FREEZE, pack("=I", fd), "freeze constants")
    except OSError:
        os.close(fd)
        raise
    return fd


def load_types(btf: bytes) -> int:
    """BTF of the programs' own."""
    attributes = pack("=QQIII4x", _address(btf), 0, len(btf), 0, 0)
    return _bpf(_BTF_LOAD, attributes, "load types")


def load_program(
    name: str,
    kind: tuple[int, int, int],
    target: int,
    code: bytes,
    types_fd: int,
    functions: Sequence[tuple[int, int]],
    license: str,
) -> int:
    """A program, verified.

    `kind` is its type, attach type and flags, `target` the BTF id of what it is attached to;
    `functions` has the first instruction and the type of each of its functions.
    """
    program_type, attach_type, flags = kind
    info = b"".join(pack("=II", *function) for function in functions)
    terms = license.encode() + b"\0"

    def load(log: ctypes.Array[ctypes.c_char] | None) -> int:
        attributes = pack(
            "=IIQQIIQII16sIIIIQIIQII4x",
            program_type,
            len(code) // 8,
            _address(code),
            _address(terms),
            0 if log is None else 1,
            0 if log is None else _LOG_BYTES,
            0 if log is None else _address(log),
            0,
            flags,
            _name(name),
            0,
            attach_type,
            types_fd,
            _FUNCTION_INFO_BYTES,
            _address(info),
            len(functions),
            0,
            0,
            0,
            target,
        )
        return _bpf(_PROGRAM_LOAD, attributes, f"load {name}")

    try:
        return load(None)
    except LoaderError:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return load(log)  # only to be told why
        except LoaderError as error:
            lines = log.value.decode("utf-8", "replace").splitlines()
            error.log = tuple(line.strip() for line in lines if line.strip())[-_LOG_LINES:]
            raise


def link_tracing(program_fd: int, name: str) -> int:
    """Attaches a program to the tracepoint that it was loaded for."""
    return _bpf(_RAW_TRACEPOINT_OPEN, pack("=QI4x", 0, program_fd), f"attach {name}")


def link_iterator(program_fd: int, name: str) -> int:
    """Attaches a program to the iterator that it was loaded for."""
    attributes = pack("=IIIIQI4x", program_fd, 0, _ITERATION, 0, 0, 0)
    return _bpf(_LINK_CREATE, attributes, f"attach {name}")


def create_iterator(link_fd: int, name: str) -> int:
    """What reads all that an iterator's program writes."""
    return _bpf(_ITERATOR_CREATE, pack("=II", link_fd, 0), f"iterate {name}")


def link_tracepoint(program_fd: int, category: str, name: str) -> int:
    """Attaches a program to a tracepoint, beside others it may have."""
    action = f"attach {category}:{name}"
    identity = int((_TRACEFS / category / name / "id").read_text())
    attributes = pack("=IIQ", _PERF_TRACEPOINT, _PERF_ATTRIBUTE_BYTES, identity)
    number = _PERF_EVENT_OPEN[platform.machine()]
    fd: int = _call(
        number,
        ctypes.c_char_p(attributes.ljust(_PERF_ATTRIBUTE_BYTES, b"\0")),
        -1,
        0,
        -1,
        _PERF_CLOSE_ON_EXEC,
    )
    if fd < 0:
        raise LoaderError(ctypes.get_errno(), action)
    try:
        fcntl.ioctl(fd, _PERF_SET_PROGRAM, program_fd)
        fcntl.ioctl(fd, _PERF_ENABLE, 0)
    except OSError as error:
        os.close(fd)
        raise LoaderError(error.errno or 22, action) from None
    return fd


def recursion_misses(program_fd: int, name: str) -> int:
    """How often the program was skipped; 0 where the kernel does not count that."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attributes = pack("=IIQ", program_fd, _INFO_BYTES, _address(info))
    _bpf(_OBJECT_INFO, attributes, f"info of {name}")
    misses: int = unpack_from("=Q", info, _MISSES_AT)[0]
    return misses


def possible_cpus() -> int:
    """How many CPUs this machine can have: CPU numbers are below it."""
    last = Path("/sys/devices/system/cpu/possible").read_text().replace(",", "-").split("-")[-1]
    return int(last) + 1
