"""`proctree diff`, `timeline` and `top` over this machine while it is watched."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from commands import answers, ask, command, environment, run


def watched(question: list[str], happens: Callable[[], object]) -> list[dict[str, Any]]:
    """What a question about the live machine answers that is watched while something happens."""
    with subprocess.Popen(
        command("proctree", *question, "--duration", "100s", "--output", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        assert b"watching this machine for 100 s" in process.stderr.readline()
        happens()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_difference_tells_the_life_of_a_process() -> None:
    pids: list[int] = []

    def happens() -> None:
        with subprocess.Popen(["/bin/sh", "-c", "exit 3"]) as shell:
            pids.append(shell.pid)

    rows = [row for row in watched(["diff"], happens) if row["pid"] == pids[0]]
    assert [row["kind"] for row in rows] == ["born", "executed", "died"]
    assert rows[1]["cmd"] == ["/bin/sh", "-c", "exit 3"]
    assert rows[2]["to"]["exit_code"] == 3


def test_a_timeline_and_figures_of_what_was_watched() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as cat:
        rows = watched(
            ["timeline", "--pid", str(cat.pid)], lambda: (cat.communicate(b""), cat.wait())
        )
    assert (rows[0]["kind"], rows[-1]["kind"]) == ("start", "exit")
    assert rows[-1]["name"] == "cat"
    programs = watched(
        ["top", "--limit", "1000"], lambda: subprocess.run(["/bin/true"], check=True)
    )
    assert any(p["program"].endswith("/true") and p["executed"] for p in programs if p["program"])


def test_a_picture_answers_what_needs_no_time() -> None:
    (found,) = answers("stats")
    assert found["events"]["snapshot"] >= found["processes_alive"] > 0
    assert "digraph" in ask("dot", "--limit", 5).stdout
    assert answers("thread", "--tid", 1)[0]["pid"] == 1


def test_a_duration_ends_the_watching() -> None:
    assert run("proctree", "diff", "--duration", "200ms", "--output", "table").returncode == 0
