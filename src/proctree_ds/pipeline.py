"""The one place where the rooms meet: source -> tree -> engine -> sinks, the log to the side.

The order within a batch is the promise that signatures rely on: the tree learns it first, then
they see it. Between two batches signatures may be replaced. Whatever ends a run, the source is
drained, the signatures are closed, the sinks are flushed and the log is sealed. What fails at the
edge (a full disk, a reader that went away) is handed to `on_trouble` and left out from then on,
and the rest goes on. Of input that cannot be true, `on_fault` is told once a kind. Nothing here
prints.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from time import monotonic_ns
from typing import Any, Final, Literal, Protocol

import msgspec

from proctree_ds.detection import Detection
from proctree_ds.engine import Engine
from proctree_ds.errors import ProctreeError
from proctree_ds.faults import Fault
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Loss, Snapshot
from proctree_ds.report import EngineLimits, Report, SignatureStatistics
from proctree_ds.signature import EndOfSource, Signature, Tick
from proctree_ds.sources import Source
from proctree_ds.tree import ProcessTree

__all__ = ["TICK_NS", "EventLog", "Pipeline", "Recorder", "Sink", "Summary", "Trouble"]

TICK_NS: Final = 1_000_000_000
"""How often signatures get a `Tick`: at whole multiples of this on the source's own clock."""

_KINDS: Final[dict[type, str]] = {
    Snapshot: "snapshot",
    Fork: "fork",
    Exec: "exec",
    Change: "change",
    Exit: "exit",
    Loss: "loss",
}


class Sink(Protocol):
    """Where findings go. An `OSError` out of it means that it can take no more."""

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        ...

    def flush(self) -> None:
        """Hand what was taken to whoever waits for it."""
        ...


class EventLog(Protocol):
    """Where the events themselves are kept. `proctree_ds.eventlog.EventLogWriter` is one."""

    def write(self, event: Event) -> None:
        """Add one event."""
        ...

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        ...

    def close(self) -> None:
        """Seal it."""
        ...


class Recorder(Protocol):
    """Where the events are kept for questions. `proctree_ds.recording.RecordingWriter` is one.

    The tree has been told a batch before it is written here.
    """

    def write_all(self, events: Sequence[Event]) -> None:
        """Add a batch."""
        ...

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        ...

    def close(self) -> None:
        """Seal it."""
        ...


class Trouble(msgspec.Struct, frozen=True):
    """A part of the pipeline that failed and is left out from now on, and why."""

    part: Literal["log", "recording", "sink"]
    error: Exception


class Summary(msgspec.Struct, frozen=True):
    """What a run has done so far.

    `events` counts by kind. `lost` events never arrived, as far as anybody counted them;
    `loss_windows` is how often some were lost. `skipped_lines` of the source could not be read.
    `source` and `tree` are the counters of those rooms, `signatures` the statistics by id.
    """

    elapsed_ns: int
    events: dict[str, int]
    lost: int
    loss_windows: int
    findings: int
    skipped_lines: int
    signatures: dict[str, SignatureStatistics]
    tree: dict[str, int]
    source: dict[str, int]

    @property
    def total_events(self) -> int:
        """All events, of whatever kind; reports of loss are none."""
        return sum(count for kind, count in self.events.items() if kind != "loss")


