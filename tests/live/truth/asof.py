"""The tree's answers, asked on the boot clock, in the form in which /proc tells the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proctree_ds import DataSource, ProcessInfo, ThreadInfo

from .chronicle import Life
from .rows import NAMESPACES, FileLink

Answer = Callable[[ProcessInfo], object]


def admitted(info: ProcessInfo | ThreadInfo, attribute: str) -> str | None:
    """The explanation that the answer itself gives: why it may not show the latest value."""
    field = "namespaces" if attribute.endswith("_namespace") else attribute
    certainty = info.certainty
    if field in certainty.unfollowed:
        return "not followed"
    if attribute in ("comm", "cgroup") and certainty.loss_windows:
        return "paced"
    return None


def _exe(info: ProcessInfo) -> object:
    file = info.execution_binary
    return None if file is None else file.path


def _cmdline(info: ProcessInfo) -> object:
    return None if info.cmd is None else "".join(word + "\0" for word in info.cmd)


def _capabilities(info: ProcessInfo) -> object:
    sets = info.capabilities
    if sets is None:
        return None
    return (sets.effective, sets.permitted, sets.inheritable, sets.bounding, sets.ambient)


def _namespace(name: str) -> Answer:
    return lambda info: None if info.namespaces is None else getattr(info.namespaces, name)


def _field(name: str) -> Answer:
    return lambda info: getattr(info, name)


ANSWERS: Final[dict[str, Answer]] = {
    "comm": _field("name"),
    "cmdline": _cmdline,
    "exe": _exe,
    "capabilities": _capabilities,
    **{f"{name}_namespace": _namespace(name) for name in NAMESPACES},
    **{
        name: _field(name)
        for name in (
            *("ppid", "process_group", "session_id", "tty", "ns_pid", "cwd", "root", "cgroup"),
            *("uid", "euid", "suid", "gid", "egid", "sgid", "login_uid"),
        )
    },
}
"""What the tree says to each value of a row."""


def shown(value: object) -> object:
    """A value of /proc in the form of the tree's answer."""
    return value.path if isinstance(value, FileLink) else value


def wait_status(info: ProcessInfo) -> int | None:
    """How a process ended, as wait(2) gives it; None where the tree does not know."""
    if info.exit_code is None and info.exit_signal is None:
        return None
    return (info.exit_code or 0) << 8 | (info.exit_signal or 0) | (info.core_dumped or 0) << 7


class AsOf:
    """A data source, asked about lives as of boot-clock instants."""

    def __init__(self, ds: DataSource) -> None:
        self.ds = ds
        self._during: dict[tuple[int, int, int], list[ProcessInfo]] = {}

    def learned(self) -> None:
        """The tree knows more: what was answered may be answered otherwise."""
        self._during.clear()

    def epoch(self, time: int) -> int:
        return self.ds.tree.boot_time + time

    def process(self, life: Life, time: int) -> ProcessInfo:
        """The process that the task belongs to, or at its start where `time` is before that."""
        return self.ds.process(life.process, self.epoch(max(time, life.start)))

    def thread(self, life: Life, time: int) -> ThreadInfo:
        return self.ds.thread(life.entity_id, self.epoch(max(time, life.start)))

    def during(self, life: Life, began: int, ended: int) -> list[ProcessInfo]:
        """The answer at `began`, and at each later instant up to `ended` at which it changes."""
        key = (life.entity_id, began, ended)
        answers = self._during.get(key)
        if answers is None:
            first, last = self.epoch(max(began, life.start)), self.epoch(ended)
            later = (entry for entry in self.ds.timeline(life.process) if first < entry.time)
            answers = [self.ds.process(life.process, first)]
            answers += [entry.process for entry in later if entry.time <= last]
            self._during[key] = answers
        return answers
