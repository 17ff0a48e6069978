"""Input that cannot be true, or came too late to be of use: the kinds of it, and what each means.

The tree counts by kind and goes on; `ProcessTree.faults` has the counts. There are as many kinds
as stand here, however hostile the input is: the tree names them only in its own code.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["FAULTS", "Fault"]

FAULTS: Final[dict[str, str]] = {
    "beyond_horizon": (
        "an event came too late: the history that it belongs to has been dropped by then."
        " It is left out"
    ),
    "contradictory_fork": (
        "a task was made twice, and not in the same way. The first telling is believed"
    ),
    "contradictory_ns_pid": (
        "a process has two numbers in its pid namespace. The first telling is believed"
    ),
    "creator_of_another_process": (
        "a thread was made by a task of another process, which the kernel cannot do."
        " Who made it is taken for unknown"
    ),
    "creator_younger_than_child": (
        "a task was made by one that started after it. Who made it is taken for unknown"
    ),
    "cycle": "a process would be its own ancestor. That parent is taken for unknown",
    "event_after_exit": "something happened to a process after its exit. It stays exited",
    "event_before_start": "something happened to a task before it started. The event is left out",
    "leader_as_thread": (
        "what leads a process was told of as a thread of another. The event is left out"
    ),
    "parent_younger_than_child": (
        "a process has a parent that started after it. That parent is taken for unknown"
    ),
    "task_without_start": "an event does not say when its task started. It is left out",
    "thread_as_leader": (
        "a thread of one process was told of as a process of its own. The event is left out"
    ),
    "time_out_of_range": "a time is beyond what a clock counts. The event is left out",
    "two_leaders": "a thread was told to be of two processes. The first telling is believed",
    "window_ends_before_it_begins": ("a loss or a picture ended before it began. It is left out"),
}
"""What each kind means, and what becomes of such input."""


class Fault(msgspec.Struct, frozen=True):
    """A kind of bad input that was met for the first time in a run."""

    kind: str

    @property
    def meaning(self) -> str:
        """What was wrong with the input, and what the tree made of it."""
        return FAULTS[self.kind]

    def __str__(self) -> str:
        return f"bad input (fault_{self.kind}): {self.meaning}; further ones are only counted"
