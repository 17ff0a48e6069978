"""Runs the project's commands as a user does: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["ROOT", "WEBSHELL", "command", "environment", "run"]

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
