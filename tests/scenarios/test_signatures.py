"""A signature that runs late sees the state at its event's time all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from proctree_ds.detection import Detection
from proctree_ds.eventlog import write_events
from proctree_ds.model import Event, Header, Task
from proctree_ds.pipeline import Pipeline
from proctree_ds.sources import Source
from proctree_ds.sources.eventlog import EventLogSource
from proctree_ds.sources.memory import MemorySource

from .story import INIT, C, E, F, T, X, id_of, init, path_at, tellings
from .witness import Seen, Witness

PARENT, P, THREAD, CHILD = Task(10, 60), Task(25, 100), Task(26, 152), Task(30, 155)

STORY: tuple[Event, ...] = (
    Header(),
    init(uid=0),
    F(INIT, PARENT, uid=0),
    X(PARENT, "/bin/sh", 70),
    F(PARENT, P),
    X(P, "/bin/first", 150, parent=PARENT, uid=1000, cwd="/srv"),
    T(P, THREAD),
    F(P, CHILD),
    C(P, 157, comm="renamed", uid=0),
    E(THREAD, 158, leader=P, group_exit=False),
    X(P, "/bin/second", 160, parent=PARENT, uid=7, cwd="/"),
    E(PARENT, 165, 1),
    E(P, 170, 3),
)


class Sink:
    """Keeps the findings."""

    def __init__(self) -> None:
        self.found: list[Detection] = []

    def write(self, detection: Detection) -> None:
        self.found.append(detection)

    def flush(self) -> None:
        pass


def source_of(kind: str, place: Path) -> Source:
    if kind == "memory":
        return MemorySource(STORY)
    write_events(place / "story.jsonl", STORY)
    return EventLogSource(place / "story.jsonl")


@pytest.mark.parametrize("kind", ["memory", "event log"])
def test_case_48_a_late_signature_sees_the_state_at_its_events_time(
    kind: str, tmp_path: Path
) -> None:
    witness, sink = Witness(lambda pid: pid == P.tid), Sink()
    Pipeline(source_of(kind, tmp_path), [witness], [sink]).run()

    def at(time: int) -> Seen:
        (seen,) = (seen for seen in witness.seen if seen.time == time)
        return seen

    # The whole story came in one batch: when it was asked, everything had happened already.
    assert {seen.ended_by_now for seen in witness.seen} == {170}
    shown = ("name", "uid", "cwd", "ppid", "is_alive", "exit_time", "exit_code", "thread_ids")
    whole = {25: id_of(P), 26: id_of(THREAD)}
    alone = {25: id_of(P)}
    expected = {
        100: ("sh", 0, None, 10, True, None, None, alone),
        150: ("first", 1000, "/srv", 10, True, None, None, alone),
        157: ("renamed", 0, "/srv", 10, True, None, None, whole),
        160: ("second", 7, "/", 10, True, None, None, alone),
        170: ("second", 7, "/", 1, False, 170, 3, {}),
    }
    for time, values in expected.items():
        assert tuple(at(time).process[name] for name in shown) == values
    assert at(150).process["child_process_ids"] == {}
    assert at(157).process["child_process_ids"] == {30: id_of(CHILD)}
    assert at(150).lineage == ["first", "sh", "init"]
    assert at(170).lineage == ["second", "sh", "init"]

    assert [found.data["name"] for found in sink.found] == ["first", "second"]
    assert [found.lineage[0]["name"] for found in sink.found] == ["first", "second"]
    for found in sink.found:
        assert found.process is not None
        assert found.process["name"] == found.lineage[0]["name"]
        assert found.process["is_alive"] is True
        assert found.process["exit_code"] is None
        assert [info["name"] for info in found.lineage[1:]] == ["sh", "init"]


def test_case_48_an_answer_is_as_of_its_time_whatever_came_since() -> None:
    for ds in tellings(*STORY[1:]):
        assert path_at(ds, P, 150) == path_at(ds, P, 159) == "/bin/first"
        assert path_at(ds, P, 160) == "/bin/second"
        info = ds.process(id_of(P), 150)
        assert (info.is_alive, info.exit_time, info.exit_code) == (True, None, None)
        assert (info.uid, info.cwd, info.ppid) == (1000, "/srv", 10)
        assert ds.thread(id_of(THREAD), 157).exit_time is None
