"""A program started by an orphan out of a login session or a network service.

To get rid of its origin, a process forks twice: the one in the middle exits, and what it left is
adopted by init or by a subreaper, where it looks like any service. The tree still knows the
original ancestors. Fires when a process executes a program while its parent is no longer the one
that made it, and its original ancestry holds a web server, a database, a login service (sshd, ...)
or a shell on a terminal.

Known false positives: daemons that somebody starts by hand from a session, and that put themselves
into the background before they execute their worker; `setsid` and `nohup` used on purpose. Not
seen: a process that executes first and is orphaned later, without executing anything again.
"""

from __future__ import annotations

from proctree_ds.answers import ProcessInfo
from proctree_ds.datasource import DataSource
from proctree_ds.errors import DataNotFound
from proctree_ds.signature import (
    EventSelector,
    Finding,
    Signature,
    SignatureContext,
    SignatureMetadata,
)
from proctree_ds.signature_event import ExecEvent
from proctree_ds.signatures._programs import is_login_service, is_shell, served_by

__all__ = ["BrokenAncestry"]


class BrokenAncestry(Signature):
    """An orphan, made in a session or by a service, executes a program."""

    metadata = SignatureMetadata(
        id="PT-BROKEN-ANCESTRY",
        version="1",
        name="Program started by an orphan of a session or service",
        description="A process that was made in a login session or by a network service, and has "
        "been adopted since, executes a program.",
        severity="medium",
        techniques=("T1036.009",),
        tags=("defense-evasion",),
    )
    selectors = (EventSelector(event="exec"),)
    tree: DataSource

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event: ExecEvent) -> Finding | None:
        if not event.is_reparented:
            return None
        try:
            lineage = self.tree.lineage(event.process_entity_id, event.time)
        except DataNotFound:
            return None
        for depth in range(1, len(lineage)):
            origin = _origin(lineage[depth])
            if origin is not None:
                return Finding(
                    data={
                        "origin": origin,
                        "origin_name": lineage[depth].name,
                        "origin_pid": lineage[depth].pid,
                        "depth": depth,
                        "original_parent_pid": lineage[1].pid,
                        "parent_pid": event.ppid,
                        "command": event.argv,
                    }
                )
        return None


def _origin(info: ProcessInfo) -> str | None:
    """What kind of place this ancestor is, if it is one that matters."""
    if is_login_service(info):
        return "login service"
    if info.tty is not None and info.script is None and is_shell(info):
        return "shell on a terminal"
    return served_by(info)
