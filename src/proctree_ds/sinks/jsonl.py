r"""Findings as JSON, one object a line: for programs, and for whoever reads them later.

Bytes that were no UTF-8 are written as the escapes `\udc80` to `\udcff`, from which Python's own
`json` restores them. A line break never stands inside of a line.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from proctree_ds.detection import Detection

if TYPE_CHECKING:
    from proctree_ds.users import UserNames

__all__ = ["JsonLines", "encode"]

_encoder: Final = msgspec.json.Encoder()

_HARMFUL: Final = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]|\xd8\x9c|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"
    rb"|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]|\xf3\xa0[\x80\x81][\x80-\xbf]"
)
"""What steers a terminal or breaks a line although JSON allows it: controls, marks without width,
changes of direction. As escapes they are the same JSON."""


def encode(value: object) -> bytes:
    """`value`, plain data or a `msgspec.Struct`, as one line of JSON with its line break."""
    try:
        return _HARMFUL.sub(_escape, _encoder.encode(value)) + b"\n"
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True)
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def _escape(found: re.Match[bytes]) -> bytes:
    units = found[0].decode().encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)).encode()


class JsonLines:
    """Writes findings to a binary file. An `OSError` means that it can take no more.

    A line is written as a whole; `flush` hands over what was written since the last. With `users`,
    processes have the name of their user as well, where there is one.
    """

    def __init__(self, file: BinaryIO, users: UserNames | None = None) -> None:
        self._file = file
        self._users = users

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        if self._users is not None:
            detection = _named(detection, self._users)
        rest = memoryview(encode(detection))
        while rest:  # a file without a buffer (PYTHONUNBUFFERED) takes what it can before a signal
            rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        """Hand the lines over."""
        self._file.flush()


def _named(detection: Detection, users: UserNames) -> Detection:
    process = detection.process
    return msgspec.structs.replace(
        detection,
        process=None if process is None else users.named(process),
        lineage=[users.named(ancestor) for ancestor in detection.lineage],
    )
