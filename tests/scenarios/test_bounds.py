"""What hostile input may cost: every limit holds, and the rest of the tree is as it was."""

from __future__ import annotations

from proctree_ds import DataSource, ProcessTree
from proctree_ds.census import EXITED_THREADS_LIMIT
from proctree_ds.descent import WAITING_LIMIT
from proctree_ds.model import Exit, Fork, Task

from .story import INIT, E, F, S, T, X, id_of, init

P = Task(25, 100)


def test_a_process_that_makes_threads_for_ever_keeps_only_the_last() -> None:
    tree = ProcessTree()
    tree.apply_all([init(), F(INIT, P)])
    for i in range(3 * EXITED_THREADS_LIMIT):
        thread = Task(1_000 + i, 1_000 + 10 * i)
        tree.apply_all([T(P, thread), E(thread, 1_005 + 10 * i, leader=P, group_exit=False)])
    tree._check()
    last = 10**6
    tree.apply(X(P, "/bin/x", last))
    tree._check()
    info = DataSource(tree).process(id_of(P), last)
    assert info.thread_ids == {25: id_of(P)}
    assert tree.counters["threads"] <= EXITED_THREADS_LIMIT + 3
    assert tree.counters["evicted_threads"] >= 2 * EXITED_THREADS_LIMIT - 1


def test_creators_and_parents_that_never_come_are_not_waited_for_without_end() -> None:
    tree = ProcessTree(process_cache=64, thread_cache=128)
    tree.apply_all([init(), F(INIT, P)])
    for i in range(2 * WAITING_LIMIT):
        start = 1_000 + 10 * i
        ghost = Task(50_000 + i, start - 5)
        tree.apply(Fork(start, Task(100 + i % 5_000, start), P, creator=ghost))
        tree.apply(Fork(start + 1, Task(6_000 + i % 5_000, start + 1), Task(50_000 + i)))
    tree._check()
    descent = tree._descent
    for waiting in (descent.awaited, descent.by_pid):
        assert 0 < len(waiting) <= WAITING_LIMIT
    assert DataSource(tree).process(id_of(P), 10**9).is_alive


def test_a_storm_of_living_processes_spares_those_who_were_there_before() -> None:
    tree = ProcessTree(process_cache=256, thread_cache=512)
    old = [Task(10 + i, 60 + i) for i in range(100)]
    tree.apply_all([init(), *(F(INIT, task) for task in old)])
    bomb = Task(999, 500)
    tree.apply(F(INIT, bomb))
    tree.apply_all(F(bomb, Task(1_000 + i, 1_000 + i)) for i in range(20_000))
    tree._check()
    ds = DataSource(tree)
    for task in old:
        assert ds.process(id_of(task), 10**6).is_alive
    newest = Task(20_999, 20_999)
    assert [info.pid for info in ds.lineage(id_of(newest), 10**6)] == [20_999, 999, 1]
    assert tree.counters["evicted_living_processes"] > 19_000


def test_values_at_the_edges_of_their_types() -> None:
    edge = 2**63 - 2
    top = Task(2**31 - 1, edge - 10)
    tree = ProcessTree()
    tree.apply_all([init(), S(Task(7, 0), 0, INIT, comm="zero"), F(INIT, top)])
    tree.apply_all([X(top, "/bin/x", edge - 5), Exit(edge, top, exit_code=2**31 - 1)])
    tree._check()
    ds = DataSource(tree)
    assert ds.process(id_of(Task(7, 0)), 0).name == "zero"
    assert ds.process(id_of(top), edge - 1).name == "x"
    assert ds.process(id_of(top), edge).exit_code == 2**31 - 1
