"""What the tree keeps of one process and of one thread, and how one is read as of an instant.

Only `tree.py` and its rooms change these records. References point one way, from child to parent,
so that nothing here ever needs the garbage collector.

A child holds `born_of`, the state that its parent had when it made the child. It is at once what
the child inherited and what the lineage shows of that ancestor, and it outlives the parent's own
changelog.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, TypeGuard, TypeVar

import msgspec

from proctree_ds.changelog import Gap, Version, version_at
from proctree_ds.model import NEVER, SEEN, UNKNOWN_STATE, Exit, Fork, Loss, State, Task

__all__ = [
    "NO_RARITIES",
    "Process",
    "Rare",
    "Thread",
    "forget_middle",
    "is_forgotten",
    "is_seen",
]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Rare:
    """What only few processes have, kept apart so that the others are small."""

    living_threads: int = 0
    """How many threads other than the leader live."""
    ties: int = 0
    """How many of the versions that its origin made at exactly `start` came before the fork."""
    copied_from: Process | None = None
    """The creator's process where that is not the parent (CLONE_PARENT)."""
    creator: Thread | None = None
    """The thread that called clone, where that was not a leader."""
    takeovers: list[tuple[int, int]] | None = None
    """When a thread became the leader by an exec, and the tid that it had before."""
    creator_unknown: bool = False
    """The fork names a creator that is not in memory: what was inherited cannot be told."""
    leader_exits: list[Exit] | None = None
    """Ends of the leader thread that did not end the process, or not for certain."""
    parents: list[tuple[int, Task | None]] | None = None
    """Parents that events named later on, where they differ; None: forgotten."""
    subreaper: list[tuple[int, bool | None]] | None = None
    """When the child-subreaper flag was set and cleared; None: forgotten."""
    estates: set[int] | None = None
    """Ids of exited processes whose children it took over."""
    heir: Process | None = None
    """The process in whose `estates` this one stands."""
    threads_horizon: int = -1
    """Up to this instant threads of it may be missing: a limit took them."""
    gaps: list[Gap] | None = None
    untold: list[Loss] | None = None
    """When it changed too often for each change to be told."""
    horizon: int = -1
    """Nothing before this instant is known: an eviction took it."""
    last_heard: int = -1
    """The last sign of life that left no version and no child."""
    has_no_parent: bool = False
    """The kernel itself started it: its parent is the idle task, pid 0."""
    approximate: bool = False
    """The start is a /proc tick, not the exact time."""


NO_RARITIES: Final = Rare()
"""Shared by all that have nothing rare. Never written to."""


def is_seen(event: Exit | None) -> TypeGuard[Exit]:
    """Whether this is an exit that was observed, and not one that was concluded."""
    return event is not None and event.origin in SEEN


