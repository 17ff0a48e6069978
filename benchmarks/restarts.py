"""`proctree-detect --pin` killed and started again, over and over, while processes come and go.

A load makes numbered processes without pause. Every one of them has to be in the event log of some
run, with its fork, the change of its name, its exec and exit, and in its findings. Needs root, gcc
and a BPF file system of its own, which is mounted for as long as it takes. Everything is bounded
and ends by itself.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.timing import Figure
from proctree_ds.sources.pins import remove_pins

__all__ = ["Outcome", "restart_under_load", "restarts"]

ROUNDS = 20
EARLIEST, LATEST = 0.1, 2.0
"""Seconds from the start of a run to its end by kill -9; the first events come after some 0.4."""
_MOST_PROCESSES = 200_000
_PATIENCE = 60
_MARK = "restarts-"

_SIGNATURE = f"""
from proctree_ds.signature import *

class Numbered(Signature):
    metadata = SignatureMetadata(id="N", version="1", name="n", description="d", severity="info")
    selectors = (EventSelector(event="exec"),)

    def on_event(self, event):
        if event.argv and event.argv[-1].startswith({_MARK!r}):
            return Finding(data={{"mark": event.argv[-1]}})
"""

_LOAD = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t ended;
static void end(int number) { ended = number; }

int main(int argc, char **argv)
{
	long most = atol(argv[1]), made = 0;
	char mark[64], name[16];

	if (argc > 2)
		return 0;
	signal(SIGTERM, end);
	while (made < most && !ended) {
		snprintf(mark, sizeof(mark), "restarts-%ld", made);
		pid_t pid = fork();
		if (pid == 0) {
			snprintf(name, sizeof(name), "r%ld", made);
			prctl(PR_SET_NAME, name);
			execl("/proc/self/exe", "load", "0", mark, NULL);
			_exit(1);
		}
		if (pid < 0)
			return 1;
		waitpid(pid, NULL, 0);
		made++;
	}
	printf("%ld\\n", made);
	return 0;
}
"""


@dataclass
class Outcome:
    """What the logs and findings of all runs together have of the load."""

    processes: int = 0
    """How many the load made."""
    seconds: float = 0.0
    missing: Counter[str] = field(default_factory=Counter)
    """How many of them have no fork, change of name, exec, exit or finding."""
    twice: Counter[str] = field(default_factory=Counter)
    """How many events and findings were told more than once."""
    lost: int = 0
    """What the runs say that they lost."""
    killed_early: int = 0
    """Runs that were killed before they had written anything."""


def restarts() -> list[Figure]:
    """Twenty times. Raises RuntimeError where a process is missing that was not counted lost."""
    outcome = restart_under_load(ROUNDS, Random(20))
    figures = [
        Figure("killed and started again", ROUNDS, "times"),
        Figure("of these, before the first event", outcome.killed_early, "times"),
        Figure("processes made meanwhile", outcome.processes, "processes"),
        Figure("processes a second", outcome.processes / outcome.seconds, "processes/s"),
        *(
            Figure(f"without {what}", outcome.missing[what], "processes")
            for what in ("fork", "change", "exec", "exit", "finding")
        ),
        Figure("events and findings missing", outcome.missing.total(), "events"),
        Figure("counted as lost", outcome.lost, "events"),
        *(Figure(f"{what} told twice", n, "times") for what, n in sorted(outcome.twice.items())),
    ]
    if outcome.missing or outcome.lost:
        raise RuntimeError("\n".join(map(str, figures)))
    return figures


