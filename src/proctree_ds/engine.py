"""Hands events to signatures, keeps them apart, and makes whole findings of what they say.

The rule of this file: nothing that a signature does reaches another signature or the caller. What
it raises is counted and reported; what does not return is interrupted (see `watchdog`); what goes
wrong too often is switched off, and that is reported too. Only what the caller's own callbacks
raise comes out of a method of the engine.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from time import perf_counter_ns
from typing import Any, Final

import msgspec

from proctree_ds.answers import ProcessInfo
from proctree_ds.datasource import DataSource
from proctree_ds.detection import (
    LINEAGE_DEPTH,
    Detection,
    describe,
    plain,
    type_name,
)
from proctree_ds.errors import DataNotFound, SignatureError
from proctree_ds.model import Event, Loss
from proctree_ds.report import (
    EngineLimits,
    Report,
    ReportKind,
    SignatureStatistics,
    message_of,
    place_of,
)
from proctree_ds.runner import Plan, Runner
from proctree_ds.signature import (
    AnyDataSource,
    EndOfSource,
    Finding,
    LossSignal,
    Signal,
    Signature,
    SignatureContext,
    Tick,
)
from proctree_ds.signature_event import MAKERS, EventView, TaskEvent
from proctree_ds.tree import ProcessTree
from proctree_ds.watchdog import SignatureTimeout, Watchdog

__all__ = ["Detection", "Engine", "EngineLimits", "Report", "SignatureStatistics"]

_FULLY_TIMED_EVENTS: Final = 256
"""After a slow call, so many events are timed one and all."""


class Engine:
    """Runs signatures over events. Not thread-safe: one thread calls it; any may ask `statistics`.

    `on_finding` is called with every `Detection`, `on_report` with every `Report`. Data sources
    besides the process tree's are given in `data_sources`. Feed the tree with a batch first, then
    `dispatch` the same batch. To have signatures that loop for ever interrupted, run the engine in
    the main thread.
    """

    def __init__(
        self,
        signatures: Iterable[Signature],
        tree: ProcessTree,
        *,
        on_finding: Callable[[Detection], object],
        on_report: Callable[[Report], object] = lambda report: None,
        data_sources: Iterable[AnyDataSource] = (),
        limits: EngineLimits = EngineLimits(),  # noqa: B008 - frozen
    ) -> None:
        answers = DataSource(tree)
        self._view = EventView(tree, answers)
        self._sources: dict[tuple[str, str], Any] = {(s.namespace, s.id): s for s in data_sources}
        self._sources["proctree", "process_tree"] = answers
        self._sources["tracee", "process_tree"] = answers
        self._on_finding = on_finding
        self._on_report = on_report
        self._limits = limits
        self._runners = [Runner(signature) for signature in signatures]
        self._plans: dict[type, Plan] = {}
        self._counting = threading.Lock()
        """Held while counts are moved, so that nobody counts an event twice."""
        self._descriptions: dict[tuple[int, int], dict[str, Any]] = {}
        self._last_time: int | None = None
        self._until_timed = 0
        self._fully_timed = 0
        self._watchdog = Watchdog(limits.call_seconds, _CALLERS, _COLLECTORS)

    # ------------------------------------------------------------------------------ from outside

    def start(self) -> None:
        """Initialise the signatures. One whose `init` fails is reported and stays off."""
        if not self._watchdog.start():
            self._on_report(
                Report(
                    "unwatched",
                    None,
                    "not in the main thread: a signature that does not return stops everything; "
                    "run the engine in the main thread to have it interrupted",
                )
            )
        for runner in self._runners:
            self._begin(runner)
        self._watchdog.set_limit(self._limits.call_seconds)
        self._plan()

    @property
    def running(self) -> list[Signature]:
        """The signatures that are on."""
        return [runner.signature for runner in self._runners if runner.off_because is None]

    def replace(self, signatures: Iterable[Signature]) -> None:
        """Run these from now on. Call it between two batches, after `start`.

        One that is here already goes on as it is, with its state and its counts. Others are
        initialised and begin to count at 0; what is not named any more is closed. Where the new
        one of an id cannot be initialised, that is reported and the one before goes on.
        """
        here = {id(runner.signature): runner for runner in self._runners}
        before = {runner.identity.id: runner for runner in self._runners}
        runners: list[Runner] = []
        for signature in signatures:
            runner = here.get(id(signature))
            if runner is None:
                runner = Runner(signature)
                self._begin(runner)
                old = before.get(runner.identity.id)
                if runner.off_because is not None and old is not None and old.off_because is None:
                    runner = old
            runners.append(runner)
        self._watchdog.set_limit(self._limits.call_seconds)
        gone = [runner for runner in self._runners if runner not in runners]
        with self._counting:
            self._fold()
            self._runners = runners
        self._plan()
        for runner in gone:
            self._end(runner)

    def dispatch(self, events: Sequence[Event]) -> None:
        """Hand a batch, which the tree was fed before, to the signatures that select from it.

        Costs one look-up for an event that nobody selects. A `Loss` becomes a `LossSignal`.
        """
        self._descriptions.clear()
        self._watchdog.enter()
        try:
            self._dispatch(events)
        finally:
            self._watchdog.is_at_work = False
        self._remember_time(events)

    def signal(self, signal: Signal) -> None:
        """Pass a signal to every signature that is on. Findings are taken as from an event."""
        if isinstance(signal, EndOfSource) and signal.time is None:
            signal = EndOfSource(self._last_time)
        for runner in self._runners:
            if runner.off_because is not None:
                continue
            found: list[dict[str, Any]] = []
            problem = self._guarded(runner, runner.signature.on_signal, signal, found)
            self._settle(runner, signal, problem, found)

    def close(self) -> None:
        """Close the signatures and stop watching. Twice is fine."""
        for runner in self._runners:
            self._end(runner)
        self._plan()
        self._watchdog.stop()

    def statistics(self) -> dict[str, SignatureStatistics]:
        """What each signature did so far, by signature id. Safe in any thread."""
        with self._counting:
            waiting: Counter[Runner] = Counter()
            for plan in self._plans.values():
                plan.add_to(waiting)
            return {
                runner.identity.id: runner.statistics(waiting[runner]) for runner in self._runners
            }

    def _begin(self, runner: Runner) -> None:
        context = SignatureContext(runner.identity.id, self._sources)
        self._watchdog.set_limit(self._limits.init_seconds)
        problem = self._guarded(runner, runner.signature.init, context, None)
        if problem is not None:
            self._report("init", runner, f"init failed: {message_of(problem)}", problem, 1)
            runner.off_because = "its init failed"
        else:
            runner.is_open = True
            runner.on_event = runner.signature.on_event
            runner.off_because = None

    def _end(self, runner: Runner) -> None:
        if not runner.is_open:
            return
        runner.is_open = False
        problem = self._guarded(runner, runner.signature.close, None, None)
        if problem is not None:
            self._report("close", runner, f"close failed: {message_of(problem)}", problem, 1)
        runner.off_because = runner.off_because or "closed"

    # ------------------------------------------------------------------------------ the apartness

    def _dispatch(self, events: Sequence[Event]) -> None:
        plans = self._plans
        watchdog = self._watchdog
        view = self._view
        raw: Any
        for raw in events:
            plan = plans.get(type(raw))
            if plan is None:
                continue
            if plan.make is None:
                base = view.tree.boot_time
                self.signal(LossSignal(base + raw.since, base + raw.time, raw.lost))
                continue
            event = plan.make(raw, view)
            pairs = plan.host
            if plan.is_split and event.container_id is not None:
                pairs = plan.container
                plan.container_events += 1
            else:
                plan.host_events += 1
            watchdog.subject = event
            self._until_timed -= 1
            if self._until_timed < 0:
                self._until_timed = self._timed_gap()
                for _, runner in pairs:
                    self._timed_call(runner, event)
                continue
            for on_event, runner in pairs:
                watchdog.running = runner
                try:
                    result = on_event(event)
                except BaseException as error:  # noqa: BLE001 - a signature may raise anything
                    watchdog.running = None
                    self._failed(runner, error)
                else:
                    if result is not None:
                        self._take(runner, event, result, [])
            watchdog.running = None

    def _timed_call(self, runner: Runner, event: TaskEvent) -> None:
        """One call of `on_event`, and how long it took."""
        found: list[dict[str, Any]] = []
        problem: BaseException | None = None
        self._watchdog.running = runner
        began = perf_counter_ns()
        try:
            result = runner.on_event(event)
            if result is not None:
                self._collect(result, found)
        except BaseException as error:  # noqa: BLE001 - a signature may raise anything
            problem = error
        spent = perf_counter_ns() - began
        self._watchdog.running = None
        if not isinstance(problem, SignatureTimeout):
            self._account(runner, spent)
        self._settle(runner, event, problem, found)

    def _take(
        self, runner: Runner, event: TaskEvent, result: object, found: list[dict[str, Any]]
    ) -> None:
        """Collect what a call of `on_event` gave back, still watched: it may be a generator."""
        problem: BaseException | None = None
        try:
            self._collect(result, found)
        except BaseException as error:  # noqa: BLE001 - a signature may raise anything
            problem = error
        self._watchdog.running = None
        self._settle(runner, event, problem, found)

    def _settle(
        self,
        runner: Runner,
        event: TaskEvent | Signal,
        problem: BaseException | None,
        found: list[dict[str, Any]],
    ) -> None:
        if problem is not None:
            self._failed(runner, problem)
        if found:
            self._deliver(runner, event, found)

    def _guarded(
        self,
        runner: Runner,
        call: Callable[..., Any],
        argument: object,
        found: list[dict[str, Any]] | None,
    ) -> BaseException | None:
        """Call a signature's method, watched. What it raised, or None; `found` takes findings."""
        arguments: tuple[object, ...] = () if argument is None else (argument,)
        watchdog = self._watchdog
        was_at_work = watchdog.is_at_work
        watchdog.enter()
        watchdog.subject = object()
        watchdog.running = runner
        try:
            result = call(*arguments)
            if found is not None and result is not None:
                self._collect(result, found)
        except BaseException as error:  # noqa: BLE001 - a signature may raise anything
            return error
        finally:
            watchdog.running = None
            watchdog.is_at_work = was_at_work
        return None

    def _collect(self, result: object, found: list[dict[str, Any]]) -> None:
        """Run what a signature gave back to its end. What it found before it failed is kept."""
        if type(result) is Finding:
            found.append(plain(result.data))
            return
        if isinstance(result, str | bytes | dict) or not isinstance(result, Iterable):
            raise SignatureError(
                f"it returned {type_name(result)}; return a Finding, several of them, or None"
            )
        limit = self._limits.findings
        try:
            for finding in islice(result, limit + 1):
                if not isinstance(finding, Finding):
                    raise SignatureError(f"it gave {type_name(finding)} instead of a Finding")
                if len(found) == limit:
                    raise SignatureError(f"more than {limit} findings at once; the rest is lost")
                found.append(plain(finding.data))
        finally:
            if isinstance(result, Generator):
                result.close()  # here, where it is watched, and not whenever it is collected

    def _failed(self, runner: Runner, problem: BaseException) -> None:
        limits = self._limits
        if isinstance(problem, KeyboardInterrupt) and _may_be_a_key():
            raise problem
        if isinstance(problem, SignatureTimeout):
            runner.timeouts += 1
            text = f"interrupted: it did not return within {limits.call_seconds:g} s"
            self._report("timeout", runner, text, problem, runner.timeouts)
            if runner.timeouts >= limits.timeouts:
                self._switch_off(runner, f"{runner.timeouts} calls did not return")
        else:
            runner.errors += 1
            self._report("error", runner, message_of(problem), problem, runner.errors)
            if runner.errors >= limits.errors:
                self._switch_off(runner, f"{runner.errors} errors")

    def _timed_gap(self) -> int:
        """How many events go by untimed before the next one that is timed."""
        if self._fully_timed:
            self._fully_timed -= 1
            return 0
        return self._limits.timed_every - 1

    def _account(self, runner: Runner, spent_ns: int) -> None:
        limits = self._limits
        runner.timed_calls += 1
        runner.timed_ns += spent_ns
        if spent_ns < limits.slow_seconds * 1e9:
            return
        self._fully_timed = _FULLY_TIMED_EVENTS
        self._until_timed = 0
        runner.slow_calls += 1
        calls, slow = runner.timed_calls, runner.slow_calls
        if slow == 1:
            text = f"slow: a call took {spent_ns / 1e6:.0f} ms"
            self._report("slow", runner, text, None, slow)
        if slow >= limits.slow_calls and slow * 10 >= calls:
            self._switch_off(runner, f"{slow} of {calls} timed calls were slow")

    def _switch_off(self, runner: Runner, because: str) -> None:
        if runner.off_because is None:
            runner.off_because = because
            self._report("switched_off", runner, f"switched off: {because}", None, 1)
            self._plan()

    def _report(
        self,
        kind: ReportKind,
        runner: Runner,
        message: str,
        problem: BaseException | None,
        count: int,
    ) -> None:
        where = None if problem is None else place_of(problem, runner.signature)
        self._on_report(Report(kind, runner.identity.id, message, where, count))

    def _plan(self) -> None:
        """Work out, for each kind of event, whom it goes to. Changes the table in place."""
        plans: dict[type, Plan] = {Loss: Plan(None, (), ())}
        for raw_type, (name, make) in MAKERS.items():
            host, container = (
                tuple((r.on_event, r) for r in self._runners if r.wants(name, origin))
                for origin in ("host", "container")
            )
            if host or container:
                plans[raw_type] = Plan(make, host, container)
        with self._counting:
            self._fold()
            self._plans.clear()
            self._plans.update(plans)

    def _fold(self) -> None:
        """Hand over what the plans have counted. `_counting` is held."""
        waiting: Counter[Runner] = Counter()
        for plan in self._plans.values():
            plan.add_to(waiting)
            plan.host_events = plan.container_events = 0
        for runner, events in waiting.items():
            runner.events += events

    # ----------------------------------------------------------------------------- whole findings

    def _deliver(
        self, runner: Runner, event: TaskEvent | Signal, found: list[dict[str, Any]]
    ) -> None:
        runner.findings += len(found)
        process: dict[str, Any] | None = None
        lineage: list[dict[str, Any]] = []
        if isinstance(event, TaskEvent):
            time = event.time
            about = event.to_dict()
            try:
                ancestry = self._view.data_source.lineage(
                    event.process_entity_id, time, max_depth=LINEAGE_DEPTH
                )
                lineage = [self._described(info) for info in ancestry]
                process = lineage[0] if lineage else None
            except DataNotFound:
                pass
        else:
            time = event.time if event.time is not None else self._last_time or 0
            about = {"time": time, "name": _SIGNAL_NAMES[type(event)]}
            about |= {k: v for k, v in msgspec.structs.asdict(event).items() if k != "time"}
        for data in found:
            self._on_finding(Detection(time, runner.identity, about, process, lineage, data))

    def _described(self, info: ProcessInfo) -> dict[str, Any]:
        """A process as plain data. Findings of one batch share ancestors, and so their dicts."""
        key = info.entity_id, info.time
        known = self._descriptions.get(key)
        if known is None:
            known = self._descriptions[key] = info.to_dict()
        return known

    def _remember_time(self, events: Sequence[Event]) -> None:
        for raw in reversed(events):
            time: int | None = getattr(raw, "time", None)
            if time is not None:
                moment = self._view.tree.boot_time + time
                self._last_time = max(moment, self._last_time or moment)
                return


def _may_be_a_key() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt: where it is handled, only a signature does."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


_CALLERS: Final = frozenset(
    call.__code__ for call in (Engine._dispatch, Engine._timed_call, Engine._take, Engine._guarded)
)
_COLLECTORS: Final = frozenset({Engine._collect.__code__, plain.__code__, describe.__code__})
_SIGNAL_NAMES: Final[dict[type, str]] = {
    EndOfSource: "end_of_source",
    LossSignal: "loss",
    Tick: "tick",
}
