"""What being watched costs: nothing, us, auditd, bpftrace, forkstat over the same loads, in turns.

Needs root, gcc, auditd, bpftrace and forkstat (Debian's packages of these names). Every watcher is
started and ended in every round, in another order each time; its CPU is that of all its threads,
its slow-down that against the same round without any. The kernel's own work for a watcher shows in
the slow-down only.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.timing import Figure

ROUNDS = 9
LOADS = {"vfork+exec": 2_500, "fork": 6_000, "threads": 20_000, "configure": 250}
"""How often each is done in a round: about a second."""
RATES = (100, 200, 400, 800, 1600)
RATE_SECONDS = 10
SOAK_SECONDS = 600
SOAK_RATE = 400
IDLE_SECONDS = 20

_DETECT = [sys.executable, "-m", "proctree_ds.cli.detect", "--output", "json"]
_AUDIT_RULE = ["-a", "always,exit", "-F", "arch=b64"] + [
    word
    for call in ("execve", "execveat", "clone", "clone3", "fork", "vfork", "exit_group")
    for word in ("-S", call)
]
_BPFTRACE = """
tracepoint:sched:sched_process_fork { printf("fork %d %d %s\\n", pid, args->child_pid, comm); }
tracepoint:sched:sched_process_exec { printf("exec %d %s\\n", pid, str(args->filename)); }
tracepoint:sched:sched_process_exit { printf("exit %d %s\\n", pid, comm); }
"""
_AUDITD_CONF = """
log_file = {directory}/audit.log
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 512
num_logs = 2
priority_boost = 4
name_format = NONE
max_log_file_action = ROTATE
space_left = 75
space_left_action = IGNORE
admin_space_left = 50
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
"""


class Watcher:
    """A running program that watches."""

    def __init__(self, command: list[str], says: str | None = None) -> None:
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._output)
        deadline = time.monotonic() + 20
        while says is not None and says not in self.said():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {self.said()}")
            time.sleep(0.05)

    def cpu_ns(self) -> int:
        """What its threads have used (schedstat)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())

    def resident_mib(self, field: str = "VmRSS") -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with self._output:
            return self.said()


@contextmanager
def _us(lost: list[int]) -> Iterator[Watcher]:
    watcher = Watcher(_DETECT, "watching")
    try:
        yield watcher
    finally:
        said = watcher.end()
        found = re.search(r"([\d,]+) lost", said)
        lost.append(int(found[1].replace(",", "")) if found else 0)


@contextmanager
def _auditd(lost: list[int]) -> Iterator[Watcher]:
    with tempfile.TemporaryDirectory(prefix="proctree-bench-") as directory:
        Path(directory, "auditd.conf").write_text(_AUDITD_CONF.format(directory=directory))
        watcher = Watcher(["auditd", "-n", "-c", directory])
        time.sleep(0.5)  # it says nothing when it is ready
        if _audit_status("pid") != watcher.process.pid:
            raise RuntimeError("another auditd is running: end it first")
        before, enabled = _audit_status("lost"), _audit_status("enabled")
        try:
            subprocess.run(["auditctl", "-b", "8192"], check=True, capture_output=True)
            subprocess.run(["auditctl", *_AUDIT_RULE], check=True, capture_output=True)
            yield watcher
        finally:
            subprocess.run(["auditctl", "-D"], check=False, capture_output=True)
            lost.append(_audit_status("lost") - before)
            subprocess.run(["auditctl", "-e", str(enabled)], check=False, capture_output=True)
            watcher.process.send_signal(signal.SIGTERM)
            watcher.end()


def _audit_status(name: str) -> int:
    said = subprocess.run(["auditctl", "-s"], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"^{name} (\d+)", said, re.MULTILINE)
    return int(found[1]) if found else 0


@contextmanager
def _bpftrace(lost: list[int]) -> Iterator[Watcher]:
    with tempfile.NamedTemporaryFile("w", suffix=".bt") as program:
        program.write(_BPFTRACE)
        program.flush()
        watcher = Watcher(["bpftrace", program.name])
        time.sleep(3)  # it says that it has attached on standard output only, with everything else
        try:
            yield watcher
        finally:
            said = watcher.end()
            lost.append(sum(int(count) for count in re.findall(r"Lost (\d+) events", said)))


@contextmanager
def _forkstat(lost: list[int]) -> Iterator[Watcher]:
    watcher = Watcher(["forkstat", "-e", "fork,exec,exit,clone"])
    time.sleep(0.5)
    try:
        yield watcher
    finally:
        watcher.end()


Watch = Callable[[list[int]], AbstractContextManager[Watcher]]
"""Runs a watcher, and in the end notes how many events it says it has lost."""

WATCHERS: dict[str, Watch | None] = {
    "nothing": None,
    "proctree-detect": _us,
    "auditd": _auditd,
    "bpftrace": _bpftrace,
    "forkstat": _forkstat,
}


