"""How sure an answer is, and why it is not surer.

Nothing here changes an answer. What is told is what is known by now: that an exit was only
concluded may be said of an instant before it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from proctree_ds.census import Census
from proctree_ds.changelog import Version
from proctree_ds.doubts import doubtful_attributes, doubtful_relatives
from proctree_ds.model import CONTEXT_FIELDS, NEVER, Origin, State
from proctree_ds.process import Process, Thread
from proctree_ds.tree import ProcessTree

__all__ = ["Certainty", "LossWindow", "certainty_of"]

_THREAD_FIELDS = frozenset({"uid", "gid"})
"""What the answer about a thread has of all that a source may not follow."""

_CHILDREN_LIMIT: Final = 1_024
"""Among so many children somebody is looked for who was made at an instant."""


class LossWindow(msgspec.Struct, frozen=True):
    """Between `since` and `until` (epoch ns) `lost` events never arrived (None: who knows)."""

    since: int
    until: int
    lost: int | None


class Certainty(msgspec.Struct, frozen=True):
    """How sure an answer is.

    `source` says where its attributes come from. `inferred` names the fields that were concluded
    and not observed, `dropped` those whose value then was lost to a limit (they are None),
    `unfollowed` those that may have changed since the last event of the task, because the source
    tells such changes only with the next one. An exit that was not seen lies in `exit_between`
    (epoch ns): the last sign of life, and when the task was surely gone. `loss_windows` are those
    in which something may have happened that the answer should show.
    """

    source: Origin
    inferred: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    exit_between: tuple[int, int] | None = None
    loss_windows: tuple[LossWindow, ...] = ()

    @property
    def is_certain(self) -> bool:
        """Whether every field was observed, is up to date, and no loss can have changed any."""
        return not (
            self.inferred
            or self.dropped
            or self.unfollowed
            or self.loss_windows
            or self.source == "inferred"
        )


def certainty_of(
    tree: ProcessTree, node: Process | Thread, time: int, dropped: tuple[str, ...]
) -> Certainty:
    """The certainty of the answer about `node` as of `time` (boot clock). O(log versions + losses).

    `dropped` names the fields that the answer lacks because of a limit.
    """
    if time <= node.rare.threads_horizon:
        dropped = (*dropped, "thread_ids")
    census = tree.census
    if isinstance(node, Process) and census.evicted_processes and time < node.ended:
        if time < census.horizon or census.evicted_living or census.returned:
            dropped = (*dropped, "child_process_ids")
    end = node.ended if isinstance(node, Process) else node.end
    version = node.version_at(min(time, end))
    source: Origin
    if version is not None:
        source = version.origin
    else:
        source = "event" if node.fork is not None else "inferred"
    inferred = []
    holes = tree.holes
    if node.fork is None and source == "inferred":
        inferred.append("attributes")
    elif node.fork is None or holes:
        inferred += doubtful_attributes(node, min(time, end), holes)
    if isinstance(node, Process):
        inferred += doubtful_relatives(census, node, time, holes, tree.complete_since)
    if node.rare.horizon >= 0:
        inferred.append("thread_ids")  # what became of them while it was out of memory is not known
    if node.rare.approximate:
        inferred.append("start_time")
    if isinstance(node, Process) and node.fork is None and node.parent is not None:
        inferred.append("original_parent_entity_id")
    exit_between = None
    if end != NEVER and not node.end_is_seen:
        alive = min(node.last_sign_of_life, end)
        if time > alive:
            inferred.append("exit_time" if time >= end else "is_alive")
            exit_between = tree.boot_time + alive, tree.boot_time + end
    return Certainty(
        source,
        tuple(inferred),
        dropped,
        _unfollowed(tree, node, version, time) if time < end else (),
        exit_between,
        _loss_windows(tree, node, version, min(time, end)),
    )


def _unfollowed(
    tree: ProcessTree, node: Process | Thread, version: Version | None, time: int
) -> tuple[str, ...]:
    """Fields that may have changed, and perhaps back again, since they were told last."""
    names = tree.unfollowed
    if node.rare.approximate:  # whoever knows no more of its start looks at it for little
        stated = _stated_at(version, time)
        names = tuple(name for name in names if name not in stated)
    elif not names or _is_looked_at(tree.census, node, version, time):
        return ()
    return names if isinstance(node, Process) else tuple(n for n in names if n in _THREAD_FIELDS)


def _stated_at(version: Version | None, time: int) -> frozenset[str]:
    """The context fields, and the directories, that `version` stated, if it is of `time`."""
    if version is None or version.time != time:
        return frozenset()
    facts = version.facts
    if isinstance(facts, State):
        return CONTEXT_FIELDS | {"cwd", "root"}
    return frozenset(facts) | (CONTEXT_FIELDS if "context" in facts else frozenset())


def _is_looked_at(
    census: Census, node: Process | Thread, version: Version | None, time: int
) -> bool:
    """Whether an event of `node` at `time` told what it was: also one in which it made a task.

    Of too many children only the last is looked at.
    """
    if (version is not None and version.time == time) or _is_being_made(node, time):
        return True
    process = node if isinstance(node, Process) else node.process
    creator = None if isinstance(node, Process) else node
    if len(process.children or ()) > _CHILDREN_LIMIT:
        return node.last_branch == time
    children = map(census.processes.get, process.children or ())
    threads = map(census.threads.get, process.threads or ())
    return any(
        made is not None
        and made.rare.creator is creator
        and _is_being_made(made, time)
        and (isinstance(made, Thread) or (made.rare.copied_from or made.parent) is process)
        for made in (*children, *threads)
    )


def _is_being_made(node: Process | Thread, time: int) -> bool:
    """Whether `time` is from the start of `node` to when its fork was told of."""
    return node.start <= time <= (node.start if node.fork is None else node.fork.time)


def _loss_windows(
    tree: ProcessTree, node: Process | Thread, version: Version | None, until: int
) -> tuple[LossWindow, ...]:
    """The windows in which something lost may have changed a task after it was last known."""
    last_known = max(node.start, version.time if version is not None else -1)
    boot_time = tree.boot_time
    process = node if isinstance(node, Process) else node.process
    return tuple(
        LossWindow(boot_time + loss.since, boot_time + loss.time, loss.lost)
        for loss in (*tree.losses, *(process.rare.untold or ()))
        if loss.since <= until and loss.time >= last_known
    )
