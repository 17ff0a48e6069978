"""Parents, heirs and children as of an instant, worked out from what the tree recorded.

Nothing is written when a process dies: who its children belong to afterwards follows from the
exits along the way, so late events need no repair. Where an exit names no reaper, the rule is
the kernel's own (find_new_reaper, kernel/exit.c): the nearest living ancestor with the
child-subreaper flag in the same pid namespace, else that namespace's init.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from proctree_ds.census import Census
from proctree_ds.model import Task, entity_id
from proctree_ds.pid_namespaces import is_init, pid_namespace
from proctree_ds.process import Process

__all__ = [
    "ANCESTORS_LIMIT",
    "REAPER_DEPTH_LIMIT",
    "Heirs",
    "children_at",
    "holder_in_namespace",
    "named_process",
    "parent_at",
]

ANCESTORS_LIMIT: Final = 65_536
"""No walk along parents or heirs goes further: a guard against hostile input."""

REAPER_DEPTH_LIMIT: Final = 256
"""Ancestors that are searched for a subreaper where an exit names no reaper."""

_Question = Generator["_Question", Process | None, Process | None]
"""A walk that may ask another one first. Walks nest as deep as a chain of deaths is long, so they
are run on an explicit stack and not on Python's."""


class Heirs:
    """Who took over from whom, as far as it was worked out for questions about one instant.

    Who asks about many processes hands over the same for all: then nothing is worked out twice,
    however many have died one after the other.
    """

    __slots__ = ("asking", "computed", "current")

    def __init__(self) -> None:
        self.current: dict[int, Process | None] = {}
        """Who has the children of an exited process as of the instant."""
        self.computed: dict[int, Process | None] = {}
        """Who got them at its exit, where that names nobody."""
        self.asking: set[int] = set()
        """Those whose heir is being worked out: they cannot be told by each other's."""


def parent_at(
    census: Census, node: Process, time: int, heirs: Heirs | None = None
) -> Process | None:
    """The parent as of `time`: the original one, or who took over. None where it is unknown.

    O(heirs one after the other), which is 1 for a process that was never orphaned.
    """
    parent = node.parent
    if node.rare.parents is None and (parent is None or parent.ended > time):
        return parent
    heirs = heirs or Heirs()
    return _run(_parent(census, node, time, heirs, heirs.current))


def _run(question: _Question) -> Process | None:
    stack = [question]
    answer: Process | None = None
    steps = 0
    while stack:
        steps += 1
        if steps > ANCESTORS_LIMIT:
            return None
        try:
            stack.append(stack[-1].send(answer))
            answer = None
        except StopIteration as done:
            stack.pop()
            answer = done.value
    return answer


def _parent(
    census: Census, node: Process, time: int, heirs: Heirs, current: dict[int, Process | None]
) -> _Question:
    parent = node.parent
    for since, named in node.rare.parents or ():
        if since > time:
            break
        parent = None if named is None else named_process(census, named, since) or _stranger(named)
    gone: dict[int, None] = {}
    while parent is not None and parent.ended <= time:
        entity = parent.entity_id
        if entity in gone:
            parent = None  # they leave their children to each other
            break
        if entity in current:
            parent = current[entity]
            break
        gone[entity] = None
        reaper = parent.exit.reaper if parent.exit is not None else None
        heir = None if reaper is None else named_process(census, reaper, parent.ended)
        if heir is None and reaper is not None and reaper.start_time is not None:
            if census.was_evicted(entity_id(reaper.start_time, reaper.tid)):
                parent = None  # whether it has ended since, and who came then, is forgotten
                break
        if heir is None and entity not in heirs.asking:
            if entity not in heirs.computed:
                heirs.asking.add(entity)
                heirs.computed[entity] = yield _computed_heir(census, parent, heirs)
                heirs.asking.discard(entity)
            heir = heirs.computed[entity] or _stranger(reaper)
        if heir is None and is_init(parent):
            break  # nobody takes over: it waits until all in its namespace have ended
        parent = heir
    if not heirs.asking:
        current.update(dict.fromkeys(gone, parent))
    return parent


