"""Time-ordered versions of what a task is, and what held at an instant.

A version says which attributes a source stated at its time and what held from then on (`state`,
which has the stated values, too). Versions are half-open: one holds from its time to the next
one's. Equal times keep the order of arrival. Because every version knows what was stated, a late
one can be put in its place and the states after it worked out anew: any order of arrival ends in
the same changelog.

Bounded by kind of attribute: beyond `VERSIONS_LIMIT` changes of one kind (`GROUPS`) the older of
these are dropped, but never the first. A version goes when no kind wants it any more, so that a
flood of one kind costs versions of that kind only. What lay in between becomes a `Gap`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import msgspec

from proctree_ds.model import (
    CONTEXT_FIELDS,
    CREDENTIAL_FIELDS,
    IMAGE_FIELDS,
    STATE_FIELDS,
    UNKNOWN_STATE,
    Given,
    Origin,
    State,
    merge,
)

__all__ = [
    "GROUPS",
    "VERSIONS_LIMIT",
    "WHOLE",
    "Gap",
    "Statement",
    "Version",
    "before",
    "groups_of",
    "insert",
    "is_crowded",
    "rebuild",
    "thin",
    "value_of",
    "version_at",
    "weigh",
]

VERSIONS_LIMIT: Final = 64
"""Changes of one kind of attribute after which the older half of these is dropped."""

GROUPS: Final = (
    frozenset({"image", "comm"}),
    frozenset({"comm"}),
    frozenset({"cwd", "root"}),
    CREDENTIAL_FIELDS,
    CONTEXT_FIELDS - CREDENTIAL_FIELDS,
)
"""The kinds of attributes: `VERSIONS_LIMIT` holds for each of them.

