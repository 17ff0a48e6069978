"""Keeps a table readable, and quick, when one thing is found a thousand times.

Findings for a person are drawn, which takes milliseconds. So of findings that are alike (the same
signature, the same program) only the first few are; the rest is counted and told at the end. And
the ancestors get a line each, whatever their arguments. JSON is for programs: it has everything.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from cachetools import LRUCache

from proctree_ds.cli.console import number
from proctree_ds.detection import Detection
from proctree_ds.sinks.escape import visible
from proctree_ds.sinks.process_view import cut
from proctree_ds.sinks.table import Table

__all__ = ["SHOWN", "Digest"]

SHOWN: Final = 10
"""Findings of one kind that are drawn."""

_KINDS_REMEMBERED: Final = 1_024
_KINDS_TOLD: Final = 3
_AROUND: Final = 46
"""Columns of a line of ancestry that something else takes: frame, labels, pid, uid."""
_INDENTATION: Final = 4
_SHORTEST: Final = 8
_Kind = tuple[str, str | None]


class Digest:
    """A table that draws the first `SHOWN` findings of a kind."""

    def __init__(self, table: Table, width: int) -> None:
        self._table = table
        self._width = width
        self._counts: LRUCache[_Kind, int] = LRUCache(_KINDS_REMEMBERED)
        self._left_out = 0

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        kind = _kind_of(detection)
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        if count <= SHOWN:
            self._table.write(_fitted(detection, self._width))
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
        count = number(self._left_out, "finding")
        listed = "; ".join(kinds)
        return [f"{count} left out, like those shown ({listed}); --output json has all"]


def _kind_of(detection: Detection) -> _Kind:
    process: dict[str, Any] = detection.process or {}
    binary = process.get("execution_binary") or {}
    return detection.signature.id, binary.get("path")


def _fitted(detection: Detection, width: int) -> Detection:
    """The detection with the commands of its lineage cut to what a line of the table holds."""
    lineage: list[dict[str, Any]] = []
    ancestors = len(detection.lineage) - 1
    for depth, info in enumerate(detection.lineage):
        room = width - _AROUND - _INDENTATION * (ancestors - depth) - len(info.get("name") or "")
        command = " ".join(info.get("cmd") or ())
        binary = info.get("execution_binary") or {}
        room = max(room, _SHORTEST)
        lineage.append(
            {
                **info,
                "cmd": [cut(command, room)] if command else None,
                "execution_binary": {**binary, "path": cut(binary.get("path") or "", room)},
            }
        )
    return msgspec.structs.replace(detection, lineage=lineage)
