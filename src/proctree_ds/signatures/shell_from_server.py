"""A shell below a web server or a database: somebody runs commands through it.

Fires when a shell begins and any of its ancestors, however far up, is a web server, an application
server or a database; each ancestor counts as what it was when it made the next one, so that a
server that has gone meanwhile still counts.

Known false positives: CGI scripts written in shell, Apache's piped logs (`|/usr/bin/rotatelogs`
through a shell), `archive_command` of PostgreSQL, applications that call out to a shell by design.
Node.js is not counted as a server: every `npm run` starts a shell below it.
"""

from __future__ import annotations

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
from proctree_ds.signatures._programs import SHELLS, served_by

__all__ = ["ShellFromServer"]


class ShellFromServer(Signature):
    """A shell with a web server or a database among its ancestors."""

    metadata = SignatureMetadata(
        id="PT-SHELL-FROM-SERVER",
        version="1",
        name="Shell below a web server or database",
        description="A shell began below a web server or a database: a web shell, an injected "
        "command, or a function of the database that runs programs.",
        severity="high",
        techniques=("T1190", "T1505.003", "T1059.004"),
        tags=("execution", "persistence"),
    )
    selectors = (EventSelector(event="exec"),)
    tree: DataSource

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event: ExecEvent) -> Finding | None:
        if event.comm not in SHELLS and event.program not in SHELLS:
            return None
        try:
            lineage = self.tree.lineage(event.process_entity_id, event.time)
        except DataNotFound:
            return None
        for depth in range(1, len(lineage)):
            server = served_by(lineage[depth])
            if server is not None:
                ancestor = lineage[depth]
                return Finding(
                    data={
                        "server": server,
                        "server_name": ancestor.name,
                        "server_pid": ancestor.pid,
                        "server_entity_id": ancestor.entity_id,
                        "depth": depth,
                        "command": event.argv,
                    }
                )
        return None
