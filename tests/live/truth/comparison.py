"""A sweep of /proc against the tree's answers as of the same instants.

A value of a row differs if it equals the tree's answer at no instant from the beginning of the
row's reading to its end. Also the other way: whoever the tree says lived throughout a listing was
listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Final

from proctree_ds import ProcessInfo, ThreadInfo

from .asof import ANSWERS, AsOf, admitted, shown, wait_status
from .chronicle import Chronicle, Life
from .ledger import Ledger
from .questions import Questions
from .reasons import Case, Reasons
from .rows import Row, Sweep, ThreadRow, boot_clock

__all__ = ["Comparison"]


THREAD_ANSWERS: Final = {"name": "comm", "uid": "uid", "gid": "gid", "ns_tid": "ns_tid"}
"""What the tree says of a thread, and the attribute of a process that is like it."""


class Comparison:
    """Compares sweeps. `zombies` are the pids that nobody had waited for when it all began."""

    def __init__(
        self,
        asof: AsOf,
        chronicle: Chronicle,
        questions: Questions,
        reasons: Reasons,
        ledger: Ledger,
        zombies: set[int],
    ) -> None:
        self._asof = asof
        self._chronicle = chronicle
        self._questions = questions
        self._reasons = reasons
        self._ledger = ledger
        self._zombies = zombies

    def compare(self, sweep: Sweep) -> None:
        """Compare one sweep; the tree has learned everything up to its end."""
        ledger = self._ledger
        ledger.sweeps += 1
        ledger.rows += len(sweep.rows)
        for row in sweep.rows:
            note = (
                f"pid {row.pid} ({row.first.comm!r}, state {row.first.state}, tick"
                f" {row.first.start_tick}), read from {row.began} to {row.ended}: "
            )
            self._questions.insist(note + "not in the tree", partial(self._row, row, note))
        for pid, time in sweep.gone:
            self._questions.insist(
                f"pid {pid} was listed and gone at {time}, but the tree says it lives",
                partial(self._is_gone, pid, sweep.listed, time),
            )
        living = self._asof.ds.snapshot(self._asof.epoch(sweep.listed))
        self._nobody_else(sweep, living)
        self._children(sweep, living)

    # ------------------------------------------------------------------------------- who lived

    def _is_gone(self, pid: int, listed: int, time: int, last: bool) -> bool:
        ledger = self._ledger
        ledger.compared["existence"] += 1
        life = self._chronicle.holder(pid, listed)
        if life is None:
            if pid not in self._zombies - self._chronicle.strangers:
                return False
            ledger.explain("zombie before", "existence", f"pid {pid}")
            return True
        if life.is_leader and self._asof.process(life, time).is_alive:
            return False
        ledger.explain("gone", "existence", f"pid {pid}")
        return True

    def _nobody_else(self, sweep: Sweep, living: Sequence[ProcessInfo]) -> None:
        """Whoever lived throughout the listing of pids was listed."""
        for info in living:
            if info.start_time > self._asof.epoch(sweep.began):
                continue
            self._ledger.compared["listing"] += 1
            if info.pid in sweep.pids:
                continue
            life = self._chronicle.holder(info.pid, sweep.listed)
            note = f"pid {info.pid} ({info.name!r}, {info.entity_id:#x})"
            if life is not None and life.forked is not None and life.forked > sweep.began:
                self._ledger.explain("being born", "listing", note, life.forked - life.start)
            else:
                self._ledger.fail(
                    f"the tree says that {note} lived from {sweep.began} to {sweep.listed}, and"
                    " /proc does not list it"
                )

    def _children(self, sweep: Sweep, living: Sequence[ProcessInfo]) -> None:
        """The lists of children say the same as the parents, which are held against /proc."""
        children: defaultdict[int | None, dict[int, int]] = defaultdict(dict)
        for info in living:
            children[info.parent_entity_id][info.pid] = info.entity_id
        for info in living:
            self._ledger.compared["children"] += 1
            if info.child_process_ids != children[info.entity_id]:
                self._ledger.fail(
                    f"at {sweep.listed} pid {info.pid} has the children {info.child_process_ids},"
                    f" and is the parent of {children[info.entity_id]}"
                )

    # ------------------------------------------------------------------------------------ rows

    def _row(self, row: Row, note: str, last: bool) -> bool:
        ledger, insist = self._ledger, self._questions.insist
        life = self._chronicle.born_in_tick(row.pid, row.first.start_tick)
        if life is None:
            if not row.is_zombie or row.pid not in self._zombies - self._chronicle.strangers:
                return False
            ledger.explain("zombie before", "existence", note)
            return True
        ledger.compared["start_tick"] += 1
        insist(note + "it lives, or how it ended", partial(self._end, row, life, note))
        for name in ANSWERS:
            ledger.compared[name] += 1
            insist(note + name, partial(self._value, row, life, name, note))
        if len(row.tids) > 1:
            ledger.thread_rows += len(row.threads)
            for thread in row.threads:
                about = f"{note}thread {thread.tid} ({thread.stat.comm!r})"
                ask = partial(self._thread, row, life, thread, about)
                insist(about + " is not in the tree", ask)
            self._no_other_thread(row, life, note)
        return True

    def _end(self, row: Row, life: Life, note: str, last: bool) -> bool:
        """Whether it lived, and how it ended."""
        info = self._asof.process(life, row.ended)
        self._ledger.compared["is_alive"] += 1
        if info.is_alive:
            settled = not row.is_zombie or len(row.tids) > 1
        elif row.is_zombie:
            self._ledger.compared["exit_code"] += 1
            self._ledger.explain("zombie", "is_alive", note)
            settled = row.first.exit_code == wait_status(info)
        elif row.is_dying:
            self._ledger.explain("dying", "is_alive", note)
            settled = True
        else:
            settled = any(info.is_alive for info in self._asof.during(life, row.began, row.ended))
        if last and not settled:
            self._ledger.fail(
                f"{note}the tree says that it ended at {info.exit_time} with status"
                f" {wait_status(info)}; /proc that the threads {row.tids} are there, and status"
                f" {row.first.exit_code}",
                partial(self._chronicle.story, row.pid),
            )
        return settled or last

    def _value(self, row: Row, life: Life, name: str, note: str, last: bool) -> bool:
        value = shown(row.values[name])
        answer = ANSWERS[name]
        if value == answer(self._asof.process(life, row.began)):
            return True
        if name == "exe" and row.first.is_kernel_thread:
            value = None  # the link of a task without a file cannot be read
        answers = self._asof.during(life, row.began, row.ended)
        if any(value == answer(info) for info in answers):
            return True
        case = Case(row, life, name, answers)
        reason = self._reasons.find(case, last=last)
        said = [(info.time - self._asof.epoch(0), answer(info)) for info in answers]
        text = f"{note}{name}: /proc says {case.observed!r}, the tree {said!r}"
        if name == "ppid":
            text += f" {self._ends(case.said)}"
        if reason is not None:
            kind, lasted = reason
            self._ledger.explain(kind, name, text, lasted)
        elif last:
            parents = (case.value, *case.said) if name == "ppid" else ()
            self._ledger.fail(text, partial(self._chronicle.story, row.pid, *parents))
        return last or reason is not None

    def _ends(self, pids: list[object]) -> str:
        """When the tree says that these ended."""
        ends = {}
        for pid in pids:
            life = self._chronicle.holder(pid, boot_clock()) if isinstance(pid, int) else None
            if life is not None:
                ends[pid] = self._asof.process(life, boot_clock()).exit_time
        return f"{ends!r}"

    # ---------------------------------------------------------------------------------- threads

    def _thread(self, row: Row, life: Life, thread: ThreadRow, note: str, last: bool) -> bool:
        found = self._chronicle.born_in_tick(thread.tid, thread.stat.start_tick)
        if found is None:
            return False
        if self._reasons.is_forgotten(found, row.began):
            self._ledger.explain("forgotten", "thread", note)
            return True
        changes = [time for time in (*found.changes, *life.execs) if row.began < time <= row.ended]
        infos = [self._asof.thread(found, time) for time in (row.began, *changes)]
        self._ledger.compared["thread.is_alive"] += 1
        if not (thread.stat.is_exiting or any(info.is_alive for info in infos)):
            return False
        process = self._asof.process(life, row.began)
        if any(info.process_entity_id != process.entity_id for info in infos):
            return False
        for name, attribute in THREAD_ANSWERS.items():
            self._ledger.compared[f"thread.{name}"] += 1
            insist = self._questions.insist
            ask = partial(self._thread_value, found, infos, thread, name, attribute, note)
            insist(f"{note} {name}", ask)
        return True

    def _thread_value(
        self,
        life: Life,
        infos: list[ThreadInfo],
        thread: ThreadRow,
        name: str,
        attribute: str,
        note: str,
        last: bool,
    ) -> bool:
        value = getattr(thread, name)
        answers = [getattr(info, name) for info in infos]
        if value in answers:
            return True
        text = f"{note} {name}: /proc says {value!r}, the tree {answers!r}"
        if not last:
            return False
        if kind := admitted(infos[-1], attribute):
            self._ledger.explain(kind, f"thread.{name}", text)
        else:
            self._ledger.fail(text)
        return True

    def _no_other_thread(self, row: Row, life: Life, note: str) -> None:
        """Whoever lived throughout the listing of task/ was listed, unless another one ended."""
        began, ended = row.listed
        before, after = (self._asof.process(life, time).thread_ids for time in (began, ended))
        self._ledger.compared["threads"] += 1
        missing = {tid for tid, _ in before.items() & after.items()} - set(row.tids)
        unborn = {tid for tid in missing if self._is_forked_after(tid, began)}
        note = f"{note}threads {sorted(missing)} live, and are not in task/"
        if unborn:
            self._ledger.explain("being born", "threads", note)
        if missing == unborn:
            return
        exits = [
            time for thread in self._chronicle.threads_of(life.process) for time in thread.exits
        ]
        # A thread is taken off the list after its exit was told, and before the connector tells.
        if self._reasons.departures.get(row.pid, -1) >= began and min(exits, default=ended) < ended:
            self._ledger.explain("list torn", "threads", note)
        else:
            self._ledger.fail(note)

    def _is_forked_after(self, tid: int, time: int) -> bool:
        life = self._chronicle.holder(tid, time)
        return life is not None and life.forked is not None and life.forked > time
