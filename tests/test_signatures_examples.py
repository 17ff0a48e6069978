"""The signatures of the examples: they load, they find what they say, and the tree agrees."""

from __future__ import annotations

from pathlib import Path

from histories import History

from proctree_ds.detection import Detection
from proctree_ds.engine import Engine, Report
from proctree_ds.model import Event, Exec, Task
from proctree_ds.registry import load_signatures
from proctree_ds.signature import EndOfSource
from proctree_ds.tree import ProcessTree

FOLDER = Path(__file__).parent.parent / "examples" / "signatures"


def run(id: str, events: list[Event], told: list[Event] | None = None) -> list[Detection]:
    """What the example finds in `events`; the tree learns `told`, if that is something else."""
    registry = load_signatures([FOLDER], builtin=False)
    assert registry.failures == []
    found: list[Detection] = []
    reports: list[Report] = []
    tree = ProcessTree()
    chosen = [s for s in registry.signatures if s.metadata.id == id]
    engine = Engine(chosen, tree, on_finding=found.append, on_report=reports.append)
    engine.start()
    try:
        tree.apply_all(told or events)
        engine.dispatch(events)
        engine.signal(EndOfSource())
    finally:
        engine.close()
    assert reports == []
    return found


def busy() -> History:
    """Execs over and over by processes that change, exec again and are gone when it is asked."""
    history = History()
    shell = history.spawn(1, "/usr/bin/bash", tty="pts/0")
    for number in range(50):
        child = history.spawn(shell, "/usr/bin/make", "make", str(number))
        history.change(child, comm="renamed")
        grandchild = history.spawn(child, "/usr/bin/sh", "sh", "-c", "cc")
        history.exec(grandchild, "/usr/bin/cc", "cc", "-c", "x.c")
        history.exit(child)
        history.exec(grandchild, "/usr/bin/as", "as")
        history.exit(grandchild)
    return history


def test_the_tree_agrees_with_every_exec() -> None:
    found = run("EX-SEED-CHECK", busy().events)
    assert [detection.data for detection in found] == [{"execs": 201, "mismatches": 0}]


def test_the_seed_check_notices_a_tree_that_is_wrong() -> None:
    history = busy()
    wrong = [
        Exec(e.time, e.task, e.facts, parent=Task(1, 1), ns_tid=7, ns_pid=7)
        if isinstance(e, Exec)
        else e
        for e in history.events
    ]
    found = run("EX-SEED-CHECK", wrong, told=history.events)
    assert found[-1].data["mismatches"] == len(found) - 1 > 0
    assert {detection.data["check"] for detection in found[:-1]} == {
        "check_process",
        "check_thread",
    }


def test_hello_lineage() -> None:
    found = run("EX-HELLO-LINEAGE", busy().events)
    assert len(found) == 51
    assert found[0].data == {"ancestors": ["systemd"]}
    assert found[1].data == {"ancestors": ["renamed", "bash", "systemd"]}
