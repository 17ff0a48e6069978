"""As-of questions about whole tables: who had this pid when the row was written, who made it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from proctree_ds.datasource import DataSource
from proctree_ds.errors import TableError
from proctree_ds.tables.frames import Frame, frame_of, ids_in, instants_in, numbers_in
from proctree_ds.tables.gathering import VERSION_COLUMNS, Tables, gather
from proctree_ds.tables.index import (
    BEYOND_HORIZON,
    EXITED,
    FOUND,
    LINEAGE_ENDS,
    MAX_DEPTH,
    NEVER_SEEN,
    NO_KEY,
    NOT_STARTED,
    STATUSES,
    THREAD,
    Index,
    namespace_keys,
)
from proctree_ds.tables.search import Array, in_parallel, in_pieces

__all__ = ["ANCESTOR_COLUMNS", "COLUMNS", "DEPTH_LIMIT", "AsOf"]

DEPTH_LIMIT: Final = 64
"""Ancestors that `lineages` tells: each is a column of its own."""

_AT_THE_END: Final = ("exit_time", "exit_code", "exit_signal", "core_dumped")
_OF_PROCESS: Final = ("original_parent_entity_id", "original_ppid")

ANCESTOR_COLUMNS: Final = tuple(name for name in VERSION_COLUMNS if name != "is_forgotten")
"""What `lineages` can add."""

COLUMNS: Final = (*ANCESTOR_COLUMNS, *_OF_PROCESS, "is_alive", *_AT_THE_END)
"""What `asof` can add: the columns of `versions` and, of the process as of the time, its end."""


_LookUp = Callable[[Array, Array], tuple[Array, Array]]
"""Keys and times -> rows of the index, and statuses."""


class _Found(NamedTuple):
    """For each row of a table the row of the index that answers it, and why it has none."""

    rows: Array
    status: Array
    times: Array


class AsOf:
    """Answers for every row of a table at once, as of the row's own time.

    It is made of what a data source knows now, and goes on answering from that. A table is an
    Arrow table, a pandas or a Polars DataFrame, and what is returned is of the same kind, with
    columns added on the right. Times are epoch ns as integers, or timestamps with a time zone.
    """

    def __init__(self, source: DataSource | Tables) -> None:
        """O(versions in memory * log)."""
        self.tables = source if isinstance(source, Tables) else gather(source)
        self._index = Index(self.tables)

    def asof(
        self,
        table: Any,
        time: str = "time",
        pid: str | None = None,
        *,
        entity_id: str | None = None,
        ns_pid: str | None = None,
        pid_namespace: str | None = None,
        columns: Sequence[str] = ("entity_id", "name", "executable", "uid", "parent_entity_id"),
        prefix: str = "process_",
    ) -> Any:
        """`table` with what is known of the process that each row names, as of the row's time.

        `time`, and one of `pid` (the default, in the host's pid namespace), `entity_id`, or
        `ns_pid` with `pid_namespace` name columns of it. `columns` are what to add, of `COLUMNS`,
        each under its name with `prefix`. `status` is added always: `found`, or why there is no
        answer (see `STATUSES`). By pid only who lived then is found; by entity id also who had
        exited.

        Raises `TableError` for a missing column, a type that does not fit, or a name that the
        table has already; `InvalidTime` where `time` does not hold instants. O(rows * log versions
        of one key).
        """
        frame = frame_of(table)
        _check_columns(columns, COLUMNS)
        names = [prefix + name for name in (*columns, "status")]
        _check_names(frame, names)
        found = self._find(frame, time, pid, entity_id, ns_pid, pid_namespace)
        return frame.with_columns(self._answers(found, columns, prefix))

    def lineages(
        self,
        table: Any,
        time: str = "time",
        pid: str | None = None,
        *,
        entity_id: str | None = None,
        ns_pid: str | None = None,
        pid_namespace: str | None = None,
        depth: int = 5,
        columns: Sequence[str] = ("entity_id", "name"),
        prefix: str = "process_",
    ) -> Any:
        """`table` with the process that each row names as `asof` gives it, and `depth` ancestors.

        They are the original parents, each as of the start of its child: the columns of the first
        begin with `ancestor1_`. `lineage_depth` says how many there are, `lineage_end` why it ends
        there: `root`, `max_depth`, `unknown_parent` or `evicted`. `columns` are of
        `ANCESTOR_COLUMNS`.

        Raises as `asof`, and ValueError for a `depth` below 0 or above `DEPTH_LIMIT`.
        O((rows + processes) * depth).
        """
        if not 0 <= depth <= DEPTH_LIMIT:
            raise ValueError(f"depth={depth}: give 0 to {DEPTH_LIMIT}")
        frame = frame_of(table)
        _check_columns(columns, ANCESTOR_COLUMNS)
        of_ancestors = [f"ancestor{n}_{name}" for n in range(1, depth + 1) for name in columns]
        names = [prefix + name for name in (*columns, "status")]
        _check_names(frame, [*names, *of_ancestors, "lineage_depth", "lineage_end"])
        found = self._find(frame, time, pid, entity_id, ns_pid, pid_namespace)
        answers = self._answers(found, columns, prefix)
        return frame.with_columns(answers | self._ancestors(found, depth, columns))

    # --------------------------------------------------------------------------- finding

    def _find(
        self,
        frame: Frame,
        time: str,
        pid: str | None,
        entity_id: str | None,
        ns_pid: str | None,
        pid_namespace: str | None,
    ) -> _Found:
        if (ns_pid is None) != (pid_namespace is None):
            raise TableError("ns_pid and pid_namespace belong together: give both columns")
        given = [name for name in (pid, entity_id, ns_pid) if name is not None]
        if len(given) > 1:
            raise TableError("give one of pid, entity_id and ns_pid, and not several")
        times, no_time = instants_in(frame, time)
        if entity_id is not None:
            keys, no_key = ids_in(frame, entity_id)
            look_up: _LookUp = self._by_entity
        elif ns_pid is not None and pid_namespace is not None:
            numbers, no_key = numbers_in(frame, ns_pid)
            inodes, no_inode = numbers_in(frame, pid_namespace)
            no_key = _either(no_key, no_inode)
            keys = namespace_keys(self._index.namespaces, inodes, numbers)
            look_up = self._by_namespace
        else:
            keys, no_key = numbers_in(frame, pid or "pid")
            look_up = self._by_pid
        return self._looked_up(look_up, keys, times, _either(no_time, no_key))

    def of_entities(
        self, table: pa.Table, time: str, entity_id: str, columns: Sequence[str]
    ) -> pa.Table:
        """`table` with `columns` of processes that are known, even if part of what they were then
        has been dropped.
        """
        frame = frame_of(table)
        times, _ = instants_in(frame, time)
        ids, _ = ids_in(frame, entity_id)
        found = self._looked_up(self._entities, ids, times, None)
        answers = self._answers(found, columns, "")
        return frame.with_columns({name: answers[name] for name in columns})

    def _looked_up(
        self, look_up: _LookUp, keys: Array, times: Array, missing: Array | None
    ) -> _Found:
        rows = np.empty(len(times), np.int32)
        status = np.empty(len(times), np.int8)

        def answer(piece: slice) -> None:
            rows[piece], status[piece] = look_up(keys[piece], times[piece])

        in_pieces(answer, len(times))
        if missing is not None:
            rows[missing] = self._index.no_row
            status[missing] = NO_KEY
        return _Found(rows, status, times)

    def _by_pid(self, pids: Array, times: Array) -> tuple[Array, Array]:
        index = self._index
        held = index.by_pid
        at = held.axis.find(pids, times)
        rows = held.row.take(at)
        dead = held.last.take(at, mode="clip") < times if len(held.last) else np.ones(len(at), bool)
        dead |= at < 0
        status = np.zeros(len(at), np.int8)
        missing = np.flatnonzero(dead)
        if len(missing):
            place = at[missing]
            assert held.is_thread is not None
            is_thread = np.append(held.is_thread, False).take(place)
            why = np.where(place < 0, NEVER_SEEN, np.where(is_thread, THREAD, EXITED))
            why[times[missing] < self.tables.horizon] = BEYOND_HORIZON
            status[missing] = why
            rows[missing] = index.no_row
        return self._forgotten(rows, status)

    def _by_entity(self, ids: Array, times: Array) -> tuple[Array, Array]:
        return self._forgotten(*self._entities(ids, times))

    def _entities(self, ids: Array, times: Array) -> tuple[Array, Array]:
        index = self._index
        held = index.by_entity
        places = index.places_of(ids)
        at = held.axis.find(places.astype(np.uint64), times)
        rows = held.row.take(at)
        status = np.zeros(len(at), np.int8)
        missing = np.flatnonzero(at < 0)
        if len(missing):
            wanted, place, when = ids[missing], places[missing], times[missing]
            why = np.full(len(missing), NEVER_SEEN, np.int8)
            if self.tables.forgot_ids:
                why[when < self.tables.horizon] = BEYOND_HORIZON
            why[place != index.no_place] = NOT_STARTED
            gone = self.tables.gone
            if len(gone):
                near = gone[np.minimum(np.searchsorted(gone, wanted), len(gone) - 1)]
                is_kept = index.is_kept.take(place)
                why[(near == wanted) & ~is_kept] = BEYOND_HORIZON
            status[missing] = why
        return rows, status

    def _by_namespace(self, keys: Array, times: Array) -> tuple[Array, Array]:
        held = self._index.by_namespace
        at = held.axis.find(keys, times)
        rows = held.row.take(at)
        status = np.zeros(len(at), np.int8)
        last = np.append(held.last, np.int64(-(2**63)))
        status[last.take(at) < times] = EXITED
        status[at < 0] = NEVER_SEEN
        status[(status != FOUND) & (times < self.tables.horizon)] = BEYOND_HORIZON
        rows[status != FOUND] = self._index.no_row
        return rows, status

    def _forgotten(self, rows: Array, status: Array) -> tuple[Array, Array]:
        if self._index.has_forgotten:
            hidden = self._index.is_forgotten.take(rows)
            rows = np.where(hidden, self._index.no_row, rows)
            status[hidden] = BEYOND_HORIZON
        return rows, status

    # -------------------------------------------------------------------------- answering

    def _answers(self, found: _Found, columns: Sequence[str], prefix: str) -> dict[str, pa.Array]:
        index = self._index
        of_rows = [name for name in columns if name in ANCESTOR_COLUMNS]
        answers = _taken(index.rows, of_rows, found.rows)
        if len(of_rows) < len(columns):
            places = index.place.take(found.rows)
            exited = index.exited(places, found.times)
            answers["is_alive"] = pa.array(~exited, mask=places == index.no_place)
            answers |= _taken(index.places, _OF_PROCESS, places)
            at_the_end = np.where(exited, places, np.int32(index.no_place))
            answers |= _taken(index.places, _AT_THE_END, at_the_end)
        answers["status"] = _coded(found.status, STATUSES)
        return {prefix + name: answers[name] for name in (*columns, "status")}

    def _ancestors(self, found: _Found, depth: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """Of every row, or once of every place where there are more rows than those."""
        index = self._index
        places = index.place.take(found.rows)
        if len(places) <= index.no_place:
            return self._chains(places, depth, columns)
        every = np.arange(index.no_place + 1, dtype=np.int32)
        chains = pa.table(self._chains(every, depth, columns))
        return _taken(chains, chains.column_names, places)

    def _chains(self, places: Array, depth: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """The ancestors of the processes at these places."""
        index = self._index
        answers: dict[str, pa.Array] = {}
        here = end = places
        count = np.zeros(len(places), np.int8)
        for n in range(1, depth + 1):
            of_parent = _taken(index.rows, columns, index.birth.take(here))
            answers |= {f"ancestor{n}_{name}": of_parent[name] for name in columns}
            here = index.parent.take(here)
            is_there = here != index.no_place
            count += is_there
            end = np.where(is_there, here, end)
        nobody = places == index.no_place
        why = index.lineage_end.take(end)
        why[index.parent.take(end) != index.no_place] = MAX_DEPTH
        answers["lineage_depth"] = pa.array(count, mask=nobody)
        answers["lineage_end"] = _coded(why, LINEAGE_ENDS, nobody)
        return answers


def _taken(table: pa.Table, names: Sequence[str], rows: Array) -> dict[str, pa.Array]:
    """These rows of these columns."""
    indices = pa.array(rows)
    taken: list[pa.Array] = [None] * len(names)

    def take(column: int) -> None:
        taken[column] = table.column(names[column]).chunk(0).take(indices)

    in_parallel(take, len(names), len(rows))
    return dict(zip(names, taken, strict=True))


def _coded(codes: Array, words: Sequence[str], mask: Array | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=mask), pa.array(words))


def _either(one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None:
        return one if other is None else other
    return one | other


def _check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(columns, str):
        raise TableError(f"columns={columns!r}: give a list of names")
    for name in columns:
        if name not in known:
            raise TableError(f"there is no column {name!r} to add; use some of {', '.join(known)}")
    if len(set(columns)) < len(columns):
        raise TableError(f"columns={list(columns)!r}: one is named twice")


def _check_names(frame: Frame, names: Sequence[str]) -> None:
    taken = sorted(set(names) & set(frame.names()))
    if taken:
        raise TableError(
            f"the table has a column {taken[0]!r} already: rename it, or give another prefix"
        )
