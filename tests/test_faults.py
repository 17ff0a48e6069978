"""Bad input: every kind has its words, is counted each time, and told of once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from proctree_ds import DataSource, ProcessTree
from proctree_ds.changelog import VERSIONS_LIMIT
from proctree_ds.cli.detect import main
from proctree_ds.eventlog import write_events
from proctree_ds.faults import FAULTS, Fault
from proctree_ds.model import NEVER, Change, Event, Exec, Exit, Fork, Header, Loss, Snapshot, Task
from proctree_ds.pipeline import Pipeline
from proctree_ds.sources.memory import MemorySource

SOURCE = Path(__file__).parent.parent / "src" / "proctree_ds"
INIT, P, Q = Task(1, 1), Task(25, 100), Task(26, 110)
BEGINNING: list[Event] = [Fork(100, P, INIT), Fork(110, Q, P)]
FLOOD: list[Event] = [Change(1_000 + i, P, {"comm": str(i)}) for i in range(2 * VERSIONS_LIMIT)]

R, S, T, U, V = (Task(tid, 120) for tid in range(27, 32))

BAD_INPUT: dict[str, list[Event]] = {
    "beyond_horizon": [*FLOOD, Change(1_010, P, {"comm": "late"})],
    "contradictory_fork": [Fork(110, Q, INIT)],
    "contradictory_ns_pid": [Snapshot(200, Q, {}, ns_pid=7), Snapshot(210, Q, {}, ns_pid=8)],
    "creator_of_another_process": [Fork(120, V, leader=P, creator=Q)],
    "creator_younger_than_child": [Fork(120, R, P, creator=Task(9, 130))],
    "cycle": [Change(200, P, {}, parent=P)],
    "event_after_exit": [Exit(150, Q), Change(160, Q, {"comm": "ghost"})],
    "event_before_start": [Exit(105, Q)],
    "leader_as_thread": [Change(200, Q, {"comm": "t"}, leader=P)],
    "parent_younger_than_child": [Exec(125, S, {"comm": "s"}, parent=Task(8, 130))],
    "task_without_start": [Change(200, Task(26), {"comm": "x"})],
    "thread_as_leader": [Fork(120, T, leader=P), Exit(130, T, leader=P), Fork(140, T, INIT)],
    "time_out_of_range": [Change(NEVER, Q, {"comm": "x"})],
    "two_leaders": [Fork(120, U, leader=P), Change(130, U, {"comm": "u"}, leader=Q)],
    "window_ends_before_it_begins": [Loss(100, 200, 1)],
}


def test_every_kind_in_the_code_has_its_words() -> None:
    code = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    counted = re.findall(r"faults\[(.*?)\]", code)
    assert counted
    assert {kind.strip('"') for kind in counted} == FAULTS.keys()


def test_every_kind_has_an_example_here() -> None:
    assert BAD_INPUT.keys() == FAULTS.keys()


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_counted_and_changes_nothing_else(kind: str) -> None:
    tree = ProcessTree()
    for event in (*BEGINNING, *BAD_INPUT[kind]):
        tree.apply(event)
        tree._check()
    assert set(tree.faults) == {kind}
    assert tree.counters[f"fault_{kind}"] == tree.faults[kind] >= 1
    lineage = DataSource(tree).lineage(tree.census.by_tid[26].entity_id, 115)
    assert [info.pid for info in lineage] == [26, 25, 1]


def test_each_kind_is_told_once_a_run() -> None:
    told: list[Fault] = []
    bad = [event for events in BAD_INPUT.values() for event in events]
    pipeline = Pipeline(MemorySource([Header(), *BEGINNING, *bad * 3]), on_fault=told.append)
    counted = pipeline.run().tree
    assert sorted(fault.kind for fault in told) == sorted(FAULTS)
    assert counted["fault_cycle"] == counted["fault_leader_as_thread"] == 3


def test_the_command_says_what_it_means(tmp_path: Path) -> None:
    log = tmp_path / "bad.jsonl"
    write_events(log, [Header(), *BEGINNING, *BAD_INPUT["cycle"] * 50])
    result = CliRunner().invoke(main, ["--no-builtin", "--quiet", "--replay", str(log)])
    assert result.exit_code == 0
    assert result.stderr.count("a process would be its own ancestor") == 1
    assert "fault_cycle" in result.stderr
