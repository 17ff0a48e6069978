"""While real work runs, the tree says what /proc, the process connector and the kernel's count say.

One run is watched, and each test looks at a side of it. What is compared and which differences are
explained is told in `truth`; `python -m benchmarks truth` does the same for ten minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from proctree_ds.model import Event, Exec, Exit, Fork, Task

from .truth.asof import ANSWERS
from .truth.stage import load
from .truth.watch import Outcome, Watch

SECONDS = 15
"""After which the load begins nothing new."""


def watch(
    command: Sequence[str], tamper: Callable[[Sequence[Event]], Sequence[Event]] = lambda b: b
) -> Outcome:
    watch = Watch(tamper)
    try:
        return watch.run(command)
    finally:
        watch.close()


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    with load(SECONDS) as command:
        yield watch(command)


def test_no_difference_is_unexplained(outcome: Outcome) -> None:
    assert outcome.ledger.differences == []
    assert outcome.ledger.unexplained == 0


def test_every_attribute_was_compared(outcome: Outcome) -> None:
    assert outcome.ledger.sweeps > 5
    for name in (*ANSWERS, "start_tick", "is_alive", "listing", "children", "exit_code"):
        assert outcome.ledger.compared[name] > 100, name
    for name in ("is_alive", "name", "uid", "gid", "ns_tid"):
        assert outcome.ledger.compared[f"thread.{name}"] > 100, name


def test_all_that_the_connector_told_of_was_looked_for(outcome: Outcome) -> None:
    assert outcome.missed == 0
    for kind, least in (("fork", 5000), ("exec", 1000), ("exit", 5000), ("comm", 10), ("sid", 10)):
        assert outcome.ledger.witnessed[kind] > least, kind


def test_the_kernel_counted_as_many_forks(outcome: Outcome) -> None:
    """From an instant before the load to one after it, at both of which nobody was being made."""
    assert outcome.forks.kernel == outcome.forks.told
    assert outcome.forks.told >= outcome.ledger.witnessed["fork"] > 0


def test_nothing_was_lost_dropped_or_refused(outcome: Outcome) -> None:
    assert outcome.lost == 0
    assert not [name for name, n in outcome.counters.items() if n and name.startswith("lost_")]
    assert outcome.counters["malformed"] == 0
    assert outcome.tree["evicted_processes"] == outcome.tree["loss_windows"] == 0
    assert not [name for name in outcome.tree if name.startswith("fault_")]


# ------------------------------------------------------------------- a wrong tree is found out

BRIEF = ("sh", "-c", "for i in 1 2 3 4 5; do sleep 0.3 & sleep 0.2; done; wait")


def without_execs(batch: Sequence[Event]) -> list[Event]:
    return [event for event in batch if not isinstance(event, Exec)]


def without_exits(batch: Sequence[Event]) -> list[Event]:
    return [event for event in batch if not isinstance(event, Exit)]


def with_another_parent(batch: Sequence[Event]) -> list[Event]:
    stranger = Task(2)
    return [
        msgspec.structs.replace(event, parent=stranger)
        if isinstance(event, Fork | Exec) and event.task.tid != stranger.tid
        else event
        for event in batch
    ]


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (without_execs, "cmdline: /proc says 'sleep"),
        (without_exits, "/proc does not list it"),
        (with_another_parent, "ppid: /proc says"),
    ],
)
def test_a_wrong_tree_is_found_out(
    tamper: Callable[[Sequence[Event]], Sequence[Event]], found: str
) -> None:
    wrong = watch(BRIEF, tamper).ledger
    assert [text for text in wrong.differences if found in text]