The name that a new image brings goes with the image. Any other new name is of the kind after it.
"""

_GROUP_OF: Final = {name: index for index, group in enumerate(GROUPS) for name in group}
_GROUPS_OF: Final = {
    **{name: {group} for name, group in _GROUP_OF.items()},
    **{name: {_GROUP_OF["image"]} for name in IMAGE_FIELDS},
    "context": {_GROUP_OF[name] for name in CONTEXT_FIELDS},
}
"""For every attribute that can be stated, the kinds that it tells of."""

_RENAMES: Final = _GROUP_OF["comm"]
_NO_GROUP: Final = len(GROUPS)
"""Where versions go that change nothing: they confirm, and nothing is missing without them."""

_LOOKS_EVERY: Final = VERSIONS_LIMIT // 2
"""A changelog is looked through each time that it has grown by this many versions."""

_VERSION_BYTES: Final = 200
_TEXT_BYTES: Final = 57
"""A string without its characters, and the reference to it."""

_time = attrgetter("time")


class Statement(msgspec.Struct, frozen=True, gc=False):
    """Which attributes a version states (None: all of them), and who did. Shared by versions."""

    names: frozenset[str] | None
    origin: Origin


WHOLE: Final = Statement(None, "event")
"""An event that states everything, as the kernel does at an exec."""

_statement = lru_cache(maxsize=1_024)(Statement)


class Version(msgspec.Struct, frozen=True, gc=False):
    """What was stated at `time`, and the state that held from then on."""

    time: int
    statement: Statement
    state: State

    @property
    def origin(self) -> Origin:
        """Where what was stated comes from."""
        return self.statement.origin

    @property
    def facts(self) -> State | Given:
        """What was stated."""
        names = self.statement.names
        if names is None:
            return self.state
        return {name: value_of(self.state, name) for name in names}

    @property
    def is_exec(self) -> bool:
        """Whether this version is an exec: an image was stated that began at its own time."""
        if self.state.image.exec_time != self.time:
            return False
        names = self.statement.names
        return names is None or "image" in names or not IMAGE_FIELDS.isdisjoint(names)


class Gap(msgspec.Struct, frozen=True, gc=False):
    """From `since` to before `until`, changes of `names` were dropped: their values are unknown."""

    since: int
    until: int
    names: frozenset[str]
    group: int

    @property
    def hides_image(self) -> bool:
        """Whether it is not even known what was executed."""
        return "image" in self.names


def value_of(state: State, name: str) -> Any:
    """The value of an attribute, whichever part of the state it belongs to."""
    if name in STATE_FIELDS:
        return getattr(state, name)
    return getattr(state.image if name in IMAGE_FIELDS else state.context, name)


def version_at(latest: Version | None, versions: list[Version] | None, time: int) -> Version | None:
    """The version that holds at `time`, None before the first. O(log versions).

    `latest` is the last one; `versions` is all of them, None while there are fewer than two.
    """
    if latest is None or latest.time <= time:
        return latest
    if versions is None:
        return None
    index = bisect_right(versions, time, key=_time)
    return versions[index - 1] if index else None


def before(versions: list[Version], time: int, ties: int) -> int:
    """How many versions come before something that happened at `time`.

    `ties` of those with exactly that time had arrived before it; some may have been dropped since.
    """
    index = bisect_left(versions, time, key=_time)
    return min(index + ties, bisect_right(versions, time, key=_time)) if ties else index


def insert(versions: list[Version], time: int, facts: State | Given, origin: Origin) -> int | None:
    """Put what was stated in its place, after what has the same time; None if it is known.

    The state of the new version is right if those before it are; those after it are not yet.
    """
    names = None if isinstance(facts, State) else frozenset(facts)
    statement = _statement(names, origin)
    at = bisect_right(versions, time, key=_time)
    index = at
    while index and versions[index - 1].time == time:
        index -= 1
        known = versions[index]
        if known.statement == statement and _with(known.state, facts) == known.state:
            return None
    state = _with(versions[at - 1].state if at else UNKNOWN_STATE, facts)
    versions.insert(at, Version(time, statement, state))
    return at


def _with(state: State, facts: State | Given) -> State:
    return facts if isinstance(facts, State) else merge(state, facts)


def rebuild(versions: list[Version], base: State, start: int) -> None:
    """Work out the states from index `start` on anew, on top of `base` or the version before."""
    state = versions[start - 1].state if start else base
    for i in range(start, len(versions)):
        version = versions[i]
        state = _with(state, version.facts)
        if state is not version.state:
            if state == version.state:
                state = version.state
            else:
                versions[i] = Version(version.time, version.statement, state)


def groups_of(facts: State | Given) -> set[int]:
    """The kinds of attributes that are stated."""
    names = STATE_FIELDS if isinstance(facts, State) else facts
    return set().union(*(_GROUPS_OF[name] for name in names))


def is_crowded(versions: list[Version]) -> bool:
    """Whether it is time to `thin` a changelog that has just grown by one."""
    count = len(versions)
    return count > VERSIONS_LIMIT and count % _LOOKS_EVERY == 0


def thin(versions: list[Version], base: State, gaps: list[Gap], limit: int) -> int:
    """Drop old changes of every kind that has more than `limit`. Returns how many versions went.

    The first change of a kind stays, so that what a task was at first is always known, and the
    last `limit // 2`. Those who go hand what they stated to the next that stays, so that it holds
    on even if an earlier version comes late. O(versions).
    """
    changes: list[set[str]] = []
    kinds: list[list[int]] = [[] for _ in (*GROUPS, _NO_GROUP)]
    wanted = [0] * len(versions)
    state, earlier = base, -1
    for index, version in enumerate(versions):
        time = version.time
        changed = _changes(state, version.state)
        changes.append(changed)
        groups = {_GROUP_OF[name] for name in changed}
        if "image" in changed:
            groups.discard(_RENAMES)
        groups.difference_update(gap.group for gap in gaps if gap.since <= time < gap.until)
        groups.update(gap.group for gap in gaps if earlier < gap.until <= time)  # known again
        state, earlier = version.state, time
        for group in groups or (_NO_GROUP,):
            kinds[group].append(index)
            wanted[index] += 1
    for group, kind in enumerate(kinds):
        if len(kind) <= limit:
            continue
        victims = kind[1 : -(limit // 2)]
        for index in victims:
            wanted[index] -= 1
        if group != _NO_GROUP:
            names = frozenset().union(*(changes[index] for index in victims)) & GROUPS[group]
            until = versions[kind[-(limit // 2)]].time
            _widen(gaps, Gap(versions[victims[0]].time, until, names, group))
    count = len(versions)
    versions[:] = _survivors(versions, wanted)
    return count - len(versions)


def _changes(before: State, after: State) -> set[str]:
    """Which attributes differ; every exec begins an image, for the time of it is a part of it."""
    names: set[str] = set()
    if after is before:
        return names
    if after.comm != before.comm:
        names.add("comm")
    if after.image is not before.image and after.image != before.image:
        names.add("image")
    if after.cwd != before.cwd:
        names.add("cwd")
    if after.root != before.root:
        names.add("root")
    old, new = before.context, after.context
    if new is not old:
        names.update(name for name in CONTEXT_FIELDS if getattr(new, name) != getattr(old, name))
    return names


def _widen(gaps: list[Gap], gap: Gap) -> None:
    """Add a gap to the one of its kind: there is one of each, so that gaps are few."""
    for index, known in enumerate(gaps):
        if known.group == gap.group:
            since = min(known.since, gap.since)
            gaps[index] = Gap(since, gap.until, known.names | gap.names, gap.group)
            return
    gaps.append(gap)


def _survivors(versions: list[Version], wanted: list[int]) -> list[Version]:
    survivors: list[Version] = []
    handed_on: set[str] = set()
    for version, wishes in zip(versions, wanted, strict=True):
        names = version.statement.names
        if not wishes:
            handed_on.update(STATE_FIELDS if names is None else names)
            continue
        if handed_on:
            if names is not None:
                statement = _statement(names | handed_on, version.origin)
                version = Version(version.time, statement, version.state)
            handed_on.clear()
        survivors.append(version)
    return survivors


def weigh(before: State, after: State) -> int:
    """About how many bytes a version costs that leads from one state to another."""
    size = _VERSION_BYTES
    image = after.image
    if image is not before.image:
        words = (*(image.argv or ()), *(image.env or {}).values(), image.script or "")
        size += sum(map(len, words)) + _TEXT_BYTES * len(words)
        for file in (image.executable, image.interpreter):
            if file is not None:
                size += len(file.path or "")
    if after.cwd is not before.cwd:
        size += len(after.cwd or "")
    if after.root is not before.root:
        size += len(after.root or "")
    return size
