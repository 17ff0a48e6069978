"""What must hold of the tree's records between any two events; see `ProcessTree._check`."""

from __future__ import annotations

from proctree_ds.census import Census
from proctree_ds.changelog import GROUPS, VERSIONS_LIMIT, Version, rebuild
from proctree_ds.model import CLOCK_TICK_NS, NEVER
from proctree_ds.process import Process, Thread

__all__ = ["check_census"]


def check_census(census: Census) -> None:
    """Walk every record and raise AssertionError at the first that contradicts another."""
    assert len(census.processes) <= census.process_cache
    assert not census.threads or (
        len(census.threads) + len(census.processes) <= census.thread_cache
    )
    everything: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
    assert census.history_bytes == sum(node.history_bytes for node in everything)
    _check_holders(census)
    kept: dict[int, int] = {}
    everyone = {**census.processes, **census.shadows}
    assert len(everyone) == len(census.processes) + len(census.shadows)
    for entity, node in everyone.items():
        assert node.entity_id == entity
        if (node.ended == NEVER or node.pins) and node.parent is not None:
            kept[node.parent.entity_id] = kept.get(node.parent.entity_id, 0) + 1
    for entity, node in everyone.items():
        assert node.pins == kept.get(entity, 0), f"{node.task}: pins {node.pins}"
        _check_family(census, node)
    for node in census.processes.values():
        _check_life(census, node)
        assert not node.evicted
    for shadow in census.shadows.values():
        assert shadow.children, f"{shadow.task} is a shadow of nothing"
    for entity, thread in census.threads.items():
        assert thread.entity_id == entity
        assert thread.process.threads is not None and entity in thread.process.threads
        _check_versions(thread)


def _check_family(census: Census, node: Process) -> None:
    ancestor = node.parent
    latest = node.start + (CLOCK_TICK_NS - 1 if node.rare.approximate else 0)
    assert ancestor is None or ancestor.start <= latest
    if ancestor is not None:
        assert ancestor.children is not None and node.entity_id in ancestor.children
    for child_id in node.children or ():
        child = census.processes.get(child_id) or census.shadows[child_id]
        assert child.parent is node or child.rare.copied_from is node
    for thread_id in node.threads or ():
        assert census.threads[thread_id].process is node


def _check_life(census: Census, node: Process) -> None:
    if node.ended != NEVER and not node.pins:
        assert node.queued, f"{node.task} can never be evicted"
    living = sum(census.threads[i].ended == NEVER for i in node.threads or ())
    assert node.rare.living_threads == living
    _check_versions(node)


def _check_versions(node: Process | Thread) -> None:
    log = node.log
    assert (node.versions is None) == (len(log) < 2)
    assert [v.time for v in log] == sorted(v.time for v in log)
    assert len(log) <= (len(GROUPS) + 2) * VERSIONS_LIMIT
    assert (log[-1] if log else None) is node.latest
    again: list[Version] = list(log)
    rebuild(again, node.base, 0)
    assert [v.state for v in again] == [v.state for v in log]


def _check_holders(census: Census) -> None:
    """Every task stands once among the holders of its tid, and these in order of their starts."""
    standing = 0
    for tid, latest in census.by_tid.items():
        holders = [*census.earlier.get(tid, ()), latest]
        starts = [holder.start for holder in holders]
        assert starts == sorted(set(starts)), f"{tid}: {starts}"
        assert all(holder.tid == tid for holder in holders)
        for holder in holders:
            known = census.processes if isinstance(holder, Process) else census.threads
            assert known[holder.entity_id] is holder
        standing += len(holders)
    assert standing == len(census.processes) + len(census.threads)
    assert all(census.earlier.values()) and census.earlier.keys() <= census.by_tid.keys()
