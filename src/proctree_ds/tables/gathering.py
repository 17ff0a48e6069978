"""The records of a tree as Arrow tables: one pass, everything as of no instant in particular.

What is gathered here is all that the vectorised questions need, so that they answer from tables
alone: from those of a living tree or from those that somebody kept in files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.answers import info_at
from proctree_ds.datasource import DataSource, lineage_end
from proctree_ds.kinship import parent_at
from proctree_ds.model import NEVER, Context, State, merge
from proctree_ds.process import NO_RARITIES, Process, Rare
from proctree_ds.succession import parents_of
from proctree_ds.tables.columns import Shared, column, epochs, spread
from proctree_ds.tree import ProcessTree

__all__ = ["VERSION_COLUMNS", "Tables", "gather"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything that `AsOf` answers from, as Arrow tables. Times are epoch ns.

    `versions` and `processes` are those of `versions()` and `processes()`. `threads`: one row per
    thread that is not a leader. `births`: what a parent was when it made `child_entity_id`, where
    that is another than its versions say (they are gone, or something happened at that very
    instant). `aliases`: former ids of processes. `gone`: ids whose history was dropped, sorted;
    `horizon`: before this instant history may be missing; `forgot_ids`: and so may ids.
    `host_namespace` is the inode of the host's pid namespace.
    """

    versions: pa.Table
    processes: pa.Table
    threads: pa.Table
    births: pa.Table
    aliases: pa.Table
    gone: np.ndarray[Any, np.dtype[np.uint64]]
    horizon: int
    forgot_ids: bool
    host_namespace: int | None


class _Row(NamedTuple):
    """A version: what a process was from `since` on (boot clock)."""

    since: int
    state: State
    source: str
    is_forgotten: bool = False
    dropped: tuple[str, ...] = ()


_TEXT: Final = pa.string()
_TEXTS: Final = pa.list_(pa.string())
_NUMBER: Final = pa.uint32()
_ID: Final = pa.uint64()


def _path(file: Any) -> str | None:
    return None if file is None else file.path


def _effective(context: Context) -> int | None:
    return None if context.capabilities is None else context.capabilities.effective


_OF_STATE: Final = (
    ("name", _TEXT, lambda state: state.comm),
    ("cwd", _TEXT, lambda state: state.cwd),
    ("root", _TEXT, lambda state: state.root),
)
_OF_IMAGE: Final = (
    ("cmd", _TEXTS, lambda image: image.argv),
    ("cmd_truncated", pa.bool_(), lambda image: image.argv_truncated),
    ("executable", _TEXT, lambda image: _path(image.executable)),
    ("interpreter", _TEXT, lambda image: _path(image.interpreter)),
    ("script", _TEXT, lambda image: image.script),
)
_OF_CONTEXT: Final = (
    *(
        (name, _NUMBER, lambda context, name=name: getattr(context, name))
        for name in ("uid", "euid", "suid", "gid", "egid", "sgid")
    ),
    ("effective_capabilities", _ID, _effective),
    ("session_id", _NUMBER, lambda context: context.session_id),
    ("process_group", _NUMBER, lambda context: context.process_group),
    ("tty", _TEXT, lambda context: context.tty),
    ("login_uid", _NUMBER, lambda context: context.login_uid),
    ("cgroup", _TEXT, lambda context: context.cgroup),
    ("container_id", _TEXT, lambda context: context.container_id),
    ("pid_namespace", _ID, lambda context: context.namespaces and context.namespaces.pid),
)

VERSION_COLUMNS: Final = (
    "valid_from",
    "valid_to",
    "entity_id",
    "pid",
    "ns_pid",
    "parent_entity_id",
    "ppid",
    "start_time",
    *(name for name, _, _ in (*_OF_STATE, *_OF_IMAGE)),
    "exec_time",
    *(name for name, _, _ in _OF_CONTEXT),
    "source",
    "is_forgotten",
    "dropped",
)
"""What a version has."""


