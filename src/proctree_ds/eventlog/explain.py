"""What is wrong with a line, in plain words: the decoder's errors, turned for a person to read."""

from __future__ import annotations

import difflib
import re
from typing import Final

import msgspec

from proctree_ds.eventlog import schema

__all__ = ["explain"]

_SHOWN: Final = 60
"""Characters of a line's own text that a message repeats."""

_PLAIN_TYPES: Final = {
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_PARTS: Final = (schema.FileLine, schema.CapabilitiesLine, schema.NamespacesLine, schema.TaskLine)
_KNOWN_NAMES: Final = sorted(
    {name for line in schema.LINES for name in line.__struct_fields__}
    | {name for part in _PARTS for name in part.__struct_fields__}
    | {"type"}
)


def explain(error: Exception) -> tuple[str | None, str]:
    """The JSON path at fault (None: the line as a whole) and what is wrong there."""
    if isinstance(error, msgspec.ValidationError):
        problem, _, path = str(error).partition(" - at `")
        return _explain_invalid(problem, path.removesuffix("`") or "$")
    if isinstance(error, UnicodeEncodeError):
        return None, "the line holds half a surrogate pair, which stands for no character or byte"
    if isinstance(error, UnicodeError):
        return (
            None,
            "the line is not UTF-8 (such a byte is written as an escape, \\udc80 to \\udcff)",
        )
    if isinstance(error, RecursionError):
        return None, "the line is nested too deeply"
    if "truncated" in str(error) or getattr(error, "pos", -1) == len(getattr(error, "doc", "")):
        return None, "the line is cut short: its JSON object has no end"
    return None, f"the line is not JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _explain_invalid(problem: str, path: str) -> tuple[str | None, str]:
    if missing := re.fullmatch(r"Object missing required field `(.+)`", problem):
        return f"{path}.{missing[1]}", "is missing"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        return f"{path}.{_short(unknown[1])}", _explain_unknown(unknown[1])
    if (
        value := re.fullmatch(r"Invalid (?:enum )?value '?(.*?)'?", problem, re.DOTALL)
    ) is not None:
        known = schema.LINE_TYPES if path == "$.type" else schema.ORIGINS
        return path, f"{_short(value[1])!r} is none of {', '.join(known)}"
    if bound := re.fullmatch(r"Expected `int` (>=|<=) (-?\d+)", problem):
        return path, f"is {'less' if bound[1] == '>=' else 'more'} than {bound[2]}"
    if problem == "Integer value out of range":
        return path, "is a number out of all range"
    if wrong := re.fullmatch(r"Expected `(.+?)`(?:, got `(.+)`)?", problem):
        expected = " or ".join(_PLAIN_TYPES.get(kind, kind) for kind in wrong[1].split(" | "))
        got = f", and is {_PLAIN_TYPES.get(wrong[2], wrong[2])}" if wrong[2] else ""
        return _place(path), f"must be {expected}{got}"
    if named := re.fullmatch(r"`(\w+)` (is .+)", problem):
        return f"{path}.{named[1]}", named[2]
    return _place(path), problem


def _place(path: str) -> str | None:
    return None if path == "$" else path


def _explain_unknown(name: str) -> str:
    near = difflib.get_close_matches(name[:_SHOWN], _KNOWN_NAMES, n=1)
    hint = f"; is {near[0]} meant?" if near and near[0] != name else ""
    return f"is not a field of this type of line{hint}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
