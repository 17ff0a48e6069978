"""Runs a source into a tree beside the witnesses, and compares, until the load has ended."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import Event, Exit, Header
from proctree_ds.sources.ebpf import EbpfSource

from . import connector
from .asof import AsOf
from .chronicle import Chronicle
from .comparison import Comparison
from .connector import Connector
from .forkcount import ForkCount, Reading, read_count
from .ledger import Ledger
from .questions import PATIENCE_NS, Questions
from .reasons import Reasons
from .rows import boot_clock, followed_hierarchy, sweep, zombies
from .witness import Witness

PROCESS_CACHE: Final = 65_536
THREAD_CACHE: Final = 131_072
RING_BYTES: Final = 64 << 20
"""Enough for what happens between two looks, even where this program gets little of the CPU."""

BATCH: Final = 256
"""Small, so that the witnesses are heard before the tree lets go of a storm's ended threads."""

MEMORY_NS: Final = PATIENCE_NS + 4_000_000_000
"""For how long the comparison remembers what has ended: longer than anything is asked about."""

_READINGS: Final = 3


@dataclass(slots=True)
class Outcome:
    """A run, whole."""

    ledger: Ledger
    forks: ForkCount
    chronicle: Chronicle
    missed: int
    """Notices that the connector could not deliver."""
    lost: int
    """Events that the source says were lost."""
    counters: dict[str, int]
    tree: dict[str, int]
    seconds: float


class Watch:
    """One capture with everything that judges it."""

    def __init__(self) -> None:
        self._connector = Connector()
        before = zombies()
        self._source = EbpfSource(ring_bytes=RING_BYTES, batch=BATCH)
        self._batches: Iterator[Sequence[Event]] = iter(self._source.batches())
        self._tree = ProcessTree(PROCESS_CACHE, THREAD_CACHE)
        self._chronicle = Chronicle()
        self._ledger = Ledger()
        asof = AsOf(DataSource(self._tree))
        self._reasons = Reasons(asof, self._chronicle)
        self._questions = Questions(self._ledger)
        self._comparison = Comparison(
            asof, self._chronicle, self._questions, self._reasons, self._ledger, before
        )
        self._witness = Witness(asof, self._chronicle, self._questions, self._ledger)
        self._forks = ForkCount(self._chronicle, self._ledger)
        self._hierarchy = followed_hierarchy()

    def run(self, command: Sequence[str]) -> Outcome:
        """Watch while `command` runs, to its end."""
        began = boot_clock()
        self._take(next(self._batches))
        self._catch_up()
        self._connector.read()
        since = boot_clock()
        self._round(since)
        load = subprocess.Popen(command)
        try:
            while load.poll() is None:
                self._round(since)
        finally:
            load.wait()
        for _ in range(3):
            self._round(since)
        self._questions.ask_again(last=True)
        self._tree._check()
        return Outcome(
            self._ledger,
            self._forks,
            self._chronicle,
            self._connector.missed,
            self._chronicle.lost,
            dict(self._source.counters()),
            self._tree.counters,
            (boot_clock() - began) / 1e9,
        )

    def close(self) -> None:
        self._connector.close()
        self._source.close()

    def _round(self, since: int) -> None:
        readings: list[Reading] = [read_count() for _ in range(_READINGS)]
        taken = sweep(self._hierarchy)
        readings += [read_count() for _ in range(_READINGS)]
        notices = [notice for notice in self._connector.read() if notice.time >= since]
        departures = self._reasons.departures
        departures.update((n.pid, n.time) for n in notices if n.kind == connector.EXIT)
        self._witness.hear(notices)
        self._catch_up()
        self._forks.take(readings)
        self._questions.ask_again()
        self._comparison.compare(taken)
        before = taken.began - MEMORY_NS
        self._chronicle.forget_moments(before)
        for life in self._chronicle.forget(before):
            if life.forked is not None and life.forked > since and not life.is_witnessed:
                self._ledger.fail(f"the tree has {life!r}, of which the connector did not tell")
        for pid in [pid for pid, time in departures.items() if time < before]:
            del departures[pid]

    def _catch_up(self) -> None:
        """Take events until everything that has happened up to now is in the tree."""
        began = boot_clock()
        marker = threading.Thread(target=lambda: None)
        marker.start()
        tid = marker.native_id
        marker.join()
        for batch in self._batches:
            self._take(batch)
            for event in batch:
                if isinstance(event, Exit) and event.task.tid == tid and event.time > began:
                    return

    def _take(self, batch: Sequence[Event]) -> None:
        note = self._chronicle.note
        for event in batch:
            if not isinstance(event, Header):
                note(event)
        self._tree.apply_all(batch)
        self._witness.check(max((getattr(event, "time", None) or 0 for event in batch), default=0))
