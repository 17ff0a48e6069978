"""Execution of a file that has no name on any disk: in memory (memfd), or deleted already.

Fires at every exec of a memfd or of a file without a link. Loaders use both to leave nothing to
scan behind.

Known false positives: a program that executes itself again after its package was upgraded (sshd,
browsers) is deleted by then; build tools that unlink what they run. Container runtimes that run
from a sealed copy of themselves (`runc_cloned:/proc/self/exe`, against CVE-2019-5736) are let
pass when a container manager is among their nearest ancestors.
"""

from __future__ import annotations

from typing import Final

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
from proctree_ds.signatures._programs import words

__all__ = ["FilelessExecution"]

_RUNTIME_MEMFDS: Final = ("runc_cloned:", "crun_cloned:", "/proc/self/exe")
_CONTAINER_MANAGERS: Final = words(
    "runc crun youki dockerd containerd containerd-shim conmon conmonrs crio podman buildkitd "
    "buildah kubelet"
)
_NEAREST: Final = 3


class FilelessExecution(Signature):
    """A memfd or a deleted file is executed."""

    metadata = SignatureMetadata(
        id="PT-FILELESS-EXECUTION",
        version="1",
        name="Execution of a file that is in memory only, or deleted",
        description="A process executes a memfd or a file that no longer has a name.",
        severity="high",
        techniques=("T1620", "T1070.004"),
        tags=("defense-evasion",),
    )
    selectors = (EventSelector(event="exec"),)
    tree: DataSource

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event: ExecEvent) -> Finding | None:
        file = event.executable
        if file is None or not (file.is_memfd or file.is_deleted):
            return None
        name = (file.path or "").removeprefix("/").removeprefix("memfd:")
        if file.is_memfd and name.startswith(_RUNTIME_MEMFDS) and self._is_container_runtime(event):
            return None
        kind = "memfd" if file.is_memfd else "deleted file"
        return Finding(data={"kind": kind, "path": file.path, "command": event.argv})

    def _is_container_runtime(self, event: ExecEvent) -> bool:
        try:
            lineage = self.tree.lineage(event.process_entity_id, event.time, max_depth=_NEAREST)
        except DataNotFound:
            return False
        for ancestor in lineage[1:]:
            file = ancestor.execution_binary
            # A comm has 15 bytes: it cannot tell containerd-shim-runc-v2 from others.
            path = file.path if file is not None and not file.is_memfd else None
            name = (path or "").rpartition("/")[2]
            if name in _CONTAINER_MANAGERS or name.startswith("containerd-shim"):
                return True
        return False
