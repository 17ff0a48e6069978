"""What a signature reads from an event: the event's own word, else the tree's as of its time."""

from __future__ import annotations

from typing import Any

import pytest

from proctree_ds.datasource import DataSource
from proctree_ds.model import (
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Header,
    Image,
    Namespaces,
    Snapshot,
    State,
    Task,
    entity_id,
)
from proctree_ds.signature_event import (
    MAKERS,
    ChangeEvent,
    EventView,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    SnapshotEvent,
)
from proctree_ds.tree import ProcessTree

BOOT = 1_000_000
INIT = Task(1, 1)
MAIN = Task(600, 100)
WORKER = Task(601, 200)
CHILD = Task(700, 300)

CONTEXT = Context(
    uid=33,
    euid=34,
    session_id=600,
    tty="pts/1",
    container_id="c" * 64,
    namespaces=Namespaces(pid=7),
)
IMAGE = Image(
    executable=FileInfo(path="/usr/bin/python3.11"),
    interpreter=FileInfo(path="/lib/ld.so"),
    script="/srv/run.py",
    argv=("python3", "/srv/run.py"),
    argv_truncated=True,
    env={"HOME": "/srv"},
)
STARTED = Exec(150, MAIN, State("python3", IMAGE, "/srv", "/", CONTEXT), parent=INIT, ns_pid=9)

HISTORY: list[Event] = [
    Header(boot_time=BOOT),
    Snapshot(50, INIT, {"comm": "init"}, ns_pid=1),
    Fork(100, MAIN, parent=INIT, ns_tid=9, ns_pid=9),
    STARTED,
    Fork(200, WORKER, leader=MAIN, parent=INIT, creator=MAIN, ns_tid=10, ns_pid=9),
    Change(250, WORKER, {"comm": "pool-1"}, leader=MAIN),
    Fork(300, CHILD, parent=MAIN, creator=WORKER),
]


def see(raw: Event, also: tuple[Event, ...] = ()) -> Any:
    """The event as a signature sees it, in a tree that knows the history and `also`."""
    tree = ProcessTree()
    tree.apply_all([*HISTORY, raw, *also])
    _, make = MAKERS[type(raw)]
    return make(raw, EventView(tree, DataSource(tree)))


def test_an_exec_that_states_all() -> None:
    event = see(STARTED)
    assert isinstance(event, ExecEvent)
    assert (event.name, event.time, event.tid, event.pid) == ("exec", BOOT + 150, 600, 600)
    assert (event.ppid, event.ns_pid, event.ns_tid) == (1, 9, 9)
    assert event.thread_entity_id == event.process_entity_id == entity_id(100, 600)
    assert event.parent_entity_id == entity_id(1, 1)
    assert event.program == "python3.11"
    assert event.interpreter == FileInfo(path="/lib/ld.so")
    assert (event.script, event.cwd, event.root) == ("/srv/run.py", "/srv", "/")
    assert (event.uid, event.euid, event.suid, event.tty) == (33, 34, None, "pts/1")
    assert event.argv_truncated is True
    assert event.container_id == "c" * 64
    assert event.to_dict()["namespaces"]["pid"] == 7


def test_an_exec_that_states_one_fact() -> None:
    event = see(Exec(400, MAIN, {"argv": ("x",), "uid": None}))
    assert event.argv == ("x",)
    assert event.uid is None
    assert (event.comm, event.program, event.euid) == ("python3", "python3.11", 34)
    assert (event.ppid, event.parent_entity_id) == (1, entity_id(1, 1))
    assert not event.is_reparented


def test_an_exec_that_states_whole_parts() -> None:
    event = see(Exec(400, MAIN, {"image": Image(argv=()), "context": Context(uid=5)}))
    assert (event.argv, event.executable, event.program) == ((), None, None)
    assert (event.uid, event.euid) == (5, None)
    assert event.cwd == "/srv"


