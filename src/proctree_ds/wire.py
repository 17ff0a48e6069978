"""Bytes of the wire (bpf/proctree.h) to events; only this file knows the layout in Python.

A record costs one unpack and a few lookups: whatever repeats (contexts, files and paths, tasks,
environments, names) is decoded once and then found again by its raw bytes, so that equal facts
are the same object. Every such table is bounded: when full it is emptied, and fills again with
what is in use. A record that does not fit its layout is counted and yields nothing; no bytes, in
any order, make a decoder raise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from mmap import mmap
from struct import Struct
from struct import error as StructError
from typing import Any, Final, TypeVar

from proctree_ds.containers import container_id
from proctree_ds.model import (
    UNKNOWN_CONTEXT,
    Capabilities,
    Context,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Image,
    Namespaces,
    Snapshot,
    State,
    Task,
)

__all__ = ["VERSION", "Decoder", "tty_name"]

VERSION: Final = 1
"""PT_WIRE_VERSION. Raised when an offset, a size or a meaning changes."""

FORK, EXEC, EXIT, SNAPSHOT, CGROUP = range(1, 6)
KIND_NAMES: Final = {FORK: "fork", EXEC: "exec", EXIT: "exit", SNAPSHOT: "snapshot", CGROUP: "cgroup"}

# enum pt_flag
CUT_NAMES: Final = (
    "executable",
    "interpreter",
    "cwd",
    "root",
    "script",
    "cgroup",
    "argv",
    "env",
)
"""What can have been cut, from bit 0 on."""
_CUT_ANY: Final = (1 << len(CUT_NAMES)) - 1
_CUT_CGROUP: Final = 1 << 5
_CUT_ARGV: Final = 1 << 6
_CUT_ENV: Final = 1 << 7
_HAS_ARGV: Final = 1 << 8
_HAS_ENV: Final = 1 << 9
_HAS_SCRIPT: Final = 1 << 10
_GROUP_EXIT: Final = 1 << 11
_SUBREAPER: Final = 1 << 12
_KERNEL_THREAD: Final = 1 << 13

# enum pt_file_flag, enum pt_places_flag
_FILE_PRESENT: Final = 1 << 0
_FILE_MEMFD: Final = 1 << 1
_FILE_DELETED: Final = 1 << 2
_FILE_UPPER: Final = 1 << 3
_FILE_LAYER_UNKNOWN: Final = 1 << 4
_FILE_CUT: Final = 1 << 5
_PLACES_KNOWN: Final = 1 << 0
_PLACES_CWD_CUT: Final = 1 << 1
_PLACES_ROOT_CUT: Final = 1 << 2

_HEADER: Final = "=HHIQ"
_IDENTITY: Final = "16s16s16sII"
HEADER: Final = Struct(_HEADER)
TASK: Final = Struct("=QII")
CONTEXT: Final = Struct("=6I5Q4IQ8I")
FILE: Final = Struct("=QQqqIIIIII")
PLACES: Final = Struct(f"={FILE.size}s{FILE.size}sIIII")
FORK_RECORD: Final = Struct(f"{_HEADER}{_IDENTITY}16s16s{CONTEXT.size}s")
EXEC_RECORD: Final = Struct(f"{_HEADER}{_IDENTITY}16s{CONTEXT.size}s6I{PLACES.size}s")
EXIT_RECORD: Final = Struct(f"{_HEADER}{_IDENTITY}16sII")
CGROUP_RECORD: Final = Struct(f"{_HEADER}QII")

_unpack_task: Final = TASK.unpack
_unpack_fork: Final = FORK_RECORD.unpack_from
_unpack_exec: Final = EXEC_RECORD.unpack_from
_unpack_exit: Final = EXIT_RECORD.unpack_from

_NO_TASK: Final = bytes(TASK.size)
_NO_ID: Final = 0xFFFFFFFF

Buffer = bytes | mmap
"""What records are decoded from: slices of it must be `bytes`."""

Places = tuple[FileInfo | None, FileInfo | None, str | None, str | None]
"""Executable, interpreter, cwd, root."""

V = TypeVar("V")


class _Shared(dict[bytes, V]):
    """Decoded values by their raw bytes, made at the first lookup. Emptied when full."""

    __slots__ = ("_limit", "_make", "emptied")

    def __init__(self, make: Callable[[bytes], V], limit: int) -> None:
        super().__init__()
        self._make = make
        self._limit = limit
        self.emptied = 0

    def __missing__(self, raw: bytes) -> V:
        if len(self) >= self._limit:
            self.clear()
            self.emptied += 1
        value = self[raw] = self._make(raw)
        return value


def tty_name(major: int, minor: int) -> str | None:
    """The name below /dev of a controlling terminal, "major:minor" for unusual ones, None for 0:0.

    Numbers as in the kernel's Documentation/admin-guide/devices.txt.
    """
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    if major or minor:
        return f"{major}:{minor}"
    return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _comm(raw: bytes) -> str:
    return _text(raw.partition(b"\0")[0])


def _task(raw: bytes) -> Task | None:
    if raw == _NO_TASK:
        return None
    start_time, tid, _ = _unpack_task(raw)
    return Task(tid, start_time)


def _path(raw: bytes) -> str:
    """Leaf first, each component with its NUL, to an absolute path."""
    names = _text(raw).split("\0")
    names.reverse()
    return "/".join(names) if len(names) > 1 else "/"


def _argv(raw: bytes) -> tuple[str, ...]:
    """NUL-terminated strings; the last one may have lost its NUL."""
    if not raw:
        return ()
    return tuple(_text(raw[:-1] if raw[-1] == 0 else raw).split("\0"))


def _env(raw: bytes) -> dict[str, str]:
    """Variables by name; of two with one name the first counts, as in getenv(3)."""
    env: dict[str, str] = {}
    for variable in _argv(raw):
        name, _, value = variable.partition("=")
        env.setdefault(name, value)
    return env


def _absolute(script: str, cwd: str | None, root: str | None) -> str:
    """The path of a script as it was given to execve, seen from the top of the mount tree."""
    if script.startswith("/"):
        return script if root in (None, "/") else f"{root}{script}"
    if cwd is None:
        return script
    return f"{cwd.rstrip('/')}/{script.removeprefix('./')}"


class Decoder:
    """Turns records into events. One per stream: it remembers what the stream has told.

    `decoders` maps the first word of a record (its kind and wire version) to a function of
    (buffer, offset, length), `unknown` takes every other record; both return an event or None.
    The tables hold at most `limit` entries each.
    """

    def __init__(self, limit: int = 16_384) -> None:
        self.malformed = 0
        """Records that did not fit their layout, were of an unknown kind or wire version."""
        self.truncated = dict.fromkeys(CUT_NAMES, 0)
        """How many records carried a cut string, by what was cut."""
        self._tasks = _Shared(_task, limit)
        self._comms = _Shared(_comm, limit)
        self._contexts = _Shared(self._context, limit)
        self._places = _Shared(self._place, limit // 4)
        self._files = _Shared(self._file, limit // 4)
        self._paths = _Shared(_path, limit // 4)
        self._envs = _Shared(_env, limit // 16)
        self._capabilities = _Shared(lambda raw: Capabilities(*_CAPABILITIES.unpack(raw)), limit)
        self._namespaces = _Shared(_namespaces, limit)
        self._cgroups: dict[int, tuple[str | None, str | None]] = {}
        self._cgroup_limit = limit
        word = VERSION << 16
        self.decoders: Final = {
            word | FORK: self.fork,
            word | EXEC: self.exec,
            word | EXIT: self.exit,
            word | CGROUP: self.cgroup,
        }
