r"""Text that is not UTF-8, in columns that are.

Names, arguments and paths are bytes to the kernel. In memory a byte that is not UTF-8 is a lone
surrogate; a column of strings cannot hold one. A row with any such text has `escaped` set, and
then each text of the row has `\\` for a backslash, `\xNN` for a byte that is not UTF-8, and
`\uNNNN` for any other lone surrogate. Rows without are as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

__all__ = ["escape_event", "is_plain", "unescape_event"]

E = TypeVar("E")

_ODD: Final = re.compile("[\\\\\ud800-\udfff]")
_ESCAPED: Final = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def is_plain(event: Any) -> bool:
    """Whether every text in `event` is UTF-8."""
    try:
        _map_texts(event, str.encode)
    except UnicodeEncodeError:
        return False
    return True


def escape_event(event: E) -> E:
    """`event` with every text of it escaped."""
    return _map_texts(event, _escape)  # type: ignore[no-any-return]


def unescape_event(event: E) -> E:
    """`event` as it was before it was escaped."""
    return _map_texts(event, _unescape)  # type: ignore[no-any-return]


def _escape(text: str) -> str:
    return _ODD.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\\":
        return "\\\\"
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(text: str) -> str:
    return _ESCAPED.sub(_unescape_one, text)


def _unescape_one(match: re.Match[str]) -> str:
    said = match[1]
    if said == "\\":
        return "\\"
    return chr(int(said[1:], 16) + (0xDC00 if said[0] == "x" else 0))


def _map_texts(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map_texts(item, change) for item in value)
    if isinstance(value, dict):
        # The names of attributes stand in `given`, and are plain: escaping leaves them as they are.
        return {_map_texts(k, change): _map_texts(v, change) for k, v in value.items()}
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = {name: _map_texts(field, change) for name, field in fields.items()}
        return type(value)(**changed)
    return value
