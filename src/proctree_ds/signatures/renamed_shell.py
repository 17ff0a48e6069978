"""A system shell under another name.

Fires when a program is executed that is a known shell, while its file is not called like one: a
hard link (same device and inode), or a copy (same size, and same content where both files can
still be read). The known shells are looked up when the signature begins, and learned from every
shell that is executed from a system directory, so that it works over a recording as well. Files
are read only when the size is that of a shell, and each file once.

Known false positives: another program of exactly a shell's size, where its content cannot be
compared, as over a recording; `data.basis` says "size" then. Multi-call binaries such as busybox,
which are shells and much else by design, are left alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from xxhash import xxh3_128

from proctree_ds.model import FileInfo
from proctree_ds.signature import (
    EventSelector,
    Finding,
    Signature,
    SignatureContext,
    SignatureMetadata,
)
from proctree_ds.signature_event import ExecEvent
from proctree_ds.signatures._programs import SHELLS, file_name

__all__ = ["RenamedShell"]

_DIRECTORIES: Final = ("/bin", "/usr/bin", "/usr/local/bin")
_SYSTEM: Final = tuple(f"{directory}/" for directory in _DIRECTORIES)
_MULTICALL: Final = frozenset({"busybox", "toybox", "busybox-static", "sh.distrib"})
_KNOWN_LIMIT: Final = 256
"""Shell files remembered; more than that many versions of shells are not on one host."""
_VERDICTS_LIMIT: Final = 1_024
_READ_LIMIT: Final = 16 * 1024 * 1024

_Version = tuple[int | None, int | None, int | None, int | None]


class RenamedShell(Signature):
    """A copy of, or a link to, a shell is executed under a name that is not a shell's."""

    metadata = SignatureMetadata(
        id="PT-RENAMED-SHELL",
        version="1",
        name="System shell under another name",
        description="A copy of or a hard link to a system shell was executed under another name.",
        severity="high",
        techniques=("T1036.003", "T1059.004"),
        tags=("defense-evasion",),
    )
    selectors = (EventSelector(event="exec"),)

    def __init__(self) -> None:
        self._by_size: dict[int, dict[tuple[int | None, int | None], str]] = {}
        self._known = 0
        self._verdicts: dict[_Version, str | None] = {}

    def init(self, context: SignatureContext) -> None:
        for directory in _DIRECTORIES:
            for name in sorted(SHELLS):
                try:
                    path = Path(directory, name).resolve(strict=True)
                    facts = path.stat()
                except OSError:
                    continue
                if path.name not in _MULTICALL:
                    self._learn(facts.st_size, facts.st_dev, facts.st_ino, str(path))

    def on_event(self, event: ExecEvent) -> Finding | None:
        file = event.executable
        if file is None or file.size is None:
            return None
        shells = self._by_size.get(file.size)
        if shells is None:
            if event.comm in SHELLS:
                self._learn_from(file)
            return None
        name = event.program
        if name is None or name in SHELLS or name in _MULTICALL:
            return None
        version = (file.device, file.inode, file.ctime, file.size)
        if version in self._verdicts:
            basis = self._verdicts[version]
        else:
            basis = self._compare(event, file, shells)
            if len(self._verdicts) >= _VERDICTS_LIMIT:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[version] = basis
        if basis is None:
            return None
        return Finding(
            data={
                "path": file.path,
                "shells": sorted(shells.values()),
                "basis": basis,
                "command": event.argv,
            }
        )

    def _learn_from(self, file: FileInfo) -> None:
        path = file.path
        is_shell = path is not None and path.startswith(_SYSTEM) and file_name(path) in SHELLS
        if is_shell and path is not None and file.size is not None:
            self._learn(file.size, file.device, file.inode, path)

    def _learn(self, size: int, device: int | None, inode: int | None, path: str) -> None:
        if self._known < _KNOWN_LIMIT:
            self._known += 1
            self._by_size.setdefault(size, {})[device, inode] = path

    def _compare(
        self, event: ExecEvent, file: FileInfo, shells: dict[tuple[int | None, int | None], str]
    ) -> str | None:
        """Why the file counts as a shell: "inode", "content" or "size"; None if it is none."""
        if file.inode is not None and (file.device, file.inode) in shells:
            return "inode"
        mine = _digest(f"/proc/{event.pid}/exe", file) or _digest(file.path, file)
        if mine is None:
            return "size"
        theirs = [_digest(path, None, size=file.size) for path in shells.values()]
        if mine in theirs:
            return "content"
        return "size" if None in theirs else None


def _digest(path: str | None, file: FileInfo | None, size: int | None = None) -> bytes | None:
    """A hash of what is at `path`; None unless it can be read and is that very file."""
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):  # ValueError: a path with a NUL, which only a log can hold
        return None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as content:
        if file is not None:
            size = file.size
            # Only the very file that was executed, as it was then, says anything.
            then = file.inode, file.device, file.ctime
            if then != (facts.st_ino, facts.st_dev, facts.st_ctime_ns):
                return None
        if facts.st_size != size or size > _READ_LIMIT:
            return None
        return xxh3_128(content.read()).digest()
