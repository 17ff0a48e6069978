"""The table of states, held against what random histories do."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from proctree_ds import ProcessTree, entity_id
from proctree_ds.census import PAGE_IDS
from proctree_ds.model import Change, Event, Exit, Fork, Header, Picture, Snapshot, Task
from proctree_ds.states import TRANSITIONS, ProcessState, state_of

from .kernel import Kernel

HISTORIES = 1_500


def observed(in_order: bool) -> set[tuple[ProcessState, ProcessState]]:
    """Every change of state of a process in random histories, and in random caches."""
    changes: set[tuple[ProcessState, ProcessState]] = set()
    for seed in range(HISTORIES):
        random = Random(seed)
        kernel = Kernel(random)
        kernel.run(40)
        events = list(kernel.told)
        lost = random.random() < 0.3
        if lost:
            told = (Header, Picture, Snapshot)
            events = [e for e in events if isinstance(e, told) or random.random() < 0.8]
        if not in_order:
            random.shuffle(events)
        if lost:
            events.append(Picture(kernel.now + 1, kernel.now))
        size = random.choice((3, 6, 1_000))
        tree = ProcessTree(size, 2 * size)
        changes |= followed(tree, events, kernel.world_at(kernel.now))
    return changes


def followed(
    tree: ProcessTree, events: Iterable[Event], tasks: Iterable[Task]
) -> set[tuple[ProcessState, ProcessState]]:
    """The changes of state of some processes while a tree learns events."""
    changes: set[tuple[ProcessState, ProcessState]] = set()
    ids = [entity_id(task.start_time or 0, task.tid) for task in tasks]
    states: dict[int, ProcessState] = dict.fromkeys(ids, "unknown")
    for event in events:
        tree.apply(event)
        for entity, before in states.items():
            after = state_of(tree.census, entity)
            if after != before:
                changes.add((before, after))
                states[entity] = after
    return changes


def after_an_eviction() -> set[tuple[ProcessState, ProcessState]]:
    """What takes more forks than a short history has, or an exact order."""
    first, heir, child = Task(10, 150), Task(10, 5_000), Task(11, 9_000)
    before = [Task(50 + i, 100 + i) for i in range(8)]
    after = [Task(100 + i, 200 + i) for i in range(4 * PAGE_IDS)]
    begin = [_fork(task) for task in (*before, first)]
    flood = [_fork(task) for task in after]
    named = Fork(9_000, child, first)
    changes = followed(ProcessTree(8, 16), [*begin, Exit(160, first), *flood, named], [first])
    late = [Exit(250, after[39]), _fork(heir), Change(4_000, first, {"comm": "late"})]
    return changes | followed(ProcessTree(8, 16), [*begin, *flood[:40], *late], [first])


def of_threads_that_turn_up_late() -> set[tuple[ProcessState, ProcessState]]:
    """An exit that does not say whether it was the last one, and a thread that nobody knew."""
    process, thread = Task(10, 100), Task(11, 150)
    begin: list[Event] = [_fork(process), Exit(200, process)]
    late = Fork(150, thread, leader=process, creator=process)
    changes = followed(ProcessTree(8, 16), [*begin, late], [process])
    return changes | followed(ProcessTree(8, 16), [*begin, Picture(300, 250), late], [process])


def _fork(task: Task) -> Event:
    assert task.start_time is not None
    return Fork(task.start_time, task, Task(1, 1))


def test_the_table_of_states_is_what_happens() -> None:
    in_order = observed(in_order=True)
    in_any_order = observed(in_order=False) | after_an_eviction()
    in_any_order |= of_threads_that_turn_up_late()
    told = {(change.before, change.after) for change in TRANSITIONS}
    late = {(change.before, change.after) for change in TRANSITIONS if change.is_late}
    assert in_order | in_any_order == told
    assert in_order <= told - late


def test_no_change_is_told_twice() -> None:
    pairs = [(change.before, change.after) for change in TRANSITIONS]
    assert len(pairs) == len(set(pairs))
