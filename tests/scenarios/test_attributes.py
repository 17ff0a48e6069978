"""Exit codes, names, credentials, and files that are not what they are called."""

from __future__ import annotations

from typing import Any

import pytest

from proctree_ds import FileInfo
from proctree_ds.model import Capabilities, Task

from .story import INIT, C, E, F, T, X, id_of, init, tellings

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


def test_case_43_a_comm_is_whatever_the_task_likes() -> None:
    for name in (") R 1 (", "a b\tc", "", "\udcff", "[kworker/0:1]"):
        for ds in tellings(init(), F(INIT, P), C(P, 150, comm=name)):
            assert ds.process(id_of(P), 150).name == ds.thread(id_of(P), 150).name == name


CAPABLE, INCAPABLE = Capabilities(1, 2, 3, 4, 5), Capabilities(0, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"uid": 0, "euid": 0, "suid": 0}, {"uid": 1000, "euid": 1000, "suid": 1000}),
        ({"uid": 0, "euid": 0, "suid": 0}, {"uid": 7, "euid": 8, "suid": 9}),
        ({"gid": 0, "egid": 0, "sgid": 0}, {"gid": 7, "egid": 8, "sgid": 9}),
        ({"session_id": 1, "process_group": 1}, {"session_id": 25, "process_group": 25}),
        ({"process_group": 1}, {"process_group": 24}),
        ({"cwd": "/"}, {"cwd": "/srv"}),
        ({"root": "/"}, {"root": "/jail"}),
        ({"capabilities": CAPABLE}, {"capabilities": INCAPABLE}),
        ({"tty": "pts/0"}, {"tty": None}),
        ({"login_uid": None}, {"login_uid": 1000}),
    ],
    ids=[
        "setuid",
        "setresuid",
        "setresgid",
        "setsid",
        "setpgid",
        "chdir",
        "chroot",
        "capset",
        "tty",
        "loginuid",
    ],
)
def test_case_44_a_change_is_a_version_and_a_child_has_that_of_its_fork(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    children = [Task(30, 199), Task(31, 250), Task(32, 350)]
    events = (
        init(),
        F(INIT, P),
        X(P, "/bin/p", 110, **before),
        F(P, children[0]),
        C(P, 200, **after),
        F(P, children[1]),
        C(P, 300, **before),
        F(P, children[2]),
    )
    for ds in tellings(*events):
        for name, old, new in ((n, before[n], value) for n, value in after.items()):
            seen = [getattr(ds.process(id_of(P), t), name) for t in (199, 200, 299, 300)]
            assert seen == [old, new, new, old]
            inherited = [getattr(ds.process(id_of(c), 400), name) for c in children]
            assert inherited == [old, new, old]
        assert [e.time for e in ds.timeline(id_of(P))] == [100, 110, 200, 300]


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
        for time in (200, 10**6):
            info = ds.process(id_of(P), time)
            assert (info.uid, info.euid) == (1000, 0)


@pytest.mark.parametrize(
    ("path", "is_memfd", "is_deleted"),
    [
        ("/memfd:hidden (deleted)", True, False),
        ("/tmp/gone", False, True),
        ("/tmp/odd (deleted)", False, False),
    ],
    ids=["memfd", "unlinked", "a name that says deleted"],
)
def test_case_45_a_file_is_what_the_kernel_says_and_not_what_its_name_says(
    path: str, is_memfd: bool, is_deleted: bool
) -> None:
    links = 0 if is_memfd or is_deleted else 1
    file = FileInfo(path, link_count=links, is_memfd=is_memfd, is_deleted=is_deleted)
    for ds in tellings(init(), F(INIT, P), X(P, path, 200, executable=file)):
        binary = ds.process(id_of(P), 200).execution_binary
        assert binary == file
        assert (binary.path, binary.is_memfd, binary.is_deleted) == (path, is_memfd, is_deleted)
