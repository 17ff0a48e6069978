"""Input that cannot be true: it is counted, the records stay sound, and every question ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from arbitrary_events import events as arbitrary
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from proctree_ds import (
    DataNotFound,
    DataSource,
    InvalidTime,
    ProcessInfo,
    ProcessTree,
)
from proctree_ds.changes import changes_between, history_of
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
    Namespaces,
    Picture,
    Snapshot,
    State,
    Task,
)
from proctree_ds.sinks.change_view import draw_diff, draw_timeline
from proctree_ds.tallies import programs_between

# So few of each that they meet all the time, and now and then the edges of their types.
starts = st.sampled_from([*range(6), *range(6), 10_000_000, 2**63 - 2, 2**63 - 1])
times = st.sampled_from([0, *range(2, 9), *range(3, 9), 10_000_001, 2**63 - 2, 2**63 - 1])
tids = st.sampled_from([*range(1, 5), *range(1, 5), 0, 2**31 - 1, 2**32 - 1])
tasks = st.builds(Task, tids, starts)
someone = st.none() | tasks | st.builds(Task, tids)
numbers = st.none() | st.sampled_from([0, 1, 2, 2**31 - 1])
flags = st.none() | st.booleans()
contexts = st.builds(
    Context,
    uid=numbers,
    namespaces=st.none() | st.builds(Namespaces, pid=st.sampled_from([None, 1, 2, 3])),
)
givens = st.fixed_dictionaries(
    {},
    optional={
        "comm": st.sampled_from([None, "a", "b"]),
        "exec_time": st.none() | times,
        "context": contexts,
        "argv": st.sampled_from([None, ("a",)]),
    },
)
origins = st.sampled_from(["event", "iterator", "procfs", "inferred"])
states = st.builds(
    State,
    st.sampled_from([None, "a"]),
    st.builds(Image, exec_time=st.none() | times),
    st.none(),
    st.none(),
    contexts,
)
crowded: SearchStrategy[Event] = st.one_of(
    st.builds(
        Fork, times, tasks, someone, someone, someone, numbers, numbers, given=st.none() | givens
    ),
    st.builds(Fork, times, tasks, someone),
    st.builds(Exec, times, tasks, states | givens, someone, numbers, numbers, numbers),
    st.builds(
        Exit,
        times,
        tasks,
        someone,
        someone,
        numbers,
        group_exit=flags,
        reaper=someone,
        origin=origins,
    ),
    st.builds(Change, times, tasks, givens, someone, someone, flags),
    st.builds(Fork, times, tasks, someone, someone, someone, origin=origins),
    st.builds(Exec, times, tasks, givens, someone, origin=origins),
    st.builds(Change, times, tasks, givens, someone, someone, flags, origin=origins),
    st.builds(
        Snapshot, times, tasks, givens, someone, someone, someone, numbers, numbers, flags, origins
    ),
    st.builds(Picture, times, times),
    st.builds(Loss, times, times, numbers),
    st.builds(Header, times, boot_id=st.sampled_from([None, "a", "b"]), time=st.none() | times),
)


def questions(ds: DataSource, known: list[Event]) -> Iterator[Callable[[], object]]:
    """Everything that can be asked about whoever is in memory, at every instant that there is."""
    census = ds.tree.census
    named = [event.task for event in known if isinstance(event, Fork | Exec | Exit | Change)]
    instants = {t for event in known if not isinstance(event, Header) for t in _around(event.time)}
    instants |= {t for task in named for t in _around(task.start_time or 0)}
    for time in sorted(instants):
        for entity in (*census.processes, *census.shadows):
            yield partial(_process, ds, entity, time)
        for entity in (*census.processes, *census.threads):
            yield partial(_thread, ds, entity, time)
        for pid in {task.tid for task in named}:
            for inode in (None, 1, 2, 3):
                yield partial(_pid, ds, pid, time, inode)
        yield partial(ds.snapshot, time)
        yield partial(ds.diff, min(instants), time)
    for entity in tuple(census.processes):
        yield partial(_timeline, ds, entity)
        yield partial(_drawn_timeline, ds, entity, max(instants, default=0))
    if instants:
        yield partial(_drawn_changes, ds, min(instants), max(instants))


def _process(ds: DataSource, entity: int, time: int) -> None:
    for info in ds.lineage(entity, time):
        info.to_dict()
    ds.process(entity, time).to_dict()
    ds.subtree(entity, time)
    ds.children(entity, time)


def _thread(ds: DataSource, entity: int, time: int) -> None:
    ds.thread(entity, time).to_dict()


def _pid(ds: DataSource, pid: int, time: int, inode: int | None) -> None:
    ds.pid(pid, time, pid_namespace=inode).to_dict()


def _timeline(ds: DataSource, entity: int) -> None:
    for entry in ds.timeline(entity):
        entry.process.to_dict()


def _who(ds: DataSource, entity: int | None, time: int) -> ProcessInfo | None:
    try:
        return None if entity is None else ds.process(entity, time)
    except DataNotFound:
        return None


def _drawn_timeline(ds: DataSource, entity: int, until: int) -> None:
    rows = history_of(ds, entity, until)
    assert [row.time for row in rows] == sorted(row.time for row in rows)
    drawn = draw_timeline(rows, width=60, since=0, who=partial(_who, ds))
    assert len(rows) <= len(list(drawn))


def _drawn_changes(ds: DataSource, since: int, until: int) -> None:
    rows = changes_between(ds, since, until)
    assert all(since < row.time <= until for row in rows)
    assert len(rows) <= len(list(draw_diff(rows, width=60, since=0, who=partial(_who, ds))))
    programs = programs_between(ds, since, until)
    assert sum(p.started for p in programs) == sum(row.kind == "born" for row in rows)


def _around(time: int) -> tuple[int, int, int]:
    return time - 1, time, time + 1


def ask_everything(tree: ProcessTree, known: list[Event]) -> None:
    ds = DataSource(tree)
    for ask in questions(ds, known):
        try:
            ask()
        except (DataNotFound, InvalidTime):
            continue
    tree._check()


@settings(max_examples=400, deadline=None)
@given(told=st.lists(crowded, max_size=40), caches=st.sampled_from([(64, 128), (4, 8), (2, 3)]))
def test_crowded_contradictions(told: list[Event], caches: tuple[int, int]) -> None:
    tree = ProcessTree(*caches)
    for event in told:
        tree.apply(event)
        tree._check()
    ask_everything(tree, told)


@settings(max_examples=150, deadline=None)
@given(told=st.lists(arbitrary, max_size=8))
def test_any_events_at_all(told: list[Event]) -> None:
    tree = ProcessTree()
    for event in told:
        tree.apply(event)
        tree._check()
    ask_everything(tree, told)
