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


def test_the_next_event_of_the_task_confirms_what_it_leaves_as_it_was() -> None:
    story: list[Event] = [
        HEADER,
        init(),
        F(INIT, P),
        X(P, "/bin/p", 200, uid=0, cwd="/"),
        F(P, CHILD),
    ]
    ds = DataSource(tree_of(story))
    assert unfollowed(ds, 250) == ()
    assert unfollowed(ds, 300) == ()
    assert unfollowed(ds, 301) != ()
    ended = DataSource(tree_of([*story, E(P, 400)]))
    assert unfollowed(ended, 399) == ()
    assert unfollowed(ended, 500) == ()


def test_what_the_next_event_shows_to_be_another_changed_somewhere_in_between() -> None:
    story: list[Event] = [HEADER, init(), F(INIT, P), X(P, "/bin/p", 200, uid=0, cwd="/")]
    ds = DataSource(tree_of([*story, C(P, 299, uid=1000, cwd="/"), F(P, CHILD)]))
    assert unfollowed(ds, 250) == ("uid",)
    assert unfollowed(ds, 299) == ()
    renamed = DataSource(tree_of([*story, C(P, 260, comm="n"), C(P, 280, subreaper=True, uid=0)]))
    assert unfollowed(renamed, 270) == ("is_subreaper",)


def test_an_exec_does_not_confirm_what_it_sets_itself() -> None:
    header = Header(unfollowed=("euid", "uid"))
    story: list[Event] = [
        header,
        init(),
        F(INIT, P, uid=0, euid=0),
        X(P, "/bin/p", 200, uid=0, euid=0),
    ]
    assert unfollowed(DataSource(tree_of(story)), 150) == ("euid",)


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
    last = Change(210, P, {"comm": "b"}, untold_until=1_000)
    told = (init(), F(INIT, P), C(P, 200, comm="a"), last, C(P, 1_100, comm="c"))
    for ds in tellings(*told):
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
