"""Random histories cut in two: a keyframe and what came after it, against the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds import DataNotFound, DataSource, ProcessTree
from proctree_ds.model import Event, Header
from proctree_ds.recording.keyframe import keyframe

from .capture import lossy
from .kernel import Kernel


def times_of(events: list[Event]) -> list[int]:
    return [event.time for event in events if event.time is not None]


def differences(whole: ProcessTree, part: ProcessTree, since: int) -> Iterator[str]:
    """Where `part` answers otherwise than `whole` for an instant from `since` on."""
    one, other = DataSource(whole), DataSource(part)
    last = max(n.last_sign_of_life for n in whole.census.processes.values())
    for time in sorted({since, *(t for t in instants(whole) if t > since), last + 1}):
        at = whole.boot_time + time

        def same(what: str, ask: Callable[[DataSource], Any], at: int = at) -> Iterator[str]:
            expected, given = answer(one, ask), answer(other, ask)
            if expected != given:
                yield f"at {at}: {what}: {given!r}, of the whole {expected!r}"

        yield from same("who lived", lambda ds: [i.entity_id for i in ds.snapshot(at)])
        for process in one.snapshot(at):
            entity = process.entity_id
            yield from same(f"process {process.pid}", lambda ds: facts(ds.process(entity, at)))
            for thread in process.thread_ids.values():
                yield from same(f"thread {thread}", lambda ds: facts(ds.thread(thread, at)))
            for parents in ("original", "as_of"):
                yield from same(
                    f"lineage of {process.pid} by {parents}",
                    lambda ds: lineage(ds.lineage(entity, at, parents=parents)),
                )
            yield from same(
                f"children of {process.pid}",
                lambda ds: {child.entity_id for child in ds.children(entity, at)},
            )
            yield from same(f"pid {process.pid}", lambda ds: ds.pid(process.pid, at).entity_id)


def answer(ds: DataSource, ask: Callable[[DataSource], Any]) -> Any:
    try:
        return ask(ds)
    except DataNotFound as error:
        return type(error)


def facts(info: Any) -> dict[str, Any]:
    told = {name: getattr(info, name) for name in info.__struct_fields__ if name[0] != "_"}
    told |= {n: getattr(info, n) for n in FIELDS if hasattr(info, n)}
    return told


FIELDS = (
    "entity_id", "pid", "ns_pid", "ppid", "ns_ppid", "name", "container_id", "cmd",
    "execution_binary", "interpreter", "script", "env", "cwd", "root", "uid", "euid", "suid",
    "gid", "egid", "sgid", "capabilities", "session_id", "process_group", "tty", "login_uid",
    "cgroup", "namespaces", "start_time", "exec_time", "exit_time", "exit_code", "exit_signal",
    "core_dumped", "parent_entity_id", "original_parent_entity_id", "creator_entity_id",
    "thread_ids", "child_process_ids", "is_alive", "certainty", "tid", "ns_tid",
    "process_entity_id",
)  # fmt: skip


def lineage(found: Any) -> Any:
    return [(i.entity_id, i.time, i._state) for i in found], found.end


def instants(tree: ProcessTree) -> set[int]:
    found: set[int] = set()
    for node in (*tree.census.processes.values(), *tree.census.threads.values()):
        found |= {node.start, node.ended, *(version.time for version in node.log)}
    return {time + step for time in found if time < 2**62 for step in (-1, 0, 1)}


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**48), steps=st.integers(1, 40), is_lossy=st.booleans())
def test_a_keyframe_stands_for_all_that_came_before(seed: int, steps: int, is_lossy: bool) -> None:
    random = Random(seed)
    kernel = Kernel(random, terse=random.random() < 0.5, spread=random.random() < 0.3)
    kernel.run(steps, unseen=random.randint(0, 8), restarts=is_lossy)
    told = lossy(random, kernel.told) if is_lossy else kernel.told
    cut = random.randint(1, len(told))
    whole = ProcessTree()
    whole.apply_all(told[:cut])
    now = max(times_of(told[:cut]), default=0)
    part = ProcessTree()
    part.apply_all(keyframe(whole, now))
    part._check()
    for tree in (whole, part):
        tree.apply_all(told[cut:])
    part._check()
    if whole.census.processes:
        assert list(differences(whole, part, now)) == []
    assert isinstance(keyframe(whole, now)[0], Header)
