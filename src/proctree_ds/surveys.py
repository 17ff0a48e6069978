"""Answers about many processes at once: children, subtrees, everybody, and what changed.

They are as of an instant like all others, and are made of the same `ProcessInfo`. Each walks what
it answers with, and nothing more unless it says so.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final, Literal

import msgspec

from proctree_ds.answers import PROCESS_FIELDS, ProcessInfo, info_at
from proctree_ds.kinship import Heirs, children_at, parent_at
from proctree_ds.model import NEVER, SEEN, Context
from proctree_ds.process import Process
from proctree_ds.succession import parents_of
from proctree_ds.tree import ProcessTree

__all__ = ["ProcessDiff", "ProcessSubtree", "TimelineEntry"]

_CREDENTIALS: Final = ("uid", "euid", "suid", "gid", "egid", "sgid", "capabilities")
_UNTOLD: Final = {
    "time",
    "certainty",
    "thread_ids",
    "child_process_ids",
    "omitted_children",
    "forgotten_children",
}
"""Fields of a process that a timeline does not compare: they change without its doing."""

_by_start = attrgetter("start", "tid")


class ProcessSubtree(msgspec.Struct, frozen=True):
    """A process as of an instant and, the same way, each of its children then."""

    process: ProcessInfo
    children: list[ProcessSubtree]
    is_cut: bool = False
    """Whether children were left out because of `max_depth`."""


class ProcessDiff(msgspec.Struct, frozen=True):
    """What happened to processes after `since` and up to `until` (epoch ns).

    Each is given as of `until`, and stands in every list that fits: one that was born and has
    died in between stands in both.
    """

    since: int
    until: int
    born: list[ProcessInfo]
    died: list[ProcessInfo]
    executed: list[ProcessInfo]
    reparented: list[ProcessInfo]
    renamed: list[ProcessInfo]
    changed_credentials: list[ProcessInfo]


TimelineKind = Literal["start", "exec", "change", "snapshot", "parent", "exit"]


class TimelineEntry(msgspec.Struct, frozen=True):
    """Something that happened to a process at `time` (epoch ns), and what it was from then on.

    `changed` names the fields of `ProcessInfo` that differ from the entry before.
    """

    time: int
    kind: TimelineKind
    process: ProcessInfo
    changed: tuple[str, ...] = ()


def children_of(tree: ProcessTree, node: Process, time: int) -> list[ProcessInfo]:
    """The living children as of `time`, by start. O(children in memory)."""
    children = sorted(children_at(tree.census, node, time), key=_by_start)
    return [info_at(tree, child, time) for child in children]


def subtree_of(
    tree: ProcessTree, node: Process, time: int, max_depth: int | None
) -> ProcessSubtree:
    """The process and its living descendants as of `time`. O(their children in memory)."""
    root = ProcessSubtree(info_at(tree, node, time), [])
    todo = [(node, root, 0)]
    heirs = Heirs()
    seen = {node.entity_id}
    while todo:
        parent, branch, depth = todo.pop()
        children = sorted(children_at(tree.census, parent, time, heirs), key=_by_start)
        if children and depth == max_depth:
            msgspec.structs.force_setattr(branch, "is_cut", True)
            continue
        for child in children:
            if child.entity_id not in seen:
                seen.add(child.entity_id)
                twig = ProcessSubtree(info_at(tree, child, time), [])
                branch.children.append(twig)
                todo.append((child, twig, depth + 1))
    return root


def living_at(tree: ProcessTree, time: int) -> list[ProcessInfo]:
    """Every process in memory that lived as of `time`, by start. O(processes in memory)."""
    nodes = [n for n in tree.census.processes.values() if n.start <= time < n.ended]
    return [info_at(tree, node, time) for node in sorted(nodes, key=_by_start)]


def difference(tree: ProcessTree, since: int, until: int) -> ProcessDiff:
    """What happened between two instants. O(processes in memory)."""
    diff = ProcessDiff(tree.boot_time + since, tree.boot_time + until, [], [], [], [], [], [])
    for node in sorted(tree.census.processes.values(), key=_by_start):
        if node.start > until or node.ended <= since:
            continue
        info = info_at(tree, node, until)
        first = max(since, node.start)
        if node.start > since:
            diff.born.append(info)
        if node.ended <= until:
            diff.died.append(info)
        before, after = node.state_at(first), node.state_at(min(until, node.ended))
        if any(v.is_exec and since < v.time <= until for v in node.log):
            diff.executed.append(info)
        if before.comm != after.comm:
            diff.renamed.append(info)
        if _credentials(before.context) != _credentials(after.context):
            diff.changed_credentials.append(info)
        last = min(until, node.ended - 1)
        if parent_at(tree.census, node, first) is not parent_at(tree.census, node, last):
            diff.reparented.append(info)
    return diff


def timeline_of(tree: ProcessTree, node: Process) -> list[TimelineEntry]:
    """Everything that is known to have happened to a process, in order. O(its versions)."""
    moments: list[tuple[int, TimelineKind]] = [(node.start, "start")]
    for version in node.log:
        if version.is_exec:
            moments.append((version.time, "exec"))
        else:
            moments.append((version.time, "change" if version.origin in SEEN else "snapshot"))
    heirs = parents_of(tree, node, NEVER)[1:]
    moments.extend((heir.since - tree.boot_time, "parent") for heir in heirs)
    if node.ended != NEVER:
        moments.append((node.ended, "exit"))
    entries: list[TimelineEntry] = []
    for time, kind in sorted(moments, key=lambda moment: moment[0]):
        info = info_at(tree, node, time)
        before = entries[-1].process if entries else None
        changed = () if before is None else _changed(before, info)
        entries.append(TimelineEntry(tree.boot_time + time, kind, info, changed))
    return entries


def _credentials(context: Context) -> tuple[Any, ...]:
    return tuple(getattr(context, name) for name in _CREDENTIALS)


def _changed(before: ProcessInfo, after: ProcessInfo) -> tuple[str, ...]:
    return tuple(
        name
        for name in PROCESS_FIELDS
        if name not in _UNTOLD and getattr(before, name) != getattr(after, name)
    )
