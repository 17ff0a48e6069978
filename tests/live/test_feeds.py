"""By which ring lifecycle events come, and what that means when the other one is flooded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import run

from proctree_ds.model import Change, Event, Exec, Exit, Fork, Picture, Snapshot
from proctree_ds.sources import ebpf
from proctree_ds.sources.ebpf import EbpfSource, Feed

from .conftest import collect
from .test_detect import MARK, SIGNATURE, detecting, ended

FEEDS: Sequence[Feed] = ("signals", "events", "both")
SMALL = 1 << 14
FLOOD = "i=0; while [ $i -lt 250 ]; do echo n$i > /proc/$$/comm; i=$((i + 1)); done"
"""More changes of one process than a small ring has room for, and no other event."""


def lives(events: Sequence[Event], pids: Sequence[int]) -> Counter[type]:
    return Counter(
        type(e) for e in events if isinstance(e, Fork | Exec | Exit) and e.task.tid in pids
    )


@pytest.mark.parametrize("feed", FEEDS)
def test_each_event_is_told_once_and_in_order(feed: Feed, victims: Path) -> None:
    source = EbpfSource(feed=feed)
    pids = []
    for _ in range(50):
        with subprocess.Popen([victims / "target"]) as process:
            pids.append(process.pid)
    _, events, counters = collect(source)
    assert lives(events, pids) == {Fork: 50, Exec: 50, Exit: 50}
    assert counters["lost_fork"] == counters["lost_exec"] == counters["lost_exit"] == 0
    times = [e.time for e in events if isinstance(e, Fork | Exec | Exit | Change)]
    assert times == sorted(times)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_flood_of_changes_reaches_only_those_who_share_its_ring(
    feed: Feed, victims: Path
) -> None:
    source = EbpfSource(feed=feed, ring_bytes=SMALL, changes_ring_bytes=SMALL)
    with subprocess.Popen(["/bin/sh", "-c", FLOOD]) as flood:
        pass
    with subprocess.Popen([victims / "target"]) as process:
        pass
    _, events, counters = collect(source)
    changes = [e for e in events if isinstance(e, Change) and e.task.tid == flood.pid]
    assert 0 < len(changes) < 250
    assert counters["lost_rename"] > 0
    if feed == "events":
        assert lives(events, [process.pid])[Fork] == 0
        assert counters["lost_fork"] > 0
    else:
        assert lives(events, [process.pid]) == {Fork: 1, Exec: 1, Exit: 1}
        assert counters["lost_fork"] == counters["lost_exit"] == 0


@pytest.mark.parametrize("source", ["signals", "events", "both", "none"])
def test_signatures_see_each_event_once(source: str, tmp_path: Path) -> None:
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    mark = str(tmp_path)  # others may run the same test at the same time
    text = SIGNATURE.replace(MARK, mark)
    if source == "none":  # there is no answer to give
        text = text.replace("above[1].pid", "None").replace("above =", "above = None #")
    (directory / "marked.py").write_text(text)
    log = tmp_path / "log.jsonl"
    options = ("--signatures", directory, "--proctree", f"source={source}")
    with detecting(log, *options) as process:
        pids = []
        for _ in range(10):
            with subprocess.Popen(["/bin/echo", mark], stdout=subprocess.DEVNULL) as echo:
                pids.append(echo.pid)
        process.send_signal(signal.SIGINT)
        found, errors = ended(process)
    assert [finding["event"]["pid"] for finding in found] == pids
    assert "none lost" in errors
    if source == "none":
        assert {finding["data"]["by"] for finding in found} == {None}
    else:
        assert {finding["data"]["by"] for finding in found} == {os.getpid()}
    forks = [
        line["task"]["tid"]
        for line in map(json.loads, log.read_text().splitlines())
        if line["type"] == "fork" and line["task"]["tid"] in pids
    ]
    assert forks == pids


def test_rings_are_the_kernel_programs_own() -> None:
    for other in (["--replay", "-"], ["--source", "procfs"]):
        done = run("proctree-detect", *other, "--proctree", "source=both")
        assert "names rings of the kernel" in done.stderr
        assert (done.returncode, done.stdout) == (2, "")


def test_procfs_is_left_alone_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, victims: Path
) -> None:
    """Without it no picture is complete, and the one after a loss comes all the same."""
    looks: list[set[int]] = []

    def look(seen: set[int]) -> list[Snapshot]:
        looks.append(seen)
        return []

    monkeypatch.setattr(ebpf, "pictures_missing_from", look)
    for use, repair, expected in ((False, True, 0), (True, False, 1), (True, True, 2)):
        looks.clear()
        source = EbpfSource(SMALL, use_procfs=use, repair_by_procfs=repair)
        batches = source.batches()
        pictures = sum(isinstance(event, Picture) for event in next(batches))
        for _ in range(50):
            subprocess.run([victims / "target"], check=True)
        while not source.counters()["repairs"]:
            pictures += sum(isinstance(event, Picture) for event in next(batches))
        source.close()
        assert len(looks) == pictures == expected, (use, repair)
