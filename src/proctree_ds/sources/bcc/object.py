"""The kernel programs as BCC compiles them, behind the same interface as libbpf's object."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

from proctree_ds.sources.bcc import kernel
from proctree_ds.sources.bcc.compiler import Compiled, compile_programs
from proctree_ds.sources.bcc.linker import CONSTANTS, function_types, link, map_definition

__all__ = ["BccObject"]

_LICENSE: Final = "Dual BSD/GPL"
"""That of bpf/proctree.bpf.c."""

_TRACEPOINT: Final = (5, 0, 0)
_TRACING: Final = (26, 23, 0)
_ITERATOR: Final = (26, 28, 0)
_SLEEPABLE: Final = (26, 28, 1 << 4)
"""Program type, attach type and flags, include/uapi/linux/bpf.h."""
_KINDS: Final = {
    "tp_btf": _TRACING,
    "iter": _ITERATOR,
    "iter.s": _SLEEPABLE,
    "tracepoint": _TRACEPOINT,
}


@cache
def _compiled(btf_path: Path) -> Compiled:
    """What the sources are for this kernel, compiled once in this process."""
    return compile_programs(btf_path)


class BccObject:
    """See `LoadedObject`.

    The first one compiles the sources for the kernel whose BTF is at `btf_path`. Raises
    `SourceUnavailable`.
    """

    def __init__(self, btf_path: Path) -> None:
        self._compiled = _compiled(btf_path)
        self._left_out: set[str] = set()
        self._entries: dict[str, int] = {}
        self._constants = b""
        self._maps: dict[str, int] = {}
        self._programs: dict[str, int] = {}
        self._links: dict[str, int] = {}

    def leave_out(self, program: str) -> None:
        """See `LoadedObject`."""
        self._left_out.add(program)

    def set_entries(self, map_name: str, entries: int) -> None:
        """See `LoadedObject`."""
        self._entries[map_name] = entries

    def possible_cpus(self) -> int:
        """See `LoadedObject`."""
        return kernel.possible_cpus()

    def set_constants(self, data: bytes) -> None:
        """See `LoadedObject`."""
        self._constants = data

    def load(self) -> None:
        """See `LoadedObject`."""
        compiled = self._compiled
        for name in compiled.maps:
            like = map_definition(compiled, name)
            entries = self._entries.get(name, like.entries)
            self._maps[name] = kernel.create_map(
                name, like.kind, like.key_bytes, like.value_bytes, entries, like.flags
            )
        self._maps[CONSTANTS] = kernel.create_constants(self._constants)
        types, ids = function_types(compiled)
        types_fd = kernel.load_types(types)
        try:
            for name in compiled.programs:
                if name not in self._left_out:
                    self._programs[name] = self._load(name, types_fd, ids)
        finally:
            os.close(types_fd)

    def _load(self, name: str, types_fd: int, ids: dict[str, int]) -> int:
        linked = link(self._compiled, name, self._maps)
        return kernel.load_program(
            name,
            _KINDS[self._kind_of(name)],
            self._compiled.targets.get(name, 0),
            linked.code,
            types_fd,
            [(start, ids[function]) for start, function in linked.functions],
            _LICENSE,
        )

    def _kind_of(self, program: str) -> str:
        return self._compiled.programs[program].partition("/")[0]

    def map_fd(self, name: str) -> int:
        """See `LoadedObject`."""
        return self._maps[name]

    def attach(self, program: str) -> None:
        """See `LoadedObject`."""
        fd = self._programs[program]
        attach = kernel.link_tracing if self._kind_of(program) == "tp_btf" else kernel.link_iterator
        self._links[program] = attach(fd, program)

    def attach_tracepoint(self, program: str, category: str, name: str) -> str:
        """See `LoadedObject`."""
        key = f"{program}:{category}:{name}"
        self._links[key] = kernel.link_tracepoint(self._programs[program], category, name)
        return key

    def detach(self, name: str) -> None:
        """See `LoadedObject`."""
        link = self._links.pop(name, None)
        if link is not None:
            os.close(link)

    def iterator(self, program: str) -> int:
        """See `LoadedObject`."""
        return kernel.create_iterator(self._links[program], program)

    def recursion_misses(self, program: str) -> int:
        """See `LoadedObject`."""
        return kernel.recursion_misses(self._programs[program], program)

    def close(self) -> None:
        """See `LoadedObject`."""
        for held in (self._links, self._programs, self._maps):
            while held:
                os.close(held.popitem()[1])
