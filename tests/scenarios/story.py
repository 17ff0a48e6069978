"""Short words for histories: `F(a, b, at)` is a fork, `X(p, img, at)` an exec, `E(p, at)` an exit.

`tellings` delivers a history in every way that must not matter: in order, backwards, shuffled,
with every event twice, in batches, and written to an event log and read back.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from proctree_ds import DataNotFound, DataSource, ProcessTree, entity_id, read_events
from proctree_ds.eventlog import write_events
from proctree_ds.model import (
    Change,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Given,
    Header,
    Image,
    Snapshot,
    Task,
)

INIT = Task(1, 1)


def F(
    parent: Task | None,
    child: Task,
    *,
    creator: Task | None = None,
    leader: Task | None = None,
    at: int | None = None,
    **given: Any,
) -> Fork:
    """A fork; the child says in its own start when it happened."""
    assert child.start_time is not None
    return Fork(
        child.start_time if at is None else at,
        child,
        parent,
        leader=leader,
        creator=creator,
        given=given or None,
    )


def T(leader: Task, thread: Task, *, creator: Task | None = None) -> Fork:
    """A new thread of the process that `leader` leads."""
    assert thread.start_time is not None
    return Fork(thread.start_time, thread, None, leader=leader, creator=creator or leader)


def X(
    task: Task,
    path: str,
    at: int,
    *,
    parent: Task | None = None,
    old_tid: int | None = None,
    **given: Any,
) -> Exec:
    """An exec of the file at `path`, which gives the process its name."""
    image = Image(
        executable=given.pop("executable", FileInfo(path)),
        interpreter=given.pop("interpreter", None),
        argv=given.pop("argv", (path,)),
        script=given.pop("script", None),
        argv_truncated=given.pop("argv_truncated", False),
        exec_time=at,
    )
    facts: Given = {"comm": path.rsplit("/", 1)[-1][:15], "image": image, **given}
    return Exec(at, task, facts, parent=parent, old_tid=old_tid)


def E(task: Task, at: int, code: int | None = 0, **facts: Any) -> Exit:
    """An exit; `leader`, `group_exit`, `reaper`, `exit_signal` as `facts`."""
    return Exit(at, task, exit_code=code, **facts)


def C(task: Task, at: int, **given: Any) -> Change:
    """A change of attributes; `subreaper`, `parent` and `leader` are not attributes."""
    fields = {k: given.pop(k) for k in ("subreaper", "parent", "leader") if k in given}
    return Change(at, task, given, **fields)


def S(task: Task, at: int, parent: Task | None = None, **given: Any) -> Snapshot:
    """A picture of a task that was alive at `at`."""
    fields = {
        k: given.pop(k) for k in ("origin", "subreaper", "leader", "ns_pid", "ns_tid") if k in given
    }
    return Snapshot(at, task, given, parent=parent, **fields)


def init(**given: Any) -> Snapshot:
    """Process 1, as the first picture shows it."""
    return S(INIT, 50, Task(0, 0), comm="init", ns_pid=1, **given)


def id_of(task: Task) -> int:
    assert task.start_time is not None
    return entity_id(task.start_time, task.tid)


def tree_of(events: Iterable[Event], **options: int) -> ProcessTree:
    tree = ProcessTree(**options)
    for event in events:
        tree.apply(event)
        tree._check()
    return tree


def tellings(*events: Event, orders: int = 20, keep_order: bool = False) -> Iterator[DataSource]:
    """The same history told in every way that must not matter."""
    stories = [list(events), [event for event in events for _ in range(2)]]
    if not keep_order:
        stories.append(list(reversed(events)))
        random = Random(len(events))
        stories.extend(random.sample(events, len(events)) for _ in range(orders))
    for story in stories:
        yield DataSource(tree_of(story))
    for story in (stories[0], stories[-1]):
        for size in (2, 3, len(story)):
            yield DataSource(tree_in_batches(story, size))
        yield DataSource(tree_of(through_a_log(story)))


def tree_in_batches(events: Sequence[Event], size: int) -> ProcessTree:
    tree = ProcessTree()
    for begin in range(0, len(events), size):
        tree.apply_all(events[begin : begin + size])
        tree._check()
    return tree


def through_a_log(events: Iterable[Event]) -> Iterator[Event]:
    """The events as an event log gives them back, after a header if they begin without one."""
    story = list(events)
    log = io.BytesIO()
    write_events(log, story if isinstance(story[0], Header) else [Header(), *story])
    log.seek(0)
    return read_events(log)


def everything(
    ds: DataSource, tasks: Iterable[Task], instants: Iterable[int]
) -> dict[tuple[int, int], object]:
    """All that is answered about `tasks` as of each of `instants`, errors included, as plain data.

    Two sources of the same history must give the same.
    """
    answers: dict[tuple[int, int], object] = {}
    ids = [id_of(task) for task in tasks]
    for time in instants:
        for entity in ids:
            try:
                lineage = ds.lineage(entity, time)
                answers[entity, time] = ([i.to_dict() for i in lineage], lineage.end)
            except DataNotFound as error:
                try:
                    answers[entity, time] = ds.thread(entity, time).to_dict()
                except DataNotFound:
                    answers[entity, time] = (type(error), str(error))
    return answers


def path_at(ds: DataSource, task: Task, time: int) -> str | None:
    """The path of the image that `task` ran as of `time`."""
    binary = ds.process(id_of(task), time).execution_binary
    return None if binary is None else binary.path
