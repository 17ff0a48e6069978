"""Findings as JSON lines, until there are sinks."""

from __future__ import annotations

import json
from typing import BinaryIO

import msgspec

from proctree_ds.detection import Detection

__all__ = ["JsonLines", "visible"]


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        try:
            line = msgspec.json.encode(detection)
        except UnicodeEncodeError:
            line = json.dumps(msgspec.to_builtins(detection), separators=(",", ":")).encode()
        self._file.write(line + b"\n")

    def flush(self) -> None:
        """Hand the lines over."""
        self._file.flush()


def visible(text: str) -> str:
    """The text with everything that is not printable escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
