"""What a limit takes out of a changelog: a flood costs its own kind, and what is gone is named."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds import BeyondHorizon, DataSource, ProcessInfo
from proctree_ds.changelog import VERSIONS_LIMIT
from proctree_ds.inheritance import HISTORY_BYTES_LIMIT
from proctree_ds.model import Event, Fork, Task

from .story import INIT, C, F, S, T, X, id_of, init, path_at, tree_of

P = Task(25, 100)
MANY = 3 * VERSIONS_LIMIT
FLOODS: dict[str, tuple[Callable[[int], Event], set[str]]] = {
    "renames": (lambda i: C(P, 1_000 + i, comm=f"n{i}"), {"comm"}),
    "chdir": (lambda i: C(P, 1_000 + i, cwd=f"/{i}"), {"cwd"}),
    "chroot": (lambda i: C(P, 1_000 + i, cwd="/", root=f"/{i}"), {"cwd", "root"}),
    "seteuid": (lambda i: C(P, 1_000 + i, euid=i % 2), {"uid", "euid"}),
    "setsid": (
        lambda i: C(P, 1_000 + i, session_id=i, process_group=i // 2),
        {"session_id", "process_group"},
    ),
}
"""A flood, and what it hides of the time between the first change of its kind and the last ones."""

FIELDS = {"comm": "name"}
"""Attributes that an answer has under another name."""


def told(ds: DataSource, name: str, time: int) -> Any:
    return told_of(ds.process(id_of(P), time), name)


def one_of_each() -> list[Event]:
    """Two changes of every kind before a flood."""
    return [
        *(X(P, f"/bin/x{i}", 200 + i, comm="x") for i in range(2)),
        *(C(P, 210 + i, comm=f"x{i}") for i in range(2)),
        *(C(P, 220 + i, cwd=f"/x{i}", root="/") for i in range(2)),
        *(C(P, 230 + i, uid=10 + i, euid=10 + i) for i in range(2)),
        *(C(P, 240 + i, session_id=10 + i, process_group=10 + i) for i in range(2)),
    ]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_one_kind_costs_versions_of_that_kind_only(kind: str) -> None:
    flood, own_kind = FLOODS[kind]
    tree = tree_of([init(), F(INIT, P), *one_of_each()])
    tree.apply_all(flood(i) for i in range(MANY))
    tree._check()
    ds = DataSource(tree)
    before = DataSource(tree_of([init(), F(INIT, P), *one_of_each()]))
    for time in range(200, 250):
        for name in ("image", "comm", "cwd", "uid", "euid", "session_id", "process_group"):
            if name not in dropped_at(ds, time):
                assert told(ds, name, time) == told(before, name, time)
        assert set(dropped_at(ds, time)) <= own_kind
    assert {name for i in range(MANY) for name in dropped_at(ds, 1_000 + i)} == own_kind
    final = DataSource(tree_of([init(), F(INIT, P), *one_of_each(), flood(MANY - 1)]))
    for name in own_kind:
        assert told(ds, name, 9_999) == told(final, name, 9_999)
    assert tree.counters["dropped_versions"] >= MANY - 2 * VERSIONS_LIMIT


def dropped_at(ds: DataSource, time: int) -> tuple[str, ...]:
    return ds.process(id_of(P), time).certainty.dropped


def test_a_flood_of_names_does_not_drive_out_credentials_in_its_midst() -> None:
    tree = tree_of([init(), F(INIT, P)])
    for i in range(20):
        tree.apply_all(C(P, 1_000 * i + j + 200, comm=f"n{j}") for j in range(VERSIONS_LIMIT))
        tree.apply(C(P, 1_000 * i + 900, euid=i))
    ds = DataSource(tree)
    assert [told(ds, "euid", 1_000 * i + 900) for i in range(20)] == list(range(20))
    assert [told(ds, "euid", 1_000 * i + 899) for i in range(1, 20)] == list(range(19))


def test_a_picture_that_confirms_leaves_no_gap() -> None:
    tree = tree_of([init(), F(INIT, P), X(P, "/bin/x", 200), C(P, 210, uid=5)])
    tree.apply_all(S(P, 300 + i, INIT, comm="x", uid=5) for i in range(10 * VERSIONS_LIMIT))
    tree._check()
    ds = DataSource(tree)
    assert 0 < tree.counters["dropped_versions"] < 10 * VERSIONS_LIMIT
    for time in range(200, 300 + 10 * VERSIONS_LIMIT):
        assert dropped_at(ds, time) == ()
        assert (told(ds, "comm", time), told(ds, "uid", time)) == ("x", 5 if time >= 210 else None)


def test_a_late_change_is_taken_up_beside_a_gap_and_counted_within_it() -> None:
    child = Task(30, 1_051)
    flood = [C(P, 1_000 + i, comm=f"n{i}") for i in range(MANY)]
    tree = tree_of([init(), F(INIT, P), *flood[:51], F(P, child), *flood[51:]])
    ds = DataSource(tree)
    assert dropped_at(ds, 1_050) == ("comm",)
    tree.apply(C(P, 1_050, uid=7))
    tree._check()
    assert (told(ds, "uid", 1_049), told(ds, "uid", 1_050)) == (None, 7)
    assert tree.counters.get("fault_beyond_horizon", 0) == 0
    tree.apply(C(P, 1_050, comm="late", cwd="/late"))
    assert tree.counters["fault_beyond_horizon"] == 1
    tree.apply(C(P, 1_050, comm="later"))
    assert tree.counters["fault_beyond_horizon"] == 2
    tree._check()
    born = ds.process(id_of(child), 1_051)
    assert (born.name, born.uid, born.cwd) == ("n50", 7, "/late")
    assert told(ds, "comm", 9_999) == f"n{MANY - 1}"


def test_a_child_that_is_told_of_too_late_inherits_nothing_from_a_gap() -> None:
    child, thread = Task(30, 1_051), Task(31, 1_051)
    tree = tree_of([init(), F(INIT, P), C(P, 150, uid=7)])
    tree.apply_all(C(P, 1_000 + i, comm=f"n{i}") for i in range(MANY))
    tree.apply_all([F(P, child), T(P, thread)])
    tree._check()
    ds = DataSource(tree)
    for info in (ds.process(id_of(child), 1_060), ds.thread(id_of(thread), 1_060)):
        assert (info.name, info.uid) == (None, 7)


def test_a_leader_thread_is_answered_beside_what_only_its_process_has_lost() -> None:
    tree = tree_of([init(), F(INIT, P), C(P, 150, comm="it")])
    tree.apply_all(C(P, 1_000 + i, cwd=f"/{i}") for i in range(MANY))
    assert DataSource(tree).thread(id_of(P), 1_050).name == "it"


def test_many_processes_cannot_fill_memory_with_history() -> None:
    tree = tree_of([init(), F(INIT, P), C(P, 150, comm="it"), C(P, 160, comm="that")])
    word = "x" * 4_000
    images = HISTORY_BYTES_LIMIT // 4_000 * 2
    owners = images // VERSIONS_LIMIT
    for owner in range(owners):
        task = Task(1_000 + owner, 200)
        tree.apply(F(INIT, task))
        tree.apply_all(X(task, f"/bin/{i}", 300 + i, argv=(word,)) for i in range(VERSIONS_LIMIT))
        assert tree.census.history_bytes < 1.3 * HISTORY_BYTES_LIMIT
    tree._check()
    ds = DataSource(tree)
    assert (told(ds, "comm", 155), told(ds, "comm", 160)) == ("it", "that")
    for owner in range(owners):
        task = Task(1_000 + owner, 200)
        assert path_at(ds, task, 300) == "/bin/0"
        assert path_at(ds, task, 999) == f"/bin/{VERSIONS_LIMIT - 1}"
    assert tree.counters["dropped_versions"] > images // 4


STATED = ("comm", "cwd", "uid", "euid", "session_id", "tty")
Truth = dict[str, Any]


def story_of(random: Random) -> list[tuple[int, Event, Truth]]:
    """Floods of changes of one process, and after each change what is true from then on."""
    now: Truth = dict.fromkeys((*STATED, "image")) | {"comm": "init"}
    time = 200
    story: list[tuple[int, Event, Truth]] = []
    for _ in range(random.randint(1, 12)):
        kinds = random.sample([*STATED, "exec", "picture", "child"], random.randint(1, 3))
        for _ in range(random.randint(1, 150)):
            time += random.randint(1, 2)
            kind = random.choice(kinds)
            event: Event
            if kind == "exec":
                now = now | {"image": f"/bin/{time}", "comm": str(time)}
                event = X(P, f"/bin/{time}", time)
            elif kind == "picture":
                event = S(P, time, **{name: now[name] for name in STATED if now[name] is not None})
            elif kind == "child":
                event = F(P, Task(time, time))
            else:
                is_number = kind in ("uid", "euid", "session_id")
                now = now | {kind: random.randint(0, 3) if is_number else str(time)}
                event = C(P, time, **{kind: now[kind]})
            story.append((time, event, now))
    return story


def assert_true_or_hidden(info: ProcessInfo, then: Truth, hidden: set[str]) -> None:
    for name in ("image", *STATED):
        assert told_of(info, name) == (None if name in hidden else then[name]), (name, info.time)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**48), disorder=st.sampled_from([0, 0, 4, 30]))
def test_what_is_left_is_true_and_what_is_not_is_named(seed: int, disorder: int) -> None:
    random = Random(seed)
    story = story_of(random)
    place = {time: i + random.random() * disorder for i, (time, _, _) in enumerate(story)}
    tree = tree_of([init(), F(INIT, P)])
    for i, (_, event, _) in enumerate(sorted(story, key=lambda told: place[told[0]])):
        tree.apply(event)
        if i % 50 == 0:
            tree._check()
    tree._check()
    ds = DataSource(tree)
    hidden = 0
    for time, event, then in story:
        try:
            info = ds.process(id_of(P), time)
        except BeyondHorizon:
            hidden += 1
        else:
            assert_true_or_hidden(info, then, set(info.certainty.dropped))
            hidden += len(info.certainty.dropped)
        if isinstance(event, Fork):
            child = ds.process(id_of(event.task), time)
            unknown = {name for name in ("image", *STATED) if told_of(child, name) is None}
            assert_true_or_hidden(child, then, unknown if disorder else set())
    assert (hidden > 0) <= (tree.counters["dropped_versions"] > 0)


def told_of(info: ProcessInfo, name: str) -> Any:
    if name == "image":
        return None if info.execution_binary is None else info.execution_binary.path
    return getattr(info, FIELDS.get(name, name))
