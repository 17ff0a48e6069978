"""Whether a run does what it is for, as somebody asks it from outside. Reads no clock of its own.

The thread that runs the pipeline calls `beat` after every batch; a source that is quiet gives empty
ones. Any thread may ask `problem`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["LOSS_SECONDS", "STUCK_SECONDS", "Health"]

STUCK_SECONDS: Final = 10.0
"""A reader that has taken nothing for so long, not even an empty batch, is stuck."""
LOSS_SECONDS: Final = 10.0
"""Losses that follow each other within this time are one; if they last so long, loss goes on."""


class Health:
    """The pulse of a run. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last_beat: float | None = None
        self._ended: str | None = None
        self._loss_windows = 0
        self._loss: tuple[float, float] | None = None
        """When the loss that was seen last began, and when more of it was seen last."""

    def beat(self, loss_windows: int = 0) -> None:
        """A batch is through; so many windows of loss there were by now."""
        now = self._clock()
        self._last_beat = now
        if loss_windows != self._loss_windows:
            self._loss_windows = loss_windows
            before = self._loss
            goes_on = before is not None and now - before[1] <= LOSS_SECONDS
            self._loss = (before[0] if goes_on and before else now, now)

    def end(self, why: str) -> None:
        """Nothing more will come, and why."""
        self._ended = why

    @property
    def silence(self) -> float | None:
        """Seconds since the last batch; None before the first."""
        last = self._last_beat
        return None if last is None else max(0.0, self._clock() - last)

    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if self._ended is not None:
            return self._ended
        silence = self.silence
        if silence is None:
            return "the source has given nothing yet"
        if silence > STUCK_SECONDS:
            return f"the reader is stuck: it has taken nothing for {silence:.0f} s"
        if self._loss is not None:
            began, last = self._loss
            if last - began >= LOSS_SECONDS and self._clock() - last <= LOSS_SECONDS:
                return f"events are being lost, for {last - began:.0f} s now"
        return None
