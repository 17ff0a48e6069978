"""Random histories in random order, against what the simulated kernel knows to be true."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds import DataNotFound, DataSource, NotStartedYet, ProcessTree, entity_id
from proctree_ds.model import Event, Exec, Exit, Fork, Task

from .kernel import Kernel, Proc


def id_of(task: Task) -> int:
    assert task.start_time is not None
    return entity_id(task.start_time, task.tid)


def check_process(ds: DataSource, proc: Proc, world: dict[Task, Proc], time: int) -> None:
    info = ds.process(id_of(proc.task), time)
    where = f"{proc.task} at {time}"
    assert info.is_alive is proc.alive, where
    assert info.name == proc.comm, where
    assert info.execution_binary is not None
    assert info.execution_binary.path == proc.image, where
    assert info.cwd == proc.cwd, where
    assert info.uid == proc.uid, where
    if proc.original_parent is not None:
        assert info.original_parent_entity_id == id_of(proc.original_parent), where
    if not proc.alive:
        assert info.exit_code == proc.code, where
        assert info.thread_ids == {}, where
        assert info.child_process_ids == {}, where
        return
    assert info.exit_time is None
    assert info.exit_code is None
    assert info.thread_ids == {thread.tid: id_of(thread) for thread in proc.threads}, where
    for thread, name in proc.threads.items():
        answer = ds.thread(id_of(thread), time)
        assert (answer.is_alive, answer.name, answer.pid) == (True, name, proc.task.tid), where
    if proc.parent is not None:
        assert info.parent_entity_id == id_of(proc.parent), where
        assert info.ppid == proc.parent.tid, where
    children = {
        child.task.tid: id_of(child.task)
        for child in world.values()
        if child.alive and child.parent == proc.task
    }
    assert info.child_process_ids == children, where


def check(ds: DataSource, kernel: Kernel) -> None:
    instants = sorted({i for t, _ in kernel.worlds for i in (t - 1, t, t + 1) if i >= 100})
    for time in instants:
        world = kernel.world_at(time)
        living = {id_of(task) for task, proc in world.items() if proc.alive}
        assert {info.entity_id for info in ds.snapshot(time)} == living
        for task, proc in world.items():
            check_process(ds, proc, world, time)
            lineage = ds.lineage(id_of(task), time)
            expected = [task]
            while (parent := world[expected[-1]].original_parent) is not None:
                expected.append(parent)
            assert [info.entity_id for info in lineage] == [id_of(t) for t in expected]
            assert lineage.end == "root"
            for child, ancestor in zip(expected, lineage.ancestors, strict=False):
                assert child.start_time is not None
                then = kernel.world_at(child.start_time)[Task(ancestor.pid, ancestor.start_time)]
                assert ancestor.name == then.comm
                assert ancestor.execution_binary is not None
                assert ancestor.execution_binary.path == then.image
        for task in kernel.world:
            if task not in world:
                try:
                    ds.process(id_of(task), time)
                except NotStartedYet as error:
                    assert error.start_time == task.start_time
                else:
                    raise AssertionError(f"{task} answered at {time}, before its start")


def deliver(random: Random, events: list[Event]) -> ProcessTree:
    """A tree that got the events in random order, some twice, in random batches."""
    arrivals = [*events, *random.sample(events, len(events) // 4)]
    random.shuffle(arrivals)
    tree = ProcessTree()
    while arrivals:
        size = random.randint(1, 8)
        batch, arrivals = arrivals[:size], arrivals[size:]
        if len(batch) == 1:
            tree.apply(batch[0])
        else:
            tree.apply_all(batch)
        tree._check()
    return tree


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 40), names=st.booleans())
def test_any_order_gives_what_was_true(seed: int, steps: int, names: bool) -> None:
    random = Random(seed)
    kernel = Kernel(random, name_reapers=names)
    kernel.run(steps)
    check(DataSource(deliver(random, kernel.events)), kernel)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 60))
def test_in_order_gives_what_was_true(seed: int, steps: int) -> None:
    kernel = Kernel(Random(seed))
    kernel.run(steps)
    tree = ProcessTree()
    tree.apply_all(kernel.events)
    tree._check()
    assert tree.faults == {}
    check(DataSource(tree), kernel)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 60))
def test_the_short_way_and_the_long_way_agree(seed: int, steps: int) -> None:
    kernel = Kernel(Random(seed))
    kernel.run(steps)
    short, long = ProcessTree(), ProcessTree()
    long._handlers |= {Fork: long._learn_fork, Exec: long._learn_exec, Exit: long._learn_exit}
    for tree in (short, long):
        tree.apply_all(kernel.events)
        tree._check()
    one, other = DataSource(short), DataSource(long)
    for time in {since for since, _ in kernel.worlds if since >= 100}:
        for task in kernel.world_at(time):
            answer = one.process(id_of(task), time).to_dict()
            assert answer == other.process(id_of(task), time).to_dict()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**48),
    steps=st.integers(1, 60),
    processes=st.integers(2, 12),
    threads=st.integers(0, 6),
)
def test_what_a_small_cache_still_answers_is_true(
    seed: int, steps: int, processes: int, threads: int
) -> None:
    kernel = Kernel(Random(seed))
    kernel.run(steps)
    tree = ProcessTree(process_cache=processes, thread_cache=processes + threads)
    ds = DataSource(tree)
    for event in kernel.events:
        tree.apply(event)
        tree._check()
    for time in sorted({since for since, _ in kernel.worlds if since >= 100}):
        world = kernel.world_at(time)
        for task, proc in world.items():
            try:
                info = ds.process(id_of(task), time)
            except DataNotFound:
                continue
            where = f"{task} at {time}"
            assert info.is_alive is proc.alive, where
            living = {thread.tid: id_of(thread) for thread in proc.threads}
            if "thread_ids" not in info.certainty.inferred:
                assert info.thread_ids.items() <= living.items(), where
            if info.certainty.source == "inferred":
                continue
            assert info.name in (proc.comm, None), where
            if "original_parent_entity_id" not in info.certainty.inferred:
                parent = proc.parent
                assert info.ppid in (parent.tid if parent is not None else 0, None), where
            if info.execution_binary is not None:
                assert info.execution_binary.path == proc.image, where


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 60), processes=st.integers(2, 10))
def test_small_caches_and_any_order_stay_consistent(seed: int, steps: int, processes: int) -> None:
    random = Random(seed)
    kernel = Kernel(random)
    kernel.run(steps)
    tree = ProcessTree(process_cache=processes, thread_cache=processes + 2)
    arrivals = random.sample(kernel.events, len(kernel.events))
    for event in arrivals:
        tree.apply(event)
        tree._check()
    ds = DataSource(tree)
    for task in kernel.world:
        try:
            lineage = ds.lineage(id_of(task), kernel.now)
        except DataNotFound:
            continue
        assert len(lineage) <= len(kernel.world)
        assert lineage.end in ("root", "unknown_parent", "evicted")
