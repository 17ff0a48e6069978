"""A finding made whole: the form in which what a signature says leaves the engine."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

from proctree_ds.errors import SignatureError
from proctree_ds.signature import Severity

__all__ = ["LINEAGE_DEPTH", "Detection", "SignatureIdentity", "describe", "plain", "type_name"]

LINEAGE_DEPTH: Final = 64
"""Ancestors that a detection carries at most."""

_BYTES: Final = (bytes, bytearray, memoryview)


class SignatureIdentity(msgspec.Struct, frozen=True):
    """Whose finding it is."""

    id: str
    version: str
    name: str
    severity: Severity
    techniques: tuple[str, ...]
    tags: tuple[str, ...]


class Detection(msgspec.Struct, frozen=True):
    """A finding made whole: what is written, one JSON object a line.

    `time` is the event's, in ns since the epoch; `event`, `process` and `lineage` (element 0 the
    process itself, each ancestor as of the start of its child) are plain data as of that time.
    A finding given at a signal has the signal as its event and neither process nor lineage.
    """

    time: int
    signature: SignatureIdentity
    event: dict[str, Any]
    process: dict[str, Any] | None
    lineage: list[dict[str, Any]]
    data: dict[str, Any]


def plain(data: object) -> dict[str, Any]:
    """`data` as plain JSON values. Raises `SignatureError` for what JSON cannot hold.

    Sets become lists, and what has a `to_dict()` (an answer of the data source) what that gives.
    """
    if not isinstance(data, dict):
        raise SignatureError(f"Finding.data must be a dict, not {type_name(data)}")
    try:
        return {str(key): describe(value) for key, value in data.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise SignatureError(f"Finding.data is not JSON: {error}") from None


def describe(value: object) -> object:
    """`value` as plain JSON values. Raises TypeError where there is no such form."""
    if value is None or isinstance(value, str | int | float):
        return value
    to_dict = getattr(value, "to_dict", None)
    if to_dict is not None:
        value = to_dict()
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, AbstractSet | Sequence) and not isinstance(value, _BYTES):
        return [describe(item) for item in value]
    return msgspec.to_builtins(value, enc_hook=_refuse)


def type_name(value: object) -> str:
    """How a message calls what `value` is."""
    return f"a value of type {type(value).__name__}"


def _refuse(value: object) -> object:
    raise TypeError(f"{type_name(value)} has no JSON form")
