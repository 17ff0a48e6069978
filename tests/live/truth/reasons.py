"""Why a value of /proc may differ from the tree's answer although both are right.

Each reason is something that the kernel is known to do, looked for in what /proc, the connector
and the source's own events say about these instants; none is a matter of how large a difference is.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EACCES, ENAMETOOLONG, EPERM
from typing import Final

from proctree_ds import BeyondHorizon, DataNotFound, NotStartedYet, ProcessInfo

from .asof import ANSWERS, AsOf, admitted, shown
from .chronicle import Chronicle, Life
from .rows import FileLink, Row, Unreadable, boot_clock

OF_THE_IMAGE: Final = frozenset(
    {
        *("comm", "exe", "cmdline", "capabilities", "time_namespace"),
        *("uid", "euid", "suid", "gid", "egid", "sgid"),
    }
)
"""What an exec itself changes: begin_new_exec() and exec_task_namespaces(), 6.18."""

_FORBIDDEN: Final = (Unreadable(EACCES), Unreadable(EPERM))

VERSIONS_KEPT: Final = 64
"""Execs or changes of which the tree keeps at least the last ones."""

Reason = tuple[str, int]
"""The name in `ledger.EXPLANATIONS`, and for how long the two differed as far as that is known."""


@dataclass(slots=True)
class Case:
    """One value that differs, with every answer of the tree from the row's beginning to its end."""

    row: Row
    life: Life
    name: str
    answers: list[ProcessInfo]

    @property
    def observed(self) -> object:
        return self.row.values[self.name]

    @property
    def value(self) -> object:
        return shown(self.observed)

    @property
    def said(self) -> list[object]:
        return [ANSWERS[self.name](info) for info in self.answers]