@dataclass
class Cost:
    """What was measured of one watcher."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    """By load, ns for each of them, in every round."""
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """By load, us of the watcher for each task."""
    resident: float = 0.0
    lost: list[int] = field(default_factory=list)


def cost() -> list[Figure]:
    """The table: slow-down, CPU of the watcher for each task, memory, lost."""
    costs = {name: Cost() for name in WATCHERS}
    names = list(WATCHERS)
    with compiled() as program:
        for turn in range(ROUNDS):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                _round(program, WATCHERS[name], costs[name])
    plain = costs.pop("nothing")
    figures = [
        Figure(f"{load}, unwatched", statistics.median(taken) / 1000, "us", "each")
        for load, taken in plain.taken.items()
    ]
    for name, cost in costs.items():
        for load, taken in cost.taken.items():
            ratios = [a / b - 1 for a, b in zip(taken, plain.taken[load], strict=True)]
            note = f"{ROUNDS} rounds, {min(ratios):+.1%} to {max(ratios):+.1%}"
            slower = statistics.median(ratios) * 100
            figures.append(Figure(f"{name}: slow-down of {load}", slower, "%", note))
        for load, cpu in cost.cpu.items():
            figures.append(Figure(f"{name}: CPU a task of {load}", statistics.median(cpu), "us"))
        figures.append(Figure(f"{name}: peak resident memory", cost.resident, "MiB"))
        if cost.lost:
            figures.append(Figure(f"{name}: lost", sum(cost.lost), "events"))
    return figures


def _round(program: str, watch: Watch | None, cost: Cost) -> None:
    if watch is None:
        for load, count in LOADS.items():
            cost.taken.setdefault(load, []).append(_run(program, load, count)[0])
        return
    with watch(cost.lost) as watcher:
        for load, count in LOADS.items():
            _run(program, load, count // 10)
            before = watcher.cpu_ns()
            taken, tasks = _run(program, load, count)
            time.sleep(0.3)  # what it has not handled yet is its work, too
            cost.cpu.setdefault(load, []).append((watcher.cpu_ns() - before) / tasks / 1000)
            cost.taken.setdefault(load, []).append(taken)
        cost.resident = max(cost.resident, watcher.resident_mib("VmHWM"))


def ladder() -> list[Figure]:
    """Our CPU at so many execs a second, and with none."""
    figures = []
    with compiled() as program, _us([]) as watcher:
        time.sleep(3)
        before = watcher.cpu_ns()
        time.sleep(IDLE_SECONDS)
        idle = (watcher.cpu_ns() - before) / IDLE_SECONDS / 1e7
        figures.append(Figure("CPU with nothing happening", idle, "%", "of one core"))
        for rate in RATES:
            before, began = watcher.cpu_ns(), time.monotonic()
            _run(program, "vfork+exec", rate * RATE_SECONDS, rate)
            spent, taken = watcher.cpu_ns() - before, time.monotonic() - began
            reached = rate * RATE_SECONDS / taken
            note = f"of one core; {reached:,.0f} a second were reached"
            figures.append(Figure(f"CPU at {rate} execs/s", spent / taken / 1e7, "%", note))
    return figures


def soak() -> list[Figure]:
    """Ten minutes of processes at a steady rate: memory, CPU, lost."""
    lost: list[int] = []
    resident: list[float] = []
    with compiled() as program, _us(lost) as watcher:
        load = subprocess.Popen(
            [program, "vfork+exec", str(SOAK_SECONDS * SOAK_RATE), str(SOAK_RATE)],
            stdout=subprocess.DEVNULL,
        )
        before = watcher.cpu_ns()
        for _ in range(10):
            time.sleep(SOAK_SECONDS / 10)
            resident.append(watcher.resident_mib())
        load.wait()
        cpu = (watcher.cpu_ns() - before) / (SOAK_SECONDS * SOAK_RATE) / 1000
        peak = watcher.resident_mib("VmHWM")
    shown = ", ".join(f"{mib:.1f}" for mib in resident)
    return [
        Figure(f"{SOAK_RATE} processes a second for", SOAK_SECONDS, "s"),
        Figure("resident memory in the end", resident[-1], "MiB", f"every tenth of it: {shown}"),
        Figure("peak resident memory", peak, "MiB"),
        Figure("CPU for each process life", cpu, "us"),
        Figure("lost", sum(lost), "events"),
    ]


def _run(program: str, load: str, count: int, rate: int = 0) -> tuple[float, int]:
    """ns that one took, and how many tasks there were."""
    command = [program, load, str(count), str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, tasks = done.stdout.split()
    return float(taken), int(tasks)


@contextmanager
def compiled() -> Iterator[str]:
    """The program that makes the loads, in a directory of its own."""
    # Not below /tmp: that would be a finding for every single exec.
    with tempfile.TemporaryDirectory(prefix="proctree-bench-", dir=Path.home()) as directory:
        program = os.path.join(directory, "loads")
        source = str(Path(__file__).with_name("loads.c"))
        subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
        yield program
