"""What a process ran, when: execs, inheritance, equal times, limits."""

from __future__ import annotations

import pytest

from proctree_ds import BeyondHorizon, DataSource, FileInfo, NotStartedYet
from proctree_ds.changelog import VERSIONS_LIMIT
from proctree_ds.model import Event, Task

from .story import INIT, C, F, S, X, everything, id_of, init, path_at, tellings, tree_of


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
        assert path_at(ds, task, 199) is None
        assert path_at(ds, task, 200) == "/bin/0"
        assert path_at(ds, task, 299) == "/bin/99"
        for i in range(100):
            try:
                info = ds.process(id_of(task), 200 + i)
            except BeyondHorizon as error:
                assert 200 + i < error.horizon <= 299
                info = ds.process(id_of(task), error.horizon)
                assert info.cmd == (f"/bin/{error.horizon - 200}",)
            else:
                assert (info.name, info.cmd) == (str(i), (f"/bin/{i}",))
                assert info.execution_binary == FileInfo(f"/bin/{i}")


def test_case_11_an_exec_that_comes_before_its_fork() -> None:
    parent, child = Task(50, 60), Task(600, 100)
    tasks, instants = (INIT, parent, child), (55, 60, 70, 99, 100, 149, 150, 160, 200)
    before = (init(uid=0), F(INIT, parent), X(parent, "/bin/p", 70, uid=1000))
    fork, exec_ = F(parent, child), X(child, "/bin/c", 150, parent=parent)
    in_order = everything(DataSource(tree_of([*before, fork, exec_])), tasks, instants)
    for ds in (DataSource(tree_of([*before, exec_, fork])), *tellings(*before, exec_, fork)):
        assert path_at(ds, child, 149) == "/bin/p"
        assert path_at(ds, child, 150) == "/bin/c"
        assert ds.process(id_of(child), 100).uid == 1000
        assert ds.process(id_of(child), 160).parent_entity_id == id_of(parent)
        assert everything(ds, tasks, instants) == in_order


def test_case_12_each_child_has_the_image_that_its_parent_had() -> None:
    a, b, c = Task(10, 60), Task(11, 100), Task(12, 200)
    for ds in tellings(
        init(), F(INIT, a), X(a, "/bin/old", 70), F(a, b), X(a, "/bin/new", 150), F(a, c)
    ):
        assert path_at(ds, a, 300) == "/bin/new"
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
        for time in (100, 150, 160, 500):
            info = ds.process(id_of(child), time)
            assert (info.cmd, info.cwd, info.uid, info.name) == (("p", "-x"), "/home", 1000, "p")
            assert path_at(ds, child, time) == "/bin/p"
            assert info.exec_time is None
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
    node = tree.process(id_of(task))
    assert node is not None and len(node.log) <= 2 * VERSIONS_LIMIT
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


@pytest.mark.parametrize(
    "argv",
    [(), ("",), ("a\nb", "c\td", "'\"\\"), ("\udcff\udc80", ""), ("ü", "\x1b[2J"), ("x" * 4096,)],
    ids=["empty", "one empty", "controls", "not utf-8", "terminal", "long"],
)
def test_case_47_argv_is_kept_as_it_was(argv: tuple[str, ...]) -> None:
    task = Task(600, 100)
    truncated = len(argv) == 1 and len(argv[0]) == 4096
    exec_ = X(task, "/bin/x", 150, argv=argv, argv_truncated=truncated)
    for ds in tellings(init(), F(INIT, task), exec_):
        info = ds.process(id_of(task), 150)
        assert (info.cmd, info.cmd_truncated) == (argv, truncated)


def test_case_46_a_script_runs_its_interpreter_and_keeps_its_own_path() -> None:
    task, child = Task(600, 100), Task(601, 170)
    shell = FileInfo("/usr/bin/dash", inode=7, device=1)
    argv = ("/bin/sh", "-u", "/srv/run.sh", "one")
    script = X(
        task,
        "/srv/run.sh",
        150,
        executable=shell,
        interpreter=shell,
        script="/srv/run.sh",
        argv=argv,
    )
    for ds in tellings(init(), F(INIT, task), script, F(task, child), X(task, "/bin/ls", 200)):
        for info in (ds.process(id_of(task), 199), ds.process(id_of(child), 300)):
            assert (info.execution_binary, info.interpreter) == (shell, shell)
            assert (info.script, info.cmd, info.name) == ("/srv/run.sh", argv, "run.sh")
        after = ds.process(id_of(task), 200)
        assert (after.script, after.interpreter) == (None, None)
        assert after.execution_binary == FileInfo("/bin/ls")


def test_case_46_a_descriptor_is_executed_as_the_file_that_it_is() -> None:
    task = Task(600, 100)
    real = FileInfo("/opt/tool", inode=9, device=1)
    exec_ = X(task, "/opt/tool", 150, executable=real, argv=("/proc/self/fd/5",), comm="5")
    for ds in tellings(init(), F(INIT, task), exec_):
        info = ds.process(id_of(task), 150)
        assert (info.execution_binary, info.script) == (real, None)
        assert (info.name, info.cmd) == ("5", ("/proc/self/fd/5",))


P = Task(25, 100)
BASH, MINER = FileInfo("/bin/bash", inode=1, device=1), FileInfo("/bin/miner", inode=2, device=1)


def test_a_picture_of_a_program_whose_exec_was_seen_knows_no_better() -> None:
    """It knows no script, and shows arguments that the program may have overwritten since."""
    shown = S(P, 300, INIT, comm="job.sh", executable=BASH, interpreter=MINER, argv=("kkkk",))
    for ds in tellings(
        init(),
        F(INIT, P),
        X(P, "/bin/bash", 200, executable=BASH, argv=("bash", "/opt/job.sh"), script="/opt/job.sh"),
        shown,
        keep_order=True,
    ):
        info = ds.process(id_of(P), 400)
        assert (info.cmd, info.script, info.exec_time) == (
            ("bash", "/opt/job.sh"),
            "/opt/job.sh",
            200,
        )
        assert info.interpreter is None
        assert [image.name for image in info.images()] == ["init", "bash"]


def test_a_picture_of_another_program_shows_an_exec_that_nobody_saw() -> None:
    shown = S(P, 300, INIT, comm="miner", executable=MINER, argv=("miner",))
    for ds in tellings(
        init(),
        F(INIT, P),
        X(P, "/bin/bash", 200, executable=BASH, argv=("bash", "/opt/job.sh"), script="/opt/job.sh"),
        shown,
        keep_order=True,
    ):
        info = ds.process(id_of(P), 400)
        assert (info.cmd, info.script, info.exec_time) == (("miner",), None, None)
        assert info.execution_binary == MINER
        assert info.certainty.source == "iterator"
