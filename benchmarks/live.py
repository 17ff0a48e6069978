"""The live kernel with and without us: a loop of vfork + exec + exit, a storm, the first event.

Needs root, clang's object in the package, gcc, and stress-ng for the storm. Everything is bounded
and ends by itself.
"""

from __future__ import annotations

import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Figure

PAIRS = 12
LIVES = 3_000
STORM_SECONDS = 60
CALL_ROUNDS = 5
_DETECT = [sys.executable, "-m", "proctree_ds.cli.detect", "--output", "json"]


class Watcher:
    """A running `proctree-detect` with the built-in signatures."""

    def __init__(self, *options: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [*_DETECT, *options], stdout=subprocess.DEVNULL, stderr=self.errors
        )
        deadline = time.monotonic() + 10
        while "watching" not in self._said():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"proctree-detect did not start: {self._said()}")
            time.sleep(0.02)

    def cpu_ns(self) -> int:
        """CPU that the watcher has used (/proc/PID/schedstat)."""
        return int(self._proc("schedstat").split()[0])

    def peak_mib(self) -> float:
        """Its peak resident memory."""
        match = re.search(r"VmHWM:\s+(\d+)", self._proc("status"))
        assert match is not None
        return int(match[1]) / 1024

    def stop(self) -> str:
        """End it; what it said on standard error."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        with self.errors:
            return self._said()

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    def _said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()


def loop() -> list[Figure]:
    """Slow-down of the loop, and our CPU per process life, in pairs of runs one after the other."""
    with _compiled() as program:
        _run(program)
        ratios, alone, watched, cpu = [], [], [], []
        for pair in range(PAIRS):
            without = _run(program) if pair % 2 else None
            watcher = Watcher()
            _run(program, 200)
            before = watcher.cpu_ns()
            taken = _run(program)
            time.sleep(0.1)
            cpu.append((watcher.cpu_ns() - before) / LIVES / 1000)
            said = watcher.stop()
            if "none lost" not in said:
                raise RuntimeError(f"events were lost: {said}")
            without = without if without is not None else _run(program)
            ratios.append(taken / without)
            alone.append(without)
            watched.append(taken)
        idle = Watcher()
        before = idle.cpu_ns()
        time.sleep(5)
        idle_cpu = (idle.cpu_ns() - before) / 5e9 * 100
        idle.stop()
    median = statistics.median
    spread = f"{PAIRS} pairs, {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}"
    return [
        Figure("process life unwatched", median(alone) / 1000, "us"),
        Figure("process life watched", median(watched) / 1000, "us"),
        Figure("slow-down, median of pairs", (median(ratios) - 1) * 100, "%", spread),
        Figure(
            "CPU of proctree-detect per process life", median(cpu), "us", f"best {min(cpu):.1f}"
        ),
        Figure("CPU of proctree-detect with nothing happening", idle_cpu, "%"),
    ]


def storm() -> list[Figure]:
    """`stress-ng --vfork 2`: as many processes as the machine makes."""
    watcher = Watcher()
    before = watcher.cpu_ns()
    began = time.monotonic()
    subprocess.run(
        ["stress-ng", "--vfork", "2", "--timeout", f"{STORM_SECONDS}s", "--quiet"], check=True
    )
    taken = time.monotonic() - began
    time.sleep(0.5)
    cpu, peak = watcher.cpu_ns() - before, watcher.peak_mib()
    said = watcher.stop()
    events = int(re.search(r"([\d,]+) events", said)[1].replace(",", ""))  # type: ignore[index]
    lost = re.search(r"([\d,]+) lost", said)
    return [
        Figure(f"stress-ng --vfork 2 for {STORM_SECONDS} s: events", events, "events"),
        Figure("events a second", events / taken, "events/s"),
        Figure("lost", float(lost[1].replace(",", "")) if lost else 0.0, "events"),
        Figure("CPU of proctree-detect per event", cpu / events / 1000, "us"),
        Figure("peak resident memory of proctree-detect", peak, "MiB"),
    ]


def follow() -> list[Figure]:
    """What a system call takes unwatched, watched, and with follow-changes, in turns."""
    calls = {"getppid": 2_000_000, "rename": 300_000, "chdir": 300_000}
    options = {
        "unwatched": None,
        "watched": (),
        "follow-changes": ("--proctree", "follow-changes"),
    }
    taken: dict[tuple[str, str], list[float]] = {}
    with _compiled("calls") as program, _tracefs():
        for _ in range(CALL_ROUNDS):
            for name, option in options.items():
                watcher = None if option is None else Watcher(*option)
                for call, count in calls.items():
                    command = [program, call, str(count)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    taken.setdefault((call, name), []).append(float(done.stdout))
                if watcher is not None:
                    watcher.stop()
    return [
        Figure(f"{call}(), {name}", statistics.median(ns), "ns", f"best {min(ns):.0f}")
        for (call, name), ns in sorted(taken.items())
    ]


def first_event() -> list[Figure]:
    """From the command to the first finding about a process that was born after it."""
    times = []
    with _compiled() as program, tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "any_exec.py").write_text(_ANY_EXEC)
        for _ in range(7):
            load = subprocess.Popen([program, "1000000"], stdout=subprocess.DEVNULL)
            began = time.monotonic()
            command = [*_DETECT, "--no-builtin", "--signatures", directory]
            watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert watcher.stdout is not None
            watcher.stdout.readline()
            times.append(time.monotonic() - began)
            load.kill()
            load.wait()
            watcher.kill()
            watcher.stdout.close()
            watcher.wait()
    return [
        Figure("command to first finding, median", statistics.median(times), "s",
               f"{min(times):.2f} to {max(times):.2f}")
    ]  # fmt: skip


_ANY_EXEC = """
from proctree_ds import EventSelector, Finding, Signature, SignatureMetadata
class AnyExec(Signature):
    metadata = SignatureMetadata(id="ANY", version="1", name="any exec", description="any exec",
                                 severity="info", techniques=(), tags=())
    selectors = (EventSelector(event="exec"),)
    def on_event(self, event):
        return Finding(data={})
"""


def _run(program: str, lives: int = LIVES) -> float:
    done = subprocess.run([program, str(lives)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def _tracefs() -> Iterator[None]:
    """Where tracepoints of system calls have their names, mounted for as long as it is needed."""
    place = Path("/sys/kernel/tracing")
    if (place / "events").is_dir():
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def _compiled(name: str = "loop") -> Iterator[str]:
    source = Path(__file__).with_name(f"{name}.c")
    # Not below /tmp: that would be a finding for every single exec.
    with tempfile.TemporaryDirectory(prefix="proctree-bench-", dir=Path.home()) as directory:
        program = str(Path(directory) / name)
        subprocess.run(["gcc", "-O2", "-static", "-o", program, str(source)], check=True)
        yield program
