"""Random histories against the naive model of the tests, many of them, in parallel processes.

Each history is told in random order, in random batches, some events twice. Without losses every
answer must be what the simulated kernel knows to be true, and what the model says; with losses
what the model says, and where that is not true the answer must say that it may not be.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.timing import Figure
from proctree_ds import DataSource, ProcessTree

COUNT = 100_000
STEPS = 10
"""The longest history has this many steps, and up to six from before the capture began."""
PIECE = 250
MISMATCHES_SHOWN = 20

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def random_histories(count: int = COUNT) -> list[Figure]:
    """`count` histories, by seed from 0 on; every mismatch is told with its seed."""
    began = time.monotonic()
    totals: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    pieces = [(first, min(first + PIECE, count)) for first in range(0, count, PIECE)]
    with multiprocessing.Pool(os.cpu_count() or 1, maxtasksperchild=20) as pool:
        for counted, mismatches in pool.imap_unordered(_piece, pieces):
            totals.update(counted)
            wrong += mismatches
    taken = time.monotonic() - began
    for seed, problem in sorted(wrong)[:MISMATCHES_SHOWN]:
        print(f"seed {seed}: {problem:.500}", flush=True)
    return [
        Figure("random histories", totals["histories"], "histories", f"seeds 0 to {count - 1:,}"),
        Figure("of these with losses", totals["lossy"], "histories"),
        Figure("events told", totals["events"], "events"),
        Figure("instants at which all was asked", totals["instants"], "instants"),
        Figure("answers compared with the model", totals["answers"], "answers"),
        Figure("mismatches", len(wrong), "histories"),
        Figure("taken", taken, "s", f"{os.cpu_count()} processes"),
    ]


def _piece(bounds: tuple[int, int]) -> tuple[Counter[str], list[tuple[int, str]]]:
    totals: Counter[str] = Counter()
    wrong = []
    for seed in range(*bounds):
        try:
            problem = _mismatch(seed, totals)
        except Exception as error:  # noqa: BLE001 - an error is a mismatch, too, and has its seed
            problem = repr(error)
        if problem is not None:
            wrong.append((seed, problem))
    return totals, wrong


def _mismatch(seed: int, totals: Counter[str]) -> str | None:
    from property.capture import disordered, lossy
    from property.comparison import Comparison
    from property.kernel import Kernel
    from property.model import Model
    from property.truth import lies

    random = Random(seed)
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    has_losses = random.random() < 0.5
    kernel.run(random.randint(1, STEPS), unseen=random.randint(0, 6), restarts=has_losses)
    told = lossy(random, kernel.told) if has_losses else kernel.told
    arrivals = disordered(random, told)
    tree, in_order = ProcessTree(), ProcessTree()
    in_order.apply_all(told)
    left = list(arrivals)
    while left:
        size = random.randint(1, 8)
        tree.apply_all(left[:size])
        left = left[size:]
    tree._check()
    in_order._check()
    totals["histories"] += 1
    totals["lossy"] += has_losses
    totals["events"] += len(arrivals)
    totals["instants"] += len(kernel.instants)
    comparison = Comparison(tree, Model(arrivals), in_order)
    for difference in comparison.differences():
        return f"model: {difference}"
    totals["answers"] += comparison.answers
    for lie in lies(DataSource(tree), kernel, is_lossless=not has_losses):
        return f"truth: {lie}"
    return None
