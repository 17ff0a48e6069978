"""What a process ran, when: execs, inheritance, equal times, limits."""

from __future__ import annotations

import pytest

from proctree_ds import BeyondHorizon, DataSource, FileInfo, NotStartedYet
from proctree_ds.changelog import VERSIONS_LIMIT
from proctree_ds.model import Event, Task

from .story import INIT, C, E, F, X, id_of, init, path_at, tellings, tree_of


def test_case_09_versions_are_half_open() -> None:
    bash, task = Task(50, 60), Task(600, 100)
    events = (
        init(),
        F(INIT, bash),
        X(bash, "/bin/bash", 70),
        F(bash, task),
        X(task, "/bin/curl", 200),
        X(task, "/bin/sh", 300),
    )
    for ds in tellings(*events):
        with pytest.raises(NotStartedYet):
            ds.process(id_of(task), 99)
        seen = [path_at(ds, task, time) for time in (100, 199, 200, 299, 300, 10**6)]
        assert seen == ["/bin/bash"] * 2 + ["/bin/curl"] * 2 + ["/bin/sh"] * 2
        assert ds.process(id_of(task), 150).exec_time is None
        assert ds.process(id_of(task), 250).exec_time == 200


def test_case_10_a_hundred_execs() -> None:
    task = Task(600, 100)
    execs = (X(task, f"/bin/{i}", 200 + i) for i in range(100))
    events: list[Event] = [init(), F(INIT, task), *execs]
    for ds in tellings(*events, orders=3):
        assert path_at(ds, task, 200) == "/bin/0"
        assert path_at(ds, task, 299) == "/bin/99"
        for i in range(100):
            try:
                assert path_at(ds, task, 200 + i) == f"/bin/{i}"
            except BeyondHorizon as error:
                assert 200 + i < error.horizon <= 299


def test_case_11_an_exec_that_comes_before_its_fork() -> None:
    parent, child = Task(50, 60), Task(600, 100)
    for ds in tellings(
        init(), F(INIT, parent), X(parent, "/bin/p", 70), F(parent, child), X(child, "/bin/c", 150)
    ):
        assert path_at(ds, child, 149) == "/bin/p"
        assert path_at(ds, child, 150) == "/bin/c"
        assert ds.process(id_of(child), 160).parent_entity_id == id_of(parent)


def test_case_12_each_child_has_the_image_that_its_parent_had() -> None:
    a, b, c = Task(10, 60), Task(11, 100), Task(12, 200)
    for ds in tellings(
        init(), F(INIT, a), X(a, "/bin/old", 70), F(a, b), X(a, "/bin/new", 150), F(a, c)
    ):
        assert path_at(ds, b, 300) == "/bin/old"
        assert path_at(ds, c, 300) == "/bin/new"
        for child, image in ((b, "/bin/old"), (c, "/bin/new")):
            ancestor = ds.lineage(id_of(child), 300)[1].execution_binary
            assert ancestor is not None and ancestor.path == image


def test_case_13_a_fork_inherits_as_of_the_fork_and_nothing_later() -> None:
    parent, child = Task(10, 60), Task(11, 100)
    events = (
        init(),
        F(INIT, parent),
        X(parent, "/bin/p", 70, argv=("p", "-x"), cwd="/home", uid=1000),
        F(parent, child),
        X(parent, "/bin/q", 150, cwd="/", uid=0),
        C(parent, 160, cwd="/tmp"),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(child), 500)
        assert (info.cmd, info.cwd, info.uid, info.name) == (("p", "-x"), "/home", 1000, "p")
        assert ds.process(id_of(parent), 500).cwd == "/tmp"


def test_case_15_a_million_renames_are_bounded() -> None:
    task = Task(600, 100)
    tree = tree_of([init(), F(INIT, task), X(task, "/bin/x", 150)])
    renames = 1_000_000
    tree.apply_all(C(task, 200 + i, comm=f"n{i}") for i in range(renames))
    tree._check()
    ds = DataSource(tree)
    node = tree.process(id_of(task))
    assert node is not None and len(node.log) <= 2 * VERSIONS_LIMIT
    assert ds.process(id_of(task), 199).name == "x"
    assert ds.process(id_of(task), 200).name == "n0"
    assert ds.process(id_of(task), 200 + renames).name == f"n{renames - 1}"
    halfway = ds.process(id_of(task), 200 + renames // 2)
    assert halfway.name is None
    assert "comm" in halfway.certainty.dropped
    assert halfway.execution_binary == FileInfo("/bin/x")
    assert tree.counters["dropped_versions"] > renames - 2 * VERSIONS_LIMIT


def test_case_15_ten_thousand_execs_are_bounded() -> None:
    task = Task(600, 100)
    tree = tree_of([init(), F(INIT, task)])
    tree.apply_all(X(task, f"/bin/{i}", 200 + i) for i in range(10_000))
    ds = DataSource(tree)
    assert path_at(ds, task, 200) == "/bin/0"
    assert path_at(ds, task, 10**6) == "/bin/9999"
    with pytest.raises(BeyondHorizon):
        ds.process(id_of(task), 5_000)
    assert tree.counters["dropped_versions"] > 9_000


def test_case_16_equal_times_keep_the_order_of_arrival() -> None:
    task = Task(600, 100)
    one, two = X(task, "/bin/one", 200), X(task, "/bin/two", 200)
    for first, second in ((one, two), (two, one)):
        assert first.facts is not second.facts
        for ds in tellings(init(), F(INIT, task), first, second, keep_order=True):
            last = "/bin/two" if second is two else "/bin/one"
            assert path_at(ds, task, 200) == last
            assert path_at(ds, task, 199) is None


def test_case_16_a_fork_at_the_time_of_an_exec_inherits_what_had_arrived() -> None:
    parent, child = Task(10, 60), Task(11, 100)
    exec_, fork = X(parent, "/bin/new", 100), F(parent, child)
    for events, image in (((exec_, fork), "/bin/new"), ((fork, exec_), "/bin/old")):
        before = (init(), F(INIT, parent), X(parent, "/bin/old", 70))
        for ds in tellings(*before, *events, keep_order=True):
            assert path_at(ds, child, 100) == image
        late = tree_of([init(), F(INIT, parent), *events, X(parent, "/bin/old", 70)])
        assert path_at(DataSource(late), child, 100) == image


def test_case_48_an_answer_is_as_of_its_time_whatever_came_since() -> None:
    task = Task(600, 100)
    for ds in tellings(
        init(), F(INIT, task), X(task, "/bin/a", 150), X(task, "/bin/b", 160), E(task, 170)
    ):
        at_event = ds.process(id_of(task), 150)
        assert at_event.execution_binary == FileInfo("/bin/a")
        assert (at_event.is_alive, at_event.exit_time, at_event.exit_code) == (True, None, None)


@pytest.mark.parametrize(
    "argv",
    [(), ("a\nb", "c\td", "'\"\\"), ("\udcff\udc80", ""), ("x" * 4096,)],
    ids=["empty", "controls", "not utf-8", "long"],
)
def test_case_47_argv_is_kept_as_it_was(argv: tuple[str, ...]) -> None:
    task = Task(600, 100)
    truncated = len(argv) == 1
    exec_ = X(task, "/bin/x", 150, argv=argv, argv_truncated=truncated)
    for ds in tellings(init(), F(INIT, task), exec_):
        info = ds.process(id_of(task), 150)
        assert (info.cmd, info.cmd_truncated) == (argv, truncated)