def _stranger(ref: Task | None) -> Process | None:
    """A process that is not in memory, by what its name alone says."""
    if ref is None or ref.start_time is None:
        return None
    return Process(entity_id(ref.start_time, ref.tid), ref.tid, ref.start_time)


def named_process(census: Census, ref: Task, time: int) -> Process | None:
    """The process in memory that `ref` names, as of `time` where it gives no start."""
    if ref.start_time is None:
        found = census.holder_at(ref.tid, time)
    else:
        found = census.holder(ref.tid, ref.start_time)
        if found is None:
            found = census.shadows.get(entity_id(ref.start_time, ref.tid))
        if found is None:
            found = census.known_by_tick(ref.tid, ref.start_time)
    return found if isinstance(found, Process) else None


def _computed_heir(census: Census, node: Process, heirs: Heirs) -> _Question:
    end = node.ended
    namespace = _pid_namespace(node, end)
    below = node
    for _ in range(REAPER_DEPTH_LIMIT):
        ancestor = below.parent
        if below.rare.parents is not None or ancestor is None or ancestor.ended <= end:
            ancestor = yield _parent(census, below, end, heirs, {})
        if ancestor is None or _pid_namespace(ancestor, end) not in (namespace, None):
            return _init_of(census, node, namespace, end)
        if ancestor.is_subreaper_at(end) or ancestor.ns_pid == 1 or ancestor.tid == 1:
            return ancestor
        below = ancestor
    return None


def _init_of(census: Census, node: Process, namespace: int | None, time: int) -> Process | None:
    host = census.holder_at(1, time)
    host = host if isinstance(host, Process) else None
    if namespace is None or (host is not None and _pid_namespace(host, time) in (namespace, None)):
        return host
    if is_init(node):
        return None
    # One that has ended takes over the children of those that end after it, until all have.
    return holder_in_namespace(census, namespace, 1, time) or census.namespaces.init_of(node)


def holder_in_namespace(census: Census, inode: int, ns_pid: int, time: int) -> Process | None:
    """Who had `ns_pid` in this pid namespace as of `time`. O(those in memory with that pid)."""
    holder = census.holder_at(ns_pid, time)
    members = () if inode == census.namespaces.host else census.namespaces.at(inode, ns_pid)
    holders = [
        node
        for node in (holder, *members)
        if isinstance(node, Process)
        and node.ns_pid == ns_pid
        and node.start <= time < node.ended
        and _pid_namespace(node, time) == inode
    ]
    return max(holders, key=lambda node: node.start, default=None)


def _pid_namespace(node: Process, time: int) -> int | None:
    return pid_namespace(node.state_at(time))


def children_at(
    census: Census, node: Process, time: int, heirs: Heirs | None = None
) -> Iterator[Process]:
    """The living children of `node` as of `time`, adopted ones included, in no order.

    O(children in memory, its own and those of the processes that left it theirs). For an init or
    a subreaper those that left them to nobody who is known come on top.
    """
    if node.ended <= time:
        return
    heirs = heirs or Heirs()
    seen: set[int] = set()
    todo = [node]
    known = {node.entity_id}
    while todo:
        owner = todo.pop()
        for child_id in (*(owner.children or ()), *census.adopted.get(owner.task, ())):
            child = census.processes.get(child_id) or census.shadows.get(child_id)
            if child is None or child_id in seen or not child.start <= time < child.ended:
                continue
            if parent_at(census, child, time, heirs) is node:
                seen.add(child_id)
                yield child
        for estate_id in _estates(census, owner):
            if estate_id not in known:
                known.add(estate_id)
                estate = census.processes.get(estate_id) or census.shadows.get(estate_id)
                if estate is not None and estate.ended <= time:
                    todo.append(estate)


def _estates(census: Census, heir: Process) -> Iterator[int]:
    """The ids of exited processes whose children `heir` may have taken over."""
    yield from heir.rare.estates or ()
    if heir.tid == 1 or heir.ns_pid == 1 or heir.rare.subreaper is not None:
        yield from census.intestate
    else:
        yield from census.claims.get(heir.tid, ())
