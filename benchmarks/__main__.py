"""`python -m benchmarks [NAME ...] [--write]`: run all benchmarks, or those named.

Each runs in a process of its own, so that peak memory is its own. `--write` puts the result into
benchmarks/results/.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks import (
    attacks,
    cost,
    histories,
    live,
    memory,
    queries,
    restarts,
    stream,
    truth,
)
from benchmarks.timing import Figure


def _lazily(module: str, name: str) -> Callable[[], list[Figure]]:
    """Import it when it is wanted: numpy and pyarrow would count in the memory of the others."""

    def run() -> list[Figure]:
        figures: list[Figure] = getattr(import_module(f"benchmarks.{module}"), name)()
        return figures

    return run


BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "stream": stream.events,
    "ring": stream.ring_bytes,
    "queries": queries.point_queries,
    "children": queries.many_children,
    "tables": _lazily("tables", "tables"),
    "memory": memory.memory,
    "recording": _lazily("recording", "on_disk"),
    "recording-large": _lazily("recording", "large"),
    "attacks": attacks.measure,
    "histories": histories.random_histories,
    "truth": truth.live,
    "truth-followed": truth.followed,
    "cost": cost.cost,
    "ladder": cost.ladder,
    "soak": cost.soak,
    "loop": live.loop,
    "storm": live.storm,
    "follow": live.follow,
    "first-event": live.first_event,
    "restarts": restarts.restarts,
}
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    write = "--write" in arguments
    names = [name for name in arguments if not name.startswith("--")] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or any(a.startswith("--") and a not in ("--write", "--here") for a in arguments):
        print(__doc__, "\nNames:", ", ".join(BENCHMARKS), file=sys.stderr)
        return 2
    if "--here" in arguments:
        for name in names:
            for figure in BENCHMARKS[name]():
                print(figure, flush=True)
        return 0
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "benchmarks", name, "--here"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="", flush=True)
        failed += done.returncode != 0
        if write and done.returncode == 0:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.txt").write_text(_heading(name) + done.stdout)
    return 1 if failed else 0


def _heading(name: str) -> str:
    day = datetime.now(UTC).date()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"$ python -m benchmarks {name}\n"
        f"{day}, commit {commit}, Linux {platform.release()}, {platform.machine()}, "
        f"Python {platform.python_version()}\n\n"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
