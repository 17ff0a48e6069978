"""The pipeline: the order within a batch, ticks, what fails at the edges, and how a run ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from proctree_ds.detection import Detection
from proctree_ds.errors import EventLogError, SourceError
from proctree_ds.eventlog import EventLogWriter, read_events
from proctree_ds.model import (
    UNKNOWN_CONTEXT,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Image,
    Loss,
    State,
    Task,
)
from proctree_ds.pipeline import Pipeline, Trouble
from proctree_ds.signature import (
    EndOfSource,
    EventSelector,
    Finding,
    Findings,
    LossSignal,
    Signal,
    Signature,
    SignatureContext,
    SignatureMetadata,
    Tick,
)
from proctree_ds.signature_event import ExecEvent, TaskEvent
from proctree_ds.sources.memory import MemorySource

BOOT = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def metadata(name: str) -> SignatureMetadata:
    return SignatureMetadata(
        id=name, version="1", name=name, description="for a test", severity="low"
    )


class Witness(Signature):
    """Notes everything that reaches it, and finds every exec."""

    metadata = metadata("WITNESS")
    selectors = (EventSelector(),)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")
        self.seen.append("init")

    def on_event(self, event: TaskEvent) -> Findings:
        self.seen.append((event.name, event.time - BOOT))
        if isinstance(event, ExecEvent):
            process = self.tree.process(event.process_entity_id, event.time)
            return Finding(data={"tree_says": process.name})
        return None

    def on_signal(self, signal: Signal) -> Findings:
        self.seen.append(signal)
        return None

    def close(self) -> None:
        self.seen.append("close")


class Basket:
    """A sink that keeps what it is given, or fails on purpose."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.found: list[Detection] = []
        self.flushes = 0
        self._fails_after = fails_after

    def write(self, detection: Detection) -> None:
        if self._fails_after is not None and len(self.found) >= self._fails_after:
            raise OSError(28, "No space left on device")
        self.found.append(detection)

    def flush(self) -> None:
        self.flushes += 1


class Scripted:
    """A source that plays batches; an exception among them is raised. Follows `stop`."""

    def __init__(self, *batches: Sequence[Event] | Exception, endless: bool = False) -> None:
        self._batches = batches
        self._endless = endless
        self.is_stopped = False
        self.is_closed = False

    def batches(self) -> Iterator[Sequence[Event]]:
        for batch in self._batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
            if self.is_stopped:
                return
        while self._endless and not self.is_stopped:
            time.sleep(0.001)
            yield []

    def stop(self) -> None:
        self.is_stopped = True

    def close(self) -> None:
        self.is_closed = True

    def counters(self) -> Mapping[str, int]:
        return {"skipped": 3}


def life(tid: int, begin: int) -> list[Event]:
    """A process that starts at `begin`, executes, and exits: a microsecond each."""
    task = Task(tid, begin)
    state = State(f"name-{tid}", Image(argv=("x",)), "/", "/", UNKNOWN_CONTEXT)
    return [
        Fork(begin, task, parent=Task(1, 1)),
        Exec(begin + 1_000, task, state),
        Exit(begin + 2_000, task, exit_code=0, group_exit=True),
    ]


HEADER: list[Event] = [Header(boot_time=BOOT)]


def test_the_tree_has_learned_a_batch_before_signatures_see_it() -> None:
    basket = Basket()
    Pipeline(MemorySource(HEADER + life(5, SECOND)), [Witness()], [basket]).run()
    assert [finding.data for finding in basket.found] == [{"tree_says": "name-5"}]
    assert basket.flushes


def test_a_run_opens_and_closes_in_order() -> None:
    witness = Witness()
    source = Scripted(HEADER + life(5, SECOND))
    Pipeline(source, [witness]).run()
    assert witness.seen[0] == "init"
    assert witness.seen[-2:] == [EndOfSource(BOOT + SECOND + 2_000), "close"]
    assert source.is_closed