def test_a_later_change_does_not_show() -> None:
    event = see(Exec(400, MAIN, {}), (Change(500, MAIN, {"comm": "later", "cwd": "/later"}),))
    assert (event.comm, event.cwd) == ("python3", "/srv")


def test_a_fork_of_a_process_by_a_thread() -> None:
    event = see(HISTORY[-1])
    assert isinstance(event, ForkEvent)
    assert (event.pid, event.tid, event.ppid, event.is_thread) == (700, 700, 600, False)
    assert event.creator_tid == 601
    assert event.creator_entity_id == entity_id(200, 601)
    assert event.argv == ("python3", "/srv/run.py")
    assert event.uid == 33


def test_a_fork_of_a_thread() -> None:
    event = see(HISTORY[4])
    assert (event.pid, event.tid, event.is_thread) == (600, 601, True)
    assert event.thread_entity_id == entity_id(200, 601)
    assert event.process_entity_id == entity_id(100, 600)
    assert (event.ns_tid, event.ns_pid) == (10, 9)


def test_what_a_fork_states_of_the_child() -> None:
    context = Context(uid=1)
    given = {"cwd": "/child"}
    raw = Fork(400, Task(800, 400), parent=MAIN, comm="kid", context=context, given=given)
    event = see(raw)
    assert (event.comm, event.uid, event.euid, event.cwd) == ("kid", 1, None, "/child")
    assert event.creator_tid == 600


def test_the_change_and_the_end_of_a_thread_are_about_that_thread() -> None:
    renamed = see(HISTORY[5])
    assert isinstance(renamed, ChangeEvent)
    assert (renamed.comm, renamed.pid, renamed.changed) == ("pool-1", 600, {"comm": "pool-1"})
    ended = see(Exit(400, WORKER, leader=MAIN, group_exit=False))
    assert isinstance(ended, ExitEvent)
    assert (ended.comm, ended.ns_tid, ended.ppid) == ("pool-1", 10, 1)
    assert (ended.exit_code, ended.exit_signal, ended.group_exit) == (None, None, False)


def test_an_exit_and_its_reaper() -> None:
    event = see(Exit(400, MAIN, exit_signal=9, core_dumped=True, reaper=Task(1)))
    assert (event.exit_signal, event.core_dumped) == (9, True)
    assert event.reaper_entity_id == entity_id(1, 1)


def test_a_snapshot_is_a_kind_of_its_own() -> None:
    event = see(Snapshot(400, MAIN, {"comm": "x"}, subreaper=True))
    assert isinstance(event, SnapshotEvent)
    assert (event.name, event.comm, event.subreaper) == ("snapshot", "x", True)


def test_a_parent_known_by_its_pid_only_is_looked_up() -> None:
    event = see(Exec(400, CHILD, {}, parent=Task(600)))
    assert (event.ppid, event.parent_entity_id) == (600, entity_id(100, 600))
    assert not event.is_reparented


@pytest.mark.parametrize("parent", [INIT, Task(1), None])
def test_an_orphan_is_reparented_however_little_its_exec_states(parent: Task | None) -> None:
    end = Exit(350, MAIN, parent=INIT, exit_code=0, group_exit=True, reaper=INIT)
    tree = ProcessTree()
    raw = Exec(400, CHILD, {}, parent=parent)
    tree.apply_all([*HISTORY, Exit(340, WORKER, leader=MAIN, group_exit=False), end, raw])
    event = MAKERS[Exec][1](raw, EventView(tree, DataSource(tree)))
    assert event.is_reparented
    assert event.ppid == 1


def test_what_nobody_knows_is_none() -> None:
    raw = Exec(400, Task(999, 380), {})
    tree = ProcessTree()
    event = MAKERS[Exec][1](raw, EventView(tree, DataSource(tree)))
    facts = event.to_dict()
    assert (facts["pid"], facts["tid"]) == (999, 999)
    known = {name for name, value in facts.items() if value not in (None, False)}
    assert known == {"time", "name", "tid", "pid", "thread_entity_id", "process_entity_id"}
