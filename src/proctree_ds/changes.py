"""What happened to processes, one thing after the other, each with what was before and after.

The data source tells who changed between two instants and which versions a process had. Here that
becomes rows in the order of time, for whoever prints them or puts them into a table: a row is
about one process, and names only the fields of `ProcessInfo` that the change is about.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec

from proctree_ds.answers import PROCESS_FIELDS, ProcessInfo
from proctree_ds.datasource import DataSource
from proctree_ds.errors import DataNotFound
from proctree_ds.kinship import ANCESTORS_LIMIT
from proctree_ds.model import CREDENTIAL_FIELDS
from proctree_ds.succession import HeldImage
from proctree_ds.surveys import TimelineEntry

__all__ = ["CHANGE_KINDS", "ChangeRow", "Descent", "births", "changes_between", "history_of"]

DiffKind = Literal["born", "executed", "renamed", "changed_credentials", "died", "reparented"]
TimelineKind = Literal["start", "exec", "change", "snapshot", "parent", "exit", "child", "dropped"]

CHANGE_KINDS: Final[tuple[DiffKind, ...]] = (
    "born",
    "executed",
    "renamed",
    "changed_credentials",
    "died",
    "reparented",
)
"""What can come between two instants; of what happened at once the first in this order is first:
children come to another parent because theirs died."""

_ENDS: Final = ("exit_code", "exit_signal", "core_dumped")
_IMAGE: Final = ("name", "execution_binary", "interpreter", "script", "cmd")


class ChangeRow(msgspec.Struct, frozen=True):
    """Something that happened to `process` at `time` (epoch ns), by the names of its fields.

    `process` is as of then, and for a `child` as of the end of what was asked about. `before` and
    `after` are plain data; a field that is missing in `before` was not there or is not known. From
    a `dropped` row on nothing is known of the fields in `after`: a limit took how they changed.
    """

    time: int
    kind: DiffKind | TimelineKind
    process: ProcessInfo
    before: dict[str, Any]
    after: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data: which process, and `from` what `to` what it changed."""
        info = self.process
        return {
            "time": self.time,
            "kind": self.kind,
            "pid": info.pid,
            "entity_id": info.entity_id,
            "name": info.name,
            "cmd": None if info.cmd is None else list(info.cmd),
            "from": self.before,
            "to": self.after,
        }


class Descent:
    """Who is, as of `time`, a process itself or was made by it, directly or through others.

    Made, not adopted: it goes by original parents. Each answer is worked out once.
    """

    def __init__(self, answers: DataSource, ancestor: int, time: int) -> None:
        self._answers = answers
        self._time = time
        self._known = {ancestor: True}

    def __contains__(self, info: object) -> bool:
        return isinstance(info, ProcessInfo) and self._is_below(info)

    def _is_below(self, info: ProcessInfo) -> bool:
        way: list[int] = []
        entity: int | None = info.entity_id
        found = False
        while entity is not None and len(way) < ANCESTORS_LIMIT:
            if entity in self._known:
                found = self._known[entity]
                break
            way.append(entity)
            above = _process_at(self._answers, entity, self._time)
            entity = None if above is None else above.original_parent_entity_id
        self._known.update(dict.fromkeys(way, found))
        return found


def changes_between(
    answers: DataSource, since: int, until: int, below: Container[ProcessInfo] | None = None
) -> list[ChangeRow]:
    """Everything that happened after `since` and up to `until`, in order; `below`: to these only.

    A new name that an exec brought stands with the exec. Who has at the end the name, parent or
    credentials of the beginning is left out there, as by `DataSource.diff`. Raises as that does.
    O(processes in memory + versions of those that changed).
    """
    diff = answers.diff(since, until)

    def wanted(infos: Iterable[ProcessInfo]) -> Iterator[ProcessInfo]:
        return (info for info in infos if below is None or info in below)

    rows = [
        _row(answers, info, info.start_time, "born", {}, _parent_of(answers, info))
        for info in wanted(diff.born)
    ]
    for info in wanted(diff.executed):
        rows.extend(_execs(answers, info, since, until))
    for info in wanted(diff.renamed):
        if (images := info.images()) and images[-1].name != info.name:
            rows.extend(_changes(answers, info, since, until, "renamed"))
    for info in wanted(diff.changed_credentials):
        rows.extend(_changes(answers, info, since, until, "changed_credentials"))
    for info in wanted(diff.reparented):
        for old, new in pairwise(info.parents()):
            if since < new.since <= until:
                before = {"ppid": old.pid, "parent_entity_id": old.entity_id}
                after = {"ppid": new.pid, "parent_entity_id": new.entity_id}
                rows.append(_row(answers, info, new.since, "reparented", before, after))
    for info in wanted(diff.died):
        assert info.exit_time is not None
        ends = {name: getattr(info, name) for name in _ENDS}
        rows.append(_row(answers, info, info.exit_time, "died", {}, ends))
    rows.sort(key=lambda row: (row.time, CHANGE_KINDS.index(row.kind)))
    return rows


