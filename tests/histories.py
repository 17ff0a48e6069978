"""Writes short histories of processes, the way an observer would tell them."""

from __future__ import annotations

from typing import Any

from proctree_ds.model import (
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Header,
    Image,
    Snapshot,
    State,
    Task,
)

__all__ = ["BOOT_TIME", "History"]

BOOT_TIME = 1_700_000_000_000_000_000

_IMAGE = frozenset(Image.__struct_fields__)
_CONTEXT = frozenset(Context.__struct_fields__)


class _Process:
    def __init__(self, task: Task, parent: Task | None, state: State) -> None:
        self.task = task
        self.parent = parent
        self.state = state


class History:
    """A machine with init (pid 1) and kthreadd (pid 2), and what happens on it.

    Processes are named by pid. Every event comes a microsecond after the one before.
    """

    def __init__(self) -> None:
        self.events: list[Event] = [Header(boot_time=BOOT_TIME)]
        self._now = 1_000_000
        self._next_pid = 100
        self._processes: dict[int, _Process] = {}
        for pid, path, comm in ((1, "/usr/lib/systemd/systemd", "systemd"), (2, None, "kthreadd")):
            file = None if path is None else FileInfo(path=path)
            image = Image(executable=file, argv=() if file is None else (comm,))
            state = State(comm, image, "/", "/", Context(uid=0, euid=0))
            task = Task(pid, pid)
            self._processes[pid] = _Process(task, None, state)
            given: dict[str, Any] = {"comm": comm, "uid": 0, "euid": 0}
            if file is not None:
                given |= {"executable": file, "argv": image.argv}
            self.events.append(Snapshot(self._tick(), task, given, ns_tid=pid, ns_pid=pid))

    def fork(self, parent: int = 1, pid: int | None = None) -> int:
        """A process makes a child. Returns the child's pid."""
        if pid is None:
            pid, self._next_pid = self._next_pid, self._next_pid + 1
        origin = self._processes[parent]
        now = self._tick()
        task = Task(pid, now)
        self._processes[pid] = _Process(task, origin.task, origin.state)
        self.events.append(
            Fork(now, task, parent=origin.task, ns_tid=pid, ns_pid=pid, comm=origin.state.comm)
        )
        return pid

    def exec(
        self, pid: int, path: str, *argv: str, comm: str | None = None, **facts: Any
    ) -> History:
        """A process executes the file at `path`. Keywords: of the file, the image, the context."""
        process = self._processes[pid]
        name = path.rpartition("/")[2]
        words = facts.pop("argv", argv or (name,))
        context = {k: facts.pop(k) for k in list(facts) if k in _CONTEXT}
        image = {k: facts.pop(k) for k in list(facts) if k in _IMAGE}
        cwd = facts.pop("cwd", process.state.cwd)
        file = FileInfo(path=path, **({"is_memfd": False, "is_deleted": False} | facts))
        before = process.state.context
        whole = {k: getattr(before, k) for k in Context.__struct_fields__} | context
        process.state = State(
            (comm or name)[:15],
            Image(executable=file, argv=words, **image),
            cwd,
            "/",
            Context(**whole),
        )
        self.events.append(
            Exec(
                self._tick(),
                process.task,
                process.state,
                parent=process.parent,
                ns_tid=pid,
                ns_pid=pid,
            )
        )
        return self

    def spawn(self, parent: int, path: str, *argv: str, **facts: Any) -> int:
        """A process makes a child that executes `path`. Returns the child's pid."""
        pid = self.fork(parent)
        self.exec(pid, path, *argv, **facts)
        return pid

    def change(self, pid: int, **given: Any) -> History:
        """Attributes of a process change."""
        self.events.append(Change(self._tick(), self._processes[pid].task, given))
        return self

    def exit(self, pid: int, code: int = 0, heir: int = 1) -> History:
        """A process ends; `heir` takes over its children."""
        process = self._processes.pop(pid)
        adopter = self._processes[heir].task
        self.events.append(
            Exit(
                self._tick(),
                process.task,
                parent=process.parent,
                exit_code=code,
                group_exit=True,
                reaper=adopter,
            )
        )
        for other in self._processes.values():
            if other.parent == process.task:
                other.parent = adopter
        return self

    def _tick(self) -> int:
        self._now += 1_000
        return self._now
