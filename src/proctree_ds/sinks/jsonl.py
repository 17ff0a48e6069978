r"""Findings as JSON, one object a line: for programs, and for whoever reads them later.

Bytes that were no UTF-8 are written as the escapes `\udc80` to `\udcff`, from which Python's own
`json` restores them. A line break never stands inside of a line.
"""

from __future__ import annotations

import json
from typing import BinaryIO, Final

import msgspec

from proctree_ds.detection import Detection

__all__ = ["JsonLines", "encode"]

_encoder: Final = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """`value`, plain data or a `msgspec.Struct`, as one line of JSON with its line break."""
    try:
        return _encoder.encode(value) + b"\n"
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True)
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


class JsonLines:
    """Writes findings to a binary file. An `OSError` means that it can take no more.

    A line is written as a whole; `flush` hands over what was written since the last.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        self._file.write(encode(detection))

    def flush(self) -> None:
        """Hand the lines over."""
        self._file.flush()
