"""What of an answer may be wrong because something was lost, field by field.

A hole in the history leaves a value in doubt until something states it anew, and a list of
relatives until a complete picture has been taken. What a task was born with it has with its
maker's doubts. The time before the capture began is a hole as well, and of a process whose fork
was not seen nothing is known but what was stated of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from proctree_ds.census import Census
from proctree_ds.changelog import Version
from proctree_ds.kinship import ANCESTORS_LIMIT, named_process, parent_at
from proctree_ds.model import CONTEXT_FIELDS, IMAGE_FIELDS, Fork, State
from proctree_ds.process import Process, Thread, is_seen

__all__ = ["Hole", "doubtful_attributes", "doubtful_relatives"]


class Hole(NamedTuple):
    """Events from `since` to `until` may be missing; who lived at `healed` is known again."""

    since: int
    until: int
    healed: int


_ATTRIBUTES: Final = frozenset({"comm", "cwd", "root", *IMAGE_FIELDS, *CONTEXT_FIELDS}) - {
    "argv_truncated", "env_truncated", "cgroup_id"
}  # fmt: skip
_OF_A_THREAD: Final = frozenset({"comm", "uid", "gid"})
_OF_ALL_THREADS: Final = IMAGE_FIELDS | {
    "cwd", "root", "session_id", "process_group", "tty", "cgroup", "container_id"
}  # fmt: skip
"""What a thread has of its process, and hands on as that has it."""

_NAMES: Final = {"comm": "name", "executable": "execution_binary", "argv": "cmd"}
"""What answers call differently."""


# ---------------------------------------------------------------------------------- attributes


def doubtful_attributes(node: Process | Thread, time: int, holes: list[Hole]) -> list[str]:
    """The attributes that may have been others as of `time`. O(versions, and depth at worst)."""
    lost_until = max((hole.until for hole in holes if hole.since <= time), default=-1)
    names = _unstated(node, time, lost_until)
    if not names:
        return []
    state = node.state_at(time)
    return sorted(_NAMES.get(name, name) for name in names if _value(state, name) is not None)


def _unstated(node: Process | Thread, time: int, lost_until: int) -> set[str]:
    """The attributes of which nothing was stated after `lost_until` and up to `time`."""
    unstated: set[str] = set()
    names = set(_ATTRIBUTES if isinstance(node, Process) else _OF_A_THREAD)
    todo = [(node, time, names)]
    for _ in range(ANCESTORS_LIMIT):
        if not todo:
            break
        node, time, names = todo.pop()
        for version in node.log:
            if lost_until < version.time <= time:
                names = names - _stated_by(version)
        if not names:
            continue
        if node.fork is None or node.start <= lost_until:
            unstated |= names
        else:
            todo += _inherited(node, names - _stated_at_birth(node.fork))
    return unstated


def _inherited(
    node: Process | Thread, names: set[str]
) -> list[tuple[Process | Thread, int, set[str]]]:
    """From whom `node` has these attributes, and as of when."""
    creator = node.rare.creator
    if isinstance(node, Thread):
        return [(creator or node.process, node.start, names)]
    makers: list[tuple[Process | Thread, int, set[str]]] = []
    if creator is not None:
        makers.append((creator, node.start, names - _OF_ALL_THREADS))
        names = names & _OF_ALL_THREADS
    process = node.rare.copied_from or node.parent
    if process is not None:
        makers.append((process, node.start, names))
    return makers


def _stated_by(version: Version) -> frozenset[str] | set[str]:
    facts = version.facts
    if isinstance(facts, State):
        return _ATTRIBUTES
    return _fields_of(set(facts))


def _stated_at_birth(fork: Fork) -> set[str]:
    stated = set(fork.given or ())
    if fork.comm is not None:
        stated.add("comm")
    if fork.context is not None:
        stated.add("context")
    return _fields_of(stated)


def _fields_of(stated: set[str]) -> set[str]:
    if "image" in stated:
        stated |= IMAGE_FIELDS
    if "context" in stated:
        stated |= CONTEXT_FIELDS
    return stated


def _value(state: State, name: str) -> object:
    if name in IMAGE_FIELDS:
        return getattr(state.image, name)
    return getattr(state.context if name in CONTEXT_FIELDS else state, name)


# ----------------------------------------------------------------------------------- relatives


def doubtful_relatives(
    census: Census,
    node: Process,
    time: int,
    holes: list[Hole],
    complete_since: Callable[[int], int],
) -> list[str]:
    """Which of the relatives as of `time` may have been others.

    `complete_since` tells when the first picture ended that had begun by some instant. O(versions,
    holes, processes that left children without naming an heir, and those killed unseen).
    """
    doubts: list[str] = []
    before = [hole for hole in holes if hole.since <= time]
    lost_until = max((hole.until for hole in before if time < hole.healed), default=-1)
    if node.ended > time:
        if (
            lost_until >= node.start
            or _may_have_inherited(census, node, time, before)
            or any(time < complete_since(end) for end in _ends_of_killed(census, node, time))
        ):
            doubts.append("child_process_ids")
        alone_since = max(node.start, node.last_exec_at(time))
        if lost_until >= alone_since or _leader_may_be_back(node, time, before):
            doubts.append("thread_ids")
        if _may_have_ended_with_leader(node, time, before):
            doubts.append("exit_time")
    if _parent_is_doubtful(census, node, min(time, node.ended - 1), before):
        doubts.append("parent_entity_id")
    flags = [since for since, _ in node.rare.subreaper or () if since <= time]
    known = flags[-1] if flags else node.start
    if any(hole.until >= known for hole in before):
        doubts.append("is_subreaper")
    return doubts


def _leader_may_be_back(node: Process, time: int, before: list[Hole]) -> bool:
    """Whether another thread may have executed since the leader ended: no picture tells that."""
    ended = node.leader_end_at(time)
    return ended is not None and any(hole.until >= ended for hole in before)


def _may_have_ended_with_leader(node: Process, time: int, before: list[Hole]) -> bool:
    """Whether it lives only because of threads whose exits may have been lost."""
    ends = [x for x in node.rare.leader_exits or () if x.time <= time and x.group_exit is None]
    return bool(ends) and any(time < hole.healed and hole.until >= node.start for hole in before)


def _may_have_inherited(census: Census, node: Process, time: int, before: list[Hole]) -> bool:
    """Whether somebody ended, none knows for whom or when, who may have left it children."""
    return any(
        dead is not None
        and dead.ended <= time
        and node.start < dead.start
        and (dead.children or dead.task in census.adopted)
        and _is_guess(census, dead, before)
        for dead in (census.processes.get(i) or census.shadows.get(i) for i in census.intestate)
    )


def _ends_of_killed(census: Census, node: Process, time: int) -> Iterator[int]:
    """When children ended that are known to have been killed, but not exactly when."""
    for dead in map(census.processes.get, census.zapped):
        if dead is not None and dead.ended <= time:
            if parent_at(census, dead, dead.ended - 1) is node:
                yield dead.ended


def _is_guess(census: Census, dead: Process, before: list[Hole]) -> bool:
    """Whether another one than is thought may be its heir, or not yet."""
    if not is_seen(dead.exit):
        return True
    reaper = dead.exit.reaper
    if reaper is not None and named_process(census, reaper, dead.ended) not in (None, dead):
        return False
    return (
        census.evicted_living > 0
        or census.returned > 0
        or any(hole.healed > dead.ended for hole in before)
    )


def _parent_is_doubtful(census: Census, node: Process, time: int, before: list[Hole]) -> bool:
    """Whether the parent as of `time` may have died unseen, or have been inherited unseen."""
    parent, known, is_sure = node.parent, node.start, node.fork is not None
    for since, named in node.rare.parents or ():
        if since > time:
            break
        if named is None:
            return True
        parent, known, is_sure = named_process(census, named, since), since, True
    for _ in range(ANCESTORS_LIMIT):
        if parent is None or parent.ended > time:
            break
        reaper = parent.exit.reaper if is_seen(parent.exit) else None
        heir = None if reaper is None else named_process(census, reaper, parent.ended)
        if heir is None or heir is parent:
            return _is_guess(census, parent, before)
        parent, known = heir, parent.ended
    if parent is None or not before:
        return False
    if not is_sure:
        return True
    if is_seen(parent.exit):
        return False
    if _may_have_ended_with_leader(parent, time, before):
        return True
    known = max(known, parent.last_sign_of_life)
    return known < time and any(hole.until >= known for hole in before)