def forget_middle(changes: list[tuple[int, T | None]] | None, limit: int) -> int:
    """Of more than `limit` changes in order of time keep the first, and the last half.

    In the place of the others stands one of None: from then until the next nothing is known.
    Returns how many went.
    """
    if changes is None or len(changes) <= limit:
        return 0
    count = len(changes)
    changes[1 : -(limit // 2)] = [(changes[1][0], None)]
    return count - len(changes)


def is_forgotten(changes: list[tuple[int, T | None]], time: int) -> bool:
    """Whether it is forgotten what held at `time`."""
    index = bisect_right(changes, time, key=itemgetter(0))
    return index > 0 and changes[index - 1][1] is None


class Process(msgspec.Struct, gc=False, eq=False):
    """A process, which is also its leader thread. Times are boot-clock ns."""

    entity_id: int
    tid: int
    start: int
    parent: Process | None = None
    """The original parent; None where it is unknown."""
    born_of: State = UNKNOWN_STATE
    """What the process that it was copied from was at `start`."""
    base: State = UNKNOWN_STATE
    """What it was from `start` until its first version."""
    fork: Fork | None = None
    ns_pid: int | None = None
    latest: Version | None = None
    """The last version; None while it is what it was at its start."""
    versions: list[Version] | None = None
    """Every version, `latest` included, once there are two."""
    ended: int = NEVER
    exit: Exit | None = None
    """The exit that ended the process; None while it lives, or where the end is only inferred."""
    pins: int = 0
    """Children in memory that live or have living descendants: while there are any, it stays."""
    children: set[int] | None = None
    """Ids of processes in memory that are its children, or were copied from it."""
    threads: set[int] | None = None
    """Ids of its threads in memory, other than the leader."""
    last_branch: int = -1
    """When it last made a child or a thread, or else its start: what is earlier comes late."""
    dropped_children: int = 0
    history_bytes: int = 0
    """What `versions` weighs."""
    used: bool = False
    queued: bool = False
    evicted: bool = False
    rare: Rare = NO_RARITIES

    @property
    def extra(self) -> Rare:
        """The place to note something rare, made on first use."""
        rare = self.rare
        if rare is NO_RARITIES:
            rare = self.rare = Rare()
        return rare

    @property
    def is_root(self) -> bool:
        """Whether lineages end here because there is nothing above."""
        return self.rare.has_no_parent or (self.parent is None and self.tid == 1)

    @property
    def task(self) -> Task:
        return Task(self.tid, self.start)

    @property
    def state(self) -> State:
        """The last known state."""
        return self.base if self.latest is None else self.latest.state

    @property
    def last_sign_of_life(self) -> int:
        """The last instant at which it, or a thread of it, was heard of.

        An end that is only inferred lies between this and `ended`.
        """
        latest = self.latest
        return max(
            self.start,
            self.last_branch,
            self.rare.last_heard,
            -1 if latest is None else latest.time,
        )

    def state_at(self, time: int) -> State:
        """The state as of `time`. O(log versions)."""
        latest = self.latest
        if latest is None:
            return self.base
        if latest.time <= time:
            return latest.state
        version = self.version_at(time)
        return self.base if version is None else version.state

    def version_at(self, time: int) -> Version | None:
        """The version that holds at `time`; None before the first."""
        return version_at(self.latest, self.versions, time)

    @property
    def log(self) -> list[Version]:
        """Every version, in order of time."""
        if self.versions is not None:
            return self.versions
        return [] if self.latest is None else [self.latest]

    @property
    def end_is_seen(self) -> bool:
        """Whether it ended as its exit said, and not as was concluded."""
        event = self.exit
        if not is_seen(event):
            return False
        return event.group_exit is not None or self.rare.threads_horizon < event.time

    def is_subreaper_at(self, time: int) -> bool | None:
        """Whether the child-subreaper flag was set as of `time` (prctl(2)); None if unknown."""
        flag = None if self.fork is None else False  # a fork does not inherit it
        for since, value in self.rare.subreaper or ():
            if since > time:
                break
            flag = value
        return flag

    def leader_end_at(self, time: int) -> int | None:
        """When the leader thread had ended, as of `time`; None while it lives.

        An exec by another thread takes the leader's tid and start over, and so revives it
        (de_thread, fs/exec.c).
        """
        has_ended = self.ended <= time
        last_exec = self.last_exec_at(time) if self.rare.leader_exits else -1
        exits = [
            leader_exit
            for leader_exit in self.rare.leader_exits or ()
            if last_exec < leader_exit.time and (has_ended or leader_exit.time <= time)
        ]
        if exits:
            seen = [leader_exit.time for leader_exit in exits if is_seen(leader_exit)]
            return seen[-1] if seen else exits[0].time
        return self.ended if has_ended else None

    def last_exec_at(self, time: int) -> int:
        """When it had last executed a program, as of `time`; -1 if it is not known to have."""
        return max((v.time for v in self.log if v.is_exec and v.time <= time), default=-1)


class Thread(msgspec.Struct, gc=False, eq=False):
    """A thread that is not its process's leader."""

    entity_id: int
    tid: int
    start: int
    process: Process
    base: State = UNKNOWN_STATE
    fork: Fork | None = None
    ns_tid: int | None = None
    latest: Version | None = None
    versions: list[Version] | None = None
    ended: int = NEVER
    exit: Exit | None = None
    last_branch: int = -1
    history_bytes: int = 0
    used: bool = False
    queued: bool = False
    rare: Rare = NO_RARITIES

    @property
    def extra(self) -> Rare:
        """The place to note something rare, made on first use."""
        rare = self.rare
        if rare is NO_RARITIES:
            rare = self.rare = Rare()
        return rare

    def state_at(self, time: int) -> State:
        """The state as of `time`. O(log versions)."""
        version = self.version_at(time)
        return self.base if version is None else version.state

    def version_at(self, time: int) -> Version | None:
        """The version that holds at `time`; None before the first."""
        return version_at(self.latest, self.versions, time)

    @property
    def log(self) -> list[Version]:
        """Every version, in order of time."""
        if self.versions is not None:
            return self.versions
        return [] if self.latest is None else [self.latest]

    @property
    def task(self) -> Task:
        return Task(self.tid, self.start)

    @property
    def last_sign_of_life(self) -> int:
        """The last instant at which it was heard of; an end that is only inferred lies after it."""
        latest = self.latest
        return max(
            self.start,
            self.last_branch,
            self.rare.last_heard,
            -1 if latest is None else latest.time,
        )

    @property
    def end_is_seen(self) -> bool:
        """Whether it ended as its exit said, or by becoming the leader."""
        takeovers = self.process.rare.takeovers or ()
        return is_seen(self.exit) or (self.ended, self.tid) in takeovers

    @property
    def end(self) -> int:
        """When it ended; a process takes its threads with it."""
        return min(self.ended, self.process.ended)
