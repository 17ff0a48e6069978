"""The engine: who gets what, what a finding looks like, and that signatures stay apart."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from proctree_ds.engine import Detection, Engine, EngineLimits, Report
from proctree_ds.errors import SignatureError
from proctree_ds.model import (
    Change,
    Context,
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Image,
    Loss,
    Snapshot,
    State,
    Task,
    entity_id,
)
from proctree_ds.registry import load_signatures
from proctree_ds.signature import (
    EndOfSource,
    EventSelector,
    Finding,
    LossSignal,
    Signature,
    SignatureContext,
    SignatureMetadata,
    Tick,
)
from proctree_ds.signature_event import ExecEvent, TaskEvent
from proctree_ds.tree import ProcessTree

BOOT = 1_700_000_000_000_000_000
INIT = Task(1, 1)
SHELL = Task(600, 100)
QUICK = EngineLimits(call_seconds=0.05)


def state(comm: str, *, container: str | None = None, uid: int = 0) -> State:
    image = Image(argv=(comm, "-x"))
    return State(comm, image, "/", "/", Context(uid=uid, container_id=container))


LIFE: list[Event] = [
    Header(boot_time=BOOT),
    Snapshot(50, INIT, {"comm": "init"}, ns_pid=1),
    Fork(100, SHELL, parent=INIT, ns_tid=600, ns_pid=600, comm="init"),
    Exec(200, SHELL, state("sh"), parent=INIT, ns_tid=600, ns_pid=600),
    Change(300, SHELL, {"comm": "renamed"}),
    Exit(400, SHELL, parent=INIT, exit_code=3, group_exit=True),
]


class Bench:
    """An engine over a tree, and all that came out of it."""

    def __init__(self, *signatures: Signature, limits: EngineLimits | None = None) -> None:
        self.tree = ProcessTree()
        self.found: list[Detection] = []
        self.reports: list[Report] = []
        self.engine = Engine(
            signatures,
            self.tree,
            on_finding=self.found.append,
            on_report=self.reports.append,
            limits=limits or EngineLimits(),
        )
        self.engine.start()

    def feed(self, events: list[Event]) -> None:
        self.tree.apply_all(events)
        self.engine.dispatch(events)

    @property
    def data(self) -> list[dict[str, Any]]:
        return [detection.data for detection in self.found]

    @property
    def kinds(self) -> list[str]:
        return [report.kind for report in self.reports]


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*signatures: Signature, limits: EngineLimits | None = None) -> Bench:
        made.append(Bench(*signatures, limits=limits))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()


def signature(
    on_event: Callable[[Any], Any] | None = None,
    *,
    id: str = "S",
    selectors: tuple[EventSelector, ...] = (EventSelector("exec"),),
    **methods: Callable[..., Any],
) -> Signature:
    """A signature that does what the functions say."""
    body: dict[str, Any] = {
        name: lambda self, *given, call=call: call(*given) for name, call in methods.items()
    }
    if on_event is not None:
        body["on_event"] = lambda self, event: on_event(event)
    body["metadata"] = SignatureMetadata(
        id=id, version="1", name="n", description="d", severity="low", techniques=("T1059",)
    )
    body["selectors"] = selectors
    made: Signature = type("Made", (Signature,), body)()
    return made


def test_a_finding_is_made_whole(bench: Callable[..., Bench]) -> None:
    run = bench(signature(lambda event: Finding(data={"why": event.comm})))
    run.feed(LIFE)
    line = json.loads(msgspec.json.encode(run.found[0]))
    assert list(line) == ["time", "signature", "event", "process", "lineage", "data"]
    assert line["time"] == BOOT + 200
    assert line["signature"] == {
        "id": "S",
        "version": "1",
        "name": "n",
        "severity": "low",
        "techniques": ["T1059"],
        "tags": [],
    }
    assert line["data"] == {"why": "sh"}
    assert line["process"]["pid"] == 600
    assert [info["pid"] for info in line["lineage"]] == [600, 1]
    event = line["event"]
    assert list(event)[:11] == [
        "time",
        "name",
        "tid",
        "pid",
        "ns_tid",
        "ns_pid",
        "ppid",
        "thread_entity_id",
        "process_entity_id",
        "parent_entity_id",
        "container_id",
    ]
    assert (event["name"], event["pid"], event["ppid"]) == ("exec", 600, 1)
    assert event["process_entity_id"] == entity_id(100, 600)
    assert event["argv"] == ["sh", "-x"]


def test_every_kind_of_event_describes_itself(bench: Callable[..., Bench]) -> None:
    seen: list[dict[str, Any]] = []
    both = (EventSelector("*"), EventSelector("snapshot"))
    run = bench(signature(lambda event: seen.append(event.to_dict()), selectors=both))
    run.feed(LIFE)
    assert [event["name"] for event in seen] == ["snapshot", "fork", "exec", "change", "exit"]
    assert [event["time"] - BOOT for event in seen] == [50, 100, 200, 300, 400]
    assert all(json.loads(json.dumps(event)) == event for event in seen)
    _, fork, execution, change, exit = seen
    assert fork["creator_entity_id"] == entity_id(1, 1)
    assert execution["uid"] == 0
    assert change["changed"] == {"comm": "renamed"}
    assert (exit["exit_code"], exit["comm"], exit["group_exit"]) == (3, "renamed", True)


def test_what_an_event_does_not_state_comes_from_the_tree_as_of_its_time(
    bench: Callable[..., Bench],
) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(event: TaskEvent) -> None:
        made = (event.name, event.comm, event.argv, event.uid, event.ppid, event.ns_pid)  # type: ignore[attr-defined]
        seen.append(made)

    run = bench(signature(look, selectors=(EventSelector("*"),)))
    run.feed(LIFE)
    assert seen[0][:2] == ("fork", "init")
    assert seen[1:] == [
        ("exec", "sh", ("sh", "-x"), 0, 1, 600),
        ("change", "renamed", ("sh", "-x"), 0, 1, 600),
        ("exit", "renamed", ("sh", "-x"), 0, 1, 600),
    ]


def test_an_exec_that_states_little_is_filled_in_from_the_tree(
    bench: Callable[..., Bench],
) -> None:
    seen: list[Any] = []
    run = bench(signature(lambda event: seen.append((event.comm, event.cwd, event.uid))))
    run.feed(LIFE)
    run.feed([Exec(250, SHELL, {"comm": "other", "cwd": None})])
    assert seen[-1] == ("other", None, 0)


def test_the_tree_answers_for_the_time_of_the_event_even_after_the_end(
    bench: Callable[..., Bench],
) -> None:
    contexts: list[SignatureContext] = []
    seen: list[Any] = []

    def look(event: ExecEvent) -> None:
        tree = contexts[0].get_data_source("tracee", "process_tree")
        info = tree.process(event.process_entity_id, event.time)
        seen.append((info.name, info.cmd))

    run = bench(signature(look, init=contexts.append))
    again = Exec(350, SHELL, state("again"), parent=INIT)
    run.feed([*LIFE[:4], again, LIFE[5]])
    assert seen == [("sh", ("sh", "-x")), ("again", ("again", "-x"))]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ((EventSelector("sched_process_fork"),), ["fork"]),
        ((EventSelector("sched_process_exec"),), ["exec"]),
        ((EventSelector("sched_process_exit"),), ["exit"]),
        ((EventSelector("snapshot"), EventSelector("change")), ["snapshot", "change"]),
        ((EventSelector("exec"), EventSelector("*")), ["fork", "exec", "change", "exit"]),
        ((EventSelector("exec", origin="container"),), []),
        ((EventSelector("exec", origin="host"), EventSelector("fork", "container")), ["exec"]),
    ],
)
def test_selectors(
    bench: Callable[..., Bench], selectors: tuple[EventSelector, ...], expected: list[str]
) -> None:
    seen: list[str] = []
    run = bench(signature(lambda event: seen.append(event.name), selectors=selectors))
    run.feed(LIFE)
    assert seen == expected


def test_origin_is_where_the_process_was_then(bench: Callable[..., Bench]) -> None:
    seen: list[tuple[str, str]] = []
    one = (EventSelector("exec", origin="host"),)
    two = (EventSelector("exec", origin="container"),)
    run = bench(
        signature(lambda event: seen.append(("host", event.comm)), id="H", selectors=one),
        signature(lambda event: seen.append(("box", event.comm)), id="C", selectors=two),
        signature(lambda event: seen.append(("any", event.comm)), id="A"),
    )
    boxed = Exec(250, SHELL, state("in", container="c" * 64), parent=INIT)
    run.feed([*LIFE[:4], boxed])
    assert sorted(seen) == [("any", "in"), ("any", "sh"), ("box", "in"), ("host", "sh")]


@pytest.mark.parametrize(("event", "origin"), [("open", "*"), ("exec", "pod"), ("Exec", "*")])
def test_a_selector_with_an_unknown_word_says_what_there_is(event: str, origin: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*\*"):
        EventSelector(event, origin)


def test_an_unknown_data_source_is_an_error_that_lists_the_known_ones(
    bench: Callable[..., Bench],
) -> None:
    run = bench(signature(init=lambda context: context.get_data_source("a", "b")))
    assert run.kinds == ["init"]
    assert "there is no data source a/b" in run.reports[0].message
    assert "proctree/process_tree, tracee/process_tree" in run.reports[0].message
    assert not run.engine.statistics()["S"].is_enabled


def test_several_findings_and_none(bench: Callable[..., Bench]) -> None:
    def some(event: TaskEvent) -> Iterator[Finding]:
        yield Finding(data={"n": 1})
        yield Finding(data={"n": 2})

    run = bench(
        signature(some, id="A"),
        signature(lambda event: [Finding()], id="B"),
        signature(lambda event: (), id="C"),
        signature(lambda event: None, id="D"),
    )
    run.feed(LIFE)
    assert [(d.signature.id, d.data) for d in run.found] == [
        ("A", {"n": 1}),
        ("A", {"n": 2}),
        ("B", {}),
    ]
    assert run.engine.statistics()["A"].findings == 2
    assert run.reports == []


def test_data_may_hold_answers_and_files(bench: Callable[..., Bench]) -> None:
    def look(event: ExecEvent) -> Finding:
        tree = contexts[0].get_data_source("proctree", "process_tree")
        lineage = tree.lineage(event.process_entity_id, event.time)
        return Finding(data={"whole": lineage, "one": lineage[0], "odd": "\udcff", "set": {4}})

    contexts: list[SignatureContext] = []
    run = bench(signature(look, init=contexts.append))
    run.feed(LIFE)
    assert run.reports == []
    data = run.data[0]
    assert [info["pid"] for info in data["whole"]] == [600, 1]
    assert data["one"]["pid"] == 600
    assert (data["odd"], data["set"]) == ("\udcff", [4])


def endless() -> list[Any]:
    knot: list[Any] = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("text", "returned a value of type str"),
        ({"data": 1}, "returned a value of type dict"),
        (7, "returned a value of type int"),
        ([Finding(), 7], "gave a value of type int"),
        (Finding(data=[1]), "data must be a dict"),  # type: ignore[arg-type]
        (Finding(data={"x": object()}), "type object has no JSON form"),
        (Finding(data={"x": complex(1)}), "type complex has no JSON form"),
        (Finding(data={"x": endless()}), "not JSON"),
        (iter(Finding, None), "more than 1000 findings"),
    ],
)
def test_what_is_no_finding_is_an_error_of_that_signature(
    bench: Callable[..., Bench], result: Any, says: str
) -> None:
    run = bench(signature(lambda event: result, id="bad"), signature(lambda e: Finding(), id="ok"))
    run.feed(LIFE)
    assert run.kinds == ["error"]
    assert says in run.reports[0].message
    assert run.found[-1].signature.id == "ok"


def test_what_was_found_before_an_error_is_kept(bench: Callable[..., Bench]) -> None:
    def half(event: TaskEvent) -> Iterator[Finding]:
        yield Finding(data={"n": 1})
        raise ValueError("then it broke")

    run = bench(signature(half))
    run.feed(LIFE)
    assert run.data == [{"n": 1}]
    assert run.reports[0].message == "ValueError: then it broke"


class OddError(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, SystemExit, OddError, RecursionError, MemoryError])
def test_who_raises_is_counted_reported_and_switched_off_and_the_others_go_on(
    bench: Callable[..., Bench], error: type[BaseException]
) -> None:
    def fail(event: TaskEvent) -> None:
        raise error("x")

    run = bench(
        signature(fail, id="bad"),
        signature(lambda event: Finding(), id="good"),
        limits=EngineLimits(errors=3),
    )
    for _ in range(5):
        run.feed(LIFE)
    assert run.kinds == ["error", "error", "error", "switched_off"]
    assert [report.count for report in run.reports[:3]] == [1, 2, 3]
    assert re.search(r"test_engine\.py:\d+$", run.reports[0].where or "")
    assert "3 errors" in run.reports[3].message
    statistics = run.engine.statistics()
    assert (statistics["bad"].events, statistics["bad"].errors) == (3, 3)
    assert (statistics["bad"].is_enabled, statistics["bad"].off_because) == (False, "3 errors")
    assert (statistics["good"].events, statistics["good"].findings) == (5, 5)
    assert statistics["good"].is_enabled


def test_ctrl_c_in_a_signature_ends_the_program_and_not_the_signature(
    bench: Callable[..., Bench],
) -> None:
    def interrupted(event: TaskEvent) -> None:
        raise KeyboardInterrupt

    run = bench(signature(interrupted))
    with pytest.raises(KeyboardInterrupt):
        run.feed(LIFE)
    assert run.reports == []


def test_an_error_of_the_callers_own_is_not_the_signatures() -> None:
    def full(detection: Detection) -> None:
        raise OSError("disk full")

    tree = ProcessTree()
    engine = Engine([signature(lambda event: Finding())], tree, on_finding=full)
    engine.start()
    tree.apply_all(LIFE)
    try:
        with pytest.raises(OSError, match="disk full"):
            engine.dispatch(LIFE)
        assert engine.statistics()["S"].errors == 0
    finally:
        engine.close()


# ----------------------------------------------------------------------------- signatures that hang


def spin(event: object) -> None:
    while True:
        pass


def sleep(event: object) -> None:
    time.sleep(600)


def backtrack(event: object) -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def swallow(event: object) -> None:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0)


def generate(event: object) -> Iterator[Finding]:
    yield Finding(data={"n": 1})
    while True:
        pass


def cling(event: object) -> Iterator[Any]:
    try:
        yield "no finding"
    finally:
        while True:
            pass


@pytest.mark.parametrize("hang", [spin, sleep, backtrack, swallow, generate, cling])
def test_who_does_not_return_is_interrupted_and_switched_off(
    bench: Callable[..., Bench], hang: Callable[[Any], Any]
) -> None:
    run = bench(
        signature(hang, id="bad"), signature(lambda event: Finding(), id="good"), limits=QUICK
    )
    for _ in range(4):
        run.feed(LIFE)
    assert run.kinds == ["timeout", "timeout", "switched_off"]
    assert "did not return within 0.05 s" in run.reports[0].message
    statistics = run.engine.statistics()
    assert (statistics["bad"].timeouts, statistics["bad"].is_enabled) == (2, False)
    assert statistics["good"].findings == 4


def test_a_loop_of_queries_is_interrupted_between_them_and_the_tree_stays_whole(
    bench: Callable[..., Bench],
) -> None:
    contexts: list[SignatureContext] = []

    def ask(event: ExecEvent) -> None:
        tree = contexts[0].get_data_source("proctree", "process_tree")
        while True:
            tree.lineage(event.process_entity_id, event.time)

    run = bench(signature(ask, init=contexts.append), limits=QUICK)
    run.feed(LIFE)
    assert run.kinds == ["timeout"]
    assert "/test_engine.py:" in (run.reports[0].where or "")


def test_init_signals_and_close_are_watched_as_well(bench: Callable[..., Bench]) -> None:
    limits = EngineLimits(call_seconds=0.05, init_seconds=0.05)
    run = bench(
        signature(init=spin, id="I"),
        signature(on_signal=spin, id="S"),
        signature(close=lambda: spin(None), id="C"),
        limits=limits,
    )
    run.engine.signal(EndOfSource())
    run.engine.close()
    assert [(r.signature_id, r.kind) for r in run.reports] == [
        ("I", "init"),
        ("S", "timeout"),
        ("C", "close"),
    ]


def test_only_signatures_are_interrupted_not_who_takes_their_findings() -> None:
    taken: list[Detection] = []

    def slow_sink(detection: Detection) -> None:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            pass
        taken.append(detection)

    tree = ProcessTree()
    reports: list[Report] = []
    engine = Engine(
        [signature(lambda event: Finding())],
        tree,
        on_finding=slow_sink,
        on_report=reports.append,
        limits=QUICK,
    )
    engine.start()
    tree.apply_all(LIFE)
    engine.dispatch(LIFE)
    engine.close()
    assert len(taken) == 1
    assert reports == []


def test_the_signal_goes_back_to_whoever_had_it() -> None:
    before = signal.getsignal(signal.SIGURG)
    engine = Engine([], ProcessTree(), on_finding=lambda detection: None)
    engine.start()
    assert signal.getsignal(signal.SIGURG) != before
    engine.close()
    engine.close()
    assert signal.getsignal(signal.SIGURG) == before


def test_outside_of_the_main_thread_it_says_that_it_cannot_interrupt() -> None:
    reports: list[Report] = []

    def run() -> None:
        engine = Engine(
            [], ProcessTree(), on_finding=lambda detection: None, on_report=reports.append
        )
        engine.start()
        engine.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [report.kind for report in reports] == ["unwatched"]


def test_who_is_slow_all_the_time_is_switched_off(bench: Callable[..., Bench]) -> None:
    limits = EngineLimits(slow_seconds=0.0, slow_calls=5, timed_every=4)
    run = bench(signature(lambda event: None), limits=limits)
    for _ in range(10):
        run.feed(LIFE)
    assert run.kinds == ["slow", "switched_off"]
    statistics = run.engine.statistics()["S"]
    assert statistics.slow_calls == 5
    assert "5 of 5 timed calls were slow" in (statistics.off_because or "")


def test_time_is_estimated_from_the_calls_that_were_timed(bench: Callable[..., Bench]) -> None:
    run = bench(signature(lambda event: None), limits=EngineLimits(timed_every=3))
    run.feed(LIFE)
    first = run.engine.statistics()["S"].nanoseconds
    run.feed(LIFE)
    assert first > 0
    assert run.engine.statistics()["S"].nanoseconds == 2 * first


# ------------------------------------------------------------------------------------------ signals


def test_loss_ticks_and_the_end_arrive_and_can_be_answered(bench: Callable[..., Bench]) -> None:
    seen: list[Any] = []

    def listen(sent: Any) -> Finding | None:
        seen.append(sent)
        return Finding(data={"summary": True}) if isinstance(sent, EndOfSource) else None

    run = bench(signature(on_signal=listen))
    run.feed([*LIFE, Loss(450, 420, 17)])
    run.engine.signal(Tick(BOOT + 500))
    run.engine.signal(EndOfSource())
    assert seen == [
        LossSignal(BOOT + 420, BOOT + 450, 17),
        Tick(BOOT + 500),
        EndOfSource(BOOT + 450),
    ]
    summary = run.found[0]
    assert (summary.time, summary.process, summary.lineage) == (BOOT + 450, None, [])
    assert summary.event == {"time": BOOT + 450, "name": "end_of_source"}


def test_close_is_called_once_and_only_where_init_went_well(bench: Callable[..., Bench]) -> None:
    closed: list[str] = []

    def fail(context: SignatureContext) -> None:
        raise SignatureError("no")

    run = bench(
        signature(id="A", close=lambda: closed.append("A")),
        signature(id="B", init=fail, close=lambda: closed.append("B")),
    )
    run.engine.close()
    run.engine.close()
    assert closed == ["A"]
    run.feed(LIFE)
    assert run.engine.statistics()["A"].events == 0


def test_what_a_signature_logs_goes_nowhere_by_itself(
    bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    contexts: list[SignatureContext] = []
    bench(signature(init=contexts.append))
    contexts[0].logger.warning("to whom it may concern")
    assert contexts[0].logger.name == "proctree_ds.signature.S"
    assert capsys.readouterr().err == ""


def test_an_interruption_never_leaks_however_close_to_the_limit_calls_are(
    bench: Callable[..., Bench],
) -> None:
    calls = 0

    def work(event: TaskEvent) -> Iterator[Finding]:
        nonlocal calls
        calls += 1
        deadline = time.perf_counter() + (calls % 7) * 0.0005
        while time.perf_counter() < deadline:
            event.to_dict()
        yield Finding()

    limits = EngineLimits(call_seconds=0.002, timeouts=1_000_000, slow_calls=1_000_000)
    run = bench(signature(work), limits=limits)
    for _ in range(300):
        run.feed(LIFE)
    statistics = run.engine.statistics()["S"]
    assert statistics.events == calls == 300
    # A call that is interrupted after its finding counts as both.
    assert statistics.findings <= 300 <= statistics.findings + statistics.timeouts
    assert len(run.found) == statistics.findings
    assert statistics.errors == 0


# ------------------------------------------------------------------------------ replacing


def find_execs(event: TaskEvent) -> Finding:
    return Finding(data={"pid": event.pid})


def test_a_replacement_is_initialised_and_what_it_replaces_is_closed(
    bench: Callable[..., Bench],
) -> None:
    told: list[str] = []
    old = signature(find_execs, id="A", close=lambda: told.append("old closed"))
    stays = signature(find_execs, id="B", close=lambda: told.append("B closed"))
    run = bench(old, stays)
    run.feed(LIFE)
    new = signature(find_execs, id="A", init=lambda context: told.append("new begins"))
    run.engine.replace([new, stays])
    assert told == ["new begins", "old closed"]
    assert run.engine.running == [new, stays]
    run.feed([Exec(500, Task(700, 450), state("id"))])
    statistics = run.engine.statistics()
    assert (statistics["A"].events, statistics["A"].findings) == (1, 1)
    assert (statistics["B"].events, statistics["B"].findings) == (2, 2)
    assert len(run.found) == 4


def test_where_the_new_one_cannot_begin_the_one_before_goes_on(
    bench: Callable[..., Bench],
) -> None:
    def fails(context: SignatureContext) -> None:
        raise ValueError("not today")

    told: list[str] = []
    old = signature(find_execs, id="A", close=lambda: told.append("closed"))
    run = bench(old)
    run.engine.replace([signature(find_execs, id="A", init=fails)])
    assert (run.kinds, told) == (["init"], [])
    assert run.engine.running == [old]
    run.feed(LIFE)
    assert run.engine.statistics()["A"].events == 1


def test_who_is_not_named_any_more_is_closed_and_what_was_switched_off_can_come_back(
    bench: Callable[..., Bench],
) -> None:
    def fails(event: TaskEvent) -> None:
        raise ValueError("always")

    told: list[str] = []
    run = bench(
        signature(fails, id="A"),
        signature(find_execs, id="B", close=lambda: told.append("B closed")),
        limits=EngineLimits(errors=1),
    )
    run.feed(LIFE)
    assert not run.engine.statistics()["A"].is_enabled
    run.engine.replace([signature(find_execs, id="A")])
    assert told == ["B closed"]
    run.feed([Exec(500, Task(700, 450), state("id"))])
    assert [d.signature.id for d in run.found] == ["B", "A"]


def test_a_signature_that_hangs_is_interrupted_after_others_were_loaded_and_replaced(
    bench: Callable[..., Bench],
) -> None:
    def hangs(event: TaskEvent) -> None:
        while True:
            pass

    run = bench(limits=QUICK)
    load_signatures()  # has a watchdog of its own
    run.engine.replace([signature(hangs, id="A")])
    run.feed(LIFE)
    assert run.kinds == ["timeout"]


def test_statistics_are_for_any_thread_and_count_nothing_twice(
    bench: Callable[..., Bench],
) -> None:
    run = bench(signature(find_execs, id="A"))
    seen: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            seen.append(run.engine.statistics()["A"].events)

    thread = threading.Thread(target=ask)
    thread.start()
    one = run.engine.running
    for start in range(2_000):
        run.feed([Exec(1_000 + start, Task(1_000 + start, 900 + start), state("id"))])
        run.engine.replace(one)
    ended.set()
    thread.join()
    assert seen == sorted(seen)
    assert run.engine.statistics()["A"].events == 2_000