def history_of(answers: DataSource, entity_id: int, until: int) -> list[ChangeRow]:
    """What is known to have happened to a process up to `until`, in order.

    The first row is its start, with all that was known of it then. Raises as
    `DataSource.timeline` does. O(its versions).
    """
    rows: list[ChangeRow] = []
    earlier: ProcessInfo | None = None
    gaps = _gaps(answers, entity_id)
    for entry in answers.timeline(entity_id):
        if entry.time > until:
            break
        info = entry.process
        if earlier is None:
            known = {name: value for name, value in info.to_dict().items() if value is not None}
            rows.append(ChangeRow(entry.time, entry.kind, info, {}, known))
        else:
            before, after = _sides(entry, earlier, gaps)
            rows.append(ChangeRow(entry.time, entry.kind, info, before, after))
        earlier = info
    for since in {gap.since for gap in gaps if gap.since <= until}:
        names = {name: None for gap in gaps if gap.since == since for name in gap.names}
        info = next(row.process for row in reversed(rows) if row.time <= since)
        rows.append(ChangeRow(since, "dropped", info, {}, names))
        rows.sort(key=lambda row: row.time)
    return rows


class _Gap(msgspec.Struct, frozen=True):
    """From `since` to `until` (epoch ns) changes of these fields of `ProcessInfo` were dropped."""

    since: int
    until: int
    names: list[str]


def _gaps(answers: DataSource, entity_id: int) -> list[_Gap]:
    node = answers.tree.process(entity_id)
    boot_time = answers.tree.boot_time
    gaps = []
    for gap in (node and node.rare.gaps) or ():
        hidden = {"name" if name == "comm" else name for name in gap.names}
        if gap.hides_image:
            hidden.update(_IMAGE)
        names = [name for name in PROCESS_FIELDS if name in hidden]
        gaps.append(_Gap(boot_time + gap.since, boot_time + gap.until, names))
    return gaps


def _sides(
    entry: TimelineEntry, earlier: ProcessInfo, gaps: list[_Gap]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the changed fields were, None where that was dropped, and what they are."""
    hidden = {name for gap in gaps if gap.since < entry.time <= gap.until for name in gap.names}
    before = {n: None if n in hidden else _plain(getattr(earlier, n)) for n in entry.changed}
    return before, {name: _plain(getattr(entry.process, name)) for name in entry.changed}


def births(answers: DataSource, children: Iterable[ProcessInfo]) -> list[ChangeRow]:
    """A row of kind `child` for each of `children`, at its start."""
    return [
        ChangeRow(child.start_time, "child", child, {}, _parent_of(answers, child))
        for child in children
    ]


def _execs(answers: DataSource, info: ProcessInfo, since: int, until: int) -> Iterator[ChangeRow]:
    for old, new in pairwise(info.images()):
        if since < new.since <= until:
            before, after = _image(old), _image(new)
            yield _row(answers, info, new.since, "executed", before, after)


def _image(held: HeldImage) -> dict[str, Any]:
    return {} if held.is_gap else {name: _plain(getattr(held, name)) for name in _IMAGE}


def _changes(
    answers: DataSource, info: ProcessInfo, since: int, until: int, kind: DiffKind
) -> Iterator[ChangeRow]:
    """A row for each time that its name changed without an exec, or its credentials did."""
    gaps = _gaps(answers, info.entity_id)
    for old, new in pairwise(answers.timeline(info.entity_id)):
        if not since < new.time <= until or (kind == "renamed" and new.kind == "exec"):
            continue
        wanted = {"name"} if kind == "renamed" else CREDENTIAL_FIELDS
        names = [name for name in new.changed if name in wanted]
        if names:
            before, after = _sides(new, old.process, gaps)
            yield ChangeRow(
                new.time,
                kind,
                new.process,
                {name: before[name] for name in names},
                {name: after[name] for name in names},
            )


def _row(
    answers: DataSource,
    info: ProcessInfo,
    time: int,
    kind: DiffKind,
    before: dict[str, Any],
    after: dict[str, Any],
) -> ChangeRow:
    """A row with the process as of `time`; where that was dropped, as of the end."""
    then = _process_at(answers, info.entity_id, time)
    return ChangeRow(time, kind, info if then is None else then, before, after)


def _parent_of(answers: DataSource, child: ProcessInfo) -> dict[str, Any]:
    """Who made it."""
    entity = child.original_parent_entity_id
    parent = None if entity is None else _process_at(answers, entity, child.start_time)
    return {"ppid": None if parent is None else parent.pid, "parent_entity_id": entity}


def _process_at(answers: DataSource, entity_id: int, time: int) -> ProcessInfo | None:
    try:
        return answers.process(entity_id, time)
    except DataNotFound:
        return None


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)
