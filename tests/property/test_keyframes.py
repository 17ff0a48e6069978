"""Random histories cut in two: a keyframe and what came after it, against the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proctree_ds import DataNotFound, DataSource, ProcessTree
from proctree_ds.model import Header
from proctree_ds.recording.keyframe import keyframe

from .capture import lossy
from .kernel import Kernel

FIELDS = (
    "entity_id", "pid", "ns_pid", "ppid", "ns_ppid", "name", "container_id", "cmd",
    "execution_binary", "interpreter", "script", "env", "cwd", "root", "uid", "euid", "suid",
    "gid", "egid", "sgid", "capabilities", "session_id", "process_group", "tty", "login_uid",
    "cgroup", "namespaces", "start_time", "exec_time", "exit_time", "exit_code", "exit_signal",
    "core_dumped", "parent_entity_id", "original_parent_entity_id", "creator_entity_id",
    "thread_ids", "child_process_ids", "is_alive", "certainty",
)  # fmt: skip
OF_A_THREAD = (
    "entity_id", "tid", "ns_tid", "pid", "uid", "gid", "name", "process_entity_id", "start_time",
    "exit_time", "is_alive", "certainty",
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 40), is_lossy=st.booleans())
def test_a_keyframe_stands_for_all_that_came_before(seed: int, steps: int, is_lossy: bool) -> None:
    random = Random(seed)
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    kernel.run(steps, unseen=random.randint(0, 8), restarts=is_lossy)
    told = lossy(random, kernel.told) if is_lossy else kernel.told
    cut = random.randint(1, len(told))
    whole = ProcessTree()
    whole.apply_all(told[:cut])
    # Whose start is known to the tick only is told by /proc again, which is not the same.
    assume(not any(n.rare.approximate for n in nodes(whole)))
    now = max((e.time for e in told[:cut] if e.time is not None), default=0)
    opening = keyframe(whole, now)
    assert isinstance(opening[0], Header)
    part = ProcessTree()
    part.apply_all(opening)
    part._check()
    for tree in (whole, part):
        tree.apply_all(told[cut:])
    part._check()
    assert list(differences(whole, part, now)) == []


def differences(whole: ProcessTree, part: ProcessTree, since: int) -> Iterator[str]:
    """Where `part` answers otherwise than `whole` for an instant from `since` on."""
    one, other = DataSource(whole), DataSource(part)
    for time in sorted({since, *(time for time in instants(whole) if time > since)}):
        at = whole.boot_time + time
        for what, ask in questions(one, at):
            expected, found = answer(one, ask), answer(other, ask)
            if expected != found and not is_surer(found, expected):
                yield f"at {at}: {what}: {found!r}, of the whole {expected!r}"


Question = Callable[[DataSource], Any]


def questions(whole: DataSource, at: int) -> Iterator[tuple[str, Question]]:
    yield "who lived", lambda ds: [info.entity_id for info in ds.snapshot(at)]
    for process in whole.snapshot(at):
        entity = process.entity_id
        pid = process.pid
        yield f"process {pid}", partial(process_facts, entity=entity, at=at)
        yield f"lineage of {pid}", partial(lineage, entity=entity, at=at, parents="original")
        yield f"parents of {pid}", partial(lineage, entity=entity, at=at, parents="as_of")
        yield f"children of {pid}", partial(children, entity=entity, at=at)
        yield f"holder of {pid}", partial(holder, pid=pid, at=at)
        for tid, thread in process.thread_ids.items():
            yield f"thread {tid}", partial(thread_facts, entity=thread, at=at)


def is_surer(found: Any, expected: Any) -> bool:
    """Whether just less is in doubt: who has ended is no longer there to raise one."""
    if not isinstance(expected, list) or not isinstance(found, list):
        return False
    (_, sure), (_, known) = found[-1], expected[-1]
    return found[:-1] == expected[:-1] and set(sure.inferred) <= set(known.inferred)


def process_facts(ds: DataSource, entity: int, at: int) -> list[tuple[str, Any]]:
    info = ds.process(entity, at)
    return [(name, getattr(info, name)) for name in FIELDS]


def thread_facts(ds: DataSource, entity: int, at: int) -> list[tuple[str, Any]]:
    info = ds.thread(entity, at)
    return [(name, getattr(info, name)) for name in OF_A_THREAD]


def lineage(ds: DataSource, entity: int, at: int, parents: Any) -> Any:
    found = ds.lineage(entity, at, parents=parents)
    return [(info.entity_id, info.time, info._state) for info in found], found.end


def holder(ds: DataSource, pid: int, at: int) -> int:
    return ds.pid(pid, at).entity_id


def children(ds: DataSource, entity: int, at: int) -> set[int]:
    return {child.entity_id for child in ds.children(entity, at)}


def answer(ds: DataSource, ask: Question) -> Any:
    try:
        return ask(ds)
    except DataNotFound as error:
        return type(error)


def nodes(tree: ProcessTree) -> list[Any]:
    census = tree.census
    return [*census.processes.values(), *census.threads.values(), *census.shadows.values()]


def instants(tree: ProcessTree) -> set[int]:
    found: set[int] = set()
    for node in nodes(tree):
        found |= {node.start, node.ended, *(version.time for version in node.log)}
    return {time + step for time in found if time < 2**62 for step in (-1, 0, 1)}
