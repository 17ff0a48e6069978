"""Where each field of the wire stands: bpf/proctree.h, as `struct` formats.

Records are in host byte order and padded by hand, so every format begins with "=". A test holds
this file against the BTF of the compiled programs.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

VERSION: Final = 1
"""PT_WIRE_VERSION. Raised when an offset, a size or a meaning changes."""

FORK, EXEC, EXIT, SNAPSHOT, CGROUP = range(1, 6)
KIND_NAMES: Final = {
    FORK: "fork",
    EXEC: "exec",
    EXIT: "exit",
    SNAPSHOT: "snapshot",
    CGROUP: "cgroup",
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

# enum pt_file_flag, enum pt_places_flag
FILE_PRESENT: Final = 1 << 0
FILE_MEMFD: Final = 1 << 1
FILE_DELETED: Final = 1 << 2
FILE_UPPER: Final = 1 << 3
FILE_LAYER_UNKNOWN: Final = 1 << 4
FILE_CUT: Final = 1 << 5
PLACES_KNOWN: Final = 1 << 0
PLACES_CWD_CUT: Final = 1 << 1
PLACES_ROOT_CUT: Final = 1 << 2

_HEADER: Final = "=HHIQ"
IDENTITY: Final = "16s16s16sII"
HEADER: Final = Struct(_HEADER)
TASK: Final = Struct("=QII")
CONTEXT: Final = Struct("=6I5Q4IQ8I")
FILE: Final = Struct("=QQqqIIIIII")
PLACES: Final = Struct(f"={FILE.size}s{FILE.size}sIIII")
FORK_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s16s{CONTEXT.size}s")
EXEC_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16s{CONTEXT.size}s6I{PLACES.size}s")
EXIT_RECORD: Final = Struct(f"{_HEADER}{IDENTITY}16sII")
CGROUP_RECORD: Final = Struct(f"{_HEADER}QII")

FORK_BYTES: Final = FORK_RECORD.size
EXEC_BYTES: Final = EXEC_RECORD.size
EXIT_BYTES: Final = EXIT_RECORD.size

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


def first_word(kind: int, version: int = VERSION) -> int:
    """The first four bytes of a record, as a number in host byte order."""
    (word,) = WORD.unpack(Struct("=HH").pack(kind, version))
    return int(word)
