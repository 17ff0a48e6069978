"""Who lives in a pid namespace other than the host's, by namespace and by the pid there.

This is where to look, and not what is true: whether a process that is found is really meant, its
states say. So an entry whose process has left memory does no harm; such entries are swept out
together once they are as many as the others.

A task never leaves the pid namespace that it was born into (pid_namespaces(7)), and a namespace
ends with its init, the process that has pid 1 there (zap_pid_ns_processes, kernel/pid_namespace.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from proctree_ds.model import INITIAL_PID_NAMESPACE, State
from proctree_ds.process import Process

__all__ = ["SPARE_ENTRIES", "PidNamespaces", "is_init", "pid_namespace"]

SPARE_ENTRIES: Final = 1_024
"""So many entries of processes that have left memory are kept beyond one for each of the others."""


def pid_namespace(state: State) -> int | None:
    """The inode number of the pid namespace that a task in this state lives in."""
    namespaces = state.context.namespaces
    return None if namespaces is None else namespaces.pid


def is_init(node: Process) -> bool:
    """Whether a pid namespace ends with this process; the host's does not count.

    Where it has the namespace of its maker, its own one was never stated: nobody is in that.
    """
    if node.ns_pid != 1 or node.tid == 1:
        return False
    inode = pid_namespace(node.state)
    return inode is not None and inode != pid_namespace(node.born_of)


class PidNamespaces:
    """The members of pid namespaces, each known by its inode number. Adding is amortised O(1)."""

    def __init__(self, processes: dict[int, Process]) -> None:
        self._processes = processes
        self._ids: dict[int, dict[int | None, set[int]]] = {}
        self._entries = 0
        self._room = SPARE_ENTRIES
        self.host: int | None = None
        """The namespace of the host, None until that is known."""

    def forget(self) -> None:
        """Another boot of the host has other namespaces."""
        self._ids.clear()
        self._entries = 0
        self.host = None

    def add(self, node: Process, inode: int) -> None:
        """Note that `node` has lived in this namespace."""
        if self.host is None and (node.tid == 1 or inode == INITIAL_PID_NAMESPACE):
            self.host = inode  # of an init whose leader has ended no picture tells it
        if inode == self.host:
            return
        pids = self._ids.get(inode)
        if pids is None:
            pids = self._ids[inode] = {}
        ids = pids.get(node.ns_pid)
        if ids is None:
            pids[node.ns_pid] = {node.entity_id}
        elif node.entity_id in ids:
            return
        else:
            ids.add(node.entity_id)
        self._entries += 1
        if self._entries > self._room:
            self._sweep()

    def has(self, node: Process, inode: int) -> bool:
        """Whether it is known already that `node` has lived in this namespace."""
        ids = self._ids.get(inode, {}).get(node.ns_pid)
        return ids is not None and node.entity_id in ids

    def note(self, node: Process) -> None:
        """Add `node` wherever its states say that it lived. O(its versions)."""
        inodes = {pid_namespace(node.base), *(pid_namespace(v.state) for v in node.log)}
        if is_init(node):
            inodes.add(pid_namespace(node.born_of))  # there it has another pid, and ends with it
        for inode in inodes:
            if inode is not None:
                self.add(node, inode)

    def at(self, inode: int, ns_pid: int) -> Iterator[Process]:
        """Who may have this pid in this namespace. O(those in memory that ever had it)."""
        return self._known(self._ids.get(inode, {}).get(ns_pid, ()))

    def members(self, inode: int) -> list[Process]:
        """Who may live in this namespace, inits of inner ones included. O(members in memory)."""
        return [node for ids in self._ids.get(inode, {}).values() for node in self._known(ids)]

    def init_of(self, node: Process) -> Process | None:
        """The init with which the namespace of `node` ends, None if that is not known."""
        inode = pid_namespace(node.born_of if is_init(node) else node.state)
        if inode is None or inode == self.host:
            return None
        inits = [
            init
            for init in self.at(inode, 1)
            if init.start < node.start < init.ended
            and pid_namespace(init.state) == inode
            and is_init(init)
        ]
        return max(inits, key=lambda init: init.start, default=None)

    def check(self) -> None:
        """Raise AssertionError if a process would not be found, or too much is kept."""
        entries = sum(len(ids) for pids in self._ids.values() for ids in pids.values())
        assert entries == self._entries <= self._room
        for node in self._processes.values():
            for state in (node.base, *(version.state for version in node.log)):
                inode = pid_namespace(state)
                if inode is None or inode == self.host:
                    continue
                assert node.entity_id in self._ids[inode][node.ns_pid], f"{node.task} in {inode}"

    def _known(self, ids: Iterable[int]) -> Iterator[Process]:
        for entity in ids:
            node = self._processes.get(entity)
            if node is not None:
                yield node

    def _sweep(self) -> None:
        """Let go of entries whose process is not in memory. O(entries)."""
        kept: dict[int, dict[int | None, set[int]]] = {}
        for inode, pids in self._ids.items():
            known = {
                ns_pid: left
                for ns_pid, ids in pids.items()
                if (left := {entity for entity in ids if entity in self._processes})
            }
            if known:
                kept[inode] = known
        self._ids = kept
        self._entries = sum(len(ids) for pids in kept.values() for ids in pids.values())
        self._room = 2 * self._entries + SPARE_ENTRIES