class Pipeline:
    """Runs signatures over the events of a source. Use it once; `run` in the main thread.

    `clock` gives now in boot-clock ns for a source that is live, so that ticks go on while nothing
    happens; a replay has only the times of its events. With `feeds_tree` false the tree stays
    empty. `duration_ns` ends the run that long after it began. `log` and `recorder` are closed at
    the end, sinks are only flushed. `on_batch` is called after every batch, empty ones of a quiet
    source too. `resumable` is for a source that takes a batch for handled when the next one is
    asked for, and hands what is not to whoever reads next: log and recording are flushed by then,
    and where no sink is left the run ends with the batch in hand.
    """

    def __init__(
        self,
        source: Source,
        signatures: Iterable[Signature] = (),
        sinks: Iterable[Sink] = (),
        *,
        tree: ProcessTree | None = None,
        feeds_tree: bool = True,
        log: EventLog | None = None,
        recorder: Recorder | None = None,
        duration_ns: int | None = None,
        tick_ns: int = TICK_NS,
        clock: Callable[[], int] | None = None,
        resumable: bool = False,
        limits: EngineLimits = EngineLimits(),  # noqa: B008 - frozen
        on_report: Callable[[Report], object] = lambda report: None,
        on_trouble: Callable[[Trouble], object] = lambda trouble: None,
        on_fault: Callable[[Fault], object] = lambda fault: None,
        on_batch: Callable[[], object] = lambda: None,
    ) -> None:
        self.tree = tree if tree is not None else ProcessTree()
        self._source = source
        self._sinks = list(sinks)
        self._feeds_tree = feeds_tree
        self._log = log
        self._resumable = resumable
        self._recorder = recorder
        self._duration_ns = duration_ns
        self._tick_ns = tick_ns
        self._clock = clock
        self._on_trouble = on_trouble
        self._on_fault = on_fault
        self._on_batch = on_batch
        self._faults_told: set[str] = set()
        self._engine = Engine(
            signatures, self.tree, on_finding=self._deliver, on_report=on_report, limits=limits
        )
        self._next_tick: int | None = None
        self._counts: Counter[type] = Counter()
        self._lost = 0
        self._findings = 0
        self._unflushed = False
        self._has_lost_sinks = False
        self._began_ns = monotonic_ns()
        self._ended_ns: int | None = None

    # ------------------------------------------------------------------------------ from outside

    def run(self) -> Summary:
        """Run to the end of the source, to `stop()`, or to the end of the duration.

        Raises what the source raises (`SourceError`, `EventLogError`), after everything that came
        before was seen through to the end; `summary()` answers then, too.
        """
        self._began_ns = monotonic_ns()
        with ExitStack() as closing:
            closing.callback(self._end)
            closing.callback(self._source.close)
            closing.callback(self._seal_log)
            closing.callback(self._seal_recording)
            closing.callback(self._flush_sinks)
            closing.callback(self._engine.close)
            if self._duration_ns is not None:
                timer = threading.Timer(self._duration_ns / 1e9, self.stop)
                timer.daemon = True
                timer.start()
                closing.callback(timer.cancel)
            self._engine.start()
            try:
                for batch in self._source.batches():
                    self._take(batch)
                    self._on_batch()
                    if self._resumable and self._has_lost_sinks:
                        break
            finally:
                self._engine.signal(EndOfSource())
        return self.summary()

    def replace_signatures(self, signatures: Iterable[Signature]) -> None:
        """Run these from the next batch on, see `Engine.replace`. To be called by `on_batch`."""
        self._engine.replace(signatures)

    @property
    def running_signatures(self) -> list[Signature]:
        """The signatures that are on."""
        return self._engine.running

    @property
    def loss_windows(self) -> int:
        """How often events were lost so far."""
        return self._counts[Loss]

    @property
    def lost(self) -> int:
        """How many events were lost so far, as far as anybody counted them."""
        return self._lost

    def stop(self) -> None:
        """End the run once what was captured so far is seen through. Safe in a signal handler."""
        self._source.stop()

    def summary(self) -> Summary:
        """What was done, at any time, and from any thread."""
        counters = dict(self._source.counters())
        ended = self._ended_ns if self._ended_ns is not None else monotonic_ns()
        return Summary(
            elapsed_ns=ended - self._began_ns,
            events={name: self._counts[kind] for kind, name in _KINDS.items()},
            lost=self._lost,
            loss_windows=self._counts[Loss],
            findings=self._findings,
            skipped_lines=counters.get("skipped", 0),
            signatures=self._engine.statistics(),
            tree=self.tree.counters,
            source=counters,
        )

    # ------------------------------------------------------------------------------ batch by batch

    def _take(self, batch: Sequence[Event]) -> None:
        last = getattr(batch[-1], "time", None) if batch else None
        if self._next_tick is not None and last is not None and last < self._next_tick:
            self._step(batch)
        else:
            for piece in self._between_ticks(batch):
                self._step(piece)
        if not batch and self._clock is not None and self._next_tick is not None:
            now = self._clock()
            if now >= self._next_tick:
                self._tick(now)
        if self._unflushed:
            self._flush_sinks()
        if self._resumable and batch:
            if self._log is not None:
                self._guard_log(self._log.flush)
            self._guard_recording(lambda recorder: recorder.flush())

    def _step(self, batch: Sequence[Event]) -> None:
        counts = self._counts
        losses = counts[Loss]
        counts.update(map(type, batch))
        if counts[Loss] != losses:
            self._lost += sum(event.lost or 0 for event in batch if type(event) is Loss)
        if self._feeds_tree:
            self.tree.apply_all(batch)
        else:
            self.tree.apply_all(event for event in batch if type(event) is Header)
        if len(self.tree.faults) > len(self._faults_told):
            self._tell_faults()
        if self._log is not None:
            self._write_log(batch)
        if self._recorder is not None:
            self._guard_recording(lambda recorder: recorder.write_all(batch))
        self._engine.dispatch(batch)

    def _tell_faults(self) -> None:
        for kind in self.tree.faults.keys() - self._faults_told:
            self._faults_told.add(kind)
            self._on_fault(Fault(kind))

    def _between_ticks(self, batch: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """The batch in pieces, each tick given just before the first event that is not before it.

        So signatures see the same order of events and ticks however a stream was cut into batches.
        """
        begin = 0
        for index, event in enumerate(batch):
            time: int | None = getattr(event, "time", None)
            if time is None:
                continue
            if self._next_tick is None:
                self._next_tick = time - time % self._tick_ns + self._tick_ns
            elif time >= self._next_tick:
                if index > begin:
                    yield batch[begin:index]
                begin = index
                self._tick(time)
        if begin < len(batch):
            yield batch[begin:]

    def _tick(self, now: int) -> None:
        """One tick for all the intervals that have gone by, at the last of them."""
        due = now - now % self._tick_ns
        self._next_tick = due + self._tick_ns
        self._engine.signal(Tick(self.tree.boot_time + due))
        if self._log is not None:
            self._guard_log(self._log.flush)
        self._guard_recording(lambda recorder: recorder.flush())

    # ------------------------------------------------------------------------------ the edges

    def _deliver(self, detection: Detection) -> None:
        self._findings += 1
        self._unflushed = True
        for sink in tuple(self._sinks):
            try:
                sink.write(detection)
            except OSError as error:
                self._lose_sink(sink, error)

    def _flush_sinks(self) -> None:
        self._unflushed = False
        for sink in tuple(self._sinks):
            try:
                sink.flush()
            except OSError as error:
                self._lose_sink(sink, error)

    def _lose_sink(self, sink: Sink, error: OSError) -> None:
        self._sinks.remove(sink)
        self._on_trouble(Trouble("sink", error))
        if not self._sinks:
            self._has_lost_sinks = True
            self.stop()

    def _write_log(self, batch: Sequence[Event]) -> None:
        assert self._log is not None
        write = self._log.write

        def write_all() -> None:
            for event in batch:
                write(event)

        self._guard_log(write_all)

    def _guard_log(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            log, self._log = self._log, None
            if log is not None:
                with suppress(OSError, ValueError):  # the disk is as full as before
                    log.close()
            self._on_trouble(Trouble("log", error))

    def _seal_log(self) -> None:
        if self._log is not None:
            self._guard_log(self._log.close)

    def _guard_recording(self, action: Callable[[Recorder], object]) -> None:
        if self._recorder is None:
            return
        try:
            action(self._recorder)
        except (OSError, ValueError, ProctreeError) as error:
            recorder, self._recorder = self._recorder, None
            with suppress(OSError, ValueError, ProctreeError):  # the disk is as full as before
                recorder.close()
            self._on_trouble(Trouble("recording", error))

    def _seal_recording(self) -> None:
        self._guard_recording(lambda recorder: recorder.close())

    def _end(self) -> None:
        self._ended_ns = monotonic_ns()
