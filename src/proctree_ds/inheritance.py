"""Versions, and what children inherit from them: only this file changes a task's states.

A child holds the state that its origin had at the fork. When an earlier version of the origin
arrives late, everything that was made after it is worked out anew, down through the generations,
as far as anything really changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from proctree_ds.census import Census
from proctree_ds.changelog import VERSIONS_LIMIT, Version, before, insert, rebuild, thin
from proctree_ds.model import UNKNOWN_STATE, Context, Given, Origin, State, merge
from proctree_ds.process import Process, Thread

__all__ = ["Inheritance", "note_ties", "overlay"]


_SHARED: Final = (
    "session_id", "process_group", "tty", "cgroup", "cgroup_id", "container_id"
)  # fmt: skip
"""Attributes that all threads of a process have in common (signal_struct, cgroup v2)."""


class Inheritance:
    """Puts versions in their place and hands on what follows from them."""

    def __init__(self, census: Census, faults: Counter[str]) -> None:
        self._census = census
        self._faults = faults
        self.dropped_versions = 0
        self.on_namespaces: Callable[[Process], object] = lambda node: None
        """Called with a process for which other namespaces are known than before."""

    def record(
        self, node: Process | Thread, time: int, facts: State | Given, origin: Origin
    ) -> bool:
        """Put a version in its place and work out what follows. False if it was known."""
        for gap in node.rare.gaps or ():
            if gap.since <= time < gap.until:
                self._faults["beyond_horizon"] += 1
                return False
        versions = node.log
        old_base = node.base
        index = insert(versions, Version(time, facts, UNKNOWN_STATE, origin))
        if index is None:
            return False
        node.latest = versions[-1]
        if index == 0:
            base = _base_of(node, versions)
            if base is not node.base:
                node.base = base
                time = -1
        rebuild(versions, node.base, index)
        node.latest = versions[-1]
        node.versions = versions if len(versions) > 1 else None
        if isinstance(node, Process) and _namespaces_change(old_base, node.base, versions, index):
            self.on_namespaces(node)
        self._spread(node, time)
        if len(versions) > VERSIONS_LIMIT:
            self.thin(node)
        return True

    def reinherit(self, node: Process | Thread) -> None:
        """Work out anew what `node` was born with, and what follows for those it made."""
        if self._refresh(node):
            self._spread(node, -1)

    def check(self) -> None:
        """Raise AssertionError if working out anew what anybody inherited would change it."""
        census = self._census
        nodes: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
        for node in nodes:
            assert not self._refresh(node), f"{node.task} was born of something else"

    def thin(self, node: Process | Thread) -> None:
        gaps = node.extra.gaps = node.rare.gaps or []
        assert node.versions is not None
        self.dropped_versions += thin(node.versions, gaps)

    def _spread(self, node: Process | Thread, since: int) -> None:
        """Hand a change at `since` on to everything made later. O(what changes)."""
        todo: list[tuple[Process | Thread, int]] = [(node, since)]
        while todo:
            origin, since = todo.pop()
            todo.extend(
                (branch, -1) for branch in self._branches(origin, since) if self._refresh(branch)
            )

    def _branches(self, origin: Process | Thread, since: int) -> Iterator[Process | Thread]:
        if origin.last_branch < since:
            return
        if isinstance(origin, Process):
            process, creator = origin, None
        else:
            process, creator = origin.process, origin
        for child_id in process.children or ():
            child = self._census.processes.get(child_id)
            if child is not None and child.start >= since:
                if creator is None or child.rare.creator is creator:
                    yield child
        for thread_id in process.threads or ():
            thread = self._census.threads[thread_id]
            if thread.start >= since and thread is not origin:
                if creator is None or thread.rare.creator is creator:
                    yield thread

    def _refresh(self, node: Process | Thread) -> bool:
        """Recompute the state at birth and every version after it. True if anything changed."""
        changed = False
        if isinstance(node, Process):
            origin = node.rare.copied_from or node.parent
            if origin is not None and _is_known_at(origin, node.start):
                born_of = _state_before(origin, node.start, node.rare.ties)
                changed = born_of is not node.born_of and born_of != node.born_of
                node.born_of = born_of
        versions = node.log
        base = _base_of(node, versions)
        old_base = node.base
        if base is not old_base and base != old_base:
            changed = True
            node.base = base
            if versions:
                rebuild(versions, base, 0)
                node.latest = versions[-1]
        if isinstance(node, Process) and changed:
            if node.ns_pid == 1 or _namespaces_change(old_base, node.base, versions, 0):
                self.on_namespaces(node)
        return changed


def _namespaces_change(old_base: State, base: State, versions: list[Version], index: int) -> bool:
    """Whether a state from `versions[index]` on, or else `base`, is in other namespaces."""
    before = (versions[index - 1].state if index else old_base).context.namespaces
    states = [version.state for version in versions[index:]]
    if not index:
        states.append(base)
    return any(
        state.context.namespaces is not before and state.context.namespaces != before
        for state in states
    )


def _is_known_at(origin: Process, time: int) -> bool:
    """Whether the versions that `origin` had at `time` are still there."""
    if origin.evicted or time <= origin.rare.horizon:
        return False
    return not any(gap.since <= time < gap.until for gap in origin.rare.gaps or ())


def overlay(base: State, comm: str | None, context: Context | None) -> State:
    """`base` with the child's own comm and context, or `base` itself where they are its own."""
    if context is None or context == base.context:
        context = base.context
    if comm is None:
        comm = base.comm
    if context is base.context and comm == base.comm:
        return base
    return State(comm, base.image, base.cwd, base.root, context)


def _base_of(node: Process | Thread, versions: list[Version]) -> State:
    """What `node` was from its start until the first of `versions`."""
    fork = node.fork
    if fork is None and versions and versions[0].origin != "event":
        # It was there before the capture: the first values that are known stand for earlier ones.
        facts = versions[0].facts
        return facts if isinstance(facts, State) else merge(UNKNOWN_STATE, facts)
    if node.rare.horizon >= 0 or node.rare.creator_unknown:
        base = UNKNOWN_STATE  # a guess could be wrong
    elif isinstance(node, Process):
        base = node.born_of
    else:
        base = _state_before(node.process, node.start, 0 if node.rare.creator else node.rare.ties)
    if node.rare.creator is not None:
        creator = _state_before(node.rare.creator, node.start, node.rare.ties)
        context = _shared_by_threads(base.context, creator.context)
        base = State(creator.comm, base.image, base.cwd, base.root, context)
    if fork is not None:
        base = overlay(base, fork.comm, fork.context)
        if fork.given:
            base = merge(base, fork.given)
    return base


def _state_before(origin: Process | Thread, start: int, ties: int) -> State:
    """What `origin` was when it made something at `start`, that saw `ties` equal-time versions."""
    versions = origin.log
    index = before(versions, start, ties)
    return versions[index - 1].state if index else origin.base


def _shared_by_threads(process: Context, own: Context) -> Context:
    """A thread's own context, with what it shares with its process as that has it."""
    if own is process:
        return own
    shared = {name: getattr(process, name) for name in _SHARED}
    return msgspec.structs.replace(own, **shared)


def note_ties(node: Process | Thread, origin: Process | Thread) -> None:
    ties = sum(version.time == node.start for version in origin.log)
    if ties != node.rare.ties:
        node.extra.ties = ties
