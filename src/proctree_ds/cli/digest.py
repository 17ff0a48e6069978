"""Keeps a table readable, and quick, when one thing is found a thousand times.

Findings for a person are drawn, which takes milliseconds. So of findings that are alike (the same
signature, the same program) only the first few are; the rest is counted and told at the end.
JSON is for programs, and always has them all.
"""

from __future__ import annotations

from typing import Any, Final

from cachetools import LRUCache

from proctree_ds.detection import Detection
from proctree_ds.sinks.escape import visible
from proctree_ds.sinks.table import Table

__all__ = ["SHOWN", "Digest"]

SHOWN: Final = 5
"""Findings of one kind that are drawn."""

_KINDS_REMEMBERED: Final = 1_024
_KINDS_TOLD: Final = 3
_Kind = tuple[str, str | None]


class Digest:
    """A table that draws the first `SHOWN` findings of a kind."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._counts: LRUCache[_Kind, int] = LRUCache(_KINDS_REMEMBERED)
        self._left_out = 0

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        kind = _kind_of(detection)
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        if count <= SHOWN:
            self._table.write(detection)
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Hand over what was drawn."""
        self._table.flush()

    def left_out(self) -> list[str]:
        """What was left out, in words: how much of it in all, and which kinds the most."""
        if not self._left_out:
            return []
        repeated = [(count, kind) for kind, count in self._counts.items() if count > SHOWN]
        repeated.sort(key=lambda item: item[0], reverse=True)
        kinds = [
            f"{name} {visible(path) if path else '(no program)'} {count:,} times"
            for count, (name, path) in repeated[:_KINDS_TOLD]
        ]
        more = f"{self._left_out:,} findings more are like those shown"
        return [f"{more} ({'; '.join(kinds)}); --output json has all"]


def _kind_of(detection: Detection) -> _Kind:
    process: dict[str, Any] = detection.process or {}
    binary = process.get("execution_binary") or {}
    return detection.signature.id, binary.get("path")
