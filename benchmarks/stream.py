"""The event stream into the tree: 64 long-lived parents, 1,000,000 children, fork + exec + exit
each, caches of 16,384 processes and 32,768 threads full. As events, and as raw ring bytes.

Only the tree's (and the decoder's) work is timed: the batches, of the live source's size, are
made in between. CPU time, so that what else the machine does counts less.
"""

from __future__ import annotations

import resource
import time

from benchmarks import lives
from benchmarks.timing import Figure, rate, settle_memory
from proctree_ds import ProcessTree
from proctree_ds.wire import Decoder


def events(count: int = 1_000_000) -> list[Figure]:
    """Decoded events into the tree."""
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    _fill(tree, count)
    settle_memory()
    spent = []
    for batch in lives.batches(count):
        began = time.process_time()
        tree.apply_all(batch)
        spent.append((len(batch), time.process_time() - began))
    return [*_told("events into the tree", rate(spent)), *_memory(tree, "events")]


def ring_bytes(count: int = 1_000_000) -> list[Figure]:
    """Records as the kernel writes them: decoded, and into the tree."""
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    settle_memory()
    decoder = Decoder()
    decode = decoder.decode
    spent = []
    for batch in lives.raw_batches(count):
        began = time.process_time()
        decoded = [decode(record, 0, len(record)) for record in batch]
        tree.apply_all(event for event in decoded if event is not None)
        spent.append((len(batch), time.process_time() - began))
    assert decoder.malformed == 0
    assert tree.counters["evicted_processes"] > count - tree.census.process_cache - 100
    return [*_told("raw records decoded into the tree", rate(spent)), *_memory(tree, "bytes")]


def _fill(tree: ProcessTree, count: int) -> None:
    """Living threads of one more process, so that the thread cache is full too."""
    from proctree_ds.model import Fork, Task

    room = tree.census.thread_cache - tree.census.process_cache
    leader = Task(60_000, lives.START - 1_000_000)
    tree.apply(Fork(leader.start_time or 0, leader, lives.INIT))
    tree.apply_all(
        Fork(start, Task(100_000 + i, start), lives.INIT, leader, leader)
        for i, start in enumerate(range(lives.START - room, lives.START))
    )


def _told(name: str, figures: tuple[float, float]) -> list[Figure]:
    total, best = figures
    return [
        Figure(name, total, "events/s"),
        Figure(f"{name}, best tenth", best, "events/s"),
    ]


def _memory(tree: ProcessTree, name: str) -> list[Figure]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counters = tree.counters
    held = f"{counters['processes']:,} processes, {counters['threads']:,} threads held"
    return [Figure(f"peak resident memory ({name})", peak, "MiB", held)]
