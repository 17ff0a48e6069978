"""The arrays that as-of questions are looked up in, made once from the tables.

A *row* here is a version, or what a parent was at a birth; the one after the last is all null. A
*place* is a process, likewise. Three axes lead from a key and an instant to a row: the entity id,
the pid, and the pid in a namespace.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.tables.columns import INT64_MAX
from proctree_ds.tables.gathering import Tables
from proctree_ds.tables.search import Array, Axis

__all__ = [
    "BEYOND_HORIZON",
    "EXITED",
    "FOUND",
    "LINEAGE_ENDS",
    "MAX_DEPTH",
    "NEVER_SEEN",
    "NOT_STARTED",
    "NO_KEY",
    "STATUSES",
    "THREAD",
    "Index",
]

STATUSES: Final = (
    "found",
    "never_seen",
    "not_started",
    "exited",
    "thread",
    "beyond_horizon",
    "no_key",
)
"""What became of a row. All but the first have null in every other column.

`never_seen`: nothing known ever had this pid or id by then. `not_started`: the process with this
id started later. `exited`: nobody held the pid just then, for its last holder had exited.
`thread`: it was the id of a thread. `beyond_horizon`: what was known then has been dropped.
`no_key`: the row has no time or no id.
"""
FOUND, NEVER_SEEN, NOT_STARTED, EXITED, THREAD, BEYOND_HORIZON, NO_KEY = range(len(STATUSES))

LINEAGE_ENDS: Final = ("root", "max_depth", "unknown_parent", "evicted")
MAX_DEPTH: Final = LINEAGE_ENDS.index("max_depth")

_NOBODY: Final = -(2**63)
"""The last instant of what holds at none."""


class _Held(NamedTuple):
    """Intervals on an axis, with their rows. `is_thread`: none of a process, but of a thread."""

    axis: Axis
    row: Array
    last: Array
    is_thread: Array | None = None


class Index:
    """All of it for one set of tables. O(versions * log versions) to make."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        versions, births, processes = tables.versions, tables.births, tables.processes
        self.rows = _with_null(pa.concat_tables([versions, births.select(versions.column_names)]))
        self.places = _with_null(processes)
        self.no_row = len(versions) + len(births)
        self.no_place = len(processes)
        self._ids = Axis(*_sorted_ids(processes, tables.aliases))
        self._place_of = np.append(_place_order(processes, tables.aliases), self.no_place)
        ids = np.concatenate([_ids(versions), _ids(births)])
        self.place = np.append(self.places_of(ids), np.int32(self.no_place))
        """For each row the place of its process."""
        self.since = _times(self.rows, "valid_from")
        until = _times(self.rows, "valid_to", INT64_MAX)
        is_open = np.append(_is_null(self.rows.column("valid_to"))[:-1], True)
        self.last = np.where(is_open, INT64_MAX, until - 1)
        """For each row the last instant at which it holds."""
        self.is_forgotten = np.append(
            _bools(versions, "is_forgotten"), np.zeros(len(births) + 1, bool)
        )
        self.start = _times(self.places, "start_time", INT64_MAX)
        self.ended = _times(self.places, "exit_time", INT64_MAX)
        self._is_open = _is_null(self.places.column("exit_time"))
        self.has_forgotten = bool(self.is_forgotten.any())
        self.is_kept = np.append(_equal(processes.column("history"), "kept"), False)
        self.by_entity = self._entity_axis()
        self._pid_rows()
        self.by_pid = self._pid_axis()
        self.by_namespace, self.namespaces = self._namespace_axis()
        parents = processes.column("original_parent_entity_id")
        self.parent = np.append(
            np.where(_is_null(parents), self.no_place, self.places_of(_uint64(parents))),
            self.no_place,
        ).astype(np.int32)
        """For each place that of the original parent."""
        self.lineage_end = _codes(self.places.column("lineage_end"), LINEAGE_ENDS)
        """For each place why a lineage ends there, if it has no parent."""
        self.birth = self._birth_rows()
        """For each place the row that says what that was when it made the child."""

    def places_of(self, ids: Array) -> Array:
        """The places of processes by entity id, former ids included."""
        return self._place_of.take(self._ids.find(ids, np.zeros(len(ids), np.int64)))

    def exited(self, places: Array, times: Array) -> Array:
        """Whether each process has exited by its time."""
        return (self.ended.take(places) <= times) & ~self._is_open.take(places)

    # ------------------------------------------------------------------------------- axes

    def _entity_axis(self) -> _Held:
        """Every version by the place of its process; what has exited is answered, too."""
        count = len(self.tables.versions)
        order = np.lexsort((self.since[:count], self.place[:count]))
        axis = Axis(self.place[order].astype(np.uint64), self.since[order])
        return _Held(axis, np.append(order, self.no_row), self.last[order])

    def _pid_rows(self) -> None:
        """Versions by pid, each cut where the pid went to somebody else; and who blocks it.

        A process or thread holds its id until another one has it, even if nothing says that it had
        exited before. So what stands between two processes is told from what was never seen.
        """
        threads, processes = self.tables.threads, self.tables.processes
        kept = np.flatnonzero(self.is_kept[:-1])
        tids = np.concatenate(
            [_uint64(processes.column("pid"))[kept], _uint64(threads.column("tid"))]
        )
        starts = np.concatenate([self.start[kept], _times(threads, "start_time")])
        order = np.lexsort((starts, tids))
        next_start = np.full(len(order), INT64_MAX, np.int64)
        same = tids[order][1:] == tids[order][:-1]
        next_start[:-1][same] = starts[order][1:][same]
        taken = np.empty_like(next_start)
        taken[order] = next_start
        has_next = np.empty(len(order), bool)
        has_next[order] = np.append(same, False)
        cut = np.full(self.no_place + 1, INT64_MAX, np.int64)
        cut[kept] = np.where(has_next[: len(kept)], taken[: len(kept)] - 1, INT64_MAX)

        count = len(self.tables.versions)
        place = self.place[:count]
        last = np.minimum(self.last[:count], cut[place])
        self._live = np.flatnonzero(self.is_kept[place] & (last >= self.since[:count]))
        self._live_last = last[self._live]
        lives = np.zeros(self.no_place + 1, bool)
        lives[place[self._live][self.since[self._live] == self.start[place[self._live]]]] = True
        lifeless = kept[~lives[kept]]
        self._blocked_tids = np.concatenate(
            [tids[len(kept) :], _uint64(processes.column("pid"))[lifeless]]
        )
        self._blocked_since = np.concatenate([starts[len(kept) :], self.start[lifeless]])
        self._threads = len(threads)

    def _pid_axis(self) -> _Held:
        live, blocked = self._live, len(self._blocked_tids)
        pids = _uint64(self.rows.column("pid"))[live]
        keys = np.concatenate([pids, self._blocked_tids])
        since = np.concatenate([self.since[live], self._blocked_since])
        order = np.lexsort((since, keys))
        rows = np.concatenate([live, np.full(blocked, self.no_row)])[order]
        last = np.concatenate([self._live_last, np.full(blocked, _NOBODY)])[order]
        is_thread = np.zeros(len(keys), bool)
        is_thread[len(live) : len(live) + self._threads] = True
        return _Held(
            Axis(keys[order], since[order]), np.append(rows, self.no_row), last, is_thread[order]
        )

    def _namespace_axis(self) -> tuple[_Held, Array]:
        """Versions by pid namespace and the pid there; and the inodes, sorted.

        Of several that are thought to have lived with one pid the last to start is meant. In the
        host's namespace it is the holder of the pid.
        """
        count = len(self.tables.versions)
        inode, ns_pid = self.rows.column("pid_namespace"), self.rows.column("ns_pid")
        known = ~(_is_null(inode) | _is_null(ns_pid))[:count]
        inodes, ns_pids = _uint64(inode)[:count], _uint64(ns_pid)[:count]
        last = self.last[:count].copy()
        known &= self.is_kept[self.place[:count]]
        if self.tables.host_namespace is not None:
            is_host = inodes == np.uint64(self.tables.host_namespace)
            holds = np.zeros(count, bool)
            holds[self._live] = True
            known &= ~is_host | (holds & (ns_pids == _uint64(self.rows.column("pid"))[:count]))
            host_rows = self._live[is_host[self._live]]
            last[host_rows] = self._live_last[is_host[self._live]]
        rows = np.flatnonzero(known & (last >= self.since[:count]))
        namespaces = np.unique(inodes[rows])
        keys = namespace_keys(namespaces, inodes[rows], ns_pids[rows])
        order = np.lexsort((self.since[rows], keys))
        rows, keys, last = rows[order], keys[order], last[rows[order]]
        since = self.since[rows]
        overlaps = (keys[1:] == keys[:-1]) & (since[1:] <= last[:-1])
        if overlaps.any():
            keys, since, last, rows = self._disentangled(
                np.unique(keys[1:][overlaps]), keys, since, last, rows
            )
        return _Held(Axis(keys, since), np.append(rows, self.no_row), last), namespaces

    def _disentangled(
        self, tangled: Array, keys: Array, since: Array, last: Array, rows: Array
    ) -> tuple[Array, Array, Array, Array]:
        """The same intervals cut so that of those that overlap the last process to start shows."""
        is_tangled = np.isin(keys, tangled)
        pieces: list[tuple[int, int, int, int]] = []
        starts = self.start[self.place[rows]]
        chosen = np.flatnonzero(is_tangled)
        for first, end in _runs(keys[chosen]):
            some = chosen[first:end]
            facts = [of.take(some).tolist() for of in (since, last, starts, rows)]
            held = list(zip(*facts, strict=True))
            pieces += [(int(keys[some[0]]), *piece) for piece in _youngest(held)]
        cut = list(zip(*pieces, strict=True))
        plain = ~is_tangled
        keys = np.append(keys[plain], np.array(cut[0], np.uint64))
        since = np.append(since[plain], np.array(cut[1], np.int64))
        last = np.append(last[plain], np.array(cut[2], np.int64))
        rows = np.append(rows[plain], np.array(cut[3], np.int64))
        order = np.lexsort((since, keys))
        return keys[order], since[order], last[order], rows[order]

    def _birth_rows(self) -> Array:
        rows = self.by_entity.row.take(
            self.by_entity.axis.find(self.parent.astype(np.uint64), self.start)
        )
        births = self.tables.births
        told = len(self.tables.versions) + np.arange(len(births))
        rows[self.places_of(_uint64(births.column("child_entity_id")))] = told
        rows[self.parent == self.no_place] = self.no_row
        return rows.astype(np.int32)


