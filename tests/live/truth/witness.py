"""The process connector's notices against the tree: everybody it saw is there, and right.

A notice is sent just after what it tells of, so the tree knows it as of the notice's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from proctree_ds import ProcessInfo, ThreadInfo

from . import connector
from .asof import AsOf, admitted, wait_status
from .chronicle import Chronicle, Life
from .connector import Notice
from .ledger import Ledger
from .questions import Questions
from .reasons import Reasons

__all__ = ["Witness"]


class Witness:
    """Checks notices; what the tree does not know yet is asked again later."""

    def __init__(
        self,
        asof: AsOf,
        chronicle: Chronicle,
        questions: Questions,
        reasons: Reasons,
        ledger: Ledger,
    ) -> None:
        self._asof = asof
        self._chronicle = chronicle
        self._questions = questions
        self._reasons = reasons
        self._ledger = ledger
        self._heard: deque[Notice] = deque()
        self._checks: dict[int, Callable[[Notice, Life], bool]] = {
            connector.FORK: self._fork,
            connector.EXEC: self._exec,
            connector.EXIT: self._exit,
            connector.COMM: self._comm,
            connector.UID: self._user,
            connector.GID: self._user,
            connector.SID: self._session,
        }

    def hear(self, notices: list[Notice]) -> None:
        """Take notices, to be checked when the tree has come as far."""
        self._heard.extend(sorted(notices, key=lambda notice: notice.time))

    def check(self, until: int) -> None:
        """Check notices up to an instant that the tree has reached.

        While the tree learns, and not afterwards: of ended threads it keeps only so many.
        """
        heard = self._heard
        while heard and heard[0].time <= until:
            notice = heard.popleft()
            kind = connector.NAMES[notice.kind]
            self._ledger.witnessed[kind] += 1
            self._questions.insist(
                f"the connector told of {kind}: {notice!r}",
                partial(self._check, notice),
            )

    def _check(self, notice: Notice, last: bool) -> bool:
        life = self._chronicle.holder(notice.tid, notice.time)
        if life is None or life.pid != notice.pid:
            return False
        if self._reasons.is_forgotten(life, notice.time):
            if notice.kind == connector.FORK:
                life.witnessed = notice.time
            elif notice.kind == connector.EXEC:
                life.claims += 1
            kind = connector.NAMES[notice.kind]
            self._ledger.explain("forgotten", kind, f"{notice!r}")
            return True
        is_right = self._checks[notice.kind](notice, life)
        if last and not is_right:
            thread = self._asof.thread(life, notice.time)
            info = self._asof.process(life, notice.time)
            self._ledger.fail(
                f"the connector told of {connector.NAMES[notice.kind]}: {notice!r}; the tree has"
                f" {thread!r} until {thread.exit_time} of {info!r} until {info.exit_time} with"
                f" parent {info.ppid}",
                partial(self._chronicle.story, notice.pid, *notice.numbers[:2]),
            )
        return is_right or last

    def _fork(self, notice: Notice, life: Life) -> bool:
        if life.witnessed not in (None, notice.time):
            return False
        life.witnessed = notice.time
        thread = self._asof.thread(life, life.start)
        if not thread.is_alive or thread.pid != notice.pid:
            return False
        moments = (life.start, notice.time, life.forked or notice.time)
        _, parent = notice.numbers
        if any(self._asof.process(life, time).ppid == parent for time in moments):
            return True
        reason = self._reasons.handover(life, parent, notice.time)
        if reason is None:
            return False
        kind, lasted = reason
        self._ledger.explain(kind, "ppid", f"{notice!r}", lasted)
        return True

    def _exec(self, notice: Notice, life: Life) -> bool:
        """Each exec that it tells of is another one of the tree's."""
        exec_time = self._asof.process(life, notice.time).exec_time
        if exec_time is None or exec_time <= life.claimed:
            return False
        life.claimed = exec_time
        life.claims += 1
        return True

    def _exit(self, notice: Notice, life: Life) -> bool:
        ends = [time for time in life.exits if time <= notice.time]
        if not ends:
            return False
        life.code = notice.numbers[0]
        thread = self._asof.thread(life, ends[-1])
        if thread.is_alive or thread.exit_time != self._asof.epoch(ends[-1]):
            return False
        info = self._asof.process(life, ends[-1])
        if info.is_alive:
            return True
        # The process's code is that of the whole group, or else its leader's.
        leader = self._chronicle.holder(life.pid, ends[-1])
        return wait_status(info) in {life.code, leader.code if leader else None}

    def _comm(self, notice: Notice, life: Life) -> bool:
        info = self._asof.thread(life, notice.time)
        return self._is_so(info, notice, {"comm": (notice.comm, info.name)})

    def _user(self, notice: Notice, life: Life) -> bool:
        real, effective, *_ = notice.numbers
        name = "uid" if notice.kind == connector.UID else "gid"
        info: ProcessInfo | ThreadInfo = self._asof.thread(life, notice.time)
        told: dict[str, tuple[object, object]] = {name: (real, getattr(info, name))}
        if life.is_leader:
            info = self._asof.process(life, notice.time)
            told[f"e{name}"] = effective, getattr(info, f"e{name}")
        return self._is_so(info, notice, told)

    def _session(self, notice: Notice, life: Life) -> bool:
        info = self._asof.process(life, notice.time)
        return self._is_so(info, notice, {"session_id": (notice.pid, info.session_id)})

    def _is_so(
        self,
        info: ProcessInfo | ThreadInfo,
        notice: Notice,
        told: dict[str, tuple[object, object]],
    ) -> bool:
        """Whether the tree says what was told, or admits of whatever differs that it may."""
        differing = {name: said for name, (value, said) in told.items() if said != value}
        kinds = {name: admitted(info, name) for name in differing}
        if None in kinds.values():
            return False
        for name, kind in kinds.items():
            assert kind is not None
            text = f"{notice!r}, the tree says {differing[name]!r}"
            self._ledger.explain(kind, name, text)
        return True
