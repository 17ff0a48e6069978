"""Which interval of a key holds an instant: a binary search of all rows at once.

No Python statement runs per row. Rows go in pieces that stay in the processor's cache, on as many
threads as there are processors, for NumPy lets go of the interpreter meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

__all__ = ["DENSE_LIMIT", "Array", "Axis", "in_parallel", "in_pieces"]

Array = np.ndarray[Any, np.dtype[Any]]

DENSE_LIMIT: Final = 1 << 23
"""Keys below this are found in a table of all of them; pids are (PID_MAX_LIMIT is 1 << 22)."""

_PIECE: Final = 1 << 15
_ALONE: Final = 4 * _PIECE
"""Fewer rows than this are not worth a thread."""


def in_pieces(work: Callable[[slice], object], rows: int) -> None:
    """Call `work` for all rows, a slice at a time, each of which may write its part of a result."""
    pieces = [slice(start, min(start + _PIECE, rows)) for start in range(0, rows, _PIECE)]
    in_parallel(lambda n: work(pieces[n]), len(pieces), rows)


def in_parallel(work: Callable[[int], object], count: int, rows: int) -> None:
    """Call `work` with 0 to `count` - 1, on several threads if there are rows enough."""
    workers = min(len(os.sched_getaffinity(0)), count)
    if rows < _ALONE or workers < 2:
        for n in range(count):
            work(n)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, range(count)):
            pass


class Axis:
    """Intervals by key. Those of one key begin one after the other, and end where they end.

    Made from one row per interval, sorted by key and beginning. `places` maps the index of a key
    in `keys` to the index of its first row; the rows of a key follow each other.
    """

    def __init__(self, keys: Array, since: Array) -> None:
        """`keys` are unsigned, one per interval, sorted; `since` is when each begins."""
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        first = np.flatnonzero(is_first)
        self._keys = keys[first].astype(np.uint64)
        self._first = np.append(first, len(keys)).astype(np.int32)
        count = np.diff(np.append(first, len(keys)))
        self._count = np.append(count, 1).astype(np.int32)
        self._longest = int(count.max(initial=1))
        # Whoever has an unknown key is sent to this one, which begins after everything.
        self._since = np.append(since, np.int64(2**63 - 1)).astype(np.int64)
        self._lookup = _lookup_of(self._keys)

    def find(self, keys: Array, times: Array) -> Array:
        """For each row the index of the last interval of its key that begins by its time, or -1.

        O(rows * log(intervals of one key)).
        """
        group = self._lookup(keys)
        at = self._first[group]
        if self._longest > 1:
            _advance(at, self._count[group], self._since, times)
        found = self._since.take(at) <= times
        found &= group != len(self._keys)
        return np.where(found, at, np.int32(-1))


def _advance(at: Array, left: Array, since: Array, times: Array) -> None:
    """Move each of `at` to the last of its `left` intervals that begins by its time."""
    while True:
        half = left >> 1
        active = np.count_nonzero(half)
        if not active:
            return
        if active * 4 < len(half):  # most have arrived: go on with the others alone
            rest = np.flatnonzero(half)
            some = at[rest]
            _advance(some, left[rest], since, times[rest])
            at[rest] = some
            return
        passed = since.take(at + half) <= times
        left -= half
        half *= passed
        at += half


def _lookup_of(keys: Array) -> Callable[[Array], Array]:
    """A function that finds the indices of keys, `len(keys)` for unknown ones."""
    unknown = len(keys)
    if unknown == 0:
        return lambda wanted: np.zeros(len(wanted), np.int32)
    largest = int(keys[-1])
    if largest < DENSE_LIMIT:
        table = np.full(largest + 2, unknown, np.int32)
        table[keys.astype(np.int64)] = np.arange(unknown, dtype=np.int32)
        edge = np.uint64(largest + 1)
        return lambda wanted: table.take(np.minimum(wanted, edge).view(np.int64))
    return _Hashed(keys)


class _Hashed:
    """Finds 64-bit keys, of which most are hashes: by their first bits, then by halving."""

    def __init__(self, keys: Array) -> None:
        bits = max(1, len(keys).bit_length())
        self._shift = np.uint64(64 - bits)
        self._keys = np.append(keys, keys[-1])
        self._unknown = len(keys)
        starts = np.searchsorted(keys, np.arange(1 << bits, dtype=np.uint64) << self._shift)
        ends = np.append(starts[1:], len(keys))
        self._starts = starts.astype(np.int32)
        self._counts = (ends - starts).astype(np.int32)

    def __call__(self, wanted: Array) -> Array:
        bucket = (wanted >> self._shift).view(np.int64)
        at = self._starts.take(bucket)
        _advance(at, self._counts.take(bucket), self._keys, wanted)
        return np.where(self._keys.take(at) == wanted, at, np.int32(self._unknown))
