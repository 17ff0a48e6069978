"""How sure an answer is, and why it is not surer.

Nothing here changes an answer. What is told is what is known by now: that an exit was only
concluded may be said of an instant before it.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Any

import msgspec

from proctree_ds.changelog import Version
from proctree_ds.doubts import doubtful_attributes, doubtful_relatives
from proctree_ds.model import CONTEXT_FIELDS, NEVER, Origin
from proctree_ds.process import Process, Thread
from proctree_ds.tree import ProcessTree

__all__ = ["Certainty", "LossWindow", "certainty_of"]

_THREAD_FIELDS = frozenset({"uid", "gid"})
"""What the answer about a thread has of all that a source may not follow."""

_SET_BY_EXEC = frozenset({"capabilities", "egid", "euid", "sgid", "suid"})
"""What an exec gives by itself (begin_new_exec, fs/exec.c), and so does not confirm."""

_time_of = attrgetter("time")


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
    version = node.version_at(time)
    source: Origin
    if version is not None:
        source = version.origin
    else:
        source = "event" if node.fork is not None else "inferred"
    end = node.ended if isinstance(node, Process) else node.end
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
    """Fields that may have changed since they were told last, as of `time`.

    The next event of the task tells them anew: what it leaves as it was had not changed.
    """
    names = tree.unfollowed
    if not names or time == (node.start if version is None else version.time):
        return ()
    if isinstance(node, Thread):
        names = tuple(name for name in names if name in _THREAD_FIELDS)
    if node.rare.approximate:
        return names  # a source that knows no more of the start looks at nobody but for execs
    log = node.log
    after = bisect_right(log, time, key=_time_of)
    if after < len(log):
        then = log[after].time
        own = _SET_BY_EXEC if log[after].is_exec else frozenset()
        return tuple(
            name
            for name in names
            if name in own or _value(node, name, time) != _value(node, name, then)
        )
    is_confirmed = node.last_branch >= time or node.exit is not None
    return () if is_confirmed else names


def _value(node: Process | Thread, name: str, time: int) -> Any:
    if name == "is_subreaper":
        return isinstance(node, Process) and node.is_subreaper_at(time)
    state = node.state_at(time)
    return getattr(state.context if name in CONTEXT_FIELDS else state, name)


def _loss_windows(
    tree: ProcessTree, node: Process | Thread, version: Version | None, until: int
) -> tuple[LossWindow, ...]:
    """The windows in which something lost may have changed a task after it was last known."""
    last_known = max(node.start, version.time if version is not None else -1)
    boot_time = tree.boot_time
    return tuple(
        LossWindow(boot_time + loss.since, boot_time + loss.time, loss.lost)
        for loss in (*tree.losses, *(node.rare.untold or ()))
        if loss.since <= until and loss.time >= last_known
    )
