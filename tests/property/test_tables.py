"""What tables are answered with, row by row against the data source, on random histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenarios.story import INIT, E, F, X, init, tree_of
from scenarios.test_thinning import FLOODS, MANY, P, one_of_each

from proctree_ds import (
    BeyondHorizon,
    DataNotFound,
    DataSource,
    NeverSeen,
    NotStartedYet,
    ProcessInfo,
    ProcessTree,
    entity_id,
)
from proctree_ds.model import NEVER, Event, Header, Task
from proctree_ds.tables import ANCESTOR_COLUMNS, COLUMNS, AsOf, diff, snapshot

from .capture import disordered, lossy
from .kernel import Kernel
from .test_contradictions import crowded

seeds = st.integers(0, 2**48)
lengths = st.integers(1, 40)
Ask = Callable[[int, int], ProcessInfo]

NOT_OF_A_VERSION = ("valid_from", "valid_to", "source", "dropped")
"""Columns that a `ProcessInfo` has no field for."""
STRANGE_ID = 12345
CHILD = Task(26, 5_000)


def expected(info: ProcessInfo, name: str) -> Any:
    """What a column has for this answer."""
    if name in ("executable", "interpreter"):
        file = info.execution_binary if name == "executable" else info.interpreter
        return None if file is None else file.path
    if name == "effective_capabilities":
        return None if info.capabilities is None else info.capabilities.effective
    if name == "pid_namespace":
        return None if info.namespaces is None else info.namespaces.pid
    if name == "original_ppid":
        parent = info._node.parent
        return None if parent is None else parent.tid
    value = getattr(info, name)
    return list(value) if isinstance(value, tuple) else value


def mistakes(
    row: dict[str, Any], prefix: str, info: ProcessInfo, names: tuple[str, ...]
) -> Iterator[str]:
    for name in names:
        if name == "pid_namespace" and info._dropped:
            continue
        if name not in NOT_OF_A_VERSION and row[prefix + name] != expected(info, name):
            yield f"{prefix}{name} {row[prefix + name]!r}, not {expected(info, name)!r}: {row}"
    if not row[prefix + "valid_from"] <= info.time:
        yield f"{row} is not as of {info.time}"
    source = info.certainty.source
    if row[prefix + "source"] != source:
        yield f"{row[prefix + 'source']} is not {source}"


def reason(error: DataNotFound) -> set[str]:
    if isinstance(error, NeverSeen):
        return {"never_seen"}
    if isinstance(error, NotStartedYet):
        return {"not_started"}
    return {"beyond_horizon"} if isinstance(error, BeyondHorizon) else {"exited", "thread"}


def differences(ds: DataSource, tasks: set[Task], instants: list[int]) -> Iterator[str]:
    """Where tables and the data source do not agree, whatever is asked."""
    index = AsOf(ds)
    times = [ds.tree.boot_time + instant for instant in instants]
    ids = sorted({entity_id(t.start_time or 0, t.tid) for t in tasks} | {STRANGE_ID})
    pids = sorted({task.tid for task in tasks} | {4_000})
    inodes = sorted({1, 2, 3, *range(99, 106)})
    yield from _asked(
        ds, index, [(t, i) for t in times for i in ids], "entity_id", lambda i, t: ds.process(i, t)
    )
    yield from _asked(ds, index, [(t, p) for t in times for p in pids], "pid", ds.pid)
    rows = [(t, p) for t in times for p in range(1, 6)]
    for inode in inodes:
        within = partial(ds.pid, pid_namespace=inode)
        yield from _asked(ds, index, rows, "ns_pid", within, pid_namespace=inode)


def _asked(
    ds: DataSource,
    index: AsOf,
    rows: list[tuple[int, int]],
    key: str,
    ask: Ask,
    **more: int,
) -> Iterator[str]:
    columns = {
        "time": pa.array([time for time, _ in rows], pa.int64()),
        key: pa.array([number for _, number in rows], pa.uint64()),
    }
    columns |= {name: pa.array([value] * len(rows), pa.uint64()) for name, value in more.items()}
    table = pa.table(columns)
    keys: dict[str, Any] = {name: name for name in columns if name != "time"}
    answers = index.asof(table, columns=COLUMNS, **keys).to_pylist()
    lineages = index.lineages(table, depth=3, columns=ANCESTOR_COLUMNS, **keys).to_pylist()
    for (time, number), answer, lineage in zip(rows, answers, lineages, strict=True):
        status = answer["process_status"]
        what = f"{key} {number} {more} as of {time}"
        try:
            info = ask(number, time)
        except DataNotFound as error:
            if key == "ns_pid":
                allowed = {"never_seen", "exited", "beyond_horizon"}
            else:
                allowed = reason(error)
            if status not in allowed:
                yield f"{what}: {status}, not {allowed}: {error}"
            told = [n for n, v in answer.items() if n.startswith("process_") and v is not None]
            if told != ["process_status"] or lineage["lineage_end"] is not None:
                yield f"{what}: {answer} where there is no answer"
            continue
        if status != "found":
            yield f"{what}: {status}, not {info!r}"
            continue
        for mistake in mistakes(answer, "process_", info, COLUMNS):
            yield f"{what}: {mistake}"
        try:
            chain = ds.lineage(info.entity_id, time, max_depth=3)
        except BeyondHorizon:
            continue
        if (lineage["lineage_depth"], lineage["lineage_end"]) != (len(chain) - 1, chain.end):
            yield f"{what}: {lineage}, not {chain}"
            continue
        for n, ancestor in enumerate(chain.ancestors, 1):
            for mistake in mistakes(lineage, f"ancestor{n}_", ancestor, ANCESTOR_COLUMNS):
                yield f"{what}: {mistake}"
        nobody = [lineage[f"ancestor{n}_entity_id"] for n in range(len(chain), 4)]
        if any(nobody):
            yield f"{what}: more ancestors than {chain}"


def surveyed(ds: DataSource, since: int, until: int) -> Iterator[str]:
    """Where `snapshot` and `diff` do not agree."""
    boot_time = ds.tree.boot_time
    try:
        told = ds.snapshot(boot_time + since)
        changes = ds.diff(boot_time + since, boot_time + until)
    except BeyondHorizon:
        return
    rows = snapshot(ds, boot_time + since).to_pylist()
    if [row["entity_id"] for row in rows] != [info.entity_id for info in told]:
        yield f"snapshot at {since}: {rows}, not {told}"
    for row, info in zip(rows, told, strict=False):
        values = {f"process_{name}": value for name, value in row.items()}
        yield from mistakes(values, "process_", info, ANCESTOR_COLUMNS)
    kinds = ("born", "died", "executed", "reparented", "renamed", "changed_credentials")
    expected_rows = [(kind, info) for kind in kinds for info in getattr(changes, kind)]
    rows = diff(ds, boot_time + since, boot_time + until).to_pylist()
    if [row["change"] for row in rows] != [kind for kind, _ in expected_rows]:
        yield f"difference {since} to {until}: {rows}, not {changes}"
    for row, (_, info) in zip(rows, expected_rows, strict=False):
        values = {f"process_{name}": value for name, value in row.items()}
        yield from mistakes(values, "process_", info, COLUMNS)


def everybody(events: list[Event]) -> set[Task]:
    tasks = set()
    for event in events:
        if not isinstance(event, Header):
            for name in ("task", "parent", "leader", "creator", "reaper"):
                task = getattr(event, name, None)
                if task is not None and task.start_time is not None:
                    tasks.add(task)
    return tasks


def instants_of(events: list[Event]) -> list[int]:
    times = {event.time for event in events if not isinstance(event, Header)}
    return sorted({i for time in times for i in (time - 1, time, time + 1) if i < NEVER})


@settings(max_examples=25, deadline=None)
@given(seed=seeds, steps=lengths)
def test_tables_agree_with_the_data_source(seed: int, steps: int) -> None:
    random = Random(seed)
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    kernel.run(steps, unseen=random.randint(0, 8), restarts=True)
    told = lossy(random, kernel.told) if random.random() < 0.5 else kernel.told
    tree = ProcessTree()
    tree.apply_all(disordered(random, told))
    instants = random.sample(instants_of(told), min(8, len(instants_of(told))))
    ds = DataSource(tree)
    assert list(differences(ds, everybody(kernel.told), instants)) == []
    assert list(surveyed(ds, *sorted(random.choices(instants, k=2)))) == []


@settings(max_examples=25, deadline=None)
@given(seed=seeds, steps=lengths, processes=st.integers(2, 12), threads=st.integers(0, 6))
def test_tables_agree_where_memory_is_short(
    seed: int, steps: int, processes: int, threads: int
) -> None:
    random = Random(seed)
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    kernel.run(steps, unseen=random.randint(0, 8), restarts=True)
    tree = ProcessTree(process_cache=processes, thread_cache=processes + threads)
    tree.apply_all(kernel.told if random.random() < 0.5 else disordered(random, kernel.told))
    instants = random.sample(instants_of(kernel.told), min(8, len(instants_of(kernel.told))))
    ds = DataSource(tree)
    assert list(differences(ds, everybody(kernel.told), instants)) == []
    assert list(surveyed(ds, *sorted(random.choices(instants, k=2)))) == []


@settings(max_examples=40, deadline=None)
@given(events=st.lists(crowded, max_size=20))
def test_tables_agree_about_what_cannot_be_true(events: list[Event]) -> None:
    # Not with ticks that contradict each other: a record may then be known by two ids.
    events = [e for e in events if getattr(e, "origin", "event") == "event"]
    assume(events)
    tree = ProcessTree()
    tree.apply_all(e for e in events if not isinstance(e, Header) or e.boot_time == 0)
    instants = instants_of(events)
    ds = DataSource(tree)
    assert list(differences(ds, everybody(events), instants[:: len(instants) // 8 + 1])) == []


@pytest.mark.parametrize("flood", [*FLOODS, "execs"])
def test_tables_agree_about_what_a_limit_took(flood: str) -> None:
    """A flood of changes, of which the middle is dropped: null or hidden, as the limit says."""
    change = FLOODS[flood][0] if flood in FLOODS else lambda i: X(P, f"/bin/{i}", 1_000 + i)
    events = [init(), F(INIT, P), *one_of_each(), *map(change, range(MANY))]
    ds = DataSource(tree_of([*events, F(P, CHILD), E(P, 6_000, group_exit=True)]))
    instants = [*range(205, 245, 7), *range(999, 1_000 + MANY, 23), 5_000, 6_000]
    assert list(differences(ds, {INIT, P, CHILD}, instants)) == []
    dropped = AsOf(ds).tables.versions.column("dropped").to_pylist()
    assert any(dropped)
