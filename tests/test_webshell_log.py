"""The bundled log is right in itself, and the tree tells its story from any order of lines."""

from __future__ import annotations

import random
from importlib.resources import as_file, files

import pytest

from proctree_ds.datasource import DataSource
from proctree_ds.eventlog import read_events
from proctree_ds.model import (
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Loss,
    Picture,
    Snapshot,
    Task,
    entity_id,
)
from proctree_ds.tree import ProcessTree

PHP = ["php-fpm8.2", "php-fpm8.2", "systemd"]
KW = ["kworker/u4:3", ".kw", ".kw", ".u.sh", *PHP]


@pytest.fixture(scope="module")
def log() -> list[Event]:
    with as_file(files("proctree_ds") / "data" / "webshell.jsonl") as path:
        return list(read_events(path))


def test_it_opens_with_a_header_and_its_times_never_go_back(log: list[Event]) -> None:
    header, *rest = log
    assert isinstance(header, Header)
    times = [event.time for event in rest if not isinstance(event, Header)]
    assert times == sorted(times)
    assert len(times) == len(rest)


def test_every_task_that_is_named_was_introduced(log: list[Event]) -> None:
    known: set[Task] = set()
    for event in log:
        if isinstance(event, Header | Loss | Picture):
            continue
        if isinstance(event, Fork | Snapshot):
            assert event.task not in known
            known.add(event.task)
        assert event.task in known
        for name in ("parent", "leader", "creator", "reaper"):
            other = getattr(event, name, None)
            assert other is None or other in known


def test_nothing_happens_to_a_task_after_its_exit(log: list[Event]) -> None:
    gone: set[Task] = set()
    for event in log:
        if not isinstance(event, Header | Loss | Picture):
            assert event.task not in gone
        if isinstance(event, Exit):
            gone.add(event.task)
    assert {task.tid for task in gone} > {2201, 2231, 2245}


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_tree_tells_the_story(log: list[Event], seed: int | None) -> None:
    tree = ProcessTree(process_cache=1_024, thread_cache=1_024)
    header, *rest = log
    if seed is not None:
        random.Random(seed).shuffle(rest)
    for event in (header, *rest):
        tree.apply(event)
    ds = DataSource(tree)
    assert isinstance(header, Header)

    def names(tid: int) -> list[str | None]:
        """Who the task was at its last exec, and its ancestors."""
        found = [event for event in log if isinstance(event, Exec) and event.task.tid == tid]
        task, time = found[-1].task, found[-1].time
        assert task.start_time is not None
        lineage = ds.lineage(entity_id(task.start_time, tid), header.boot_time + time)
        return [process.name for process in lineage]

    assert names(2201) == ["sh", *PHP]
    assert names(2220) == [".u.sh", *PHP]
    assert names(2228) == ["exe", *KW]
    assert names(2231) == ["python3", "3", *KW]
    assert names(2245) == ["sh", "backup-helper", "dbus-daemon", "sh", "python3", "3", *KW]
    assert names(2271) == ["sh", "cron", "cron", "systemd"]

    last = log[-1]
    assert isinstance(last, Exit)
    (fork,) = [event for event in log if isinstance(event, Fork) and event.task.tid == 2225]
    start = fork.task.start_time
    assert start is not None
    implant = ds.process(entity_id(start, 2225), header.boot_time + last.time)
    assert (implant.name, implant.ppid, implant.uid, implant.is_alive) == (
        "kworker/u4:3",
        1,
        33,
        True,
    )
