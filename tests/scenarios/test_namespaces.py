"""Pid namespaces, and the cgroups that containers are."""

from __future__ import annotations

import pytest

from proctree_ds import DataNotFound, PidKey
from proctree_ds.containers import container_id
from proctree_ds.model import INITIAL_PID_NAMESPACE, Fork, Namespaces, Task

from .story import INIT, C, E, F, S, X, id_of, init, tellings

A = Task(10, 60)
HOST, INSIDE, DEEPER = Namespaces(pid=1), Namespaces(pid=2), Namespaces(pid=3)


def N(parent: Task, child: Task, namespaces: Namespaces, ns_pid: int = 1) -> Fork:
    """A fork into another pid namespace, or one within it."""
    assert child.start_time is not None
    return Fork(
        child.start_time,
        child,
        parent,
        ns_pid=ns_pid,
        ns_tid=ns_pid,
        given={"namespaces": namespaces},
    )


def test_case_26_in_a_pid_namespace_orphans_go_to_its_init() -> None:
    ns_init, middle, orphan = Task(30, 100), Task(31, 110), Task(32, 120)
    events = (
        init(namespaces=HOST),
        F(INIT, A),
        C(A, 70, subreaper=True),
        N(A, ns_init, INSIDE),
        F(ns_init, middle),
        F(middle, orphan),
        E(middle, 200),
    )
    for ds in tellings(*events):
        assert [ds.process(id_of(orphan), t).ppid for t in (199, 200, 250)] == [31, 30, 30]
        assert ds.process(id_of(orphan), 250).ns_ppid == 1
        assert ds.process(id_of(ns_init), 250).child_process_ids == {32: id_of(orphan)}
        assert ds.process(id_of(ns_init), 250).ns_ppid == 0
        assert ds.process(id_of(ns_init), 250).ppid == 10


def test_case_26_an_orphan_that_came_from_outside_goes_to_that_namespaces_init() -> None:
    ns_init, entered, orphan = Task(30, 100), Task(31, 110), Task(32, 120)
    events = (
        init(namespaces=HOST),
        F(INIT, A),
        N(A, ns_init, INSIDE),
        N(A, entered, INSIDE, ns_pid=7),
        N(entered, orphan, INSIDE, ns_pid=8),
        E(entered, 200),
    )
    for ds in tellings(*events):
        assert [ds.process(id_of(orphan), t).ppid for t in (199, 200)] == [31, 30]


def test_case_26_who_outlives_the_namespaces_init_for_a_moment_has_no_other_parent() -> None:
    ns_init, member = Task(30, 100), Task(31, 110)
    events = (
        init(namespaces=HOST),
        F(INIT, A),
        N(A, ns_init, INSIDE),
        N(ns_init, member, INSIDE, ns_pid=2),
        E(ns_init, 200),
        E(member, 220),
    )
    for ds in tellings(*events):
        held = ds.process(id_of(member), 210).parents()
        assert [(parent.pid, parent.since, parent.until) for parent in held] == [(30, 110, None)]
        assert [entry.time for entry in ds.timeline(id_of(member))]


def test_the_hosts_namespace_is_known_though_its_inits_is_not() -> None:
    """As where the leader of init has ended: nobody is entered among those of containers."""
    host = Namespaces(pid=INITIAL_PID_NAMESPACE)
    events = (init(), N(INIT, A, host, ns_pid=A.tid), N(A, Task(30, 100), INSIDE))
    for ds in tellings(*events):
        assert ds.pid(A.tid, 200, pid_namespace=INITIAL_PID_NAMESPACE).entity_id == id_of(A)
        assert ds.pid(1, 200, pid_namespace=2).pid == 30
        assert ds.tree.census.namespaces.members(INITIAL_PID_NAMESPACE) == []


