"""What an answer says of its own certainty."""

from __future__ import annotations

from proctree_ds import DataSource, LossWindow
from proctree_ds.model import Change, Event, Header, Picture, Task
from proctree_ds.tree import UNTOLD_LIMIT

from .story import INIT, C, E, F, S, T, X, id_of, init, tellings, tree_of

P, CHILD = Task(25, 100), Task(30, 300)
HEADER = Header(unfollowed=("cwd", "is_subreaper", "uid"))


def unfollowed(ds: DataSource, time: int) -> tuple[str, ...]:
    return ds.process(id_of(P), time).certainty.unfollowed


def test_what_a_source_does_not_follow_may_have_changed_since() -> None:
    tree = tree_of([HEADER, init(), F(INIT, P), X(P, "/bin/p", 200, uid=0, cwd="/")])
    ds = DataSource(tree)
    assert unfollowed(ds, 200) == ()
    assert unfollowed(ds, 201) == ("cwd", "is_subreaper", "uid")
    assert not ds.process(id_of(P), 201).certainty.is_certain
    assert ds.process(id_of(P), 200).certainty.is_certain


def test_an_event_says_what_is_and_not_what_has_been_since_the_one_before() -> None:
    story: list[Event] = [
        HEADER,
        init(),
        F(INIT, P),
        X(P, "/bin/p", 200, uid=0, cwd="/"),
        F(P, CHILD),
        F(P, Task(31, 320)),
        E(P, 400),
    ]
    for ds in tellings(*story):
        told = [time for time in range(199, 402) if unfollowed(ds, time) == ()]
        assert told == [200, 300, 320, 400, 401]  # it may have changed, and changed back
    ds = DataSource(tree_of([*story[:4], C(P, 299, uid=1000, cwd="/"), F(P, CHILD)]))
    assert [unfollowed(ds, t) for t in (298, 299, 300)] == [HEADER.unfollowed, (), ()]


def test_a_fork_tells_only_of_the_thread_that_made_it() -> None:
    thread, sibling = Task(26, 110), Task(40, 330)
    made = F(P, CHILD, creator=thread)
    with_sibling = F(INIT, sibling, creator=P)  # CLONE_PARENT
    ds = DataSource(tree_of([HEADER, init(), F(INIT, P), T(P, thread), made, with_sibling]))
    assert unfollowed(ds, 300) != ()
    assert ds.thread(id_of(thread), 300).certainty.unfollowed == ()
    assert ds.thread(id_of(thread), 301).certainty.unfollowed == ("uid",)
    assert unfollowed(ds, 330) == ()
    assert ds.process(id_of(INIT), 330).certainty.unfollowed != ()
    assert unfollowed(ds, 110) == ()


def test_of_very_many_children_only_the_last_is_looked_at() -> None:
    children = [F(P, Task(1_000 + i, 1_000 + i)) for i in range(1_100)]
    ds = DataSource(tree_of([HEADER, init(), F(INIT, P), *children]))
    assert unfollowed(ds, 1_500) != ()
    assert unfollowed(ds, 2_099) == ()


def test_of_a_thread_only_what_its_answer_has() -> None:
    thread = Task(26, 110)
    ds = DataSource(tree_of([HEADER, init(), F(INIT, P), T(P, thread)]))
    assert ds.thread(id_of(thread), 150).certainty.unfollowed == ("uid",)


def test_a_log_that_follows_everything_leaves_nothing_open() -> None:
    for ds in tellings(init(), F(INIT, P), X(P, "/bin/p", 200)):
        assert unfollowed(ds, 10_000) == ()
        assert ds.process(id_of(P), 10_000).certainty.is_certain


def test_case_34_a_lost_exit_lies_between_the_last_sign_of_life_and_the_picture() -> None:
    story = (init(), F(INIT, P), X(P, "/bin/p", 200), S(INIT, 810), Picture(820, 800))
    for ds in tellings(*story):
        answers = {t: ds.process(id_of(P), t) for t in (200, 201, 819, 820)}
        assert [info.is_alive for info in answers.values()] == [True, True, True, False]
        assert [info.certainty.exit_between for info in answers.values()] == [
            None,
            (200, 820),
            (200, 820),
            (200, 820),
        ]
        assert answers[200].certainty.inferred == ()
        assert answers[201].certainty.inferred == ("is_alive",)
        assert answers[820].certainty.inferred == ("exit_time",)
        assert answers[820].exit_code is None


def test_a_task_that_changes_too_often_says_so() -> None:
    thread = Task(26, 110)
    last = Change(210, P, {"comm": "b"}, untold_until=1_000)
    told = (init(), F(INIT, P), T(P, thread), C(P, 200, comm="a"), last, C(P, 1_100, comm="c"))
    for ds in tellings(*told):
        assert ds.thread(id_of(thread), 500).certainty.loss_windows  # it may be the one
        windows = [ds.process(id_of(P), t).certainty.loss_windows for t in (209, 210, 1_099, 1_100)]
        one = (LossWindow(210, 1_000, None),)
        assert windows == [(), one, one, ()]
        assert ds.process(id_of(INIT), 500).certainty.loss_windows == ()


def test_windows_of_too_many_changes_are_joined_beyond_a_limit() -> None:
    tree = tree_of([init(), F(INIT, P)])
    count = 3 * UNTOLD_LIMIT
    for i in range(count):
        start = 1_000 * (i + 1)
        tree.apply(Change(start, P, {"comm": f"n{i}"}, untold_until=start + 500))
    tree._check()
    ds = DataSource(tree)
    first = ds.process(id_of(P), 1_000).certainty.loss_windows
    assert first[0].since == 1_000
    assert first[0].until > 10_000
    last = ds.process(id_of(P), 1_000 * count).certainty.loss_windows
    assert last == (LossWindow(1_000 * count, 1_000 * count + 500, None),)
