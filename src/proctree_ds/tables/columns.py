"""Arrow columns from Python values: text that may not be UTF-8, instants, and shared values.

Equal parts of many rows are one object in the tree (states along forks, images, contexts), so a
column is made of each object once and spread over the rows by NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

__all__ = [
    "INT64_MAX",
    "Shared",
    "column",
    "epochs",
    "spread",
    "text",
]

INT64_MAX: Final = 2**63 - 1
_INT64_MIN: Final = -(2**63)


def text(value: str) -> str:
    r"""`value` as a table can hold it: a byte that is not UTF-8 is written as `\xff`."""
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, which no byte stands for
        return value.encode("utf-8", "backslashreplace").decode()


def _clean(value: Any) -> Any:
    if value is None:
        return None
    return text(value) if isinstance(value, str) else [text(part) for part in value]


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array. Strings become dictionaries, for most are equal."""
    try:
        array = pa.array(values, kind)
    except UnicodeEncodeError:
        array = pa.array([_clean(value) for value in values], kind)
    return array.dictionary_encode() if pa.types.is_string(kind) else array


def epochs(times: Iterable[int | None], boot_time: int) -> pa.Array:
    """Boot-clock instants as epoch ns. What lies beyond 64 bits is at their edge."""
    limits = _INT64_MIN, INT64_MAX - 1
    return pa.array(
        [None if t is None else min(max(boot_time + t, limits[0]), limits[1]) for t in times],
        pa.int64(),
    )


def spread(array: pa.Array, rows: np.ndarray[Any, Any]) -> pa.Array:
    """`array[rows]`."""
    return array.take(pa.array(rows))


class Shared:
    """Objects that many rows share, each kept once, in order of their first use."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[int, int] = {}

    def place(self, value: Any) -> int:
        """Where `value` stands. By identity: equal ones may stand twice."""
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.values)
            self.values.append(value)  # which keeps it alive, and so its id its own
        return place

    def map(self, read: Callable[[Any], Any]) -> list[Any]:
        """What `read` finds in each."""
        return [read(value) for value in self.values]