@pytest.mark.parametrize("error", [SourceError("gone"), EventLogError("a", 1, None, "bad")])
def test_a_source_that_fails_is_seen_through_first(error: Exception, tmp_path: Path) -> None:
    witness, basket = Witness(), Basket()
    source = Scripted(HEADER + life(5, SECOND), error)
    log = EventLogWriter(tmp_path / "log.jsonl")
    pipeline = Pipeline(source, [witness], [basket], log=log)
    with pytest.raises(type(error)):
        pipeline.run()
    assert len(basket.found) == 1
    assert witness.seen[-1] == "close"
    assert isinstance(witness.seen[-2], EndOfSource)
    assert source.is_closed
    assert list(read_events(tmp_path / "log.jsonl")) == HEADER + life(5, SECOND)
    assert pipeline.summary().total_events == 3


# ------------------------------------------------------------------------------------- ticks


def ticks_of(*batches: Sequence[Event], **options: Any) -> list[Any]:
    witness = Witness()
    Pipeline(Scripted(*batches), [witness], tick_ns=SECOND, **options).run()
    return [seen for seen in witness.seen if not isinstance(seen, str | EndOfSource)]


def test_ticks_stand_between_the_same_events_however_the_stream_is_cut() -> None:
    events = HEADER + life(5, SECOND // 2) + life(6, SECOND - 1_000) + life(7, 5 * SECOND)
    whole = ticks_of(events)
    assert whole == ticks_of(*([event] for event in events))
    assert whole == ticks_of(events[:4], [], events[4:8], events[8:])
    assert [seen for seen in whole if isinstance(seen, Tick)] == [
        Tick(BOOT + SECOND),
        Tick(BOOT + 5 * SECOND),
    ]
    assert whole[whole.index(Tick(BOOT + SECOND)) + 1] == ("exec", SECOND)


def test_a_live_source_ticks_while_nothing_happens() -> None:
    now = iter([SECOND // 2, 3 * SECOND + 5, 3 * SECOND + 9])
    seen = ticks_of(HEADER + life(5, 100), [], [], [], clock=lambda: next(now))
    assert [tick for tick in seen if isinstance(tick, Tick)] == [Tick(BOOT + 3 * SECOND)]


def test_a_replay_does_not_tick_by_itself() -> None:
    assert not [s for s in ticks_of(HEADER + life(5, 100), [], []) if isinstance(s, Tick)]


# ------------------------------------------------------------------------------------ counting


def test_a_summary_counts_what_came_and_what_was_lost() -> None:
    losses: list[Event] = [Loss(SECOND, 5, 17), Loss(2 * SECOND, SECOND, None)]
    events = HEADER + life(5, 100) + losses + [Change(3 * SECOND, Task(9, 9), {"comm": "x"})]
    witness = Witness()
    summary = Pipeline(Scripted(events), [witness], [Basket()]).run()
    assert summary.events == {
        "snapshot": 0,
        "fork": 1,
        "exec": 1,
        "change": 1,
        "exit": 1,
        "loss": 2,
    }
    assert (summary.total_events, summary.lost, summary.loss_windows) == (4, 17, 2)
    assert (summary.findings, summary.skipped_lines) == (1, 3)
    assert summary.signatures["WITNESS"].findings == 1
    assert summary.tree["loss_windows"] == 2
    assert LossSignal(BOOT + 5, BOOT + SECOND, 17) in witness.seen


def test_a_tree_that_is_turned_off_stays_empty_and_keeps_the_wall_clock() -> None:
    class Naive(Witness):
        def on_event(self, event: TaskEvent) -> Findings:
            return Finding(data={"name": getattr(event, "comm", None)})

    basket = Basket()
    pipeline = Pipeline(MemorySource(HEADER + life(5, 100)), [Naive()], [basket], feeds_tree=False)
    assert pipeline.run().tree["processes"] == 0
    assert [found.time for found in basket.found] == [BOOT + 100, BOOT + 1_100, BOOT + 2_100]
    assert basket.found[1].data == {"name": "name-5"}
    assert basket.found[1].process is None


# ----------------------------------------------------------------------------------- the edges


def test_a_sink_that_takes_no_more_is_left_out_and_the_others_go_on() -> None:
    troubles: list[Trouble] = []
    full, basket = Basket(fails_after=1), Basket()
    events = HEADER + life(5, 100) + life(6, 5_000) + life(7, 10_000)
    pipeline = Pipeline(Scripted(events), [Witness()], [full, basket], on_trouble=troubles.append)
    assert pipeline.run().findings == 3
    assert (len(full.found), len(basket.found)) == (1, 3)
    assert [(trouble.part, type(trouble.error)) for trouble in troubles] == [("sink", OSError)]


def test_a_run_ends_when_no_sink_is_left() -> None:
    source = Scripted(HEADER + life(5, 100), endless=True)
    Pipeline(source, [Witness()], [Basket(fails_after=0)]).run()
    assert source.is_stopped
    assert source.is_closed


class FullDisk:
    """An event log on a disk that is full after some events."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.is_closed = False

    def write(self, event: Event) -> None:
        if not self.room:
            raise OSError(28, "No space left on device")
        self.room -= 1

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("room", [0, 2, 100])
def test_a_full_disk_ends_the_log_and_not_the_detection(room: int) -> None:
    troubles: list[Trouble] = []
    log, basket = FullDisk(room), Basket()
    events = HEADER + life(5, 100) + life(6, 5 * SECOND)
    Pipeline(Scripted(events), [Witness()], [basket], log=log, on_trouble=troubles.append).run()
    assert len(basket.found) == 2
    assert log.is_closed
    assert [trouble.part for trouble in troubles] == ["log"]


def test_a_duration_ends_a_stream_that_would_not_end() -> None:
    witness = Witness()
    source = Scripted(HEADER + life(5, 100), endless=True)
    summary = Pipeline(source, [witness], duration_ns=20_000_000).run()
    assert summary.total_events == 3
    assert summary.elapsed_ns >= 20_000_000
    assert witness.seen[-1] == "close"


def test_stop_ends_a_run_from_within() -> None:
    class Stopper(Witness):
        pipeline: Pipeline

        def on_event(self, event: TaskEvent) -> Findings:
            self.pipeline.stop()
            return super().on_event(event)

    stopper = Stopper()
    stopper.pipeline = Pipeline(
        Scripted(HEADER + life(5, 100), life(6, 5_000), endless=True), [stopper]
    )
    summary = stopper.pipeline.run()
    assert summary.events["fork"] == 1
    assert stopper.seen[-1] == "close"


# ------------------------------------------------------------------------- between two batches


def test_signatures_are_replaced_between_two_batches_and_no_event_is_missed() -> None:
    events = [Exec(time, Task(time, time - 1), {"comm": "x"}) for time in range(10, 2_000)]
    first, second = Counting(), Counting()
    batches = 0

    def on_batch() -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            assert pipeline.running_signatures == [first]
            pipeline.replace_signatures([second])
            assert pipeline.running_signatures == [second]

    pipeline = Pipeline(MemorySource([Header(), *events]), [first], on_batch=on_batch)
    summary = pipeline.run()
    assert batches == 4
    assert first.times + second.times == [event.time for event in events]
    assert first.times
    assert second.times
    assert (first.closed, second.closed) == (1, 1)
    assert summary.events["exec"] == len(events)


class Counting(Signature):
    """Notes the times of execs, and how often it was closed."""

    metadata = metadata("COUNTING")
    selectors = (EventSelector(event="exec"),)

    def __init__(self) -> None:
        self.times: list[int] = []
        self.closed = 0

    def on_event(self, event: TaskEvent) -> Findings:
        self.times.append(event.time)
        return None

    def close(self) -> None:
        self.closed += 1
