"""When threads and processes end: only this file, and the short way of `tree.py`, says so.

A process lives until its last thread exits. An exec ends every other thread of its process, and
makes the thread that called it the leader. Where no exit was seen there are other ways to know
that a task had ended by some instant, and the earliest stands for its end:

- the next task got the same tid;
- a complete picture was taken, and the task was not in it;
- the init of its pid namespace ended, and took everybody with it;
- a source concluded so, and said it with an exit that is not an event.

What was inferred is given up again when something late shows that the task lived on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import pairwise
from operator import attrgetter
from typing import Final

from proctree_ds.census import Census
from proctree_ds.kinship import named_process
from proctree_ds.model import CLOCK_TICK_NS, NEVER, Exit, Picture
from proctree_ds.pid_namespaces import is_init, pid_namespace
from proctree_ds.process import Process, Thread, is_seen

__all__ = ["LEADER_EXITS_LIMIT", "PICTURES_LIMIT", "Lifespans"]

LEADER_EXITS_LIMIT: Final = 16
"""Exits kept of one leader thread: it can come back by an exec of another thread."""

PICTURES_LIMIT: Final = 64
"""Complete pictures kept, the latest ones: a late event may be about somebody who is in none."""

_since = attrgetter("since")
_time = attrgetter("time")


class Lifespans:
    """Ends tasks, and works their ends out anew when something late sheds another light."""

    def __init__(self, census: Census, faults: Counter[str]) -> None:
        self._census = census
        self._faults = faults
        self._namespaces = census.namespaces
        self._pictures: list[Picture] = []
        """Each began later and ended later than the one before."""
        self.dropped_pictures = 0

    # ------------------------------------------------------------------------ what is learned

    def learn_leader_exit(self, node: Process, event: Exit) -> bool:
        exits = node.extra.leader_exits = node.rare.leader_exits or []
        if event in exits:
            return False
        exits.append(event)
        exits.sort(key=_time)
        if len(exits) > LEADER_EXITS_LIMIT:
            node.extra.threads_horizon = max(node.rare.threads_horizon, exits[1].time)
            del exits[1]
            self._census.dropped_changes += 1
        if is_seen(event):
            _hear_of(node, event.time)
        return True

    def end_thread(self, thread: Thread, event: Exit) -> None:
        known = thread.exit
        if known is not None and (is_seen(known) or not is_seen(event)):
            return
        thread.exit = event
        process = thread.process
        if is_seen(event):
            _hear_of(process, event.time)
        if thread.ended != NEVER or known is not None or not is_seen(event):
            self.settle(process)
            return
        thread.ended = event.time
        process.extra.living_threads -= 1
        self._queue_thread(thread)
        ending = process.exit
        is_over = is_seen(ending) and bool(ending.group_exit)
        if is_over and event.time <= process.ended:
            return  # it is known already how the process ended, and this changes nothing of it
        is_last = process.rare.living_threads == 0 and process.rare.leader_exits
        if is_over or event.group_exit or is_last:
            self.settle(process)
        else:
            self.review(process, event.time)

    @property
    def pictures(self) -> list[Picture]:
        """The complete pictures that are kept, in order of time."""
        return self._pictures

    def learn_picture(self, picture: Picture) -> None:
        """Whoever is missing from a complete picture has ended. O(everything in memory)."""
        if not self._keep_picture(picture):
            return
        for node in list(self._census.processes.values()):
            if self._may_be_missing(node, picture):
                self.settle(node)
        for thread in list(self._census.threads.values()):
            if self._may_be_missing(thread, picture):
                self.settle(thread.process)

    def sign_of_life(self, node: Process | Thread, time: int) -> None:
        """`node` lived at `time`: an end that was only inferred may have been a later one."""
        _hear_of(node, time)
        if isinstance(node, Process):
            self.review(node, time)
            return
        process = node.process
        _hear_of(process, time)
        if node.ended <= time or (self._pictures and not is_seen(node.exit)):
            self.settle(process)
        else:
            self.review(process, time)

    def review(self, node: Process, time: int) -> None:
        """Something was heard of `node` that happened at `time`: does it still end as it did?"""
        pictured = self._census.pictured
        if is_seen(node.exit):
            if not node.exit.group_exit:
                self.settle(node)  # that it was the last thread was only concluded
            if node.ended <= time:
                self._faults["event_after_exit"] += 1
        elif node.ended != NEVER or (pictured != -1 and node.last_sign_of_life < pictured):
            self.settle(node)

    def enrol(self, node: Process) -> None:
        """The pid namespace of `node`, or its pid there, is known: who ends with whom?"""
        self._namespaces.note(node)
        if node.children is None and is_init(node):
            node.children = set()  # its exit is more than the short way sees to
        if not is_seen(node.exit):
            init = self._namespaces.init_of(node)
            if node.ended != NEVER or (init is not None and init.ended != NEVER):
                self.settle(node)
        if node.ended != NEVER and is_init(node):
            for member in self._those_who_end_with(node):
                self.settle(member)
        if node.ns_pid == 1:
            self._reconsider_the_killed(node)

    def _reconsider_the_killed(self, init: Process) -> None:
        """Who was thought to have ended with another namespace may have lived in that of `init`."""
        inode = pid_namespace(init.state)
        for node in [self._census.processes.get(entity) for entity in self._census.zapped]:
            if node is not None and node.start > init.start:
                is_here = inode in (pid_namespace(node.state), pid_namespace(node.born_of))
                if is_here or self._namespaces.init_of(node) is None:
                    self.settle(node)

    def succeed(self, node: Process | Thread) -> None:
        """Another task has got the tid: the holder before it had ended by then."""
        if isinstance(node, Process):
            self.settle(node)
            return
        time = self._next_start(node)
        if not is_seen(node.exit) and node.ended > time:
            process = node.process
            if node.ended == NEVER:
                process.extra.living_threads -= 1
            node.ended = time
            self._queue_thread(node)
            if process.rare.living_threads == 0 and process.rare.leader_exits:
                self.settle(process)

    def forget(self) -> None:
        """Another boot of the host: its pictures are other ones."""
        self._pictures.clear()

    # --------------------------------------------------------------------------- working it out

    def settle(self, node: Process) -> None:
        """Work out anew when a process and its threads ended, and who ended with it.

        O(its threads), and those of the members of its pid namespace if it is the init there.
        """
        todo = [node]
        while todo:
            node = todo.pop()
            before = node.ended
            self._settle_one(node)
            if node.ended != before and is_init(node):
                todo.extend(self._those_who_end_with(node))

    def _settle_one(self, node: Process) -> None:
        if node.exit is not None and node.exit.task.tid == node.tid:
            self.learn_leader_exit(node, node.exit)
        threads = [self._census.threads[i] for i in node.threads or ()]
        execs = [version.time for version in node.log if version.is_exec]
        for thread in threads:
            thread.ended = self._end_of_thread(thread, execs)
            if thread.ended != NEVER:
                self._queue_thread(thread)
        living = sum(thread.ended == NEVER for thread in threads)
        if living != node.rare.living_threads:
            node.extra.living_threads = living
        ended, event, is_zapped = self._end_of(node, threads, execs)
        self._census.note_zapped(node, is_zapped)
        if ended != NEVER:
            self._end(node, ended, event)
        elif node.ended != NEVER:
            node.ended, node.exit = NEVER, None
            self._census.leave_estate(node)
            if not node.pins:
                self._census.hold(node)

    def _end_of(
        self, node: Process, threads: list[Thread], execs: list[int]
    ) -> tuple[int, Exit | None, bool]:
        """When it ended, the exit that told so, and whether it was the end of its namespace."""
        ended, event = self._seen_end(node, threads, execs) or (NEVER, None)
        if event is not None:
            return ended, event, False
        ended, event = self._inferred_end(node, ended)
        zapped = self._zapped_at(node)
        if zapped <= ended and zapped != NEVER:
            return zapped, None, True
        return ended, event, False

    def _end_of_thread(self, thread: Thread, execs: list[int]) -> int:
        heard = thread.last_sign_of_life
        born = thread.start
        if thread.rare.approximate:  # an exec within its tick may have been before it
            born = min(heard, born + CLOCK_TICK_NS - 1)
        index = bisect_right(execs, born)
        ended = execs[index] if index < len(execs) else NEVER
        event = thread.exit
        if is_seen(event):
            return min(ended, event.time)
        if event is not None and event.time > heard:
            ended = min(ended, event.time)
        return min(ended, self._next_start(thread), self._missing_at(heard))

    def _seen_end(
        self, node: Process, threads: list[Thread], execs: list[int]
    ) -> tuple[int, Exit | None] | None:
        """When the last thread exited, and its exit; no exit where the last end is inferred."""
        leader_exits = [x for x in node.rare.leader_exits or () if is_seen(x)]
        exits = [*leader_exits, *(t.exit for t in threads if is_seen(t.exit))]
        if is_seen(node.exit):
            exits.append(node.exit)
        final = [x for x in exits if x.group_exit]
        if final:
            return max(x.time for x in exits), max(final, key=_time)
        if not leader_exits or node.rare.living_threads:
            return None
        last: Exit | None = leader_exits[-1]
        left = leader_exits[-1].time
        if any(time >= left for time in execs) and (
            leader_exits[-1].group_exit is False or any(t.start <= left < t.ended for t in threads)
        ):
            return None  # another thread has become the leader by an exec
        ended = left
        for thread in threads:
            if thread.ended > ended:
                ended = thread.ended
                last = thread.exit if is_seen(thread.exit) else None
        if (last or leader_exits[-1]).group_exit is False:
            return None  # there is another thread that nobody told of
        if last is not leader_exits[-1] and node.last_sign_of_life > ended:
            return None  # as well: that this one was the last was only concluded
        return ended, last

    def _inferred_end(self, node: Process, ended: int) -> tuple[int, Exit | None]:
        """When `node` had surely ended, `ended` at the latest, though its exit was not seen."""
        heard = node.last_sign_of_life
        ended = min(ended, self._next_start(node), self._missing_at(heard))
        told = [
            x
            for x in node.rare.leader_exits or ()
            if not is_seen(x) and x.group_exit is not False and x.time > heard
        ]
        first = min(told, key=_time, default=None)
        if first is None or first.time > ended or node.rare.living_threads:
            return ended, None
        return first.time, first

    def _zapped_at(self, node: Process) -> int:
        """When it was killed with its pid namespace, or right after the last that was heard of it.

        The kernel takes a moment for that, and it may have been a little later.
        """
        init = self._namespaces.init_of(node)
        if init is None or init.ended == NEVER:
            return NEVER
        return max(init.ended, node.last_sign_of_life + 1)

    def complete_since(self, time: int) -> int:
        """When the first picture ended that had begun no earlier than `time`; `NEVER` if none."""
        return self._missing_at(time - 1)

    def _missing_at(self, heard: int) -> int:
        """When a picture ended that somebody last heard of at `heard` is missing from."""
        index = bisect_right(self._pictures, heard, key=_since)
        return self._pictures[index].time if index < len(self._pictures) else NEVER

    def _next_start(self, node: Process | Thread) -> int:
        """When the next holder of the tid had started; `NEVER` if there is none."""
        newer = self._census.next_holder(node)
        if newer is None:
            return NEVER
        return newer.start + (CLOCK_TICK_NS - 1 if newer.rare.approximate else 0)

    def _those_who_end_with(self, init: Process) -> list[Process]:
        """Who may be in the pid namespace of `init` and has no exit that was seen."""
        inode = pid_namespace(init.state)
        if inode is None:
            return []
        return [
            node
            for node in self._namespaces.members(inode)
            if node.start > init.start and not is_seen(node.exit)
        ]

    def check(self) -> None:
        """Raise AssertionError if working an end out anew would give another one."""
        pictures = self._pictures
        assert len(pictures) <= PICTURES_LIMIT
        assert all(a.time < b.time and a.since < b.since for a, b in pairwise(pictures))
        census = self._census
        if census.evicted_processes or census.evicted_threads or self.dropped_pictures:
            return  # an end stands, though what it was worked out from is gone
        for node in census.processes.values():
            threads = [census.threads[i] for i in node.threads or ()]
            execs = [version.time for version in node.log if version.is_exec]
            for thread in threads:
                assert thread.ended == self._end_of_thread(thread, execs), thread.task
            if node.exit is not None and node.exit.task.tid == node.tid:
                if node.exit not in (node.rare.leader_exits or ()):
                    continue  # the short way ended it
            ended, event, is_zapped = self._end_of(node, threads, execs)
            assert (node.ended, node.exit) == (ended, event), f"{node.task}: {ended}, {event}"
            assert (node.entity_id in census.zapped) is is_zapped

    # ------------------------------------------------------------------------------- bookkeeping

    def _may_be_missing(self, node: Process | Thread, picture: Picture) -> bool:
        return (
            node.ended > picture.time
            and not is_seen(node.exit)
            and node.last_sign_of_life < picture.since
        )

    def _keep_picture(self, picture: Picture) -> bool:
        """Put a picture in its place. False if it tells nothing that another one does not."""
        pictures = self._pictures
        end = bisect_left(pictures, picture.since, key=_since)
        if end < len(pictures) and pictures[end].time <= picture.time:
            return False
        begin = end
        while begin and pictures[begin - 1].time >= picture.time:
            begin -= 1
        if end < len(pictures) and pictures[end].since == picture.since:
            end += 1
        pictures[begin:end] = [picture]
        self._census.pictured = pictures[-1].since
        self._census.pictured_until = pictures[-1].time
        self._census.settled = max(self._census.horizon, self._census.pictured - 1)
        if len(pictures) > PICTURES_LIMIT:
            self.dropped_pictures += 1
            return pictures.pop(0) is not picture
        return True

    def _end(self, node: Process, time: int, event: Exit | None) -> None:
        lived = node.ended == NEVER
        node.ended = time
        node.exit = event
        if node.children or node.task in self._census.adopted:
            self.bequeath(node)
        if lived and not node.pins:
            self._census.release(node)

    def bequeath(self, node: Process) -> None:
        """Note at the heir that the children of an exited process are its own now."""
        census = self._census
        census.leave_estate(node)
        if node.exit is None or node.exit.reaper is None:
            census.wait_for_heir(node, None)
            return
        heir = named_process(census, node.exit.reaper, node.ended)
        if heir is None or heir is node:
            census.wait_for_heir(node, node.exit.reaper.tid)
            return
        node.extra.heir = heir
        estates = heir.extra.estates = heir.rare.estates or set()
        estates.add(node.entity_id)

    def _queue_thread(self, thread: Thread) -> None:
        if not thread.queued:
            thread.queued = True
            self._census.exited_threads.append(thread)


def _hear_of(node: Process | Thread, time: int) -> None:
    if time > node.last_sign_of_life:
        node.extra.last_heard = time
