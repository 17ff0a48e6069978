"""Counts over a history: what is in it, who was busiest, and which programs ran how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from proctree_ds.answers import ProcessInfo
from proctree_ds.datasource import DataSource
from proctree_ds.errors import DataNotFound
from proctree_ds.model import (
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Loss,
    Picture,
    Snapshot,
)
from proctree_ds.succession import HeldImage

__all__ = [
    "SHORT_LIFE_NS",
    "BusyParent",
    "EventTally",
    "HistoryStatistics",
    "ProgramActivity",
    "program_of",
    "programs_between",
    "statistics",
]

SHORT_LIFE_NS: Final = 1_000_000_000
"""A process that lived for less than this was short-lived."""

_KINDS: Final[dict[type, str]] = {
    Header: "header",
    Snapshot: "snapshot",
    Picture: "picture",
    Fork: "fork",
    Exec: "exec",
    Change: "change",
    Exit: "exit",
    Loss: "loss",
}
_NANOSECONDS: Final = 1e9


class EventTally:
    """Counts events by kind as they go by, and lines that were skipped."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter(dict.fromkeys(_KINDS.values(), 0))
        self.lost = 0
        """As far as anybody counted them."""
        self.skipped_lines = 0

    def add(self, batch: Sequence[Event]) -> None:
        """Count a batch."""
        self.events.update(_KINDS[type(event)] for event in batch)
        self.lost += sum(event.lost or 0 for event in batch if isinstance(event, Loss))


class BusyParent(msgspec.Struct, frozen=True):
    """A process and how many it made; its name is what it was last."""

    pid: int | None
    entity_id: int
    name: str | None
    children: int


class ProgramActivity(msgspec.Struct, frozen=True):
    """What processes that ran `program` did within `seconds`.

    `started` counts the processes that began and ran it last, `executed` how often it was
    executed, `forked` the processes made by those that ran it then, `short_lived` those of
    `started` that had ended within a second.
    """

    program: str | None
    seconds: float
    started: int
    executed: int
    forked: int
    short_lived: int

    def to_dict(self) -> dict[str, Any]:
        """The counts and their rates, as plain data."""
        fields = msgspec.structs.asdict(self)
        rates = {
            f"{name}_per_second": round(fields[name] / self.seconds, 3) if self.seconds else None
            for name in ("started", "executed", "forked")
        }
        return {**fields, **rates}


class HistoryStatistics(msgspec.Struct, frozen=True):
    """What is in a history. Times are epoch ns; what is unknown is None."""

    host: str | None
    boot_id: str | None
    first_time: int
    last_time: int
    events: dict[str, int]
    processes: int
    processes_born: int
    processes_exited: int
    processes_alive: int
    threads: int
    loss_windows: int
    lost: int
    faults: dict[str, int]
    dropped: dict[str, int]
    skipped_lines: int
    busiest_parents: list[BusyParent]
    busiest_programs: list[ProgramActivity]


def program_of(info: ProcessInfo) -> str | None:
    """What a process runs: the path of its executable, else its name."""
    binary = info.execution_binary
    return binary.path if binary is not None and binary.path is not None else info.name


def programs_between(answers: DataSource, since: int, until: int) -> list[ProgramActivity]:
    """The programs of a stretch of time, the one that most processes ran first.

    Raises as `DataSource.diff` does. O(processes in memory).
    """
    diff = answers.diff(since, until)
    counts: dict[str, Counter[str | None]] = {
        name: Counter() for name in ("started", "executed", "forked", "short_lived")
    }
    for info in diff.born:
        program = program_of(info)
        counts["started"][program] += 1
        if info.exit_time is not None and info.exit_time - info.start_time < SHORT_LIFE_NS:
            counts["short_lived"][program] += 1
        counts["forked"][_program_of_parent(answers, info)] += 1
    for info in diff.executed:
        counts["executed"].update(
            _program_of_image(held)
            for _, held in pairwise(info.images())
            if since < held.since <= until and not held.is_gap
        )
    seconds = (until - since) / _NANOSECONDS
    programs = set().union(*counts.values())
    activities = [
        ProgramActivity(program, seconds, **{name: c[program] for name, c in counts.items()})
        for program in programs
    ]
    return sorted(activities, key=_by_activity)


def statistics(
    answers: DataSource,
    processes: Iterable[ProcessInfo],
    tally: EventTally,
    first_time: int,
    last_time: int,
    limit: int,
) -> HistoryStatistics:
    """The statistics of a history; `processes` are all that it knows, as of its end.

    Of the busiest, `limit` are named. O(processes in memory).
    """
    tree = answers.tree
    known = {info.entity_id: info for info in processes}
    born = [info for info in known.values() if info.start_time > first_time]
    made = Counter(info.original_parent_entity_id for info in born)
    del made[None]
    counters = tree.counters
    return HistoryStatistics(
        host=tree.host,
        boot_id=tree.boot_id,
        first_time=first_time,
        last_time=last_time,
        events=dict(tally.events),
        processes=len(known),
        processes_born=len(born),
        processes_exited=sum(not info.is_alive for info in known.values()),
        processes_alive=sum(info.is_alive for info in known.values()),
        threads=counters["threads"],
        loss_windows=counters["loss_windows"],
        lost=tally.lost,
        faults=dict(sorted(tree.faults.items())),
        dropped={
            name: count
            for name, count in counters.items()
            if count and name.startswith(("evicted_", "dropped_"))
        },
        skipped_lines=tally.skipped_lines,
        busiest_parents=[
            _busy_parent(entity, known.get(entity), count)
            for entity, count in made.most_common(limit)
            if entity is not None
        ],
        busiest_programs=_programs(answers, first_time, last_time)[:limit],
    )


def _programs(answers: DataSource, since: int, until: int) -> list[ProgramActivity]:
    """None where some of the history has been dropped: counts of a part would mislead."""
    try:
        return programs_between(answers, since, until)
    except DataNotFound:
        return []


def _busy_parent(entity: int, info: ProcessInfo | None, children: int) -> BusyParent:
    if info is None:
        return BusyParent(None, entity, None, children)
    return BusyParent(info.pid, entity, info.name, children)


def _by_activity(activity: ProgramActivity) -> tuple[int, int, int, str]:
    return (-activity.started, -activity.executed, -activity.forked, activity.program or "")


def _program_of_image(held: HeldImage) -> str | None:
    binary = held.execution_binary
    return binary.path if binary is not None and binary.path is not None else held.name


def _program_of_parent(answers: DataSource, child: ProcessInfo) -> str | None:
    entity = child.original_parent_entity_id
    if entity is None:
        return None
    try:
        return program_of(answers.process(entity, child.start_time))
    except DataNotFound:
        return None
