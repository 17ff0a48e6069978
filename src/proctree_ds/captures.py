"""When captures began, and where the history that they tell has holes.

A tree may be fed by several captures, one after the other. While none of them runs, whatever
happens is missed: the time from the last known instant to the beginning of the next capture is a
window of loss like any other.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Final

from proctree_ds.census import Census
from proctree_ds.model import NEVER, Header, Loss
from proctree_ds.process import Process, Thread

__all__ = ["HEADERS_LIMIT", "LOSSES_LIMIT", "Captures"]

HEADERS_LIMIT: Final = 64
"""Headers remembered, the latest: one that comes twice is not the beginning of another capture."""

LOSSES_LIMIT: Final = 256
"""Loss windows kept; beyond it the two oldest are joined."""


def _order(loss: Loss) -> tuple[int, int, int]:
    return loss.since, loss.time, -1 if loss.lost is None else loss.lost


class Captures:
    """The headers of one tree, and its windows of loss."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self.losses: list[Loss] = []
        """In order of their beginnings."""
        self._headers: deque[Header] = deque(maxlen=HEADERS_LIMIT)
        self.began: int | None = None
        """When the first capture began."""
        self._last_time = -1
        """The last instant that headers and losses told of."""

    @property
    def has_begun(self) -> bool:
        """Whether there has been a header."""
        return bool(self._headers)

    def keep(self, header: Header) -> bool:
        """Remember a header. False if it is known already."""
        if header in self._headers:
            return False
        self._headers.append(header)
        return True

    def learn_loss(self, loss: Loss) -> None:
        losses = self.losses
        if loss in losses:
            return
        if loss.lost is None:
            loss = self._joined(loss)
        insort(losses, loss, key=_order)
        self._last_time = max(self._last_time, loss.time)
        if len(losses) > LOSSES_LIMIT:
            first, second = losses[:2]
            known = first.lost is not None and second.lost is not None
            lost = (first.lost or 0) + (second.lost or 0) if known else None
            losses[:2] = [Loss(max(first.time, second.time), first.since, lost)]

    def _joined(self, loss: Loss) -> Loss:
        """`loss` and the windows that touch it, as one, where nobody counted what was lost.

        A source that only looks now and then loses sight all the time: that is one window.
        """
        for known in tuple(self.losses):
            if known.lost is None and known.since <= loss.time and loss.since <= known.time:
                self.losses.remove(known)
                loss = Loss(max(loss.time, known.time), min(loss.since, known.since))
        return loss

    def begin(self, time: int | None) -> None:
        """A capture has begun, at `time` if that is known."""
        if time is not None:
            self.began = min(time, self.began if self.began is not None else time)
            self._last_time = max(self._last_time, time)

    def holes(self) -> list[tuple[int, int]]:
        """When events may be missing: from when to when."""
        holes = [(loss.since, loss.time) for loss in self.losses]
        if self.began is not None:
            holes.append((-1, self.began))
        return holes

    def last_instant(self) -> int:
        """The last instant of which anything is known. O(everything in memory)."""
        census = self._census
        last = max(self._last_time, census.horizon, census.threads_horizon, census.pictured_until)
        nodes: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
        for node in nodes:
            last = max(last, node.last_sign_of_life, node.ended if node.ended != NEVER else -1)
            if node.fork is not None:
                last = max(last, node.fork.time)
        return last

    def check(self) -> None:
        """Raise AssertionError if windows are out of order, or too many."""
        assert len(self.losses) <= LOSSES_LIMIT
        assert self.losses == sorted(self.losses, key=_order)
        assert all(loss.since <= loss.time for loss in self.losses)

    def forget(self) -> None:
        """Another boot has another clock: none of these windows is in it."""
        self.losses.clear()
        self.began = None
        self._last_time = -1
