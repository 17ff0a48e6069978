"""Columns -> events, many at a time: the way back of `encoding`.

Whoever has the same credentials or file has the same number in its row: it is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.model import (
    CONTEXT_FIELDS,
    IMAGE_FIELDS,
    UNKNOWN_CONTEXT,
    UNKNOWN_IMAGE,
    Capabilities,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Header,
    Image,
    Loss,
    Namespaces,
    Origin,
    Picture,
    Snapshot,
    State,
    Task,
)
from proctree_ds.recording.escaping import unescape_event
from proctree_ds.recording.schema import FILE_COLUMNS, IMAGE_COLUMNS, KINDS

__all__ = ["decode"]

Values = list[Any]


def decode(table: pa.Table) -> list[Event]:
    """The events of `table`, in the order of its rows; it has the columns of `SCHEMA`."""
    count = table.num_rows
    events: list[Any] = [None] * count
    if not count:
        return events
    kinds = _combined(table.column("kind"))
    parts = _Parts(table)
    for kind in KINDS:
        name = kind.__name__.lower()
        where = np.flatnonzero(pc.equal(kinds, name).to_numpy(zero_copy_only=False))
        if not len(where):
            continue
        rows = _Rows(table if len(where) == count else table.take(pa.array(where)), parts)
        if len(where) == count:
            events = list(_EVENTS_OF[kind](rows))
            break
        for index, event in zip(where.tolist(), _EVENTS_OF[kind](rows), strict=True):
            events[index] = event
    escaped = table.column("escaped")
    if escaped.null_count < count:
        for index, is_escaped in enumerate(_values(escaped)):
            if is_escaped:
                events[index] = unescape_event(events[index])
    return events


class _Parts:
    """The credentials and files of one table, by their numbers."""

    def __init__(self, table: pa.Table) -> None:
        self.contexts = self._distinct(table, "context", _contexts)
        self.files: dict[Any, FileInfo] = {}
        for name in ("executable", "interpreter"):
            self.files |= self._distinct(table, name, partial(_files, prefix=name))

    def _distinct(
        self, table: pa.Table, name: str, make: Callable[[_Rows], Iterator[Any]]
    ) -> dict[Any, Any]:
        column = table.column(name)
        if column.null_count == len(column):
            return {}
        numbers = _combined(column).fill_null(-1).to_numpy()
        distinct, first = np.unique(numbers, return_index=True)
        if distinct[0] < 0:
            distinct, first = distinct[1:], first[1:]
        rows = _Rows(table.take(pa.array(first)), None)
        return dict(zip(distinct.tolist(), make(rows), strict=True))


class _Rows:
    """Some rows of a table, column by column as lists."""

    def __init__(self, table: pa.Table, parts: _Parts | None) -> None:
        self._table = table
        self._parts = parts
        self.count = table.num_rows

    def __getitem__(self, name: str) -> Values:
        return _values(self._table.column(name))

    def has(self, name: str) -> bool:
        column = self._table.column(name)
        return bool(column.null_count < len(column))

    def tasks(self) -> Iterator[Task]:
        return map(Task, self["tid"], self["start_time"])

    def refs(self, name: str) -> Any:
        if not self.has(f"{name}_tid"):
            return repeat(None, self.count)
        tids, starts = self[f"{name}_tid"], self[f"{name}_start_time"]
        return [
            None if tid is None else Task(tid, start)
            for tid, start in zip(tids, starts, strict=True)
        ]

    def origins(self) -> Iterator[Origin]:
        # The very words of the model: an event log tells by that what goes without saying.
        return map(_ORIGINS.__getitem__, self["origin"])

    def contexts(self) -> Values:
        assert self._parts is not None
        return list(map(self._parts.contexts.get, self["context"]))

    def images(self) -> Values:
        assert self._parts is not None
        if not self.has("image"):
            return [None] * self.count
        get = self._parts.files.get
        columns = [self[name] for name in IMAGE_COLUMNS]
        made = map(Image, map(get, self["executable"]), map(get, self["interpreter"]), *columns)
        is_there = self["image"]
        if all(is_there):
            return list(made)
        # Where there is none its columns are null, which no field that is a flag may be.
        return [image if is_set else None for image, is_set in zip(made, is_there, strict=True)]

    def givens(self) -> Iterator[Given | None]:
        """What was stated by name; None where no names stand."""
        wholes = zip(
            self["comm"], self.images(), self["cwd"], self["root"], self.contexts(), strict=True
        )
        for stated, whole in zip(self["stated"], wholes, strict=True):
            yield None if stated is None else _given(stated, whole)


_ORIGINS: Final[dict[str, Origin]] = {origin: origin for origin in get_args(Origin)}
_PLACES: Final = {"comm": 0, "image": 1, "cwd": 2, "root": 3, "context": 4}


@lru_cache(maxsize=1_024)
def _getters(stated: str) -> tuple[tuple[str, int, str | None], ...]:
    """For each name that is stated, which of the parts it is in, and the field of that."""
    return tuple(
        (name, _PLACES[name], None)
        if name in _PLACES
        else (name, _PLACES["image" if name in IMAGE_FIELDS else "context"], name)
        for name in (stated.split(",") if stated else ())
        if name in _PLACES or name in IMAGE_FIELDS or name in CONTEXT_FIELDS
    )


def _given(stated: str, whole: tuple[Any, ...]) -> Given:
    return {
        name: whole[place] if field is None else getattr(whole[place], field)
        for name, place, field in _getters(stated)
    }


# ----------------------------------------------------------------------------------- the parts


def _contexts(rows: _Rows) -> Iterator[Context]:
    capabilities = [
        None if masks[0] is None else Capabilities(*masks)
        for masks in zip(
            *(rows[f"capabilities_{name}"] for name in Capabilities.__struct_fields__), strict=True
        )
    ]
    namespaces = [
        Namespaces(*inodes) if is_known else None
        for is_known, *inodes in zip(
            rows["has_namespaces"],
            *(rows[f"{name}_namespace"] for name in Namespaces.__struct_fields__),
            strict=True,
        )
    ]
    own: dict[str, Values] = {"capabilities": capabilities, "namespaces": namespaces}
    columns: list[Values] = [
        own[name] if name in own else rows[name] for name in Context.__struct_fields__
    ]
    return map(Context, *columns)


def _files(rows: _Rows, prefix: str) -> Iterator[FileInfo]:
    return map(FileInfo, *(rows[f"{prefix}_{name}"] for name in FILE_COLUMNS))


# -------------------------------------------------------------------------------- events by kind


def _header(rows: _Rows) -> Iterator[Event]:
    return map(
        Header, rows["boot_time"], rows["host"], rows["boot_id"], rows["time"], rows["unfollowed"]
    )


def _fork(rows: _Rows) -> Iterator[Event]:
    made = map(
        Fork,
        rows["time"],
        rows.tasks(),
        rows.refs("parent"),
        rows.refs("leader"),
        rows.refs("creator"),
        rows["ns_tid"],
        rows["ns_pid"],
        rows["comm"],
        rows.contexts(),
        repeat(None),
        rows.origins(),
    )
    if not rows.has("stated"):
        return made
    return map(_with_given, made, rows.givens())


def _with_given(fork: Fork, given: Given | None) -> Fork:
    if not given:
        return fork
    comm = None if "comm" in given else fork.comm
    context = None if given.keys() & _OF_CONTEXT else fork.context
    return Fork(
        fork.time,
        fork.task,
        fork.parent,
        fork.leader,
        fork.creator,
        fork.ns_tid,
        fork.ns_pid,
        comm,
        context,
        given,
        fork.origin,
    )


_OF_CONTEXT: Final = CONTEXT_FIELDS | {"context"}


def _exec(rows: _Rows) -> Iterator[Event]:
    states: Iterator[Any] = map(
        State,
        rows["comm"],
        [image or UNKNOWN_IMAGE for image in rows.images()],
        rows["cwd"],
        rows["root"],
        [context or UNKNOWN_CONTEXT for context in rows.contexts()],
    )
    if rows.has("stated"):
        states = (
            state if given is None else given
            for state, given in zip(states, rows.givens(), strict=True)
        )
    return map(
        Exec,
        rows["time"],
        rows.tasks(),
        states,
        rows.refs("parent"),
        rows["old_tid"],
        rows["ns_tid"],
        rows["ns_pid"],
        rows.origins(),
    )


def _change(rows: _Rows) -> Iterator[Event]:
    return map(
        Change,
        rows["time"],
        rows.tasks(),
        (given or {} for given in rows.givens()),
        rows.refs("leader"),
        rows.refs("parent"),
        rows["subreaper"],
        rows["untold_until"],
        rows.origins(),
    )


def _exit(rows: _Rows) -> Iterator[Event]:
    return map(
        Exit,
        rows["time"],
        rows.tasks(),
        rows.refs("leader"),
        rows.refs("parent"),
        rows["exit_code"],
        rows["exit_signal"],
        rows["core_dumped"],
        rows["group_exit"],
        rows.refs("reaper"),
        rows.origins(),
    )


def _snapshot(rows: _Rows) -> Iterator[Event]:
    return map(
        Snapshot,
        rows["time"],
        rows.tasks(),
        (given or {} for given in rows.givens()),
        rows.refs("leader"),
        rows.refs("parent"),
        rows.refs("creator"),
        rows["ns_tid"],
        rows["ns_pid"],
        rows["subreaper"],
        rows.origins(),
    )


def _picture(rows: _Rows) -> Iterator[Event]:
    return map(Picture, rows["time"], rows["since"])


def _loss(rows: _Rows) -> Iterator[Event]:
    return map(Loss, rows["time"], rows["since"], rows["lost"])


_EVENTS_OF: Final[dict[type, Callable[[_Rows], Iterator[Event]]]] = {
    Header: _header,
    Fork: _fork,
    Exec: _exec,
    Change: _change,
    Exit: _exit,
    Snapshot: _snapshot,
    Picture: _picture,
    Loss: _loss,
}


# -------------------------------------------------------------------------------- Arrow to lists


def _combined(column: Any) -> Any:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _values(column: Any) -> Values:
    """A column as a list, None where it is null. Several times as fast as `to_pylist`."""
    count = len(column)
    if column.null_count == count:
        return [None] * count
    array = _combined(column)
    type_ = array.type
    if pa.types.is_map(type_):
        return _lists(
            array, list(zip(_values(array.keys), _values(array.items), strict=True)), dict
        )
    if pa.types.is_list(type_):
        return _lists(array, _values(array.values), tuple)
    if pa.types.is_string(type_):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        words = array.dictionary.to_pylist()
        words.append(None)  # -1 is the last one
        return list(map(words.__getitem__, array.indices.fill_null(-1).to_numpy().tolist()))
    if not array.null_count:
        return array.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    values = array.fill_null(0 if type_ != pa.bool_() else False)
    is_there = array.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [
        value if is_set else None
        for value, is_set in zip(
            values.to_numpy(zero_copy_only=False).tolist(), is_there, strict=True
        )
    ]


def _lists(array: Any, items: Values, make: Callable[[Values], Any]) -> Values:
    offsets = array.offsets.to_numpy().tolist()
    is_there = array.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [
        make(items[begin:end]) if is_set else None
        for begin, end, is_set in zip(offsets, offsets[1:], is_there, strict=False)
    ]
