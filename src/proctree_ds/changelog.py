"""Time-ordered versions of what a task is, and what held at an instant.

A version says what a source stated at its time (`facts`) and what held from then on (`state`).
Versions are half-open: one holds from its time to the next one's. Equal times keep the order of
arrival. Because every version keeps what was stated, a late one can be put in its place and the
states after it worked out anew: any order of arrival ends in the same changelog.

Bounded: beyond `VERSIONS_LIMIT` of a kind (images, and everything else) the older half of that
kind is dropped, but never its first version; the time in between becomes a `Gap`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import Final

import msgspec

from proctree_ds.model import IMAGE_FIELDS, Given, Origin, State, merge

__all__ = ["VERSIONS_LIMIT", "Gap", "Version", "before", "insert", "rebuild", "thin", "version_at"]

VERSIONS_LIMIT: Final = 64
"""Versions kept of each kind, images and the rest, in one task's changelog."""

_time = attrgetter("time")


class Version(msgspec.Struct, frozen=True, gc=False):
    """What was stated at `time`, and the state that held from then on."""

    time: int
    facts: State | Given
    state: State
    origin: Origin = "event"

    @property
    def states_image(self) -> bool:
        """Whether any part of the image was stated, as every exec does."""
        facts = self.facts
        return isinstance(facts, State) or "image" in facts or not IMAGE_FIELDS.isdisjoint(facts)

    @property
    def is_exec(self) -> bool:
        """Whether this version is an exec: its image began at its own time."""
        return self.states_image and self.state.image.exec_time == self.time


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Versions between `since` and `until` that stated `names` were dropped (`dropped` of them)."""

    since: int
    until: int
    names: frozenset[str]
    dropped: int
    images: bool


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

    `ties` of those with exactly that time had arrived before it.
    """
    return bisect_left(versions, time, key=_time) + ties


def insert(versions: list[Version], version: Version) -> int | None:
    """Put `version` in its place, after those of equal time; None if it is already there."""
    at = bisect_right(versions, version.time, key=_time)
    for known in reversed(versions[:at]):
        if known.time != version.time:
            break
        if known.facts == version.facts and known.origin == version.origin:
            return None
    versions.insert(at, version)
    return at


def rebuild(versions: list[Version], base: State, start: int) -> None:
    """Work out the states from index `start` on anew, on top of `base` or the version before."""
    state = versions[start - 1].state if start else base
    for i in range(start, len(versions)):
        version = versions[i]
        facts = version.facts
        state = facts if isinstance(facts, State) else merge(state, facts)
        if state is not version.state:
            if state == version.state:
                state = version.state
            else:
                versions[i] = Version(version.time, facts, state, version.origin)


def thin(versions: list[Version], gaps: list[Gap]) -> int:
    """Drop the older half of every kind that is over the limit. Returns how many were dropped.

    The first version of a kind stays, so that what a task was at first is always known.
    """
    dropped = 0
    for images in (True, False):
        kind = [i for i, version in enumerate(versions) if version.states_image is images]
        if len(kind) <= VERSIONS_LIMIT:
            continue
        victims = kind[1 : 1 + len(kind) // 2]
        kept = versions[kind[1 + len(kind) // 2]].time
        names = frozenset(_stated_names(versions, victims))
        since = versions[victims[0]].time
        count = len(victims)
        for i, gap in enumerate(gaps):
            if gap.images is images:
                since = min(since, gap.since)
                names |= gap.names
                count += gap.dropped
                del gaps[i]
                break
        gaps.append(Gap(since, kept, names, count, images))
        _keep_what_holds(versions, victims)
        gone = set(victims)
        versions[:] = [version for i, version in enumerate(versions) if i not in gone]
        dropped += len(victims)
    return dropped


def _keep_what_holds(versions: list[Version], victims: list[int]) -> None:
    """Have the version after those that go state what they stated and still holds then."""
    after = victims[-1] + 1
    kept = versions[after]
    if isinstance(kept.facts, State):
        return
    state = kept.state
    facts: Given = {}
    for name in _stated_names(versions, victims):
        if name in State.__struct_fields__:
            facts[name] = getattr(state, name)
        else:
            facts[name] = getattr(state.image if name in IMAGE_FIELDS else state.context, name)
    versions[after] = Version(kept.time, facts | kept.facts, state, kept.origin)


def _stated_names(versions: list[Version], indices: list[int]) -> set[str]:
    names: set[str] = set()
    for i in indices:
        facts = versions[i].facts
        names.update(State.__struct_fields__ if isinstance(facts, State) else facts)
    return names
