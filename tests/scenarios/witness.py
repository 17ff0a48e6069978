"""A signature that asks the tree about every event, as of the event's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proctree_ds import ProcessInfo
from proctree_ds.signature import (
    EventSelector,
    Finding,
    Signature,
    SignatureContext,
    SignatureMetadata,
)
from proctree_ds.signature_event import ExecEvent, TaskEvent

__all__ = ["Seen", "Witness"]


@dataclass
class Seen:
    """What the tree answered about the process of an event."""

    kind: str
    pid: int
    time: int
    process: dict[str, object]
    lineage: list[str | None]
    ended_by_now: int | None
    """When the process exited, as the tree knows by now; None if it lives still."""


class Witness(Signature):
    """Notes what it is told about every event of some processes, and finds each exec."""

    metadata = SignatureMetadata(
        id="WITNESS", version="1", name="w", description="for a test", severity="info"
    )
    selectors = (EventSelector(),)

    def __init__(self, is_watched: Callable[[int], bool] = lambda pid: True) -> None:
        self.seen: list[Seen] = []
        self._is_watched = is_watched

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event: TaskEvent) -> Finding | None:
        if not self._is_watched(event.pid):
            return None
        entity = event.process_entity_id
        lineage = self.tree.lineage(entity, event.time)
        process: ProcessInfo = lineage[0]
        last: ProcessInfo = self.tree.timeline(entity)[-1].process
        self.seen.append(
            Seen(
                event.name,
                event.pid,
                event.time,
                process.to_dict(),
                [info.name for info in lineage],
                last.exit_time,
            )
        )
        if isinstance(event, ExecEvent):
            return Finding(data={"name": process.name, "comm": event.comm})
        return None