def gather(ds: DataSource) -> Tables:
    """The tables of everything in memory. O(versions in memory)."""
    tree = ds.tree
    census = tree.census
    gathered = _Gathering(tree)
    return Tables(
        gathered.versions(),
        gathered.processes(),
        _threads(tree),
        gathered.births(),
        _aliases(tree),
        np.sort(np.fromiter(gathered.gone, np.uint64)),
        epochs([census.horizon], tree.boot_time)[0].as_py(),
        census.has_forgotten_ids,
        census.namespaces.host,
    )


class _Gathering:
    """All versions of all processes, as lists of the same length."""

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self._boot_time = tree.boot_time
        census = tree.census
        shadows = list(census.shadows.values())
        self.gone = census.evicted_ids()
        self.gone.update(node.entity_id for node in shadows if node.evicted)
        known = [*census.processes.values()]
        known += [node for node in shadows if node.entity_id not in self.gone]
        known.sort(key=lambda node: (node.start, node.tid))
        self._nodes = known + [node for node in shadows if node.entity_id in self.gone]
        self._states = Shared()
        self._first: list[int] = []
        """For each process the row of its first version, and at the end how many rows there are."""
        self._since: list[int] = []
        self._until: list[int] = []
        self._process: list[int] = []
        self._state: list[int] = []
        self._source: list[str] = []
        self._is_forgotten: list[bool] = []
        self._dropped: list[tuple[str, ...]] = []
        self._parent: list[Process | None] = []
        for place, node in enumerate(known):
            self._add(place, node)
        self._count = len(self._since)
        for place, node in enumerate(self._nodes[len(known) :], len(known)):
            self._add(place, node)  # for the lineages that lead there; in `versions` it has none
        self._first.append(len(self._since))
        self._births = self._odd_births()
        self._columns = self._of_states()

    def _add(self, place: int, node: Process) -> None:
        self._first.append(len(self._since))
        ended = node.ended
        parent = node.parent
        rows = _plain_rows(node) if _is_whole(node.rare) else _odd_rows(self._tree, node)
        has_one_parent = node.rare.parents is None and (parent is None or parent.ended >= ended)
        if not has_one_parent:
            changes = [held.since - self._boot_time for held in parents_of(self._tree, node, NEVER)]
            rows = _split(rows, [change for change in changes if change < ended])
        later = [min(row.since, ended) for row in rows[1:]]
        for row, until in zip(rows, (*later, ended), strict=True):
            self._since.append(row.since)
            self._until.append(max(until, row.since))
            self._process.append(place)
            self._state.append(self._states.place(row.state))
            self._source.append(row.source)
            self._is_forgotten.append(row.is_forgotten)
            self._dropped.append(row.dropped)
            if not has_one_parent:
                parent = parent_at(self._tree.census, node, min(row.since, ended - 1))
            self._parent.append(parent)

    # ----------------------------------------------------------------------------- tables

    def versions(self) -> pa.Table:
        rows = np.arange(self._count)
        return self._table(
            rows,
            np.array(self._state[: self._count], np.int64),
            epochs(self._since[: self._count], self._boot_time),
            epochs(
                (None if t == NEVER else t for t in self._until[: self._count]), self._boot_time
            ),
        )

    def _odd_births(self) -> list[tuple[Process, int, int]]:
        """Children whose parent, at their birth, was not what its versions say of that instant:
        the row of which the rest is true, and the state that it had.
        """
        places = {node.entity_id: place for place, node in enumerate(self._nodes)}
        births: list[tuple[Process, int, int]] = []
        for child in self._nodes:
            parent = child.parent
            if parent is None:
                continue
            state = child.born_of
            if child.rare is not NO_RARITIES and child.rare.copied_from is not None:
                state = info_at(self._tree, parent, child.start)._state
            place = places[parent.entity_id]
            first, end = self._first[place], self._first[place + 1]
            row = bisect_right(self._since, child.start, first, end) - 1
            is_told = first <= row < self._count
            row = max(row, first)
            known = self._states.values[self._state[row]]
            if not is_told or (known is not state and known != state):
                births.append((child, row, self._states.place(state)))
        return births

    def births(self) -> pa.Table:
        at = epochs([child.start for child, _, _ in self._births], self._boot_time)
        rows = np.array([row for _, row, _ in self._births], np.int64)
        states = np.array([state for _, _, state in self._births], np.int64)
        children = pa.array([child.entity_id for child, _, _ in self._births], _ID)
        return self._table(rows, states, at, at).add_column(0, "child_entity_id", children)

    def processes(self) -> pa.Table:
        nodes = self._nodes
        exits = [node.exit for node in nodes]
        parents = [node.parent for node in nodes]
        first = np.array(self._first[:-1], np.int64)
        last = np.array(self._first[1:], np.int64) - 1
        states = np.array(self._state, np.int64)
        table = {
            "entity_id": pa.array([node.entity_id for node in nodes], _ID),
            "pid": pa.array([node.tid for node in nodes], _NUMBER),
            "ns_pid": pa.array([node.ns_pid for node in nodes], _NUMBER),
            "start_time": epochs([node.start for node in nodes], self._boot_time),
            "exit_time": epochs(
                [None if node.ended == NEVER else node.ended for node in nodes], self._boot_time
            ),
            "exit_code": pa.array([e and e.exit_code for e in exits], pa.int64()),
            "exit_signal": pa.array([e and e.exit_signal for e in exits], pa.int64()),
            "core_dumped": pa.array(
                [e.core_dumped if e is not None and e.origin == "event" else None for e in exits],
                pa.bool_(),
            ),
            "original_parent_entity_id": pa.array([p and p.entity_id for p in parents], _ID),
            "original_ppid": pa.array([p and p.tid for p in parents], _NUMBER),
            "lineage_end": column(
                [lineage_end(n) if n.parent is None else None for n in nodes], _TEXT
            ),
            "history": column([self._history(node) for node in nodes], _TEXT),
        }
        for prefix, rows in (("first_", first), ("last_", last)):
            for name in ("name", "executable", "cmd"):
                table[prefix + name] = spread(self._columns[name], states[rows])
        return pa.table(table)

    def _history(self, node: Process) -> str:
        if node.entity_id in self._tree.census.processes:
            return "kept"
        return "dropped" if node.entity_id in self.gone else "never_seen"

    def _of_states(self) -> dict[str, pa.Array]:
        """A column for each attribute, with one value for each state."""
        images, contexts = Shared(), Shared()
        states = self._states
        of_image = np.array(states.map(lambda state: images.place(state.image)), np.int64)
        of_context = np.array(states.map(lambda state: contexts.place(state.context)), np.int64)
        columns = {name: column(states.map(read), kind) for name, kind, read in _OF_STATE}
        for name, kind, read in _OF_IMAGE:
            columns[name] = spread(column(images.map(read), kind), of_image)
        exec_times = epochs(images.map(lambda image: image.exec_time), self._boot_time)
        columns["exec_time"] = spread(exec_times, of_image)
        for name, kind, read in _OF_CONTEXT:
            columns[name] = spread(column(contexts.map(read), kind), of_context)
        return columns

    def _table(
        self,
        rows: np.ndarray[Any, Any],
        states: np.ndarray[Any, Any],
        since: pa.Array,
        until: pa.Array,
    ) -> pa.Table:
        """Versions with these states instead of their own."""
        nodes = [self._nodes[self._process[row]] for row in rows]
        parents = [self._parent[row] for row in rows]
        start_time = epochs([node.start for node in nodes], self._boot_time)
        table: dict[str, pa.Array] = {
            "valid_from": since,
            "valid_to": until,
            "entity_id": pa.array([node.entity_id for node in nodes], _ID),
            "pid": pa.array([node.tid for node in nodes], _NUMBER),
            "ns_pid": pa.array([node.ns_pid for node in nodes], _NUMBER),
            "parent_entity_id": pa.array([p and p.entity_id for p in parents], _ID),
            "ppid": pa.array(
                [
                    p.tid if p is not None else 0 if node.is_root else None
                    for p, node in zip(parents, nodes, strict=True)
                ],
                _NUMBER,
            ),
            "start_time": start_time,
        }
        for name, values in self._columns.items():
            table[name] = spread(values, states)
        is_own = pc.greater_equal(table["exec_time"], start_time)
        table["exec_time"] = pc.if_else(is_own, table["exec_time"], None)
        table["source"] = column([self._source[row] for row in rows], _TEXT)
        table["is_forgotten"] = pa.array([self._is_forgotten[row] for row in rows], pa.bool_())
        table["dropped"] = column([self._dropped[row] for row in rows], _TEXTS)
        return pa.table({name: table[name] for name in VERSION_COLUMNS})


