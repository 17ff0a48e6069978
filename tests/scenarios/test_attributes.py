"""Exit codes, names, credentials, and what a limit or a loss does to an answer."""

from __future__ import annotations

import pytest

from proctree_ds import BeyondHorizon, DataSource, FileInfo, LossWindow, ProcessTree
from proctree_ds.model import Fork, Loss, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings, tree_of

P = Task(25, 100)


@pytest.mark.parametrize(
    ("facts", "code", "signal", "core"),
    [
        ({"code": 3}, 3, None, False),
        ({"code": None, "exit_signal": 9}, None, 9, False),
        ({"code": None, "exit_signal": 11, "core_dumped": True}, None, 11, True),
    ],
    ids=["exit(3)", "SIGKILL", "SIGSEGV with core"],
)
def test_case_42_code_signal_and_core(
    facts: dict[str, int], code: int | None, signal: int | None, core: bool
) -> None:
    for ds in tellings(init(), F(INIT, P), E(P, 200, **facts)):
        info = ds.process(id_of(P), 200)
        assert (info.exit_code, info.exit_signal, info.core_dumped) == (code, signal, core)
        alive = ds.process(id_of(P), 199)
        assert (alive.exit_code, alive.exit_signal, alive.core_dumped) == (None, None, None)


def test_case_43_a_thread_renames_itself_and_not_the_process() -> None:
    thread = Task(26, 110)
    events = (
        init(),
        F(INIT, P),
        X(P, "/bin/p", 105),
        T(P, thread),
        C(thread, 150, leader=P, comm="worker"),
        C(P, 160, comm="renamed"),
    )
    for ds in tellings(*events):
        assert ds.thread(id_of(thread), 150).name == "worker"
        assert ds.thread(id_of(thread), 149).name == "p"
        assert ds.process(id_of(P), 159).name == "p"
        info = ds.process(id_of(P), 160)
        assert (info.name, info.execution_binary) == ("renamed", FileInfo("/bin/p"))


def test_case_44_each_change_is_a_version_and_children_have_the_right_one() -> None:
    first, second = Task(30, 150), Task(31, 250)
    events = (
        init(),
        F(INIT, P),
        X(P, "/bin/p", 110, uid=0, euid=0, session_id=1, cwd="/"),
        F(P, first),
        C(P, 200, uid=1000, euid=1000),
        C(P, 210, session_id=25, process_group=25),
        C(P, 220, cwd="/srv"),
        F(P, second),
        C(P, 300, euid=0),
    )
    for ds in tellings(*events):
        assert [ds.process(id_of(P), t).euid for t in (199, 200, 299, 300)] == [0, 1000, 1000, 0]
        old, new = ds.process(id_of(first), 400), ds.process(id_of(second), 400)
        assert (old.uid, old.session_id, old.cwd) == (0, 1, "/")
        assert (new.uid, new.euid, new.session_id, new.cwd) == (1000, 1000, 25, "/srv")


def test_case_45_euid_of_a_setuid_binary_from_the_exec_on() -> None:
    for ds in tellings(
        init(), F(INIT, P, uid=1000, euid=1000), X(P, "/bin/su", 200, uid=1000, euid=0)
    ):
        assert ds.process(id_of(P), 199).euid == 1000
        info = ds.process(id_of(P), 200)
        assert (info.uid, info.euid) == (1000, 0)


def test_case_38_answers_that_touch_a_loss_say_so() -> None:
    early, late = Task(30, 100), Task(31, 700)
    window = LossWindow(500, 600, 17)
    for ds in tellings(
        init(), F(INIT, early), X(early, "/bin/e", 150), Loss(600, 500, 17), F(INIT, late)
    ):
        assert ds.process(id_of(early), 499).certainty.loss_windows == ()
        assert ds.process(id_of(early), 500).certainty.loss_windows == (window,)
        assert ds.process(id_of(early), 900).certainty.loss_windows == (window,)
        assert ds.process(id_of(late), 900).certainty.loss_windows == ()


def test_case_38_a_picture_after_the_loss_makes_certain_again() -> None:
    for ds in tellings(init(), F(INIT, P), Loss(600, 500, 17), S(P, 650, INIT, comm="x")):
        assert ds.process(id_of(P), 620).certainty.loss_windows != ()
        assert ds.process(id_of(P), 650).certainty.loss_windows == ()


def test_case_39_a_parent_with_many_past_children() -> None:
    tree = ProcessTree(process_cache=64, thread_cache=128)
    tree.apply_all([init(), F(INIT, P), X(P, "/bin/p", 105)])
    children = 20_000
    child = P
    for i in range(children):
        child = Task(100 + i % 5_000, 1_000 + 10 * i)
        tree.apply_all([F(P, child), E(child, 1_005 + 10 * i)])
    tree._check()
    ds = DataSource(tree)
    assert tree.counters["processes"] == 64
    assert tree.counters["evicted_processes"] == children + 2 - 64
    assert ds.process(id_of(P), 10**9).is_alive
    assert [info.pid for info in ds.lineage(id_of(child), 10**9)] == [child.tid, 25, 1]
    with pytest.raises(BeyondHorizon):
        ds.process(id_of(Task(100, 1_000)), 1_001)
    last = ds.process(id_of(child), 10**9)
    assert last.certainty.is_certain


def test_what_a_child_inherited_outlives_the_parent_in_memory() -> None:
    tree = ProcessTree(process_cache=8, thread_cache=16)
    child = Task(30, 200)
    tree.apply_all([init(), F(INIT, P), X(P, "/bin/p", 110, cwd="/srv"), F(P, child), E(P, 300)])
    storm = [Task(100 + i, 1_000 + i) for i in range(100)]
    tree.apply_all(Fork(t.start_time or 0, t, child) for t in storm)
    tree._check()
    info = DataSource(tree).process(id_of(child), 5_000)
    assert (info.name, info.cwd, info.execution_binary) == ("p", "/srv", FileInfo("/bin/p"))


def test_the_least_recently_used_exited_process_goes_first() -> None:
    tree = tree_of([init()], process_cache=4, thread_cache=8)
    ds = DataSource(tree)
    a, b, c = (Task(10 + i, 100 + i) for i in range(3))
    for task in (a, b, c):
        tree.apply_all([F(INIT, task), E(task, 200)])
    assert not ds.process(id_of(a), 300).is_alive
    tree.apply(F(INIT, Task(20, 400)))
    tree._check()
    assert ds.process(id_of(a), 300).pid == 10
    with pytest.raises(BeyondHorizon):
        ds.process(id_of(b), 300)
