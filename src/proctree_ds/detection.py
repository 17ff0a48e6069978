"""A finding made whole: the form in which what a signature says leaves the engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from proctree_ds.errors import SignatureError
from proctree_ds.signature import Severity

__all__ = ["LINEAGE_DEPTH", "Detection", "SignatureIdentity", "describe", "plain", "type_name"]

LINEAGE_DEPTH: Final = 64
"""Ancestors that a detection carries at most."""


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
    """`data` as plain JSON values. Raises for what JSON cannot hold."""
    if not isinstance(data, dict):
        raise SignatureError(f"Finding.data must be a dict, not {type_name(data)}")
    try:
        plain: dict[str, Any] = msgspec.to_builtins(data, str_keys=True, enc_hook=describe)
        try:
            msgspec.json.encode(plain)
        except UnicodeEncodeError:
            json.dumps(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SignatureError(f"Finding.data is not JSON: {error}") from None
    return plain


def describe(value: object) -> object:
    to_dict = getattr(value, "to_dict", None)
    if to_dict is not None:
        return to_dict()
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type_name(value)} has no JSON form")


def type_name(value: object) -> str:
    return f"a value of type {type(value).__name__}"
