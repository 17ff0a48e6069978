"""What every loader of the kernel programs does, whichever one it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from proctree_ds.errors import SourceUnavailable

__all__ = ["LoadedObject", "LoaderError", "MissingHere", "require_types"]


class MissingHere(SourceUnavailable):
    """A loader has not what it needs on this machine; another one may have."""


class LoaderError(OSError):
    """A loader's step failed. `log` holds the last lines of what was said about it."""

    def __init__(self, code: int, action: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(code, f"{action}: {os.strerror(code)}")
        self.log = log


def require_types(btf_path: Path) -> None:
    """Raises `SourceUnavailable` where the kernel does not describe its types at this path."""
    if not btf_path.exists():
        raise SourceUnavailable(
            f"this kernel does not describe its types ({btf_path} is missing). Use a kernel"
            " built with CONFIG_DEBUG_INFO_BTF, or another source."
        )


class LoadedObject(Protocol):
    """The compiled programs: set them up, `load()` them, attach them, `close()` them.

    Every method raises OSError where it fails. Closing detaches the programs and frees programs
    and maps, unless something else holds them.
    """

    def leave_out(self, program: str) -> None:
        """Before loading: this program is not given to the kernel."""
        ...

    def set_entries(self, map_name: str, entries: int) -> None:
        """Before loading: the size of a map; of a ring buffer, in bytes."""
        ...

    def possible_cpus(self) -> int:
        """How many CPUs this machine can have: CPU numbers are below it."""
        ...

    def set_constants(self, data: bytes) -> None:
        """Before loading: the bytes of struct pt_config."""
        ...

    def load(self) -> None:
        """Give programs and maps to the kernel, which verifies them."""
        ...

    def map_fd(self, name: str) -> int:
        """The file descriptor of a map; it belongs to this object."""
        ...

    def attach(self, program: str) -> None:
        """Attach a program where its section name says."""
        ...

    def attach_tracepoint(self, program: str, category: str, name: str) -> str:
        """Attach a program to a tracepoint, beside others it may have. Returns what to detach."""
        ...

    def detach(self, name: str) -> None:
        """Undo `attach` of a program, or `attach_tracepoint`; once is enough."""
        ...

    def iterator(self, program: str) -> int:
        """A new file descriptor that reads what an attached iterator program writes."""
        ...

    def recursion_misses(self, program: str) -> int:
        """How often the kernel skipped the program since it was already running on that CPU.

        Always 0 before Linux 5.12, which does not count it.
        """
        ...

    def close(self) -> None:
        """Detach and free everything. Closing twice is fine."""
        ...
