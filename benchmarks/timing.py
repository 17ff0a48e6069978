"""CPU seconds of a piece of work, and how a figure is told."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of a result."""

    name: str
    value: float
    unit: str
    note: str = ""

    def __str__(self) -> str:
        number = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:,.2f}"
        return f"{self.name:<52} {number:>12} {self.unit:<10} {self.note}".rstrip()


def settle_memory() -> None:
    """What `proctree-detect` does once it has started: see `cli.detect`."""
    gc.collect()
    gc.freeze()


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def per_call_ns(work: Callable[[], object], calls: int, rounds: int = 15) -> tuple[float, float]:
    """Median and best CPU ns of a call; `work` makes `calls` of them."""
    work()
    spent = [cpu_seconds(work) / calls * 1e9 for _ in range(rounds)]
    return statistics.median(spent), min(spent)


def rate(counts: Iterable[tuple[int, float]]) -> tuple[float, float]:
    """Events a second over everything, and in the best tenth of the batches."""
    pairs = list(counts)
    total = sum(count for count, _ in pairs) / sum(spent for _, spent in pairs)
    rates = sorted((count / spent for count, spent in pairs), reverse=True)
    best = rates[: max(1, len(rates) // 10)]
    return total, statistics.mean(best)
