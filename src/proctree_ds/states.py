"""The states that a process goes through in the tree, and every way from one to another.

Nothing keeps a state: it follows from the record (`state_of`), and the record from what is known.
The table says which changes can happen and why. Random histories hold the tree to it, both ways:
no other change happens, and every one of these does. The documents draw it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from proctree_ds.census import Census
from proctree_ds.model import NEVER
from proctree_ds.process import is_seen

__all__ = ["STATES", "TRANSITIONS", "ProcessState", "Transition", "state_of"]

ProcessState = Literal[
    "unknown", "named", "alive", "leaderless", "exited", "exit_inferred", "forgotten"
]
"""Of the process with some identity, as the tree knows it by now."""

STATES: Final[dict[ProcessState, str]] = {
    "unknown": "nothing ever told of it",
    "named": "it is known as somebody's parent only (a shadow)",
    "alive": "it lives",
    "leaderless": "it lives, though its leader thread has ended",
    "exited": "its exit was seen",
    "exit_inferred": "it must have ended; its exit was not seen",
    "forgotten": "it was evicted from memory",
}


class Transition(NamedTuple):
    """One change of state. `is_late`: only what arrives later than it happened can cause it."""

    before: ProcessState
    after: ProcessState
    because: str
    is_late: bool = False


TRANSITIONS: Final = (
    Transition("unknown", "named", "an event names it as a parent"),
    Transition("unknown", "alive", "an event about it or a thread of it"),
    Transition("unknown", "leaderless", "the exit of its leader, not the last of its threads"),
    Transition("unknown", "exited", "the exit of its last thread"),
    Transition("unknown", "exit_inferred", "an event about one who must have ended since"),
    Transition("named", "unknown", "its last child in memory is evicted, or has another parent"),
    Transition("named", "alive", "an event about it or a thread of it"),
    Transition("named", "leaderless", "the exit of its leader, not the last of its threads"),
    Transition("named", "exited", "the exit of its last thread"),
    Transition("named", "exit_inferred", "an event about one who must have ended since"),
    Transition("alive", "leaderless", "its leader exits, another thread lives"),
    Transition("alive", "exited", "its last thread exits"),
    Transition(
        "alive",
        "exit_inferred",
        "its pid is used again, a picture lacks it, or its pid namespace ends",
    ),
    Transition("alive", "forgotten", "memory is full, of the living"),
    Transition("leaderless", "alive", "another thread executes a program"),
    Transition("leaderless", "exited", "its last thread exits"),
    Transition(
        "leaderless",
        "exit_inferred",
        "its pid is used again, a picture lacks it, or its pid namespace ends",
    ),
    Transition("leaderless", "forgotten", "memory is full, of the living"),
    Transition("exited", "leaderless", "a thread turns up that lives on", True),
    Transition("exited", "exit_inferred", "a thread turns up whose exit was lost", True),
    Transition("exited", "forgotten", "memory is full"),
    Transition("exit_inferred", "exited", "its exit is seen after all"),
    Transition("exit_inferred", "alive", "a sign of life from after it", True),
    Transition("exit_inferred", "leaderless", "a sign of life of a thread from after it", True),
    Transition("exit_inferred", "forgotten", "memory is full"),
    Transition("forgotten", "alive", "an event about it or a thread of it"),
    Transition("forgotten", "leaderless", "the exit of its leader, not the last of its threads"),
    Transition("forgotten", "exited", "the exit of its last thread"),
    Transition("forgotten", "exit_inferred", "an event about one who must have ended since"),
    Transition("forgotten", "unknown", "so many were evicted since that its id is forgotten, too"),
)


def state_of(census: Census, entity: int) -> ProcessState:
    """The state of the process with this id."""
    node = census.processes.get(entity)
    if node is None:
        if census.was_evicted(entity):
            return "forgotten"
        return "named" if entity in census.shadows else "unknown"
    if node.ended != NEVER:
        return "exited" if is_seen(node.exit) else "exit_inferred"
    return "alive" if node.leader_end_at(NEVER - 1) is None else "leaderless"