def restart_under_load(rounds: int, random: Random) -> Outcome:
    """Kill a watching program `rounds` times under load, and see what the runs have together."""
    with tempfile.TemporaryDirectory() as name, _bpf_fs(Path(name)) as pins:
        place = Path(name)
        runs = [_Run(place, pins, number) for number in range(rounds + 1)]
        outcome = Outcome()
        runs[0].start()
        runs[0].wait_until_it_watches()
        load = subprocess.Popen([_compiled(place), str(_MOST_PROCESSES)], stdout=subprocess.PIPE)
        began = time.monotonic()
        try:
            for run, following in pairwise(runs):
                time.sleep(random.uniform(EARLIEST, LATEST))
                outcome.killed_early += run.kill()
                time.sleep(random.uniform(0, EARLIEST))
                following.start()
            runs[-1].wait_until_it_watches()
            load.send_signal(signal.SIGTERM)
            output, _ = load.communicate(timeout=_PATIENCE)
            outcome.seconds = time.monotonic() - began
        finally:
            load.kill()
            load.wait()
            for run in runs:
                run.end()
        outcome.processes = int(output)
        _judge(outcome, runs)
    return outcome


class _Run:
    """One run of `proctree-detect --pin` with files of its own."""

    def __init__(self, place: Path, pins: Path, number: int) -> None:
        self.log = place / f"{number}.jsonl"
        self.findings = place / f"{number}.findings"
        self._pins = pins
        self._signatures = place / "signatures"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may take a while until it watches."""
        self._signatures.mkdir(mode=0o755, exist_ok=True)
        (self._signatures / "numbered.py").write_text(_SIGNATURE)
        command = [sys.executable, "-m", "proctree_ds.cli.detect", "--no-builtin", "--quiet"]
        command += ["--output", "json", "--signatures", str(self._signatures)]
        command += ["--pin", "--pin-directory", str(self._pins), "--write-log", str(self.log)]
        with self.findings.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output)

    def wait_until_it_watches(self) -> None:
        """Until its log has the first picture."""
        deadline = time.monotonic() + _PATIENCE
        while not self.log.exists() or not self.log.stat().st_size:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("proctree-detect did not start")
            time.sleep(0.01)

    def kill(self) -> bool:
        """Whether it had written nothing yet."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"proctree-detect ended by itself: {self._process.returncode}")
        self._process.kill()
        self._process.wait()
        return not self.log.exists() or not self.log.stat().st_size

    def end(self) -> None:
        """End it as a service manager would."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(_PATIENCE)


def _judge(outcome: Outcome, runs: list[_Run]) -> None:
    told: Counter[tuple[str, int, int]] = Counter()
    numbers: dict[str, tuple[int, int]] = {}
    renamed: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for run in runs:
        for event in _lines(run.log):
            if event["type"] == "loss":
                outcome.lost += event.get("lost") or 0
            elif event["type"] == "change" and "comm" in event:
                renamed[event["comm"]] += 1
            elif event["type"] in ("fork", "exec", "exit"):
                task = event["task"]["tid"], event["task"]["start_time"]
                mark = (event.get("argv") or [""])[-1]
                if mark.startswith(_MARK):
                    numbers[mark] = task
                if event["type"] != "exec" or mark.startswith(_MARK):
                    told[event["type"], *task] += 1
        found.update(finding["data"]["mark"] for finding in _lines(run.findings))
    for number in range(outcome.processes):
        mark = f"{_MARK}{number}"
        task = numbers.get(mark, (0, 0))
        counts = {kind: told[kind, *task] for kind in ("fork", "exec", "exit")}
        counts |= {"change": renamed[f"r{number}"], "finding": found[mark]}
        for what, count in counts.items():
            if count == 0:
                outcome.missing[what] += 1
            elif count > 1:
                outcome.twice[what] += 1


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was written as a whole; who is killed may leave a part of a line."""
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


@contextmanager
def _bpf_fs(place: Path) -> Iterator[Path]:
    mounted = place / "bpf"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=700", "bpf", mounted], check=True)
    try:
        yield mounted / "proctree"
    finally:
        remove_pins(mounted / "proctree")
        subprocess.run(["umount", mounted], check=True)


def _compiled(place: Path) -> Path:
    source, program = place / "load.c", place / "load"
    source.write_text(_LOAD)
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    return program
