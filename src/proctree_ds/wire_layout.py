"""Where each field of the wire stands: bpf/proctree.h, as `struct` formats.

Records are in host byte order and padded by hand, so every format begins with "=". A test holds
this file against the BTF of the compiled programs.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

VERSION: Final = 2
"""PT_WIRE_VERSION. Raised when an offset, a size or a meaning changes."""

FORK, EXEC, EXIT, SNAPSHOT, CGROUP, RENAME, CHANGE = range(1, 8)
KIND_NAMES: Final = {
    FORK: "fork",
    EXEC: "exec",
    EXIT: "exit",
    SNAPSHOT: "snapshot",
    CGROUP: "cgroup",
    RENAME: "rename",
    CHANGE: "change",
}

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
CUT_ANY: Final = (1 << len(CUT_NAMES)) - 1
CUT_CGROUP: Final = 1 << 5
CUT_ARGV: Final = 1 << 6
CUT_ENV: Final = 1 << 7
HAS_ARGV: Final = 1 << 8
HAS_ENV: Final = 1 << 9
HAS_SCRIPT: Final = 1 << 10
GROUP_EXIT: Final = 1 << 11
SUBREAPER: Final = 1 << 12
KERNEL_THREAD: Final = 1 << 13
LEADERLESS: Final = 1 << 14
PACED: Final = 1 << 15

# enum pt_file_flag, enum pt_directories_flag
FILE_PRESENT: Final = 1 << 0
FILE_MEMFD: Final = 1 << 1
FILE_DELETED: Final = 1 << 2
FILE_UPPER: Final = 1 << 3
FILE_LAYER_UNKNOWN: Final = 1 << 4
FILE_CUT: Final = 1 << 5
DIRECTORIES_KNOWN: Final = 1 << 0
CWD_CUT: Final = 1 << 1
ROOT_CUT: Final = 1 << 2

_HEADER: Final = "=HHIQ"
IDENTITY: Final = "16s16s16sII"
HEADER: Final = Struct(_HEADER)
TASK: Final = Struct("=QII")
CONTEXT: Final = Struct("=6I5Q4IQ8I")
FILE: Final = Struct("=QQqqIIIIII")
DIRECTORIES: Final = Struct("=IIII")
PLACES: Final = Struct(f"={FILE.size}s{FILE.size}s{DIRECTORIES.size}s")
FORK_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s16s{CONTEXT.size}s")
EXEC_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s{CONTEXT.size}s6I{PLACES.size}s")
EXIT_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16sII")
RENAME_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s")
CHANGE_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s{CONTEXT.size}s{DIRECTORIES.size}s")
CGROUP_RECORD: Final = Struct(f"{_HEADER}QII")

FORK_BYTES: Final = FORK_RECORD.size
EXEC_BYTES: Final = EXEC_RECORD.size
EXIT_BYTES: Final = EXIT_RECORD.size
CHANGE_BYTES: Final = CHANGE_RECORD.size

# Parts that are read on their own.
WORD: Final = Struct("=I")
CAPABILITIES: Final = Struct("=5Q")
CAPABILITIES_AT: Final = slice(24, 64)
CGROUP_ID: Final = Struct("=Q")
CGROUP_ID_AT: Final = 80
NAMESPACES: Final = Struct("=8I")
NAMESPACES_AT: Final = slice(88, 120)
PATH_LENGTH: Final = Struct("=I")
PATH_LENGTH_AT: Final = 52


PACE_BITS: Final = 30
"""Changes of one process are counted in windows of 2 to the power of this many ns."""


def first_word(kind: int, version: int = VERSION) -> int:
    """The first four bytes of a record, as a number in host byte order."""
    (word,) = WORD.unpack(Struct("=HH").pack(kind, version))
    return int(word)
