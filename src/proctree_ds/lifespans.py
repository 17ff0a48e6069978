"""When threads and processes end: only this file, and the short way of `tree.py`, says so.

A process lives until its last thread exits. An exec ends every other thread of its process, and
makes the thread that called it the leader. Where no exit was seen, the next task that gets the
same tid proves that the holder before it had ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Final

from proctree_ds.census import Census
from proctree_ds.kinship import named_process
from proctree_ds.model import NEVER, Exit
from proctree_ds.process import Process, Thread

__all__ = ["LEADER_EXITS_LIMIT", "Lifespans", "last_exec"]

LEADER_EXITS_LIMIT: Final = 16
"""Exits kept of one leader thread: it can come back by an exec of another thread."""


class Lifespans:
    """Ends tasks, and works their ends out anew when something late sheds another light."""

    def __init__(self, census: Census, faults: Counter[str]) -> None:
        self._census = census
        self._faults = faults

    def learn_leader_exit(self, node: Process, event: Exit) -> bool:
        exits = node.extra.leader_exits = node.rare.leader_exits or []
        if event in exits:
            return False
        exits.append(event)
        exits.sort(key=lambda leader_exit: leader_exit.time)
        if len(exits) > LEADER_EXITS_LIMIT:
            node.extra.threads_horizon = max(node.rare.threads_horizon, exits[1].time)
            del exits[1]
            self._census.dropped_changes += 1
        return True

    def end_thread(self, thread: Thread, event: Exit) -> None:
        known = thread.exit
        if known is not None and not (known.origin != "event" and event.origin == "event"):
            return
        thread.exit = event
        process = thread.process
        if thread.ended == NEVER:
            process.extra.living_threads -= 1
        if event.time < thread.ended or known is not None:
            thread.ended = event.time
        self._queue_thread(thread)
        ending = process.exit
        if ending is not None and ending.group_exit and event.time <= process.ended:
            return  # it is known already how the process ended, and this changes nothing of it
        if event.group_exit or (process.rare.living_threads == 0 and process.rare.leader_exits):
            self.settle(process)

    def settle(self, node: Process) -> None:
        """Work out anew when the threads of a process ended, and when it did. O(its threads)."""
        if node.exit is not None and node.exit.task.tid == node.tid:
            self.learn_leader_exit(node, node.exit)
        threads = [self._census.threads[i] for i in node.threads or ()]
        execs = [version.time for version in node.log if version.is_exec]
        living = 0
        for thread in threads:
            index = bisect_right(execs, thread.start)
            ended = execs[index] if index < len(execs) else NEVER
            if thread.exit is not None:
                ended = min(ended, thread.exit.time)
            thread.ended = min(ended, self._next_start(thread))
            if thread.ended == NEVER:
                living += 1
            else:
                self._queue_thread(thread)
        if living != node.rare.living_threads:
            node.extra.living_threads = living
        ending = self._ending(node, threads, execs)
        if ending is not None:
            end = ending.time
            if ending.origin == "event":
                end = max(
                    [end]
                    + [x.time for x in node.rare.leader_exits or () if x.origin == "event"]
                    + [t.exit.time for t in threads if t.exit is not None]
                )
            else:
                end = min(end, self._next_start(node))
            self._end(node, end, ending)
            return
        end = self._next_start(node)
        if end != NEVER:
            self._end(node, end, None)
        elif node.ended != NEVER:
            node.ended, node.exit = NEVER, None
            if not node.pins:
                self._census.hold(node)

    def infer_end(self, node: Process | Thread, time: int) -> None:
        """Another task has the tid since `time`: the holder before it had ended by then."""
        if isinstance(node, Thread):
            if node.exit is None:
                if node.ended == NEVER:
                    node.process.extra.living_threads -= 1
                node.ended = time
                self._queue_thread(node)
        elif node.exit is None or node.exit.origin != "event":
            self._end(node, time, None)

    def sign_of_life(self, node: Process, time: int) -> None:
        """An event after an end that was only inferred disproves it."""
        if node.ended <= time:
            if node.exit is not None and node.exit.origin == "event":
                self._faults["event_after_exit"] += 1
            else:
                self.settle(node)

    def _ending(self, node: Process, threads: list[Thread], execs: list[int]) -> Exit | None:
        """The exit that ended the process, None if nothing says that it did."""
        exits: list[Exit] = list(node.rare.leader_exits or ())
        exits.extend(t.exit for t in threads if t.exit is not None)
        if node.exit is not None:
            exits.append(node.exit)
        seen = [x for x in exits if x.origin == "event"]
        final = [x for x in seen if x.group_exit]
        if final:
            return max(final, key=lambda x: x.time)
        leader_exits = [x for x in node.rare.leader_exits or () if x.origin == "event"]
        if leader_exits and node.rare.living_threads == 0:
            leader_exit = leader_exits[-1]
            last = max([leader_exit, *(t.exit for t in threads if t.exit)], key=lambda x: x.time)
            others = leader_exit.group_exit is False or any(
                t.start <= leader_exit.time < t.ended for t in threads
            )
            revived = others and any(time >= leader_exit.time for time in execs)
            if not revived and last.group_exit is not False:
                return last
        inferred = [x for x in exits if x.origin != "event"]
        if inferred and not seen:
            first = min(inferred, key=lambda x: x.time)
            if self._last_sign_of_life(node) < first.time:
                return first
        return None

    def _last_sign_of_life(self, node: Process) -> int:
        return max(
            node.start,
            node.last_branch,
            node.latest.time if node.latest else -1,
        )

    def _next_start(self, node: Process | Thread) -> int:
        """When the next holder of the tid started; `NEVER` if there is none."""
        return self._census.next_start(node)

    def _end(self, node: Process, time: int, event: Exit | None) -> None:
        lived = node.ended == NEVER
        node.ended = time
        node.exit = event
        if node.children:
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


def last_exec(node: Process) -> int:
    return max((version.time for version in node.log if version.is_exec), default=-1)
