"""A signature that runs long after its event, in the whole pipeline, on real processes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenarios.witness import Seen, Witness

from proctree_ds.detection import Detection
from proctree_ds.eventlog import EventLogWriter
from proctree_ds.pipeline import Pipeline
from proctree_ds.sources import Source
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.eventlog import EventLogSource

from .stage import Life, Victim


class Sink:
    """Keeps the findings."""

    def __init__(self) -> None:
        self.found: list[Detection] = []

    def write(self, detection: Detection) -> None:
        self.found.append(detection)

    def flush(self) -> None:
        pass


@dataclass
class Run:
    """What one run of the pipeline saw and found of the victim."""

    seen: list[Seen]
    found: list[Detection]


@dataclass
class Late:
    """A victim that had executed twice and exited before the first signature ran."""

    life: Life
    place: Path
    live: Run
    replayed: Run


def run(source: Source, pids: set[int], log: EventLogWriter | None = None) -> Run:
    witness, sink = Witness(pids.__contains__), Sink()
    Pipeline(source, [witness], [sink], log=log).run()
    return Run(witness.seen, sink.found)


@pytest.fixture(scope="module")
def late(victims: Path, tmp_path_factory: pytest.TempPathFactory) -> Late:
    place = tmp_path_factory.mktemp("place")
    for name in ("curl", "sh"):
        shutil.copy(victims / "execs", place / name)
    source = EbpfSource()
    try:
        life = Victim([victims / "execs", "ages", place / "curl", place / "sh"]).end()
        # The events wait in the ring; nobody has read one yet.
        assert not Path(f"/proc/{life['child']}").exists()
        source.stop()
        log = EventLogWriter(place / "log.jsonl")
        pids = {life.pid, life["child"]}
        live = run(source, pids, log)
    finally:
        source.close()
    return Late(life, place, live, run(EventLogSource(place / "log.jsonl"), pids))


def test_case_48_a_late_signature_sees_the_state_at_its_events_time(
    late: Late, victims: Path
) -> None:
    child = [seen for seen in late.live.seen if seen.pid == late.life["child"]]
    assert [seen.kind for seen in child] == ["fork", "exec", "exec", "exit"]
    first, second = str(late.place / "curl"), str(late.place / "sh")
    images = []
    for seen in child:
        # It was asked when all was over, and answered as of the event.
        assert seen.ended_by_now == child[-1].time
        binary = seen.process["execution_binary"]
        assert isinstance(binary, dict)
        images.append(binary["path"])
        assert seen.process["is_alive"] is (seen.kind != "exit")
        assert seen.process["exit_code"] == (0 if seen.kind == "exit" else None)
        assert seen.process["exit_time"] == (seen.time if seen.kind == "exit" else None)
        assert seen.process["ppid"] == late.life.pid
        assert seen.process["time"] == seen.time
    assert images == [str(victims / "execs"), first, second, second]
    assert [seen.process["name"] for seen in child] == ["execs", "curl", "sh", "sh"]
    assert [seen.process["exec_time"] for seen in child] == [
        None, child[1].time, child[2].time, child[2].time,
    ]  # fmt: skip
    for seen in child:
        assert seen.lineage[1] == "execs"
        assert len(seen.lineage) >= 4


def test_case_48_its_findings_are_as_of_then_as_well(late: Late) -> None:
    found = [d for d in late.live.found if d.event["pid"] == late.life["child"]]
    assert [detection.data["name"] for detection in found] == ["curl", "sh"]
    for detection in found:
        assert detection.process is not None
        assert detection.process["is_alive"] is True
        assert detection.process["name"] == detection.data["name"] == detection.data["comm"]
        assert [info["pid"] for info in detection.lineage[:3]] == [
            late.life["child"], late.life.pid, os.getpid(),
        ]  # fmt: skip


def test_case_48_a_replay_of_the_log_sees_the_same(late: Late) -> None:
    assert late.replayed.seen == late.live.seen
    assert late.replayed.found == late.live.found
