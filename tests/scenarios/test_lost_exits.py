"""Exits that never arrived: what closes a process then, and what shows that it lived on.

A complete picture is `Picture(time, since)`: whoever lived from `since` to `time` was told of.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from proctree_ds import DataNotFound, DataSource
from proctree_ds.lifespans import PICTURES_LIMIT
from proctree_ds.model import NEVER, Event, Fork, Namespaces, Picture, Task

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings, tree_of

P, CHILD, THREAD = Task(25, 100), Task(30, 150), Task(26, 110)
HOST, INSIDE, INNER = Namespaces(pid=1), Namespaces(pid=2), Namespaces(pid=3)


def seen_init(at: int) -> Event:
    return S(INIT, at, Task(0, 0), comm="init")


def test_case_34_a_lost_exit_is_found_by_the_next_picture() -> None:
    events = (init(), F(INIT, P), X(P, "/bin/p", 200), seen_init(950), Picture(1_000, 900))
    for ds in tellings(*events):
        assert ds.process(id_of(P), 999).is_alive
        gone = ds.process(id_of(P), 1_000)
        assert (gone.is_alive, gone.exit_time, gone.exit_code) == (False, 1_000, None)
        assert gone.core_dumped is None
        assert gone.certainty.inferred == ("exit_time",)
        assert ds.process(id_of(INIT), 1_000).is_alive
        node = ds.tree.process(id_of(P))
        assert node is not None
        assert (node.last_sign_of_life, node.ended) == (200, 1_000)


def test_case_34_the_first_picture_after_the_last_sign_of_life_closes_it() -> None:
    pictures = (Picture(350, 300), Picture(450, 400), Picture(550, 500))
    for sign, end in ((200, 350), (299, 350), (300, 450), (410, 550), (500, NEVER)):
        events = (init(), F(INIT, P), C(P, sign, comm="x"), *pictures, seen_init(600))
        for ds in tellings(*events):
            for time in (349, 350, 449, 450, 549, 550, 10**6):
                assert ds.process(id_of(P), time).is_alive is (time < end)


@pytest.mark.parametrize(
    "sign",
    [
        C(P, 920, comm="x"),
        C(P, 920, parent=INIT),
        S(P, 920, INIT, comm="init"),
        F(P, Task(40, 920)),
        F(INIT, Task(40, 920), creator=P),
        T(P, Task(40, 920)),
        C(THREAD, 920, leader=P, comm="x"),
        C(THREAD, 920, leader=P, parent=INIT),
        F(P, Task(40, 920), creator=THREAD),
        E(THREAD, 920, leader=P),
        E(P, 920, group_exit=False),
    ],
    ids=lambda sign: type(sign).__name__,
)
def test_case_34_any_sign_of_life_holds_off_a_picture(sign: Event) -> None:
    for ds in tellings(init(), F(INIT, P), T(P, THREAD), sign, Picture(1_000, 900), orders=8):
        assert ds.process(id_of(P), 10**6).is_alive
        node = ds.tree.process(id_of(P))
        assert node is not None
        assert node.last_sign_of_life == 920


def test_case_34_a_fork_that_comes_after_the_picture() -> None:
    early, late = Task(40, 899), Task(41, 900)
    for ds in tellings(init(), F(INIT, early), F(INIT, late), Picture(1_000, 900), seen_init(950)):
        assert ds.process(id_of(early), 10**6).exit_time == 1_000
        assert ds.process(id_of(late), 10**6).is_alive


def test_case_34_an_exit_that_comes_after_the_picture_is_the_true_one() -> None:
    for ds in tellings(init(), F(INIT, P), E(P, 850, 3), Picture(1_000, 900)):
        gone = ds.process(id_of(P), 10**6)
        assert (gone.exit_time, gone.exit_code, gone.certainty.inferred) == (850, 3, ())


def test_case_34_threads_are_closed_one_by_one() -> None:
    other = Task(27, 120)
    events = (
        init(),
        F(INIT, P),
        T(P, THREAD),
        T(P, other),
        Picture(1_000, 900),
        S(P, 910, INIT),
        S(other, 920, leader=P),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(P), 1_000).thread_ids.keys() == {25, 27}
        assert ds.process(id_of(P), 999).thread_ids.keys() == {25, 26, 27}
        gone = ds.thread(id_of(THREAD), 1_000)
        assert (gone.exit_time, gone.certainty.inferred) == (1_000, ("exit_time",))


def test_case_34_the_last_threads_lost_exit_ends_the_process() -> None:
    events = (
        init(),
        F(INIT, P),
        T(P, THREAD),
        E(P, 200),
        C(THREAD, 300, leader=P, comm="x"),
        Picture(1_000, 900),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(P), 999).is_alive
        gone = ds.process(id_of(P), 1_000)
        assert (gone.exit_time, gone.exit_code) == (1_000, None)
        assert "exit_time" in gone.certainty.inferred


@pytest.mark.parametrize("of_leader", [None, False])
def test_case_34_the_last_known_thread_was_not_the_last_if_the_process_is_seen_again(
    of_leader: bool | None,
) -> None:
    ends = (T(P, THREAD), E(P, 200, group_exit=of_leader), E(THREAD, 300, leader=P))
    for ds in tellings(init(), F(INIT, P), *ends):
        assert ds.process(id_of(P), 300).exit_time == 300
    for ds in tellings(init(), F(INIT, P), *ends, S(P, 400, INIT, comm="p")):
        assert ds.process(id_of(P), 300).is_alive
        assert ds.process(id_of(P), 500).is_alive
    seen_again = (S(P, 400, INIT, comm="p"), E(P, 600, group_exit=True))
    for ds in tellings(init(), F(INIT, P), *ends, *seen_again):
        assert ds.process(id_of(P), 599).is_alive
        assert ds.process(id_of(P), 600).exit_time == 600


def test_case_34_a_tid_that_is_used_again_ends_the_last_thread_and_its_process() -> None:
    events = (init(), F(INIT, P), T(P, THREAD), E(P, 200), F(INIT, Task(26, 400)))
    for ds in tellings(*events):
        assert ds.process(id_of(P), 399).is_alive
        gone = ds.process(id_of(P), 400)
        assert (gone.exit_time, gone.exit_code) == (400, None)
        assert "exit_time" in gone.certainty.inferred


def test_case_34_children_of_the_closed_go_to_the_heir() -> None:
    events = (init(), F(INIT, P), F(P, CHILD), Picture(1_000, 900), C(CHILD, 950, uid=1))
    for ds in tellings(*events, seen_init(920)):
        assert ds.process(id_of(CHILD), 999).ppid == 25
        assert ds.process(id_of(CHILD), 1_000).ppid == 1
        assert ds.process(id_of(INIT), 1_000).child_process_ids == {30: id_of(CHILD)}


def test_case_34_who_is_only_named_is_not_closed() -> None:
    for ds in tellings(init(), F(P, CHILD), Picture(1_000, 900), C(CHILD, 950, uid=1)):
        assert ds.process(id_of(CHILD), 10**6).ppid == 25
        assert ds.tree.counters["processes"] == 2


def test_pictures_are_bounded_and_the_latest_are_kept() -> None:
    tree = tree_of([init(), F(INIT, P)])
    for i in range(PICTURES_LIMIT + 10):
        tree.apply_all([Picture(1_005 + 10 * i, 1_000 + 10 * i), C(P, 1_003 + 10 * i, comm=f"{i}")])
    tree._check()
    assert tree.counters["dropped_pictures"] == 10
    last = 1_005 + 10 * (PICTURES_LIMIT + 9)
    assert DataSource(tree).process(id_of(P), last).is_alive
    tree.apply(F(INIT, CHILD))
    ended = DataSource(tree).process(id_of(CHILD), last).exit_time
    assert ended == 1_005 + 10 * 10


def test_a_picture_that_another_one_makes_useless_is_not_kept() -> None:
    pictures = [Picture(500, 400), Picture(500, 300), Picture(600, 400), Picture(450, 200)]
    for order in permutations(pictures):
        for sign, end in ((150, 450), (250, 500), (350, 500)):
            ds = DataSource(tree_of([init(), F(INIT, P), C(P, sign, comm="x"), *order]))
            assert ds.process(id_of(P), 10**6).exit_time == end


def container(*more: Event) -> tuple[Event, ...]:
    return (
        init(namespaces=HOST),
        F(INIT, P),
        Fork(200, Task(40, 200), P, ns_pid=1, ns_tid=1, given={"namespaces": INSIDE}),
        *more,
    )


NS_INIT = Task(40, 200)


def test_case_26_with_its_init_everything_in_a_pid_namespace_has_died() -> None:
    stated, inherited, orphan = Task(41, 210), Task(42, 220), Task(43, 230)
    events = container(
        Fork(210, stated, NS_INIT, ns_pid=7, ns_tid=7),
        F(stated, inherited),
        F(stated, orphan),
        F(P, CHILD),
        E(stated, 300, 2, reaper=NS_INIT),
        E(NS_INIT, 500, group_exit=True),
        E(orphan, 510, None, exit_signal=9),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(inherited), 499).is_alive
        gone = ds.process(id_of(inherited), 500)
        assert (gone.exit_time, gone.certainty.inferred) == (500, ("exit_time",))
        killed = ds.process(id_of(orphan), 600)
        assert (killed.exit_time, killed.exit_signal, killed.certainty.inferred) == (510, 9, ())
        assert ds.process(id_of(stated), 600).exit_time == 300
        assert ds.process(id_of(CHILD), 600).is_alive
        assert ds.process(id_of(P), 600).is_alive


def test_case_26_who_is_heard_of_after_the_end_of_the_init_ended_later() -> None:
    member = Task(41, 210)
    for ds in tellings(*container(F(NS_INIT, member), E(NS_INIT, 500), C(member, 505, comm="x"))):
        assert ds.process(id_of(member), 505).is_alive
        assert ds.process(id_of(member), 506).exit_time == 506


def test_case_26_an_inner_namespace_ends_with_the_outer_one() -> None:
    middle, inner, member = Task(41, 210), Task(50, 300), Task(51, 310)
    events = container(
        F(NS_INIT, middle),
        Fork(300, inner, middle, ns_pid=1, ns_tid=1, given={"namespaces": INNER}),
        F(inner, member),
        E(NS_INIT, 500),
    )
    for ds in tellings(*events):
        for task in (middle, inner, member):
            assert ds.process(id_of(task), 500).exit_time == 500
    for ds in tellings(*events[:-1], E(inner, 400)):
        assert ds.process(id_of(member), 400).exit_time == 400
        assert ds.process(id_of(middle), 10**6).is_alive


def test_case_26_a_namespace_number_that_is_used_again() -> None:
    first, second, later = Task(41, 210), Task(60, 600), Task(61, 610)
    events = container(
        F(NS_INIT, first),
        E(NS_INIT, 500),
        Fork(600, second, P, ns_pid=1, ns_tid=1, given={"namespaces": INSIDE}),
        F(second, later),
    )
    for ds in tellings(*events):
        assert ds.process(id_of(first), 600).exit_time == 500
        assert ds.process(id_of(later), 10**6).is_alive
        assert ds.pid(1, 650, pid_namespace=2).entity_id == id_of(second)
        assert ds.pid(1, 450, pid_namespace=2).entity_id == id_of(NS_INIT)
        with pytest.raises(DataNotFound):
            ds.pid(1, 550, pid_namespace=2)


def test_case_26_a_pid_that_is_the_same_inside_and_outside() -> None:
    member = Task(41, 210)
    told = Fork(210, member, NS_INIT, ns_pid=41, ns_tid=41)
    for ds in tellings(*container(told, E(NS_INIT, 500))):
        assert ds.pid(41, 450, pid_namespace=2).entity_id == id_of(member)
        assert ds.process(id_of(member), 500).exit_time == 500


def test_case_26_an_init_whose_namespace_nobody_stated_ends_alone() -> None:
    stranger = Fork(300, Task(70, 300), P, ns_pid=1, ns_tid=1)
    for ds in tellings(*container(stranger, F(INIT, CHILD), E(Task(70, 300), 500))):
        assert ds.process(id_of(CHILD), 600).is_alive
        assert ds.process(id_of(P), 600).is_alive


def test_the_last_exits_of_a_process_may_be_told_the_other_way_round() -> None:
    events = (
        init(),
        F(INIT, P),
        T(P, THREAD),
        E(P, 299, 7, group_exit=True),
        E(THREAD, 300, leader=P, group_exit=False),
    )
    for ds in tellings(*events):
        gone = ds.process(id_of(P), 300)
        assert (gone.exit_time, gone.exit_code) == (300, 7)
        assert ds.process(id_of(P), 299).is_alive