def namespace_keys(namespaces: Array, inodes: Array, ns_pids: Array) -> Array:
    """One number for an inode and a pid, 2**64 - 1 where the inode is unknown."""
    if not len(namespaces):
        return np.full(len(inodes), 2**64 - 1, np.uint64)
    at = np.minimum(np.searchsorted(namespaces, inodes), len(namespaces) - 1)
    keys = (at.astype(np.uint64) << np.uint64(32)) | ns_pids
    is_known = (namespaces[at] == inodes) & (ns_pids < np.uint64(2**32))
    return np.where(is_known, keys, np.uint64(2**64 - 1))


def _youngest(held: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    """Of (since, last, start, row) in order: (since, last, row) of whoever started last, then.

    O(n log n).
    """
    moments = sorted({since for since, _, _, _ in held} | {last + 1 for _, last, _, _ in held})
    pieces: list[tuple[int, int, int]] = []
    living: list[tuple[int, int, int, int]] = []
    coming = iter(held)
    upcoming = next(coming, None)
    for moment, later in zip(moments, [*moments[1:], None], strict=True):
        while upcoming is not None and upcoming[0] <= moment:
            since, last, start, row = upcoming
            heapq.heappush(living, (-start, -since, last, row))
            upcoming = next(coming, None)
        while living and living[0][2] < moment:
            heapq.heappop(living)
        if living and moment <= INT64_MAX:
            until = living[0][2] if later is None else min(living[0][2], later - 1)
            pieces.append((moment, until, living[0][3]))
    return pieces


def _runs(keys: Array) -> list[tuple[int, int]]:
    edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    bounds = [0, *edges.tolist(), len(keys)]
    return list(pairwise(bounds))


def _sorted_ids(processes: pa.Table, aliases: pa.Table) -> tuple[Array, Array]:
    ids = np.concatenate([_ids(processes), _uint64(aliases.column("alias"))])
    ids = np.sort(ids)
    return ids, np.full(len(ids), _NOBODY, np.int64)


def _place_order(processes: pa.Table, aliases: pa.Table) -> Array:
    """For each id, former ones included, in order of ids, the place of the process."""
    ids = _ids(processes)
    order = np.argsort(ids)
    new = _uint64(aliases.column("entity_id"))
    at = np.minimum(np.searchsorted(ids[order], new), max(len(ids) - 1, 0))
    of_aliases = order[at] if len(new) else np.zeros(0, np.int64)
    every = np.concatenate([ids, _uint64(aliases.column("alias"))])
    places = np.concatenate([np.arange(len(ids)), of_aliases])
    return places[np.argsort(every, kind="stable")].astype(np.int32)


# ----------------------------------------------------------------------------- Arrow to NumPy


def _with_null(table: pa.Table) -> pa.Table:
    """`table` in one piece, with a row of nulls at its end. Strings become dictionaries."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        array = _whole(table.column(name))
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array = array.dictionary_encode()
        columns[name] = pa.concat_arrays([array, pa.nulls(1, array.type)])
    return pa.table(columns)


def _whole(array: Any) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        return array.unify_dictionaries().combine_chunks()
    return array


def _times(table: pa.Table, name: str, null: int = 0) -> Array:
    return _numpy(_whole(table.column(name)).cast(pa.int64()).fill_null(null))


def _uint64(array: Any) -> Array:
    return _numpy(_whole(array).cast(pa.uint64()).fill_null(0))


def _ids(table: pa.Table) -> Array:
    return _uint64(table.column("entity_id"))


def _is_null(array: Any) -> Array:
    return _numpy(_whole(array).is_null())


def _bools(table: pa.Table, name: str) -> Array:
    return _numpy(_whole(table.column(name)).fill_null(False))


def _equal(array: Any, value: str) -> Array:
    return _numpy(_whole(pc.equal(array, value)).fill_null(False))


def _codes(array: Any, words: Sequence[str]) -> Array:
    """The place in `words` of each string, 0 where it is null."""
    places = pc.index_in(_whole(array).cast(pa.string()), pa.array(words))
    return _numpy(places.fill_null(0)).astype(np.int8)


def _numpy(array: pa.Array) -> Array:
    numbers: Array = array.to_numpy(zero_copy_only=False)
    return numbers
