"""What must hold of the tree's records between any two events; see `ProcessTree._check`."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from proctree_ds.census import Census
from proctree_ds.changelog import GROUPS, VERSIONS_LIMIT, Version, rebuild
from proctree_ds.model import CLOCK_TICK_NS, NEVER, Task
from proctree_ds.process import Process, Thread, is_seen

__all__ = ["check_census"]


def check_census(census: Census) -> None:
    """Walk every record and raise AssertionError at the first that contradicts another."""
    assert len(census.processes) <= census.process_cache
    assert not census.threads or (
        len(census.threads) + len(census.processes) <= census.thread_cache
    )
    everything: list[Process | Thread] = [*census.processes.values(), *census.threads.values()]
    assert census.history_bytes == sum(node.history_bytes for node in everything)
    assert census.settled == max(census.horizon, census.pictured - 1)
    everyone = {**census.processes, **census.shadows}
    assert len(everyone) == len(census.processes) + len(census.shadows)
    pins = Counter(
        node.parent.entity_id
        for node in everyone.values()
        if node.parent is not None and (node.ended == NEVER or node.pins)
    )
    for entity, node in everyone.items():
        assert node.entity_id == entity
        assert node.pins == pins[entity], f"{node.task}: pins {node.pins}"
        _check_family(census, node)
        _check_estate(everyone, census, node)
    for node in census.processes.values():
        assert not node.evicted
        _check_life(census, node)
        _check_changelog(node)
    for shadow in census.shadows.values():
        assert shadow.children, f"{shadow.task} is a shadow of nothing"
    for entity, thread in census.threads.items():
        assert thread.entity_id == entity
        assert thread.process.threads is not None and entity in thread.process.threads
        assert thread.ended >= thread.start
        assert thread.ended == NEVER or thread.queued, f"{thread.task} can never be evicted"
        _check_changelog(thread)
    _check_holders(census)
    _check_indexes(census)


def _check_family(census: Census, node: Process) -> None:
    ancestor = node.parent
    latest = node.start + (CLOCK_TICK_NS - 1 if node.rare.approximate else 0)
    if ancestor is not None:
        assert ancestor.start <= latest
        assert ancestor.children is not None and node.entity_id in ancestor.children
        assert ancestor.last_branch >= node.start
    assert node.last_branch >= node.start
    for child_id in node.children or ():
        child = census.processes.get(child_id) or census.shadows[child_id]
        assert child.parent is node or child.rare.copied_from is node
    for thread_id in node.threads or ():
        assert census.threads[thread_id].process is node
        assert census.threads[thread_id].start <= node.last_branch


def _check_estate(everyone: dict[int, Process], census: Census, node: Process) -> None:
    """Who left children to whom is noted at both, and only of those who have ended."""
    heir = node.rare.heir
    if heir is not None:
        assert everyone.get(heir.entity_id) is heir
        assert node.entity_id in (heir.rare.estates or ())
    for entity in node.rare.estates or ():
        assert everyone[entity].rare.heir is node
    if heir is not None or node.entity_id in census.intestate:
        assert node.ended != NEVER
    if node.ended != NEVER and (node.children or node.task in census.adopted):
        assert heir is not None or node.entity_id in census.intestate


def _check_life(census: Census, node: Process) -> None:
    assert node.ended >= node.start
    if node.exit is not None:
        assert node.exit.time <= node.ended < NEVER
    if node.ended != NEVER and not node.pins:
        assert node.queued, f"{node.task} can never be evicted"
    threads = [census.threads[i] for i in node.threads or ()]
    assert node.rare.living_threads == sum(thread.ended == NEVER for thread in threads)
    exits = node.rare.leader_exits or []
    assert [x.time for x in exits] == sorted(x.time for x in exits)
    if is_seen(node.exit) and node.exit.group_exit:
        assert all(x.time <= node.ended for x in exits if is_seen(x))


def _check_changelog(node: Process | Thread) -> None:
    log = node.log
    assert (node.versions is None) == (len(log) < 2)
    assert (log[-1] if log else None) is node.latest
    assert all(a.time <= b.time for a, b in pairwise(log))
    assert not log or log[0].time >= node.start or node.rare.approximate
    gaps = node.rare.gaps or []
    assert len(log) <= (len(GROUPS) + 2) * VERSIONS_LIMIT
    assert len({gap.group for gap in gaps}) == len(gaps)
    for gap in gaps:
        assert gap.since <= gap.until and gap.names
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


def _check_indexes(census: Census) -> None:
    named: dict[Task, set[int]] = {}
    for node in census.processes.values():
        for _, parent in node.rare.parents or ():
            if parent is not None:
                named.setdefault(parent, set()).add(node.entity_id)
    assert census.adopted == named
    for entity in census.zapped & census.processes.keys():
        assert census.processes[entity].ended != NEVER
    for node in census.processes.values():
        assert node.rare.creator is None or node.fork is not None
