"""The one place where text that a process controls is made fit for a person's eyes.

Names, paths and arguments are bytes that anybody can choose: they may hold terminal control
sequences, characters that reverse or hide what stands around them, and bytes that are no text.
`visible` leaves what can be seen and shows the rest as escapes, so that nothing is lost, nothing
acts, and two different texts never look the same for it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["visible"]

_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}

# Control, format (bidirectional, zero width, tags), surrogate, private, unassigned, separators.
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})

# Letters, marks and symbols by category that draw nothing: fillers, selectors, the blank pattern.
_BLANKS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SELECTORS: Final = (
    range(0x180B, 0x1810),
    range(0xFE00, 0xFE10),
    range(0xE0100, 0xE01F0),
)
_MARKS_IN_A_ROW: Final = 2
"""Marks that may stand on one character. More would reach into the lines above and below."""


def visible(text: str) -> str:
    r"""`text` with everything that is unseen or acts on a terminal written as an escape.

    A backslash becomes two, a line break `\n`, another control character `\x1b`, a byte that was
    no UTF-8 `\xff`, any other hidden character `\u202e` or `\U000e0001`. Combining marks stay where
    they belong to a letter. What is plain already is given back as it is.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    shown: list[str] = []
    marks = _MARKS_IN_A_ROW  # a mark at the very beginning would change what stands before it
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category[0] == "M" else 0
        if _is_hidden(character, category) or marks > _MARKS_IN_A_ROW:
            shown.append(_escape(character))
            marks = _MARKS_IN_A_ROW
        else:
            shown.append(character)
    return "".join(shown)


def _is_hidden(character: str, category: str) -> bool:
    if character == " ":
        return False
    return (
        character == "\\"
        or category in _HIDDEN_CATEGORIES
        or character in _BLANKS
        or any(ord(character) in selectors for selectors in _SELECTORS)
    )


def _escape(character: str) -> str:
    number = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= number <= 0xDCFF:  # a byte that was no UTF-8 (surrogateescape)
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