def test_case_30_pid_1_in_two_pid_namespaces() -> None:
    one, two, later = Task(30, 100), Task(40, 110), Task(30, 400)
    events = (
        init(namespaces=HOST),
        N(INIT, one, INSIDE),
        N(INIT, two, DEEPER),
        E(one, 300),
        N(INIT, later, Namespaces(pid=9)),
    )
    for ds in tellings(*events):
        for namespace, task in ((1, INIT), (2, one), (3, two)):
            info = ds.get(PidKey(1, 200, pid_namespace=namespace))["process_info"]
            assert (info.entity_id, info.pid, info.ns_pid) == (id_of(task), task.tid, 1)
        assert len({id_of(INIT), id_of(one), id_of(two)}) == 3
        for namespace, time in ((4, 200), (9, 200), (3, 105), (2, 99), (2, 300), (2, 500)):
            with pytest.raises(DataNotFound):
                ds.pid(1, time, pid_namespace=namespace)
        assert ds.pid(1, 200).entity_id == id_of(INIT)
        assert ds.pid(30, 200).entity_id == id_of(one)
        assert ds.pid(1, 400, pid_namespace=9).entity_id == id_of(later)


def test_case_31_outside_of_the_namespace_the_lineage_is_whole() -> None:
    ns_init, entered, child = Task(30, 100), Task(40, 200), Task(41, 210)
    events = (
        init(namespaces=HOST),
        F(INIT, A),
        X(A, "/usr/bin/nsenter", 70, namespaces=HOST),
        N(INIT, ns_init, INSIDE),
        N(A, entered, INSIDE, ns_pid=77),
        X(entered, "/bin/sh", 205, namespaces=INSIDE),
        N(entered, child, INSIDE, ns_pid=78),
    )
    for ds in tellings(*events):
        info = ds.process(id_of(entered), 250)
        assert (info.ns_pid, info.ns_ppid, info.ppid) == (77, 0, 10)
        assert info.namespaces == INSIDE
        below = ds.process(id_of(child), 250)
        assert (below.ns_pid, below.ns_ppid, below.ppid) == (78, 77, 40)
        lineage = ds.lineage(id_of(child), 250)
        assert [i.pid for i in lineage] == [41, 40, 10, 1]
        assert [i.name for i in lineage] == ["sh", "sh", "nsenter", "init"]
        assert lineage.end == "root"


ID, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/system.slice/crio-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope", ID),
        (f"/kubepods.slice/pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/besteffort/pod1/{ID}", ID),
        (f"/docker/{ID}", ID),
        (f"/docker/{OTHER}/docker/{ID}", ID),
        (f"/system.slice/docker-{OTHER}.scope/kubepods/pod1/{ID}", ID),
        ("/user.slice/user-1000.slice/session-4.scope", None),
        ("/docker/0123456789ab", None),
        (f"/system.slice/docker-{ID[:12]}.scope", None),
        ("/", None),
    ],
)
def test_case_32_a_cgroup_path_tells_the_container(cgroup: str, container: str | None) -> None:
    child = Task(11, 100)
    assert container_id(cgroup) == container
    for ds in tellings(
        init(cgroup="/init.scope", container_id=None),
        F(INIT, A),
        C(A, 80, cgroup=cgroup, container_id=container_id(cgroup)),
        F(A, child),
        C(A, 150, cgroup="/user.slice", container_id=None),
    ):
        seen = [ds.process(id_of(A), t) for t in (79, 80, 149, 150)]
        assert [i.cgroup for i in seen] == ["/init.scope", cgroup, cgroup, "/user.slice"]
        assert [i.container_id for i in seen] == [None, container, container, None]
        inherited = ds.process(id_of(child), 200)
        assert (inherited.cgroup, inherited.container_id) == (cgroup, container)


def test_case_32_moving_between_containers_is_a_version_and_a_picture_tells_it_too() -> None:
    scopes = [f"/system.slice/docker-{i}.scope" for i in (ID, OTHER)]
    events = (
        init(),
        F(INIT, A),
        C(A, 100, cgroup=scopes[0], container_id=ID),
        C(A, 200, cgroup=scopes[1], container_id=OTHER),
        S(A, 300, INIT, cgroup=scopes[0], container_id=ID),
    )
    for ds in tellings(*events):
        ids = [ds.process(id_of(A), t).container_id for t in (99, 100, 199, 200, 299, 300)]
        assert ids == [None, ID, ID, OTHER, OTHER, ID]
        assert [e.time for e in ds.timeline(id_of(A))] == [60, 100, 200, 300]
