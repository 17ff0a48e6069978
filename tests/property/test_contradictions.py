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
    ThreadInfo,
)
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

# So few of each that they meet all the time.
EDGES = [0, 1, 2, 3, 4, 5, 6, 10_000_000, 10_000_001, 2**63 - 2, 2**63 - 1]
times = st.sampled_from(EDGES)
tids = st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**32 - 1])
tasks = st.builds(Task, tids, times)
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
    asked: list[Callable[[], object]] = []
    for time in sorted(instants):
        for entity in (*census.processes, *census.shadows):
            asked += [
                partial(_whole, ds.process, entity, time),
                partial(_whole_lineage, ds, entity, time),
                partial(ds.subtree, entity, time),
                partial(ds.children, entity, time),
            ]
        for entity in (*census.processes, *census.threads):
            asked.append(partial(_whole, ds.thread, entity, time))
        for pid in {task.tid for task in named}:
            asked.append(partial(_whole, ds.pid, pid, time))
            asked += [partial(_whole, ds.pid, pid, time, inode) for inode in (1, 2, 3)]
        asked += [partial(ds.snapshot, time), partial(ds.diff, min(instants), time)]
    asked += [partial(_whole_timeline, ds, entity) for entity in tuple(census.processes)]
    yield from asked


def _whole(ask: Callable[..., ProcessInfo | ThreadInfo], *key: int) -> object:
    return ask(*key).to_dict()


def _whole_lineage(ds: DataSource, entity: int, time: int) -> object:
    return [info.to_dict() for info in ds.lineage(entity, time)]


def _whole_timeline(ds: DataSource, entity: int) -> object:
    return [entry.process.to_dict() for entry in ds.timeline(entity)]


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
@given(told=st.lists(crowded, max_size=14), caches=st.sampled_from([(64, 128), (4, 8), (2, 3)]))
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
