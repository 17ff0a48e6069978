"""Runs a source into a tree beside the witnesses, and compares, until the load has ended."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
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

PROCESS_CACHE: Final = 262_144
THREAD_CACHE: Final = 524_288
RING_BYTES: Final = 64 << 20
"""Enough for what happens between two looks, even where this program gets little of the CPU."""

CHANGES_RING_BYTES: Final = 16 << 20

BATCH: Final = 256
"""Small, so that the witnesses are heard before the tree lets go of a storm's ended threads."""

MEMORY_NS: Final = PATIENCE_NS + 4_000_000_000
"""For how long the comparison remembers what has ended: longer than anything is asked about."""

ANCHOR_ROUNDS: Final = 200
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
    """One capture with everything that judges it.

    `tamper` stands between the source and the tree, for who wants to see a wrong tree found out.
    """

    def __init__(
        self,
        tamper: Callable[[Sequence[Event]], Sequence[Event]] = lambda b: b,
        follow_changes: bool = False,
    ) -> None:
        self._tamper = tamper
        self._connector = Connector()
        before = zombies()
        self._source = EbpfSource(
            ring_bytes=RING_BYTES,
            batch=BATCH,
            follow_changes=follow_changes,
            changes_ring_bytes=CHANGES_RING_BYTES,
        )
        before |= zombies()  # one that ended between the two is in no event
        self._batches: Iterator[Sequence[Event]] = iter(self._source.batches())
        self._tree = ProcessTree(PROCESS_CACHE, THREAD_CACHE)
        self._chronicle = Chronicle()
        self._ledger = Ledger()
        self._asof = asof = AsOf(DataSource(self._tree))
        self._reasons = Reasons(asof, self._chronicle)
        self._questions = Questions(self._ledger)
        self._comparison = Comparison(
            asof, self._chronicle, self._questions, self._reasons, self._ledger, before
        )
        self._witness = Witness(asof, self._chronicle, self._questions, self._reasons, self._ledger)
        self._forks = ForkCount(self._chronicle, self._ledger)
        self._controller = followed_hierarchy().controller
        self._since = 0

    def run(self, command: Sequence[str]) -> Outcome:
        """Watch while `command` runs, to its end."""
        began = boot_clock()
        self._take(next(self._batches))
        self._catch_up()
        self._connector.read()
        self._since = boot_clock()
        self._find_anchor()
        load = subprocess.Popen(command)
        try:
            while load.poll() is None:
                self._round()
        finally:
            load.wait()
        self._find_anchor()
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

    def _find_anchor(self) -> None:
        """Go on until nobody is being made just while the kernel's count is read."""
        before = self._forks.anchors
        for _ in range(ANCHOR_ROUNDS):
            self._round()
            if self._forks.anchors > before:
                return

    def _round(self) -> None:
        readings: list[Reading] = [read_count() for _ in range(_READINGS)]
        taken = sweep(self._controller)
        readings += [read_count() for _ in range(_READINGS)]
        notices = [notice for notice in self._connector.read() if notice.time >= self._since]
        departures = self._reasons.departures
        departures.update((n.pid, n.time) for n in notices if n.kind == connector.EXIT)
        self._witness.hear(notices)
        self._catch_up()
        self._forks.take(readings)
        self._questions.ask_again()
        self._comparison.compare(taken)
        self._forget(taken.began - MEMORY_NS)

    def _forget(self, before: int) -> None:
        """Let go of what nobody asks about any more; whoever the tree has, others saw, too."""
        self._chronicle.forget_moments(before)
        for life in self._chronicle.forget(before):
            if life.forked is None or life.forked <= self._since:
                continue
            if life.witnessed is None:
                self._ledger.fail(f"the tree has {life!r}, of which the connector did not tell")
            if life.exec_count != life.claims:
                self._ledger.fail(f"of the execs of {life!r} the connector told {life.claims}")
        departures = self._reasons.departures
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
        self._tree.apply_all(self._tamper(batch))
        self._asof.learned()
        self._witness.check(max((getattr(event, "time", None) or 0 for event in batch), default=0))
