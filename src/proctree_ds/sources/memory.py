"""Events that are at hand already: for tests, and for programs that make their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from proctree_ds.errors import EventLogError
from proctree_ds.model import Event, Header

__all__ = ["BATCH_EVENTS", "MemorySource", "header_first", "in_batches"]

BATCH_EVENTS: Final = 512
"""Events in one batch at most: enough to make a batch cheap, few enough to be quick."""


class MemorySource:
    """A source of the events that it is given, in their order; `Header()` where they have none."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self._is_stopped = False
        self._count = 0

    def batches(self) -> Iterator[Sequence[Event]]:
        """All events, `BATCH_EVENTS` at a time. Ends early, between two batches, after `stop()`."""
        for batch in header_first(in_batches(self._events)):
            self._count += len(batch)
            yield batch
            if self._is_stopped:
                return

    def stop(self) -> None:
        """End the stream after the current batch."""
        self._is_stopped = True

    def close(self) -> None:
        """Nothing is held open."""

    def counters(self) -> Mapping[str, int]:
        """`events`: how many were handed out, the header included."""
        return {"events": self._count}


def in_batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """`events` in lists of at most `BATCH_EVENTS`.

    An `EventLogError` is raised only after the events before it were handed out.
    """
    batch: list[Event] = []
    failure: EventLogError | None = None
    try:
        for event in events:
            batch.append(event)
            if len(batch) == BATCH_EVENTS:
                yield batch
                batch = []
    except EventLogError as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def header_first(batches: Iterable[list[Event]]) -> Iterator[list[Event]]:
    """`batches` as a source owes them: the first is not empty and begins with a `Header`."""
    has_begun = False
    for batch in batches:
        if not has_begun:
            if not batch:
                continue
            if type(batch[0]) is not Header:
                batch = [Header(), *batch]
            has_begun = True
        yield batch
    if not has_begun:
        yield [Header()]
