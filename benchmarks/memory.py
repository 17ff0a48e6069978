"""What one more version costs in memory, and one idle process.

Counted by tracemalloc over many of them, with the values as a decoder makes them: equal files and
credentials are shared, what differs from version to version is not.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Final

import msgspec

from benchmarks import lives
from benchmarks.timing import Figure, settle_memory
from proctree_ds import ProcessTree
from proctree_ds.model import Change, Event, Exec, Fork, Image, State, Task
from proctree_ds.wire import Decoder

PROCESSES: Final = 500
VERSIONS: Final = 50
"""Of each process: fewer than a limit takes away."""

IDLE: Final = 10_000


def memory() -> list[Figure]:
    """One version more of each kind of attribute, and one process that executed and idles."""
    owners = [lives.CONTEXT, msgspec.structs.replace(lives.CONTEXT, euid=0, suid=0)]
    kinds: dict[str, Callable[[Task, int], Event]] = {
        "name": lambda task, i: Change(_at(i), task, {"comm": f"worker/{i}"}),
        "working directory": lambda task, i: Change(_at(i), task, {"cwd": f"/home/u/{i}"}),
        "set of credentials, two in turn": lambda task, i: Change(
            _at(i), task, {"context": owners[i % 2]}
        ),
        "set of credentials, all different": lambda task, i: Change(
            _at(i), task, {"uid": 1000 + i}
        ),
        "image with three arguments": _execute,
    }
    figures = [
        Figure(f"one more {name}", _bytes_of_a_version(event), "bytes")
        for name, event in kinds.items()
    ]
    return [*figures, Figure("an idle process", _bytes_of_a_process(), "bytes")]


def _bytes_of_a_version(event: Callable[[Task, int], Event]) -> float:
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    tasks = [Task(1_000 + i, lives.START + i) for i in range(PROCESSES)]
    for task in tasks:
        tree.apply(Fork(task.start_time or 0, task, lives.parents()[0]))
        tree.apply_all(event(task, i) for i in range(2))  # the first ones cost the list, too
    before = _allocated()
    for i in range(2, VERSIONS):
        for task in tasks:
            tree.apply(event(task, i))
    spent = _allocated() - before
    assert tree.counters["dropped_versions"] == 0
    return spent / (PROCESSES * (VERSIONS - 2))


def _bytes_of_a_process() -> float:
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    decoder = Decoder()
    before = _allocated()
    for batch in lives.raw_batches(IDLE):
        decoded = [decoder.decode(record, 0, len(record)) for record in batch]
        tree.apply_all(event for event in decoded if isinstance(event, Fork | Exec))
        del decoded
    spent = _allocated() - before
    assert tree.counters["evicted_processes"] == 0
    return spent / IDLE


def _allocated() -> int:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    settle_memory()
    return tracemalloc.get_traced_memory()[0]


def _at(i: int) -> int:
    return lives.START + 10**9 + i * 1_000_000


def _execute(task: Task, i: int) -> Event:
    time = _at(i)
    words = ("tool", "--input", str(i))
    image = Image(lives.EXECUTABLES[0], lives.LOADER, argv=words, exec_time=time)
    return Exec(time, task, State("tool", image, "/home/u", "/", lives.CONTEXT))
