"""Events -> columns, many at a time: one comprehension per attribute, not one call per event.

Credentials and files are mostly the same objects again and again: each different one gets a number,
its columns are made once a batch and spread over the rows by that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from proctree_ds.model import (
    CONTEXT_FIELDS,
    IMAGE_FIELDS,
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
    Picture,
    Snapshot,
    State,
    Task,
)
from proctree_ds.recording.escaping import escape_event, is_plain
from proctree_ds.recording.schema import FILE_COLUMNS, IMAGE_COLUMNS, KINDS, SCHEMA

__all__ = ["Encoder"]

_KIND_NAMES: Final = pa.array([kind.__name__.lower() for kind in KINDS])
_CODES: Final = {kind: code for code, kind in enumerate(KINDS)}
_TYPES: Final = {field.name: field.type for field in SCHEMA}

_NO_ATTRIBUTES: Final = (None, None, None, None, None, None)

Columns = dict[str, Any]


class Encoder:
    """Turns the events of one segment into record batches of `SCHEMA`.

    Raises `ValueError` for an event that the event log could not hold either.
    """

    def __init__(self) -> None:
        self._contexts = _Numbers()
        self._files = _Numbers()

    def encode(self, events: Sequence[Event], keyframe: bool = False) -> pa.RecordBatch:
        """The rows of `events`, in their order. `keyframe`: they are of the keyframe."""
        try:
            return self._encode(events, keyframe, None)
        except UnicodeEncodeError:
            pass
        odd = [not is_plain(event) for event in events]
        plain = [
            escape_event(event) if is_odd else event
            for event, is_odd in zip(events, odd, strict=True)
        ]
        return self._encode(plain, keyframe, odd)

    def _encode(
        self, events: Sequence[Event], keyframe: bool, escaped: list[bool] | None
    ) -> pa.RecordBatch:
        count = len(events)
        codes = np.fromiter(map(_CODES.__getitem__, map(type, events)), np.int8, count)
        pieces: dict[str, list[tuple[int, Any]]] = {}
        numbers: dict[str, Any] = {}
        positions = []
        sizes: list[int] = []
        for code, kind in enumerate(KINDS):
            where = np.flatnonzero(codes == code)
            if not len(where):
                continue
            same: Sequence[Any] = (
                events if len(where) == count else [events[i] for i in where.tolist()]
            )
            for name, column in self._columns(kind, same).items():
                if isinstance(column, np.ndarray):
                    everywhere = numbers.setdefault(name, np.full(count, -1, np.int32))
                    everywhere[where] = column
                else:
                    pieces.setdefault(name, []).append((len(sizes), column))
            positions.append(where)
            sizes.append(len(where))
        order = np.argsort(np.concatenate(positions)) if len(sizes) > 1 else None
        order = None if order is None else pa.array(order)
        columns: Columns = {
            "kind": _KIND_NAMES.take(pa.array(codes)),
            "keyframe": pa.array(np.full(count, keyframe)),
        }
        if escaped is not None:
            columns["escaped"] = pa.array(escaped)
        for name, parts in pieces.items():
            columns[name] = _assemble(_TYPES[name], parts, sizes, order)
        for name, everywhere in numbers.items():
            if name == "context":
                columns |= self._contexts.columns(name, everywhere, _context_columns)
            else:
                columns |= self._files.columns(name, everywhere, _file_columns(name))
        return pa.RecordBatch.from_arrays(
            [
                columns[name] if name in columns else pa.nulls(count, type_)
                for name, type_ in _TYPES.items()
            ],
            schema=SCHEMA,
        )

    def _columns(self, kind: type, events: Sequence[Any]) -> Columns:
        columns = _COLUMNS_OF[kind](events)
        attributes = columns.pop("attributes", None)
        if attributes is not None:
            columns |= self._attributes(*attributes)
        return {name: _array(name, column) for name, column in columns.items()}

    def _attributes(
        self,
        stated: list[str | None] | None,
        comms: list[str | None],
        images: list[Image | None] | None,
        cwds: list[str | None] | None,
        roots: list[str | None] | None,
        contexts: list[Context | None],
    ) -> Columns:
        columns: Columns = {"comm": comms}
        if stated is not None:
            columns["stated"] = stated
        if cwds is not None:
            columns["cwd"] = cwds
        if roots is not None:
            columns["root"] = roots
        columns["context"] = self._contexts.of(contexts)
        if images is not None:
            columns |= self._image_columns(images)
        return columns

    def _image_columns(self, images: list[Image | None]) -> Columns:
        columns: Columns = {"image": [image is not None for image in images]}
        read: Callable[[str, list[Any]], list[Any]] = _read if None not in images else _read_some
        for name in IMAGE_COLUMNS:
            columns[name] = read(name, images)
        for name in ("executable", "interpreter"):
            files = read(name, images)
            columns[name] = self._files.of(files)
        return columns


class _Numbers:
    """Numbers for values that come again: equal ones have the same. For one segment."""

    def __init__(self) -> None:
        self._by_id: dict[int, int] = {id(None): -1}
        self._by_value: dict[Any, int] = {}
        self._values: list[Any] = []
        self._kept: list[Any] = []
        """Whose ids are in `_by_id`: as long as they are here nobody else has these."""

    def of(self, values: list[Any]) -> Any:
        """The number of each value; -1 for None."""
        ids = list(map(id, values))
        known = self._by_id
        try:
            return np.fromiter(map(known.__getitem__, ids), np.int32, len(ids))
        except KeyError:
            self._learn(values)
            return np.fromiter(map(known.__getitem__, ids), np.int32, len(ids))

    def columns(
        self, name: str, numbers: Any, columns_of: Callable[[list[Any]], Columns]
    ) -> Columns:
        """The column `name` with these numbers, and those that tell what has them."""
        distinct, places = np.unique(numbers, return_inverse=True)
        if not len(distinct) or distinct[-1] < 0:
            return {}
        is_missing = None
        if distinct[0] < 0:
            distinct = distinct[1:]
            is_missing = places == 0
            places = np.maximum(places - 1, 0)
        spread = pa.array(places, mask=is_missing)
        columns = columns_of([self._values[number] for number in distinct])
        return {
            name: pa.array(distinct).take(spread),
            **{
                column: pa.array(items, _TYPES[column]).take(spread)
                for column, items in columns.items()
            },
        }

    def _learn(self, values: Iterable[Any]) -> None:
        for value in values:
            if id(value) in self._by_id:
                continue
            number = self._by_value.setdefault(value, len(self._values))
            if number == len(self._values):
                self._values.append(value)
            self._by_id[id(value)] = number
            self._kept.append(value)


def _read(name: str, items: list[Any]) -> list[Any]:
    return list(map(attrgetter(name), items))


def _read_some(name: str, items: list[Any]) -> list[Any]:
    return [item and getattr(item, name) for item in items]


# ------------------------------------------------------------------------ columns of the parts


def _context_columns(contexts: list[Context]) -> Columns:
    columns: Columns = {
        name: list(map(attrgetter(name), contexts))
        for name in Context.__struct_fields__
        if name not in ("capabilities", "namespaces")
    }
    for name in Capabilities.__struct_fields__:
        columns[f"capabilities_{name}"] = [
            context.capabilities and getattr(context.capabilities, name) for context in contexts
        ]
    columns["has_namespaces"] = [context.namespaces is not None for context in contexts]
    for name in Namespaces.__struct_fields__:
        columns[f"{name}_namespace"] = [
            context.namespaces and getattr(context.namespaces, name) for context in contexts
        ]
    return columns


def _file_columns(prefix: str) -> Callable[[list[FileInfo]], Columns]:
    def columns(files: list[FileInfo]) -> Columns:
        return {f"{prefix}_{name}": list(map(attrgetter(name), files)) for name in FILE_COLUMNS}

    return columns


def _refs(name: str, tasks: list[Task | None]) -> Columns:
    if not any(tasks):
        return {}
    return {
        f"{name}_tid": [task and task.tid for task in tasks],
        f"{name}_start_time": [task and task.start_time for task in tasks],
    }


def _about(events: Sequence[Any]) -> Columns:
    """When, and about whom."""
    tasks = list(map(attrgetter("task"), events))
    return {
        "time": list(map(attrgetter("time"), events)),
        "tid": list(map(attrgetter("tid"), tasks)),
        "start_time": list(map(attrgetter("start_time"), tasks)),
        **_refs("parent", list(map(attrgetter("parent"), events))),
    }


def _plain(events: Sequence[Any], *names: str) -> Columns:
    return {name: list(map(attrgetter(name), events)) for name in names}


# ---------------------------------------------------------------------------------- attributes

_FIRST: Final = ("image", "context")


def _split(given: Given | None) -> tuple[Any, ...]:
    """What was stated: its names, then comm, image, cwd, root and context with these values."""
    if not given:
        return ("", *_NO_ATTRIBUTES[1:])
    image, context = given.get("image"), given.get("context")
    names = []
    of_image: Given = {}
    of_context: Given = {}
    for name, value in given.items():
        if name in IMAGE_FIELDS:
            of_image[name] = value
            if image is not None:
                continue
        elif name in CONTEXT_FIELDS:
            of_context[name] = value
            if context is not None:
                continue
        elif name not in ("comm", "cwd", "root", "image", "context"):
            raise ValueError(f"{name!r} is not a versioned attribute")
        names.append(name)
    if of_image:
        image = msgspec.structs.replace(image or Image(), **of_image)
    if of_context:
        context = msgspec.structs.replace(context or Context(), **of_context)
    names.sort()
    return (
        ",".join(names),
        given.get("comm"),
        image,
        given.get("cwd"),
        given.get("root"),
        context,
    )


def _attributes_of(splits: Iterable[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*splits, strict=True)))


def _split_facts(facts: State | Given) -> tuple[Any, ...]:
    if isinstance(facts, State):
        return (None, facts.comm, facts.image, facts.cwd, facts.root, facts.context)
    return _split(facts)


# ------------------------------------------------------------------------------ columns by kind


def _header(events: Sequence[Header]) -> Columns:
    return _plain(events, "time", "boot_time", "host", "boot_id", "unfollowed")


def _fork(events: Sequence[Fork]) -> Columns:
    columns = {
        **_about(events),
        **_refs("leader", list(map(attrgetter("leader"), events))),
        **_refs("creator", list(map(attrgetter("creator"), events))),
        **_plain(events, "ns_tid", "ns_pid", "origin"),
    }
    if any(event.given for event in events):
        splits = map(_split_fork, events)
        return {**columns, "attributes": _attributes_of(splits)}
    comms = [event.comm for event in events]
    contexts = [event.context for event in events]
    return {**columns, "attributes": (None, comms, None, None, None, contexts)}


def _split_fork(event: Fork) -> tuple[Any, ...]:
    """A fork states its own comm and context apart, without their names."""
    if not event.given:
        return (None, event.comm, None, None, None, event.context)
    names, comm, image, cwd, root, context = _split(event.given)
    if event.comm is not None:
        names, comm = _without(names, "comm"), event.comm
    if event.context is not None:
        if context is not None:
            raise ValueError("a fork states its context twice")
        context = event.context
    return (names, comm, image, cwd, root, context)


def _without(names: str, name: str) -> str:
    return ",".join(known for known in names.split(",") if known != name)


def _exec(events: Sequence[Exec]) -> Columns:
    columns = {**_about(events), **_plain(events, "old_tid", "ns_tid", "ns_pid", "origin")}
    facts: list[Any] = [event.facts for event in events]
    if all(type(fact) is State for fact in facts):
        stated = None
        parts = [list(map(attrgetter(name), facts)) for name in State.__struct_fields__]
        return {**columns, "attributes": (stated, *parts)}
    return {**columns, "attributes": _attributes_of(map(_split_facts, facts))}


def _change(events: Sequence[Change]) -> Columns:
    return {
        **_about(events),
        **_refs("leader", list(map(attrgetter("leader"), events))),
        **_plain(events, "subreaper", "untold_until", "origin"),
        "attributes": _attributes_of(_split(event.given) for event in events),
    }


def _exit(events: Sequence[Exit]) -> Columns:
    return {
        **_about(events),
        **_refs("leader", list(map(attrgetter("leader"), events))),
        **_refs("reaper", list(map(attrgetter("reaper"), events))),
        **_plain(events, "exit_code", "exit_signal", "core_dumped", "group_exit", "origin"),
    }


def _snapshot(events: Sequence[Snapshot]) -> Columns:
    return {
        **_about(events),
        **_refs("leader", list(map(attrgetter("leader"), events))),
        **_refs("creator", list(map(attrgetter("creator"), events))),
        **_plain(events, "ns_tid", "ns_pid", "subreaper", "origin"),
        "attributes": _attributes_of(_split(event.given) for event in events),
    }


def _picture(events: Sequence[Picture]) -> Columns:
    return _plain(events, "time", "since")


def _loss(events: Sequence[Loss]) -> Columns:
    return _plain(events, "time", "since", "lost")


_COLUMNS_OF: Final[dict[type, Callable[[Sequence[Any]], Columns]]] = {
    Header: _header,
    Fork: _fork,
    Exec: _exec,
    Change: _change,
    Exit: _exit,
    Snapshot: _snapshot,
    Picture: _picture,
    Loss: _loss,
}


# ----------------------------------------------------------------------------------- to Arrow


def _array(name: str, column: Any) -> Any:
    if isinstance(column, np.ndarray):
        return column
    type_ = _TYPES[name]
    try:
        if pa.types.is_map(type_):
            keys = [key for item in column if item for key in item]
            items = [value for item in column if item for value in item.values()]
            return pa.MapArray.from_arrays(_offsets(column), _texts(keys), _texts(items))
        if pa.types.is_list(type_):
            words = list(chain.from_iterable(filter(None, column)))
            return pa.ListArray.from_arrays(_offsets(column), _texts(words))
        return pa.array(column, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"an event's `{name}` does not fit into a recording: {error}") from error


def _texts(words: list[str]) -> Any:
    return pa.array(words, pa.string())


def _offsets(column: list[Any]) -> Any:
    """Where each list begins in all their items, and where the last one ends."""
    sizes = np.fromiter((0 if item is None else len(item) for item in column), np.int32)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    is_missing = np.fromiter((item is None for item in column), np.bool_)
    if not is_missing.any():
        return pa.array(offsets)
    return pa.array(offsets, mask=np.append(is_missing, False))


def _assemble(type_: Any, parts: list[tuple[int, Any]], sizes: list[int], order: Any) -> Any:
    """One column of all kinds' pieces, in the order of the events."""
    if order is None:
        return parts[0][1]
    known = dict(parts)
    pieces = [
        known[index] if index in known else pa.nulls(size, type_)
        for index, size in enumerate(sizes)
    ]
    return pa.concat_arrays(pieces).take(order)