class Reasons:
    """Finds the reason of a case."""

    def __init__(self, asof: AsOf, chronicle: Chronicle) -> None:
        self._asof = asof
        self._chronicle = chronicle
        self.departures: dict[int, int] = {}
        """When the connector last told of an exit, by process id."""

    def find(self, case: Case, *, last: bool) -> Reason | None:
        """None where there is none, or none yet: only the `last` call takes what is left."""
        reason = self._end_of_life(case) or self._exec_under_way(case)
        if reason is None and case.observed in _FORBIDDEN:
            reason = "forbidden", 0
        if reason is None and case.observed == Unreadable(ENAMETOOLONG):
            reason = "too long", 0
        if reason is None and case.name == "comm":
            reason = self._name(case)
        if reason is None and case.name == "ppid":
            reason = self._handover(case)
        if reason is None and case.name == "cmdline":
            reason = self._arguments(case, last=last)
        if reason is None and isinstance(case.observed, FileLink):
            reason = self._moved(case)
        # An exec that is still under way must not pass for a change that was not followed.
        if reason is None and last and (kind := admitted(case.answers[-1], case.name)):
            reason = kind, 0
        return reason

    def is_forgotten(self, life: Life, time: int) -> bool:
        """Whether the tree says that it no longer knows, and has a limit that it may name.

        It keeps only so many of the ended threads of a process, and of the versions of a task.
        """
        try:
            self._asof.thread(life, time)
            self._asof.process(life, time)
        except BeyondHorizon:
            is_thinned = len(life.execs) + len(life.changes) >= VERSIONS_KEPT
            return is_thinned or (not life.is_leader and life.ended is not None)
        except DataNotFound:
            return False
        return False

    def _end_of_life(self, case: Case) -> Reason | None:
        """do_exit() lets go of memory, files, places and namespaces, one after the other."""
        row = case.row
        if row.last is None and case.value in (0, -1, None):
            return "gone", 0
        # In /proc an exiting task is in the root of a v1 hierarchy: proc_cgroup_show(), 6.18.
        is_empty = (case.name, case.value) in (("cmdline", ""), ("tty", None), ("cgroup", "/"))
        if not row.is_dying or not (is_empty or isinstance(case.observed, Unreadable)):
            return None
        return "gone" if row.last is None else "zombie" if row.is_zombie else "dying", 0

    def _exec_under_way(self, case: Case) -> Reason | None:
        """The new memory comes first: whoever shows another new value has no old arguments."""
        if case.name not in OF_THE_IMAGE:
            return None
        told = next((time for time in case.life.execs if time > case.row.began), None)
        if told is None:
            return None
        info = self._asof.process(case.life, told)
        new, old = ANSWERS["cmdline"](info), ANSWERS["cmdline"](case.answers[-1])
        shows_new_memory = case.row.values["cmdline"] in ("", new) and (
            case.row.values["cmdline"] != old or case.name == "exe"
        )
        is_new = case.value == ANSWERS[case.name](info) or case.value == ""
        lasted = max(0, told - case.row.ended)
        return ("exec under way", lasted) if shows_new_memory and is_new else None

    def _name(self, case: Case) -> Reason | None:
        comm, name = case.row.first.comm, case.answers[-1].name
        if case.row.first.is_kernel_thread and name is not None and comm.startswith(name):
            return "decorated name", 0
        return None

    def _handover(self, case: Case) -> Reason | None:
        row, told = case.row, case.answers[0].ppid
        if row.is_dying and not case.answers[-1].is_alive and told is not None:
            former = self._chronicle.holder(told, row.ended)
            if former is None or former.ended is not None:
                return "handed over dead", 0
        return self.handover(case.life, case.observed, row.began) or self._early_heir(case)

    def handover(self, life: Life, ppid: object, time: int) -> Reason | None:
        """A parent that exits keeps its children until exit_notify(), after its exit was told.

        The connector tells of it after exit_notify(), kernel/exit.c, 6.18.
        """
        if not isinstance(ppid, int) or self.departures.get(ppid, -1) < time:
            return None
        former = self._chronicle.holder(ppid, time)
        ended = None if former is None else self._end_of(former)
        if ended is None or ended > time:
            return None
        try:
            before = self._asof.ds.process(life.process, self._asof.epoch(ended - 1)).ppid
        except NotStartedYet:  # made meanwhile, by a clone with CLONE_PARENT
            parent = self._asof.process(life, time).original_parent_entity_id
            before = ppid if former is not None and parent == former.entity_id else None
        return ("handing over", time - ended) if before == ppid else None

    def _early_heir(self, case: Case) -> Reason | None:
        """Children of a thread that exits go to another one that is not exiting, or else away.

        So they leave a process whose last threads are on their way out all at once before the end
        of the last one is told: find_new_reaper(), kernel/exit.c, 6.18.
        """
        row, told = case.row, case.answers[-1].ppid
        former = None if told is None else self._chronicle.holder(told, row.ended)
        ended = None if former is None else self._end_of(former)
        if former is None or ended is None or ended <= row.ended:
            return None
        threads = self._chronicle.threads_of(former.process)
        if not any(time <= row.ended for thread in threads for time in thread.exits):
            return None
        if self._asof.process(case.life, ended).ppid != case.observed:
            return None
        return "handed over early", ended - row.ended

    def _end_of(self, life: Life) -> int | None:
        """When the process ended, as far as the tree knows by now."""
        exit_time = self._asof.process(life, boot_clock()).exit_time
        return None if exit_time is None else exit_time - self._asof.epoch(0)

    def _arguments(self, case: Case, *, last: bool) -> Reason | None:
        info, said, value = case.answers[-1], case.said[-1], case.value
        if not isinstance(value, str) or not isinstance(said, str):
            return None
        if info.cmd_truncated and value.startswith(said.removesuffix("\0")):
            return "argv cut", 0
        file, exe = info.execution_binary, case.row.values["exe"]
        is_same_image = (
            file is not None
            and isinstance(exe, FileLink)
            and (file.device, file.inode) == (exe.device, exe.inode)
        )
        return ("argv rewritten", 0) if last and is_same_image else None

    def _moved(self, case: Case) -> Reason | None:
        observed = case.observed
        assert isinstance(observed, FileLink)
        if case.name == "exe":
            file = case.answers[-1].execution_binary
            if file and (file.device, file.inode) == (observed.device, observed.inode):
                return "file moved", 0
        elif observed.is_deleted and not admitted(case.answers[-1], case.name):
            return "place moved", 0
        return None
