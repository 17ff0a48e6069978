"""The kernel's own count of forks, held against those that the source told.

total_forks counts processes and threads, the kernel's own among them: copy_process(),
kernel/fork.c, 6.18, raises it for every task but the idle ones of CPUs, with the task already
startable and before sched_process_fork. A reading is an anchor if nobody was between the two while
it was taken; from one anchor to the next both counts must have grown by the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from .chronicle import Chronicle
from .ledger import Ledger
from .rows import boot_clock

__all__ = ["ForkCount", "Reading", "read_count"]


@dataclass(slots=True)
class Reading:
    """The count, and the instants around reading it."""

    began: int
    ended: int
    count: int


def read_count() -> Reading:
    began = boot_clock()
    with open("/proc/stat", encoding="ascii") as lines:
        count = next(int(line.split()[1]) for line in lines if line.startswith("processes "))
    return Reading(began, boot_clock(), count)


class ForkCount:
    """Goes from anchor to anchor."""

    def __init__(self, chronicle: Chronicle, ledger: Ledger) -> None:
        self._chronicle = chronicle
        self._ledger = ledger
        self._anchor: Reading | None = None
        self.anchors = 0
        self.kernel = 0
        """Forks from the first anchor to the last, by the kernel's count."""
        self.told = 0
        """The same, by the source."""

    def take(self, readings: list[Reading]) -> None:
        """Use readings that are all older than what the source has told."""
        for reading in readings:
            forks = self._chronicle.forks
            if any(start <= reading.ended and told >= reading.began for start, told in forks):
                continue
            before = sum(told < reading.began for _, told in forks)
            if self._anchor is not None:
                grown = reading.count - self._anchor.count
                self.kernel += grown
                self.told += before
                if grown != before:
                    self._ledger.fail(
                        f"from {self._anchor.ended} to {reading.began} the kernel made {grown}"
                        f" tasks, and the source told of {before}"
                    )
            self.anchors += 1
            self._anchor = reading
            self._chronicle.forks = [fork for fork in forks if fork[1] >= reading.began]
