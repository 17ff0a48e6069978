"""Runs the project's commands as a user does: in a process of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from click.testing import CliRunner, Result

from proctree_ds.cli.query import main

__all__ = ["ROOT", "WEBSHELL", "answers", "ask", "command", "documented", "environment", "run"]

ROOT = Path(__file__).parent.parent
WEBSHELL = ROOT / "src" / "proctree_ds" / "data" / "webshell.jsonl"

_MODULES = {"proctree-detect": "proctree_ds.cli.detect", "proctree": "proctree_ds.cli.query"}


def command(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", _MODULES[name], *map(str, arguments)]


def environment() -> dict[str, str]:
    names = ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return {**inherited, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}


def run(
    name: str,
    *arguments: str | Path,
    input: bytes = b"",
    stdout: int | IO[bytes] = subprocess.PIPE,
    through: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """A command to its end. `through`: what it is started with. It never shows a traceback."""
    done = subprocess.run(
        [*through, *command(name, *arguments)],
        input=input,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=120,
        check=False,
    )
    errors = done.stderr.decode()
    assert "Traceback" not in errors, errors
    assert "Exception ignored" not in errors, errors
    output = (done.stdout or b"").decode()
    return subprocess.CompletedProcess(done.args, done.returncode, output, errors)


def ask(*arguments: str | Path | int) -> Result:
    """A question to `proctree` within this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answers(*arguments: str | Path | int) -> list[dict[str, Any]]:
    """What is answered as JSON."""
    result = ask(*arguments, "--output", "json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def documented(heading: str, column: str) -> set[str]:
    """The names in the first column of the table below `heading` of docs/operating.md."""
    text = (ROOT / "docs/operating.md").read_text().split(f"\n### {heading}\n", 1)[1]
    table = text.split(f"\n| {column} |", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
