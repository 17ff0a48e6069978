"""What the tree answers, held against what was true in the simulated kernel.

An answer may differ from the truth only where it says so: by being None, by a source or a field
that is marked as inferred, or by a window of loss that touches it. In a history without a loss
nothing of what happened after the first picture may differ, and nothing may be marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proctree_ds import Certainty, DataNotFound, DataSource, ProcessInfo, ThreadInfo
from proctree_ds.model import Context, Task

from .kernel import Kernel, Truth, World
from .model import id_of, start

__all__ = ["lies"]

ATTRIBUTES = (
    "name", "cmd", "execution_binary", "exec_time", "cwd", "root",
    *(name for name in Context.__struct_fields__ if name != "cgroup_id"),
)  # fmt: skip
MARKS = {
    **dict.fromkeys(ATTRIBUTES, ("attributes",)),
    "ppid": ("parent_entity_id", "original_parent_entity_id"),
    "parent_entity_id": ("original_parent_entity_id",),
    "is_alive": ("exit_time",),
    "exit_code": ("exit_time",),
    "exit_signal": ("exit_time",),
    "thread_ids": ("exit_time",),
    "child_process_ids": ("exit_time",),
    "uid": ("attributes",),
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
            for lie in _about(ds, truth, world, time, kernel.began if is_lossless else None):
                yield f"at {time}: {truth.task} {lie}"


def _about(
    ds: DataSource, truth: Truth, world: World, time: int, seen_since: int | None
) -> Iterator[str]:
    was_there_before = seen_since is None or start(truth.task) < seen_since
    try:
        info = ds.process(id_of(truth.task), time)
    except DataNotFound:
        if not was_there_before:
            yield "is not answered"
        return
    certainty = info.certainty
    if not was_there_before and not certainty.is_certain:
        yield f"is marked without a reason: {certainty}"
    for name, true in _facts(truth, world, time).items():
        answer = getattr(info, name)
        if answer != true and (not was_there_before or not _is_marked(certainty, name, answer)):
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


def _is_marked(certainty: Certainty, name: str, answer: Any) -> bool:
    return (
        answer is None
        or certainty.source == "inferred"
        or bool(certainty.loss_windows)
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
        "start_time": start(truth.task),
        "name": state.comm,
        "cmd": state.image.argv,
        "execution_binary": state.image.executable,
        "exec_time": exec_time if exec_time and exec_time >= start(truth.task) else None,
        "cwd": state.cwd,
        "root": state.root,
        **{n: getattr(state.context, n) for n in Context.__struct_fields__ if n != "cgroup_id"},
        "ppid": 0 if parent is None else parent.tid,
        "parent_entity_id": None if parent is None else id_of(parent),
        "original_parent_entity_id": None if original is None else id_of(original),
        "creator_entity_id": None if truth.creator is None else id_of(truth.creator),
        "is_subreaper": truth.subreaper,
        "is_alive": alive,
        "exit_time": truth.ended,
        "exit_code": truth.code,
        "exit_signal": truth.signal,
        "thread_ids": {task.tid: id_of(task) for task in truth.threads},
        "child_process_ids": {
            child.task.tid: id_of(child.task)
            for child in children
            if alive and child.parent == truth.task
        },
    }
