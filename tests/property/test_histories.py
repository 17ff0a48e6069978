"""Random histories in random order, against the naive model and against what was true."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds import DataNotFound, DataSource, ProcessTree
from proctree_ds.model import Event, Exec, Exit, Fork

from .capture import disordered, lossy, tree_of
from .comparison import Comparison
from .kernel import Kernel
from .model import Model, id_of
from .truth import lies

seeds = st.integers(0, 2**48)
lengths = st.integers(1, 40)


def history(random: Random, steps: int, restarts: bool = False) -> Kernel:
    """Some history; what there is before the capture, and how it is told, is drawn as well."""
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    kernel.run(steps, unseen=random.randint(0, 8), restarts=restarts)
    return kernel


def in_order(events: list[Event]) -> ProcessTree:
    tree = ProcessTree()
    tree.apply_all(events)
    tree._check()
    return tree


@settings(max_examples=500, deadline=None)
@given(seed=seeds, steps=lengths)
def test_any_order_gives_what_the_model_says(seed: int, steps: int) -> None:
    random = Random(seed)
    arrivals = disordered(random, history(random, steps, restarts=True).told)
    comparison = Comparison(tree_of(random, arrivals), Model(arrivals))
    assert list(comparison.differences()) == []


@settings(max_examples=500, deadline=None)
@given(seed=seeds, steps=lengths)
def test_with_losses_too_any_order_gives_what_the_model_says(seed: int, steps: int) -> None:
    random = Random(seed)
    told = lossy(random, history(random, steps, restarts=True).told)
    arrivals = disordered(random, told)
    comparison = Comparison(tree_of(random, arrivals), Model(arrivals), in_order(told))
    assert list(comparison.differences()) == []


@settings(max_examples=500, deadline=None)
@given(seed=seeds, steps=lengths)
def test_without_a_loss_everything_is_true_and_nothing_is_marked(seed: int, steps: int) -> None:
    random = Random(seed)
    kernel = history(random, steps)
    tree = in_order(kernel.told)
    assert tree.faults == {}
    assert list(lies(DataSource(tree), kernel, is_lossless=True)) == []
    again = tree_of(random, disordered(random, kernel.told))
    assert list(lies(DataSource(again), kernel, is_lossless=True)) == []


@settings(max_examples=500, deadline=None)
@given(seed=seeds, steps=lengths)
def test_with_losses_what_is_not_true_says_so(seed: int, steps: int) -> None:
    random = Random(seed)
    kernel = history(random, steps, restarts=True)
    tree = tree_of(random, disordered(random, lossy(random, kernel.told)))
    assert list(lies(DataSource(tree), kernel, is_lossless=False)) == []


@settings(max_examples=100, deadline=None)
@given(seed=seeds, steps=lengths)
def test_the_short_way_and_the_long_way_agree(seed: int, steps: int) -> None:
    random = Random(seed)
    told = lossy(random, history(random, steps, restarts=True).told)
    short, long = ProcessTree(), ProcessTree()
    long._handlers |= {Fork: long._learn_fork, Exec: long._learn_exec, Exit: long._learn_exit}
    for tree in (short, long):
        tree.apply_all(told)
        tree._check()
    one, other = DataSource(short), DataSource(long)
    model = Model(told)
    for time in {time for time, _, _ in model.events}:
        for process in model.processes:
            if process.start_time is not None and process.start_time <= time:
                answer = one.process(id_of(process), time).to_dict()
                assert answer == other.process(id_of(process), time).to_dict()


@settings(max_examples=300, deadline=None)
@given(seed=seeds, steps=lengths, processes=st.integers(2, 12), threads=st.integers(0, 6))
def test_what_a_small_cache_still_answers_is_true(
    seed: int, steps: int, processes: int, threads: int
) -> None:
    random = Random(seed)
    kernel = history(random, steps)
    tree = ProcessTree(process_cache=processes, thread_cache=processes + threads)
    for event in kernel.told:
        tree.apply(event)
        tree._check()
    assert list(lies(DataSource(tree), kernel, is_lossless=False)) == []


@settings(max_examples=300, deadline=None)
@given(seed=seeds, steps=lengths, processes=st.integers(2, 10))
def test_small_caches_and_any_order_stay_consistent(seed: int, steps: int, processes: int) -> None:
    random = Random(seed)
    kernel = history(random, steps, restarts=True)
    tree = ProcessTree(process_cache=processes, thread_cache=processes + 2)
    for event in disordered(random, lossy(random, kernel.told)):
        tree.apply(event)
        tree._check()
    ds = DataSource(tree)
    for process in kernel.world_at(kernel.now):
        try:
            lineage = ds.lineage(id_of(process), kernel.now)
        except DataNotFound:
            continue
        assert len(lineage) <= len(kernel.world_at(kernel.now))
        assert lineage.end in ("root", "unknown_parent", "evicted")
