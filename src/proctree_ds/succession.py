"""What a process had one after the other, up to an instant: images, and parents."""

from __future__ import annotations

import msgspec

from proctree_ds.kinship import parent_at
from proctree_ds.model import FileInfo, Image
from proctree_ds.process import Process
from proctree_ds.tree import ProcessTree

__all__ = ["HEIRS_LIMIT", "HeldImage", "HeldParent", "images_of", "parents_of"]

HEIRS_LIMIT = 1_024
"""Parents told of one process; the rest of a longer line of heirs is left out, but the last."""


class HeldImage(msgspec.Struct, frozen=True, gc=False):
    """A program that a process ran from `since` to `until` (epoch ns; None: at that instant still).

    `made_branch`: it ran this one when it made the next process of the lineage. `is_gap`: several
    were run one after the other, which a limit dropped; all else is None then.
    """

    since: int
    until: int | None
    name: str | None = None
    execution_binary: FileInfo | None = None
    interpreter: FileInfo | None = None
    script: str | None = None
    cmd: tuple[str, ...] | None = None
    made_branch: bool = False
    is_gap: bool = False


class HeldParent(msgspec.Struct, frozen=True, gc=False):
    """Who was the parent from `since` to `until` (epoch ns; None: at that instant still).

    The first one is the original parent, each later one took over when the one before had died.
    """

    since: int
    until: int | None
    pid: int | None
    entity_id: int | None


def images_of(
    tree: ProcessTree, node: Process, until: int, branch: int | None = None
) -> list[HeldImage]:
    """The images of a process up to `until`, the one that it was born with first.

    `branch` is when it made the child of which it is an ancestor. O(versions).
    """
    begun: list[tuple[int, str | None, Image | None]] = [
        (node.start, node.base.comm, node.base.image)
    ]
    for version in node.log:
        if version.time <= until and version.state.image != begun[-1][2]:
            begun.append((version.time, version.state.comm, version.state.image))
    begun.extend(
        (gap.since, None, None)
        for gap in node.rare.gaps or ()
        if gap.hides_image and gap.since <= until
    )
    begun.sort(key=lambda image: image[0])
    boot_time = tree.boot_time
    held = []
    for index, (since, name, image) in enumerate(begun):
        end = begun[index + 1][0] if index + 1 < len(begun) else None
        if image is None:
            held.append(HeldImage(boot_time + since, _epoch(boot_time, end), is_gap=True))
            continue
        held.append(
            HeldImage(
                boot_time + since,
                _epoch(boot_time, end),
                name,
                image.executable,
                image.interpreter,
                image.script,
                image.argv,
                branch is not None and since <= branch and (end is None or branch < end),
            )
        )
    return held


def parents_of(tree: ProcessTree, node: Process, until: int) -> list[HeldParent]:
    """The parents of a process up to `until`, the original one first. O(heirs)."""
    begun: list[tuple[int, Process | None]] = [(node.start, node.parent)]
    changes = {since for since, _ in node.rare.parents or ()}
    passed: set[int] = set()
    """Instants at which nobody took over: a namespace's init keeps its children beyond its end."""
    last = min(until, node.ended - 1)
    while True:
        time, parent = begun[-1]
        ends = {change for change in changes if change > time}
        if parent is not None and parent.ended > time:
            ends.add(parent.ended)
        ends -= passed
        if not ends or (then := min(ends)) > last:
            break
        heir = parent_at(tree.census, node, then)
        if heir is parent:
            passed.add(then)
            continue
        if len(begun) == HEIRS_LIMIT:
            begun.pop()
        begun.append((then, heir))
    boot_time = tree.boot_time
    return [
        HeldParent(
            boot_time + since,
            boot_time + begun[index + 1][0] if index + 1 < len(begun) else None,
            None if parent is None else parent.tid,
            None if parent is None else parent.entity_id,
        )
        for index, (since, parent) in enumerate(begun)
    ]


def _epoch(boot_time: int, time: int | None) -> int | None:
    return None if time is None else boot_time + time