# ------------------------------------------------------------------------------- versions


def _plain_rows(node: Process) -> list[_Row]:
    """The versions of a process of which nothing has been dropped.

    One at the very end holds at no instant of its life, and is what it was when it had exited.
    """
    rows = [_Row(node.start, node.base, "inferred" if node.fork is None else "event")]
    for version in node.log:
        if version.time > node.ended:
            break
        row = _Row(max(version.time, node.start), version.state, version.origin)
        if rows[-1].since == row.since:
            rows[-1] = row
        else:
            rows.append(row)
    return rows


def _is_whole(rare: Rare) -> bool:
    """Whether nothing was dropped, and no list is kept of which something may have been."""
    return rare is NO_RARITIES or not (
        rare.gaps or rare.parents or rare.subreaper or rare.horizon >= 0
    )


def _odd_rows(tree: ProcessTree, node: Process) -> list[_Row]:
    """The same for one of which something has been."""
    rare = node.rare
    rows = _plain_rows(node)
    cuts = {rare.horizon} | {time for gap in rare.gaps or () for time in (gap.since, gap.until)}
    cuts |= {time for time, _ in rare.parents or ()}
    cuts |= {time for time, _ in rare.subreaper or ()}
    return [_as_answered(tree, node, row) for row in _split(rows, cuts)]


