"""A directory and a cgroup for the load, and nothing of it left behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .rows import followed_hierarchy, own_cgroup

_LOAD: Final = Path(__file__).with_name("load.py")
_PATIENCE: Final = 10.0
"""Seconds in which what was ended has to be gone."""


@contextmanager
def load(seconds: float) -> Iterator[list[str]]:
    """The command that runs it for about so long. What is still there at the end is ended."""
    cgroup = Path(own_cgroup(followed_hierarchy())) / f"proctree-truth-{os.getpid()}"
    places = (cgroup / "a", cgroup / "b", cgroup)
    directory = Path(tempfile.mkdtemp(prefix="proctree-truth-"))
    for place in reversed(places):
        place.mkdir()
    try:
        yield [sys.executable, str(_LOAD), str(seconds), str(directory), str(cgroup)]
    finally:
        deadline = time.monotonic() + _PATIENCE
        while sum(map(_end_all, places)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for place in places:
            place.rmdir()
        shutil.rmtree(directory, ignore_errors=True)


def _end_all(cgroup: Path) -> bool:
    """End whoever is in the cgroup; whether there was anybody."""
    pids = [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)
