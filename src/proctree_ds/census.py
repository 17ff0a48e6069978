"""Who is in memory, under which names, and who goes first when memory is full.

Exited tasks without living descendants go first, least recently used first (second chance: a use
since the last look grants one more round). Only when none is left do living tasks and ancestors
of living tasks go, and then the older half of them is spared: a storm of newcomers displaces
newcomers, not those who were there before it.

A process that leaves while children of it are in memory stays behind as a *shadow*: its identity
and nothing else. So does a parent that was named but never observed. A shadow goes with its last
child, so there are never more shadows than processes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from proctree_ds.model import CLOCK_TICK_NS, NEVER, UNKNOWN_STATE, Task
from proctree_ds.pid_namespaces import PidNamespaces
from proctree_ds.process import NO_RARITIES, Process, Rare, Thread

__all__ = [
    "EXITED_SHARE",
    "EXITED_THREADS_LIMIT",
    "LIVING_SHARE",
    "OWN_SHARE",
    "PAGE_IDS",
    "THREADS_LIMIT",
    "Census",
]

EXITED_SHARE: Final = 128
"""One in this many places is freed at once when memory is full of exited processes."""

NEWEST_SHARE: Final = 4
"""One in this many exited processes, the newest, is spared while there are others: whoever will ask
about them has not had the time to. Nobody who was asked about long ago outlives what is news."""

EXITED_THREADS_LIMIT: Final = 256
"""Exited threads kept of one process: what an exec ends is looked for among them. Of more the older
half goes."""

THREADS_LIMIT: Final = 4_096
"""Living threads kept of one process: beyond it its own go, and not those of others."""

OWN_SHARE: Final = 4
"""One in this many of the newer half of them goes at once."""

PAGE_IDS: Final = 256
"""The ids of the evicted are filed this many at a time."""

LIVING_SHARE: Final = 32
"""The same where nothing is left to evict but living processes and their ancestors."""

_start = attrgetter("start")
_end = attrgetter("ended")


class Census:
    """The processes and threads in memory. Every method is O(1) unless it says otherwise."""

    def __init__(self, process_cache: int, thread_cache: int) -> None:
        self.process_cache = min(process_cache, thread_cache - max(1, thread_cache // 4))
        self.thread_cache = thread_cache
        self.process_room = self.process_cache
        """Up to this many processes nobody has to go."""
        self.processes: dict[int, Process] = {}
        self.threads: dict[int, Thread] = {}
        self.by_tid: dict[int, Process | Thread] = {}
        """The latest holder of each tid."""
        self.earlier: dict[int, list[Process | Thread]] = {}
        """The holders before the latest of those tids that had any, by start."""
        self.shadows: dict[int, Process] = {}
        self.namespaces = PidNamespaces(self.processes)
        self.adopted: dict[Task, set[int]] = {}
        """Ids of processes in memory that were said to be children of this one later on."""
        self.intestate: dict[int, int | None] = {}
        """Ids of exited processes with children that no known heir took over, and the pid of the
        reaper that their exit names.
        """
        self.claims: dict[int, set[int]] = {}
        """The same by that pid."""
        self.exited: deque[Process] = deque()
        self.exited_threads: deque[Thread] = deque()
        self.history_bytes = 0
        """What the changelogs of all who are in memory weigh together."""
        self.dropped_changes = 0
        """Changes of parents, of subreaper flags and of leaders that a limit took."""
        self.evicted_processes = 0
        self.evicted_living = 0
        self.evicted_threads = 0
        self.evicted_living_threads = 0
        self.returned = 0
        """How many came back to memory without their past."""
        self._just_evicted: list[int] = []
        self._forgotten: set[int] = set()
        """Ids of evicted processes and threads; with the page before, at least `thread_cache`."""
        self._forgotten_before: set[int] = set()
        self.has_forgotten_ids = False
        """Whether ids have dropped out of `forgotten`: an unknown one may be one of them."""
        self.zapped: set[int] = set()
        """Ids of processes that are known to have ended by the end of their namespace alone."""
        self.former: set[int] = set()
        """Ids known in the life of the host before this one."""
        self.horizon = -1
        """The latest end of any process evicted: from then on their history is whole."""
        self.threads_horizon = -1
        """The same for threads that went before their process."""
        self.pictured = -1
        """When the latest complete picture began: who was heard of since is missing from none."""
        self.pictured_until = -1
        """When it ended."""
        self.settled = -1
        """Who started after this is neither of a past that is gone nor missing from a picture."""

    def forget_all(self) -> None:
        """Begin anew with another boot of the host. O(everything in memory)."""
        self.former.clear()
        self.former.update(self.processes, self.threads, self._just_evicted)
        self.former |= self._forgotten | self._forgotten_before
        self.evicted_processes += len(self.processes)
        self.evicted_threads += len(self.threads)
        for registry in (
            self.processes,
            self.threads,
            self.by_tid,
            self.earlier,
            self.shadows,
            self.adopted,
            self.intestate,
            self.claims,
            self.zapped,
            self.exited,
            self.exited_threads,
            self._just_evicted,
            self._forgotten,
            self._forgotten_before,
        ):
            registry.clear()  # in place: others hold on to them
        self.namespaces.forget()
        self.history_bytes = 0
        self.has_forgotten_ids = False
        self.horizon = self.settled = 0
        self.threads_horizon = self.pictured = self.pictured_until = -1
        self.count_threads()

    # ------------------------------------------------------------------------------- finding

    def holder(self, tid: int, start: int) -> Process | Thread | None:
        """The task with exactly this identity. O(log holders of the tid in memory)."""
        node = self.holder_at(tid, start)
        return node if node is not None and node.start == start else None

    def holder_at(self, tid: int, time: int) -> Process | Thread | None:
        """The last task that got this tid no later than `time`, whether it still lives or not."""
        node = self.by_tid.get(tid)
        if node is None or node.start <= time or not self.earlier:
            return node if node is not None and node.start <= time else None
        earlier = self.earlier.get(tid, ())
        index = bisect_right(earlier, time, key=_start)
        return earlier[index - 1] if index else None

    def next_holder(self, node: Process | Thread) -> Process | Thread | None:
        """Who held the tid of `node` next."""
        earlier = self.earlier.get(node.tid)
        if earlier is None:
            return None
        index = bisect_left(earlier, node.start, key=_start)
        if index == len(earlier) or earlier[index] is not node:
            return None
        return earlier[index + 1] if index + 1 < len(earlier) else self.by_tid[node.tid]

    def known_by_tick(self, tid: int, start: int) -> Process | Thread | None:
        """The task that started in the same clock tick, if no more is known of its start."""
        tick = start - start % CLOCK_TICK_NS
        node = self.holder_at(tid, tick + CLOCK_TICK_NS - 1)
        if node is None or node.start < tick or not node.rare.approximate:
            return None
        before = self.holder_at(tid, node.start - 1)
        if before is not None and before.start >= start:
            return None
        return node if self._may_have_started(node, start) else None

    def _may_have_started(self, node: Process | Thread, start: int) -> bool:
        """Whether nothing was heard of `node` before `start`, nor of its leader only after it."""
        if isinstance(node, Thread) and node.process.start > start:
            return False
        signs = [version.time for version in node.log[:1]]
        if isinstance(node, Process):
            signs += [leader_exit.time for leader_exit in node.rare.leader_exits or ()]
            for ids in (node.children, node.threads):
                kin = (self.processes.get(i) or self.threads.get(i) for i in ids or ())
                signs += [
                    relative.start + (CLOCK_TICK_NS - 1 if relative.rare.approximate else 0)
                    for relative in kin
                    if relative is not None
                ]
        return all(start <= sign for sign in signs)

    # ----------------------------------------------------------------------------- admitting

    def enlist(self, node: Process | Thread) -> tuple[Process | Thread | None, int]:
        """Put a new task among the holders of its tid.

        Returns the holder before it, and the start of the one after it (`NEVER` if none): the
        one must have ended by the start of the other.
        """
        tid, start = node.tid, node.start
        latest = self.by_tid.get(tid)
        if latest is None or latest.start < start:
            if latest is not None:
                self.earlier.setdefault(tid, []).append(latest)
            self.by_tid[tid] = node
            return latest, NEVER
        earlier = self.earlier.setdefault(tid, [])
        index = bisect_left(earlier, start, key=_start)
        earlier.insert(index, node)
        newer = earlier[index + 1] if index + 1 < len(earlier) else latest
        return earlier[index - 1] if index else None, newer.start

    def shadow(self, entity: int, tid: int, start: int) -> Process:
        """A process that is only known by name, made if there is none."""
        node = self.shadows.get(entity)
        if node is None:
            node = self.shadows[entity] = Process(entity, tid, start, last_branch=start)
        return node

    # ------------------------------------------------------------------- who keeps whom alive

    def hold(self, node: Process) -> None:
        """`node` has become worth keeping: so are its ancestors. O(depth) at worst."""
        parent = node.parent
        while parent is not None:
            parent.pins += 1
            if parent.pins > 1 or parent.ended == NEVER:
                return
            parent = parent.parent

    def release(self, node: Process) -> None:
        """`node` has exited and has no living descendant: it may go, and perhaps its parents."""
        while True:
            self.queue(node)
            parent = node.parent
            if parent is None:
                return
            parent.pins -= 1
            if parent.pins or parent.ended == NEVER:
                return
            node = parent

    def queue(self, node: Process) -> None:
        """`node` may go when memory is full."""
        if not node.queued:
            node.queued = True
            self.exited.append(node)

    def set_parent(self, node: Process, parent: Process | None) -> None:
        """Make `parent` the original parent of `node`, undoing what was taken for it before."""
        old = node.parent
        if old is parent:
            return
        kept = node.ended == NEVER or node.pins > 0
        if old is not None:
            self._disown(old, node, kept)
        node.parent = parent
        if parent is not None:
            if parent.children is None:
                parent.children = set()
            parent.children.add(node.entity_id)
            if kept:
                self.hold(node)

    def state_parents(self, node: Process, parents: list[tuple[int, Task | None]] | None) -> None:
        """These are the parents of `node` that events named later than its birth, and when."""
        for _, parent in node.rare.parents or ():
            ids = None if parent is None else self.adopted.get(parent)
            if parent is not None and ids is not None:
                ids.discard(node.entity_id)
                if not ids:
                    del self.adopted[parent]
        if parents is not node.rare.parents:
            node.extra.parents = parents
        for _, parent in parents or ():
            if parent is not None:
                self.adopted.setdefault(parent, set()).add(node.entity_id)

    def note_zapped(self, node: Process, is_zapped: bool) -> None:
        """Whether `node` is known to have ended by the end of its namespace alone."""
        if not is_zapped:
            self.zapped.discard(node.entity_id)
            return
        self.zapped.add(node.entity_id)
        if len(self.zapped) > 2 * len(self.processes):
            self.zapped.intersection_update(self.processes)

    def _disown(self, parent: Process, child: Process, kept: bool) -> None:
        if parent.children is not None and child.rare.copied_from is not parent:
            parent.children.discard(child.entity_id)
        if kept:
            parent.pins -= 1
            if not parent.pins and parent.ended != NEVER:
                self.release(parent)
        if not parent.children:
            self.drop_shadow(parent)

    # ------------------------------------------------------------------------------ evicting

    def make_room_for_thread(self, process: Process) -> None:
        """Evict threads until one more of `process` fits beside the others and the leaders.

        Amortised O(1).
        """
        own = process.threads
        if own is not None:
            living = process.rare.living_threads
            if len(own) - living >= EXITED_THREADS_LIMIT:
                threads = [self.threads[thread_id] for thread_id in own]
                exited = sorted((t for t in threads if t.ended != NEVER), key=_end)
                for thread in exited[: EXITED_THREADS_LIMIT // 2]:
                    self.evict_thread(thread)
            if living >= THREADS_LIMIT:
                alive = [self.threads[i] for i in own if self.threads[i].ended == NEVER]
                self._evict_living_threads(sorted(alive, key=_start), OWN_SHARE)
        while len(self.threads) + len(self.processes) >= self.thread_cache:
            self._evict_some_thread()

    def make_room(self, now: int, newcomers: int = 0) -> None:
        """Evict until all processes and `newcomers` more fit; `now` is the time of the event.

        Exited processes go a share at a time: one look at memory long unused serves many.
        Amortised O(1).
        """
        if len(self._just_evicted) >= PAGE_IDS:
            self._turn_page()
        while self.threads and len(self.processes) + newcomers > self.process_room:
            if len(self.processes) + newcomers > self.process_cache:
                break
            self._evict_some_thread()
        processes = self.processes
        places = self.process_cache - newcomers
        if len(processes) <= places:
            return
        enough = places - places // EXITED_SHARE
        exited = self.exited
        newest = len(exited) // NEWEST_SHARE
        self._evict_exited(enough, len(exited) - newest)
        if len(processes) > enough:
            exited.rotate(-newest)
            self._evict_exited(enough, len(exited))
            self._evict_exited(enough, len(exited))
        if len(processes) > places:
            self._evict_living(now, newcomers)
        self.settled = max(self.horizon, self.pictured - 1)

    def count_threads(self) -> None:
        """Threads came or went: what they leave is what processes may take without a look."""
        self.process_room = min(self.process_cache, self.thread_cache - len(self.threads))
        if len(self.exited_threads) > 2 * len(self.threads) + EXITED_THREADS_LIMIT:
            # Most went with their processes, and nobody came to take them off the queue.
            known = self.threads
            self.exited_threads = deque(
                thread for thread in self.exited_threads if known.get(thread.entity_id) is thread
            )

    def _evict_exited(self, enough: int, looks: int) -> None:
        """Evict exited processes until `enough` are left, or so many have been looked at."""
        processes = self.processes
        exited = self.exited
        before = len(processes)
        horizon = self.horizon
        for _ in range(looks):
            if len(processes) <= enough:
                break
            node = exited.popleft()
            ended = node.ended
            if node.used and not node.evicted:
                node.used = False
                exited.append(node)
            elif node.pins or ended == NEVER or node.evicted:
                node.queued = False
            else:
                if ended > horizon:
                    horizon = ended
                self._remove(node)
        self.evicted_processes += before - len(processes)
        self.horizon = horizon

    def _evict_living(self, now: int, newcomers: int) -> None:
        share = max(1, self.process_cache // LIVING_SHARE)
        spared = self.process_cache // 2
        nodes = list(self.processes.values())
        if not newcomers:
            nodes.pop()  # it has only just been admitted
        rest = nodes[spared:] or nodes
        unused = [node for node in rest if not node.used]
        for node in rest:
            node.used = False
        for victim in (unused or rest)[:share]:
            self.evicted_processes += 1
            self.evicted_living += victim.ended == NEVER
            self.horizon = max(self.horizon, min(victim.ended, now))
            self._remove(victim)

    def _next_exited_thread(self) -> Thread | None:
        exited = self.exited_threads
        while exited:
            thread = exited.popleft()
            thread.queued = False
            if self.threads.get(thread.entity_id) is not thread or thread.end == NEVER:
                continue
            if thread.used:
                thread.used = False
                thread.queued = True
                exited.append(thread)
                continue
            return thread
        return None

    def _evict_some_thread(self) -> None:
        thread = self._next_exited_thread()
        if thread is not None:
            self.evict_thread(thread)
        else:
            self._evict_living_threads(list(self.threads.values()), LIVING_SHARE)

    def _evict_living_threads(self, threads: Sequence[Thread], share: int) -> None:
        """Nothing but living threads is left: some of the newer half go, the oldest first."""
        half = len(threads) // 2
        for thread in threads[half : half + max(1, half // share)]:
            self.evicted_living_threads += 1
            self.evict_thread(thread)

    def evict_thread(self, thread: Thread) -> None:
        """Take one thread out of memory; its process stays."""
        del self.threads[thread.entity_id]
        self.count_threads()
        self.evicted_threads += 1
        process = thread.process
        if process.threads is not None:
            process.threads.discard(thread.entity_id)
        if thread.ended == NEVER:
            process.extra.living_threads -= 1
        gone = thread.start if thread.end == NEVER else thread.end
        self.threads_horizon = max(self.threads_horizon, gone)
        process.extra.threads_horizon = max(process.rare.threads_horizon, thread.end)
        if thread.rare.approximate:
            self.has_forgotten_ids = True
        self._forget_thread(thread)
        if len(self._just_evicted) >= PAGE_IDS:
            self._turn_page()

    def _forget_thread(self, thread: Thread) -> None:
        self.history_bytes -= thread.history_bytes
        self._leave_tid(thread)
        self._just_evicted.append(thread.entity_id)
        if thread.rare.creator is not None:
            thread.rare.creator = None  # or who made whom would be kept for ever, one after another

    def _remove(self, node: Process) -> None:
        """Take a process and its threads out of memory. O(its children and threads in memory)."""
        entity = node.entity_id
        del self.processes[entity]
        node.evicted = True
        if node.history_bytes:
            self.history_bytes -= node.history_bytes
        by_tid = self.by_tid
        tid = node.tid
        if self.earlier and tid in self.earlier:
            self._leave_tid(node)
        else:
            del by_tid[tid]
        self._just_evicted.append(entity)
        parent = node.parent
        if node.children is not None or node.threads is not None or node.rare is not NO_RARITIES:
            self._remove_family(node)
        if parent is not None:
            children = parent.children
            if children is not None:
                children.discard(entity)
                parent.dropped_children += 1
                if not children:
                    self.drop_shadow(parent)
            if node.pins or node.ended == NEVER:
                parent.pins -= 1
                if not parent.pins and parent.ended != NEVER:
                    self.release(parent)

    def _remove_family(self, node: Process) -> None:
        for thread_id in node.threads or ():
            self.evicted_threads += 1
            self._forget_thread(self.threads.pop(thread_id))
        self.count_threads()
        if node.rare.approximate:
            self.has_forgotten_ids = True  # it may come back under its exact one
        if node.rare.parents is not None:
            self.state_parents(node, None)
        origin = node.rare.copied_from
        if origin is not None and origin.children is not None:
            origin.children.discard(node.entity_id)
            self.drop_shadow(origin)
        if node.children:
            self._become_shadow(node)
        else:
            self._leave_kin(node)

    def was_evicted(self, entity: int) -> bool:
        """Whether this was the id of a process or thread that was in memory once."""
        if self._just_evicted:
            self._turn_page()
        return entity in self._forgotten or entity in self._forgotten_before

    def evicted_ids(self) -> set[int]:
        """The ids that are known to have been in memory once. O(their number)."""
        self._turn_page()
        return self._forgotten | self._forgotten_before | self.former

    def _turn_page(self) -> None:
        """File the ids of those just evicted, and forget all before the last `thread_cache`."""
        self._forgotten.update(self._just_evicted)
        self._just_evicted.clear()
        if len(self._forgotten) > max(self.thread_cache, PAGE_IDS):
            self.has_forgotten_ids = self.has_forgotten_ids or bool(self._forgotten_before)
            self._forgotten_before = self._forgotten
            self._forgotten = set()

    def _become_shadow(self, node: Process) -> None:
        node.parent = node.fork = node.latest = node.versions = node.threads = node.ns_pid = None
        node.queued = False
        node.history_bytes = 0
        node.rare = Rare(horizon=self.horizon, heir=node.rare.heir, estates=node.rare.estates)
        node.born_of = node.base = UNKNOWN_STATE
        self.shadows[node.entity_id] = node

    def drop_shadow(self, node: Process) -> None:
        """Let go of a shadow without children; nothing happens to any other process."""
        if not node.children and self.shadows.pop(node.entity_id, None) is not None:
            self._leave_kin(node)

    def _leave_kin(self, node: Process) -> None:
        """`node` is out of memory for good: it neither leaves anything to anybody nor inherits."""
        self.leave_estate(node)
        for estate_id in node.rare.estates or ():
            estate = self.processes.get(estate_id) or self.shadows.get(estate_id)
            if estate is not None and estate.rare.heir is node:
                estate.rare.heir = None
                self.wait_for_heir(estate, node.tid)
        if node.rare.estates:
            node.rare.estates = None

    def leave_estate(self, node: Process) -> None:
        """`node` leaves no children to anybody."""
        heir = node.rare.heir
        if heir is not None:
            node.extra.heir = None
            if heir.rare.estates is not None:
                heir.rare.estates.discard(node.entity_id)
        reaper = self.intestate.pop(node.entity_id, None)
        if reaper is not None:
            self.claims[reaper].discard(node.entity_id)
            if not self.claims[reaper]:
                del self.claims[reaper]

    def wait_for_heir(self, node: Process, reaper: int | None) -> None:
        """The children of `node` are anybody's, or those of somebody with the pid `reaper`."""
        self.intestate[node.entity_id] = reaper
        if reaper is not None:
            self.claims.setdefault(reaper, set()).add(node.entity_id)

    def _leave_tid(self, node: Process | Thread) -> None:
        tid = node.tid
        earlier = self.earlier.get(tid)
        if earlier is None:
            del self.by_tid[tid]
            return
        if self.by_tid[tid] is node:
            self.by_tid[tid] = earlier.pop()
        else:
            del earlier[bisect_left(earlier, node.start, key=_start)]
        if not earlier:
            del self.earlier[tid]
