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
from proctree_ds.changelog import (
    VERSIONS_LIMIT,
    Gap,
    Version,
    before,
    groups_of,
    insert,
    is_crowded,
    rebuild,
    thin,
    value_of,
    weigh,
)
from proctree_ds.model import (
    IMAGE_FIELDS,
    SEEN,
    UNKNOWN_STATE,
    Context,
    Given,
    Image,
    Origin,
    State,
    merge,
)
from proctree_ds.process import Process, Thread

__all__ = [
    "HISTORY_BYTES_LIMIT",
    "SPREAD_AT_ONCE",
    "Inheritance",
    "image_shown",
    "note_ties",
    "overlay",
]

HISTORY_BYTES_LIMIT: Final = 64 << 20
"""Bytes, roughly, of all changelogs together, those of a single version left out."""

SPREAD_AT_ONCE: Final = 256
"""A task with more children and threads hands late changes on when all of a batch are known."""


_SHARED: Final = (
    "session_id", "process_group", "tty", "cgroup", "cgroup_id", "container_id"
)  # fmt: skip
"""Attributes that all threads of a process have in common (signal_struct, cgroup v2)."""


class Inheritance:
    """Puts versions in their place and hands on what follows from them."""

    def __init__(self, census: Census, faults: Counter[str]) -> None:
        self._census = census
        self._faults = faults
        self._thin_all_at = HISTORY_BYTES_LIMIT
        self.put_off: dict[int, tuple[Process | Thread, int]] = {}
        """Who has changed, and since when, and has not handed it on to its many children yet."""
        self.dropped_versions = 0
        self.on_namespaces: Callable[[Process], object] = lambda node: None
        """Called with a process for which other namespaces are known than before."""

    def record(
        self, node: Process | Thread, time: int, facts: State | Given, origin: Origin
    ) -> bool:
        """Put a version in its place and work out what follows. False if it was known."""
        if node.rare.gaps and not self._is_news(node.rare.gaps, time, facts):
            return False
        versions = node.log
        old_base = node.base
        index = insert(versions, time, facts, origin)
        if index is None:
            return False
        if index == 0:
            base = _base_of(node, versions)
            if base is not node.base:
                node.base = base
                time = -1
        rebuild(versions, node.base, index + 1 if index else 0)
        node.latest = versions[-1]
        if len(versions) > 1:
            node.versions = versions
        if isinstance(node, Process) and _namespaces_change(old_base, node.base, versions, index):
            self.on_namespaces(node)
        if len(versions) > 1:
            self.grew(node, index)
        self._hand_on(node, time)
        return True

    def grew(self, node: Process | Thread, index: int) -> None:
        """A changelog of more than one version has a new one at `index`: keep all in bounds."""
        versions = node.versions
        assert versions is not None
        if index and index == len(versions) - 1 and node.history_bytes:
            self._note_bytes(
                node, node.history_bytes + weigh(versions[-2].state, versions[-1].state)
            )
        else:
            self._note_bytes(node, _weight(node.base, versions))
        if is_crowded(versions):
            self._thin(node, VERSIONS_LIMIT)
        if self._census.history_bytes > self._thin_all_at:
            self._thin_all()

    def reinherit(self, node: Process | Thread) -> None:
        """Work out anew what `node` was born with, and what follows for those it made."""
        if self._refresh(node):
            self._hand_on(node, 0)

    def catch_up(self) -> None:
        """Hand on what has been put off: once, however many changes there were."""
        put_off = list(self.put_off.values())
        self.put_off.clear()
        self._spread(put_off)

    def check(self) -> None:
        """Raise AssertionError if working out anew what anybody inherited would change it."""
        census = self._census
        nodes: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
        for node in nodes:
            assert not self._refresh(node), f"{node.task} was born of something else"

    def _is_news(self, gaps: list[Gap], time: int, facts: State | Given) -> bool:
        """Whether anything of `facts` is of a kind whose history at `time` is still there."""
        lost = {gap.group for gap in gaps if gap.since <= time < gap.until}
        if not lost:
            return True
        stated = groups_of(facts)
        if not lost.isdisjoint(stated):
            self._faults["beyond_horizon"] += 1
        return not stated <= lost

    def _thin(self, node: Process | Thread, limit: int) -> None:
        assert node.versions is not None
        gaps = node.rare.gaps or []
        self.dropped_versions += thin(node.versions, node.base, gaps, limit)
        if gaps:
            node.extra.gaps = gaps
        node.latest = node.versions[-1]
        self._note_bytes(node, _weight(node.base, node.versions))

    def _thin_all(self) -> None:
        """All changelogs together are too large: the longest are cut, and then the next longest.

        Half of memory is looked through each time, so what is left must grow by a quarter first.
        """
        census = self._census
        limit = VERSIONS_LIMIT // 2
        while limit > 1 and census.history_bytes > HISTORY_BYTES_LIMIT // 2:
            nodes: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
            for node in nodes:
                if node.versions is not None and len(node.versions) > limit:
                    self._thin(node, limit)
            limit //= 2
        self._thin_all_at = max(HISTORY_BYTES_LIMIT, census.history_bytes * 5 // 4)

    def _note_bytes(self, node: Process | Thread, size: int) -> None:
        self._census.history_bytes += size - node.history_bytes
        node.history_bytes = size

    def _hand_on(self, node: Process | Thread, since: int) -> None:
        """Hand a change at `since` on to what was made later, at once or when `catch_up` comes."""
        if node.last_branch < since:
            return
        process = node if isinstance(node, Process) else node.process
        if len(process.children or ()) + len(process.threads or ()) <= SPREAD_AT_ONCE:
            self._spread([(node, since)])
        else:
            _, known = self.put_off.get(node.entity_id, (node, since))
            self.put_off[node.entity_id] = node, min(since, known)

    def _spread(self, todo: list[tuple[Process | Thread, int]]) -> None:
        """Hand changes on to everything made later. O(what changes)."""
        while todo:
            origin, since = todo.pop()
            todo.extend(
                (branch, 0) for branch in self._branches(origin, since) if self._refresh(branch)
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
            if origin is not None and _may_inherit(node, origin):
                born_of = _state_before(origin, node.start, node.rare.ties, node.born_of)
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


def _may_inherit(node: Process, origin: Process) -> bool:
    """Whether the versions that `origin` had when it made `node` are there, but for gaps.

    Who came back to memory has fewer, and what a child has inherited from it before it keeps.
    """
    horizon = origin.rare.horizon
    if origin.evicted or node.start <= horizon:
        return False
    if horizon < 0:
        return True
    return node.born_of is UNKNOWN_STATE and origin.version_at(node.start) is not None


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
    if fork is None and versions and versions[0].origin not in SEEN:
        # It was there before the capture: the first values that are known stand for earlier ones.
        facts = versions[0].facts
        return facts if isinstance(facts, State) else merge(UNKNOWN_STATE, facts)
    if node.rare.horizon >= 0 or node.rare.creator_unknown:
        base = UNKNOWN_STATE  # a guess could be wrong
    elif isinstance(node, Process):
        base = node.born_of
    else:
        ties = 0 if node.rare.creator else node.rare.ties
        base = _state_before(node.process, node.start, ties, node.base)
    if node.rare.creator is not None:
        creator = _state_before(node.rare.creator, node.start, node.rare.ties, node.base)
        context = _shared_by_threads(base.context, creator.context)
        base = State(creator.comm, base.image, base.cwd, base.root, context)
    if fork is not None:
        base = overlay(base, fork.comm, fork.context)
        if fork.given:
            base = merge(base, fork.given)
    return base


def _state_before(origin: Process | Thread, start: int, ties: int, known: State) -> State:
    """What `origin` was when it made something at `start`, that saw `ties` equal-time versions.

    What a gap hides is as it was `known` to be.
    """
    versions = origin.log
    index = before(versions, start, ties)
    state = versions[index - 1].state if index else origin.base
    hidden = [gap.names for gap in origin.rare.gaps or () if gap.since <= start <= gap.until]
    if hidden:
        state = merge(state, {name: value_of(known, name) for name in frozenset().union(*hidden)})
    return state


def _weight(base: State, versions: list[Version]) -> int:
    size = 0
    for version in versions:
        size += weigh(base, version.state)
        base = version.state
    return size


def _shared_by_threads(process: Context, own: Context) -> Context:
    """A thread's own context, with what it shares with its process as that has it."""
    if own is process:
        return own
    shared = {name: getattr(process, name) for name in _SHARED}
    return msgspec.structs.replace(own, **shared)


def image_shown(node: Process, time: int, given: Given) -> Given:
    """What a picture says of an image whose exec was seen: nothing new if it is the same file.

    Then the exec knew better: a picture knows no script, and reads arguments that the program
    may have overwritten. If it runs another file, it has executed it unseen.
    """
    file, shown = node.state_at(time).image.executable, given["executable"]
    if file is None or shown is None or node.last_exec_at(time) < 0:
        return given
    if file.inode is None or shown.inode is None:
        return given
    rest = {name: value for name, value in given.items() if name not in IMAGE_FIELDS}
    if (file.device, file.inode) == (shown.device, shown.inode):
        return rest
    image = {name: value for name, value in given.items() if name in IMAGE_FIELDS}
    return {**rest, "image": Image(**image)}


def note_ties(node: Process | Thread, origin: Process | Thread) -> None:
    ties = sum(version.time == node.start for version in origin.log)
    if ties != node.rare.ties:
        node.extra.ties = ties
