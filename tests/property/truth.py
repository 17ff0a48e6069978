"""What the tree answers, held against what was true in the simulated kernel.

An answer may differ from the truth only where it says so: by being None, by a source or a field
that is marked as inferred, or by a window of loss that touches it. In a history without a loss
nothing of what happened after the first picture may differ, and nothing may be marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proctree_ds import Certainty, DataNotFound, DataSource
from proctree_ds.model import CLOCK_TICK_NS, Context, Task

from .kernel import Kernel, Truth, World
from .model import id_of, start

__all__ = ["lies"]

ATTRIBUTES = (
    "name", "cmd", "execution_binary", "exec_time", "cwd", "root",
    *(name for name in Context.__struct_fields__ if name != "cgroup_id"),
)  # fmt: skip
MARKS = {
    **dict.fromkeys(ATTRIBUTES, ("attributes",)),
    "ppid": ("parent_entity_id", "original_parent_entity_id", "exit_time"),
    "parent_entity_id": ("original_parent_entity_id", "exit_time"),
    "is_alive": ("exit_time",),
    "exit_code": ("exit_time",),
    "exit_signal": ("exit_time",),
    "thread_ids": ("exit_time",),
    "child_process_ids": ("exit_time",),
}
"""By which other names in `inferred` a field is marked."""


def lies(ds: DataSource, kernel: Kernel, is_lossless: bool) -> Iterator[str]:
    """Every answer since the capture began that is not true, and does not say so."""
    assert kernel.began is not None
    for time in kernel.instants:
        if time < kernel.began:
            continue
        world = kernel.world_at(time)
        for truth in world.values():
            is_sure = is_lossless and truth.task in kernel.born_in_sight
            for lie in _about(ds, truth, world, time, is_sure):
                if not (kernel.terse and lie.startswith(("ns_pid is None", "ns_tid is None"))):
                    yield f"at {time}: {truth.task} {lie}"


def _about(ds: DataSource, truth: Truth, world: World, time: int, is_sure: bool) -> Iterator[str]:
    try:
        info = ds.process(id_of(truth.task), time)
    except DataNotFound:
        if is_sure:
            yield "is not answered"
        return
    certainty = info.certainty
    if is_sure and not certainty.is_certain:
        yield f"is marked without a reason: {certainty}"
    for name, true in _facts(truth, world, time).items():
        answer = getattr(info, name)
        if not _is_true(answer, true, time):
            if is_sure or not _is_marked(certainty, name, answer):
                yield f"{name} is {answer!r} and not {true!r}: {certainty}"
    for thread, (name, uid, gid, ns_tid) in truth.threads.items():
        try:
            answer = ds.thread(id_of(thread), time)
        except DataNotFound:
            continue
        facts = {"name": name, "uid": uid, "gid": gid, "ns_tid": ns_tid, "is_alive": True}
        for field, true in facts.items():
            given = getattr(answer, field)
            if given != true and not _is_marked(answer.certainty, field, given):
                yield f"thread {thread}: {field} is {given!r} and not {true!r}"


def _is_true(answer: Any, true: Any, time: int) -> bool:
    if isinstance(true, Task):
        return answer in _ids(true)
    if isinstance(true, list):
        # Of whom /proc alone told it is not known when within the tick they started.
        tick = time - time % CLOCK_TICK_NS
        early = {tid for tid, entity in answer.items() if entity == id_of(Task(tid, tick))}
        tids = {task.tid for task in true}
        return (
            tids <= answer.keys()
            and answer.keys() - tids <= early
            and all(answer[task.tid] in _ids(task) for task in true)
        )
    return bool(answer == true)


def _ids(task: Task) -> set[int]:
    """The id of a task, and the one that it has where only /proc told of it."""
    tick = start(task) - start(task) % CLOCK_TICK_NS
    return {id_of(task), id_of(Task(task.tid, tick))}


def _is_marked(certainty: Certainty, name: str, answer: Any) -> bool:
    return (
        answer is None
        or certainty.source == "inferred"
        or bool(certainty.loss_windows)
        or name in certainty.dropped
        or not {name, *MARKS.get(name, ())}.isdisjoint(certainty.inferred)
    )


def _facts(truth: Truth, world: World, time: int) -> dict[str, Any]:
    state = truth.state
    alive = truth.ended is None
    parent, original = truth.parent, truth.original_parent
    exec_time = state.image.exec_time
    children = [child for child in world.values() if child.ended is None]
    return {
        "pid": truth.task.tid,
        "ns_pid": truth.ns_pid,
        "name": state.comm,
        "cmd": state.image.argv,
        "execution_binary": state.image.executable,
        "exec_time": exec_time if exec_time and exec_time >= start(truth.task) else None,
        "cwd": state.cwd,
        "root": state.root,
        **{n: getattr(state.context, n) for n in Context.__struct_fields__ if n != "cgroup_id"},
        "ppid": 0 if parent is None else parent.tid,
        "parent_entity_id": parent,
        "original_parent_entity_id": original,
        "creator_entity_id": truth.creator,
        "is_subreaper": truth.subreaper,
        "is_alive": alive,
        "exit_time": truth.ended,
        "exit_code": truth.code,
        "exit_signal": truth.signal,
        "thread_ids": list(truth.threads),
        "child_process_ids": [c.task for c in children if alive and c.parent == truth.task],
    }
