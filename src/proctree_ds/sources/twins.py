"""Events that come by two ways, each handed on once: by the way that brings it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proctree_ds.model import Event, Exec, Exit, Fork

__all__ = ["TWINS_LIMIT", "Twins"]

TWINS_LIMIT: Final = 65_536
"""Events remembered whose twin has not come. A ring of 8 MiB holds fewer; one that was lost stays
until newer ones push it out."""

_Key = tuple[type[Event], int, int | None, int]


class Twins:
    """Remembers which events are expected once more."""

    def __init__(self) -> None:
        self._expected: dict[_Key, None] = {}

    def without(self, events: Sequence[Event]) -> list[Event]:
        """`events` but for those that came before. Amortised O(1) each."""
        expected = self._expected
        fresh: list[Event] = []
        for event in events:
            if isinstance(event, Fork | Exec | Exit):
                key = (type(event), event.task.tid, event.task.start_time, event.time)
                if key in expected:
                    del expected[key]
                    continue
                expected[key] = None
            fresh.append(event)
        while len(expected) > TWINS_LIMIT:
            del expected[next(iter(expected))]
        return fresh
