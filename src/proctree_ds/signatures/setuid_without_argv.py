"""A setuid or setgid program started without any argument, not even its own name.

Fires when a process that is not root executes such a program with an empty argument list. No
program is meant to be called so; polkit's pkexec took its environment for its arguments then, which
made anybody root (CVE-2021-4034, "PwnKit"). Since Linux 5.18 the kernel puts one empty string in
place of the missing name (do_execveat_common), so a list of just that is meant as well.

Known false positives: none. Where the source does not know the arguments, nothing fires.
"""

from __future__ import annotations

import stat
from typing import Final

from proctree_ds.signature import EventSelector, Finding, Signature, SignatureMetadata
from proctree_ds.signature_event import ExecEvent

__all__ = ["SetuidWithoutArgv"]

_PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID


class SetuidWithoutArgv(Signature):
    """An empty argument list for a program that runs with its owner's rights."""

    metadata = SignatureMetadata(
        id="PT-SETUID-WITHOUT-ARGV",
        version="1",
        name="Setuid program started with an empty argument list",
        description="A setuid or setgid program was started without arguments and without a name, "
        "as exploits of argument parsing do (PwnKit).",
        severity="critical",
        techniques=("T1068", "T1548.001"),
        tags=("privilege-escalation",),
    )
    selectors = (EventSelector(event="exec"),)

    def on_event(self, event: ExecEvent) -> Finding | None:
        argv = event.argv
        if argv is None or len(argv) > 1 or (argv and argv[0]):
            return None
        file = event.executable
        mode = None if file is None else file.mode
        is_privileged = mode is not None and bool(mode & _PRIVILEGED)
        uid = event.uid
        if uid == 0 or not (is_privileged or (uid is not None and event.euid not in (None, uid))):
            return None
        return Finding(
            data={
                "path": None if file is None else file.path,
                "mode": None if mode is None else oct(mode),
                "uid": uid,
                "euid": event.euid,
            }
        )