def _as_answered(tree: ProcessTree, node: Process, row: _Row) -> _Row:
    info = info_at(tree, node, row.since)
    state = info._state
    held = row.state.context.namespaces
    if info._dropped and held is not None and state.context.namespaces is None:
        state = merge(state, {"namespaces": held})  # a task never leaves its pid namespace
    hidden = row.since < node.rare.horizon or any(
        gap.hides_image and gap.since <= row.since < gap.until for gap in node.rare.gaps or ()
    )
    return _Row(row.since, state, row.source, hidden, info._dropped)


def _split(rows: list[_Row], cuts: Iterable[int]) -> list[_Row]:
    """The same versions, each that holds at a cut in two."""
    start = rows[0].since
    known = {row.since for row in rows}
    extra = sorted({cut for cut in cuts if cut > start} - known)
    if not extra:
        return rows
    split = list(rows)
    for cut in extra:
        index = bisect_right(rows, cut, key=_since)
        split.append(rows[index - 1]._replace(since=cut))
    split.sort(key=_since)
    return split


_since = attrgetter("since")


# --------------------------------------------------------------------------- the other tables


def _threads(tree: ProcessTree) -> pa.Table:
    threads = list(tree.census.threads.values())
    ends = [None if thread.end == NEVER else thread.end for thread in threads]
    return pa.table(
        {
            "entity_id": pa.array([thread.entity_id for thread in threads], _ID),
            "tid": pa.array([thread.tid for thread in threads], _NUMBER),
            "ns_tid": pa.array([thread.ns_tid for thread in threads], _NUMBER),
            "process_entity_id": pa.array([t.process.entity_id for t in threads], _ID),
            "start_time": epochs([thread.start for thread in threads], tree.boot_time),
            "exit_time": epochs(ends, tree.boot_time),
        }
    )


def _aliases(tree: ProcessTree) -> pa.Table:
    known = tree.census.processes
    aliases = [(old, new) for old, new in tree.aliases.items() if new in known and old not in known]
    return pa.table(
        {
            "alias": pa.array([old for old, _ in aliases], _ID),
            "entity_id": pa.array([new for _, new in aliases], _ID),
        }
    )
