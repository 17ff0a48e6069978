"""Recordings of the real kernel: what is recorded answers as the tree did, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import command, environment, run

from proctree_ds import DataSource, ProcessTree, read_events
from proctree_ds.errors import RecordingError
from proctree_ds.model import Event, Exec
from proctree_ds.recording import Recording, RecordingWriter

MARK = "proctree-live-recording"


def marks(directory: Path) -> set[str]:
    """The last arguments of our own programs that the recording knows by now."""
    try:
        events = list(Recording(directory).events())
    except RecordingError:
        return set()
    return set(marks_of(events))


def marks_of(events: list[Event]) -> list[str]:
    return [
        event.facts.image.argv[-1]
        for event in events
        if isinstance(event, Exec) and not isinstance(event.facts, dict)
        if event.facts.image.argv and event.facts.image.argv[-1].startswith(MARK)
    ]


def wait_for(directory: Path, mark: str) -> None:
    deadline = time.monotonic() + 30
    while mark not in marks(directory):
        subprocess.run(["/bin/true", mark], check=True)
        assert time.monotonic() < deadline, f"{mark} was never recorded"


def living(ds: DataSource, at: int) -> list[object]:
    return [
        (info.entity_id, info._state, info.ppid, info.child_process_ids, info.certainty)
        for info in ds.snapshot(at)
    ]


def key(event: Event) -> int:
    return -1 if event.time is None else event.time


@pytest.mark.live
def test_a_recording_answers_as_the_log_of_the_same_run(tmp_path: Path) -> None:
    directory, log = tmp_path / "r", tmp_path / "log.jsonl"
    with subprocess.Popen(
        command("proctree", "record", directory, "--to", log),
        stderr=subprocess.PIPE,
        env=environment(),
    ) as recorder:
        wait_for(directory, MARK)
        subprocess.run(["/bin/sh", "-c", f"/bin/true {MARK}-child; exit 3"], check=False)
        recorder.send_signal(signal.SIGINT)
        assert recorder.stderr is not None
        said = recorder.stderr.read().decode()
    assert recorder.returncode == 0, said
    assert "none lost" in said
    logged = list(read_events(log))
    assert list(Recording(directory).events()) == sorted(logged, key=key)
    tree = ProcessTree(1 << 20, 1 << 21)
    tree.apply_all(logged)
    one, recording = DataSource(tree), Recording(directory)
    execs = [event for event in logged if isinstance(event, Exec)]
    for event in execs[:: max(1, len(execs) // 20)]:
        at = tree.boot_time + event.time
        assert living(recording.at(at), at) == living(one, at)
    shown = run("proctree", "ps", directory, "--all", "--output", "json")
    assert f"{MARK}-child" in shown.stdout


@pytest.mark.live
def test_detection_records_and_what_it_recorded_survives_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    for round_ in range(2):
        mark = f"{MARK}-{round_}"
        with subprocess.Popen(
            command("proctree-detect", "--no-builtin", "--record", directory),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as detect:
            wait_for(directory, mark)
            os.kill(detect.pid, signal.SIGKILL)
        assert mark in marks(directory)
    assert {f"{MARK}-{round_}" for round_ in range(2)} <= marks(directory)
    RecordingWriter(directory).close()
    recording = Recording(directory)
    assert [segment.is_open for segment in recording.segments] == [False, False]
    assert len(recording.data_source().tree.losses) == 1, "nobody watched between two runs"
