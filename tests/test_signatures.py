"""The built-in signatures, each over its own cases, through the real tree and engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from histories import History
from hypothesis import given, settings
from hypothesis import strategies as st
from signature_cases import CASES

from proctree_ds.detection import Detection
from proctree_ds.engine import Engine, Report
from proctree_ds.model import Event, Exec, State
from proctree_ds.registry import load_signatures
from proctree_ds.signature import Signature
from proctree_ds.sinks.jsonl import encode
from proctree_ds.tree import ProcessTree

IDS = sorted(signature.metadata.id for signature in load_signatures().signatures)


def run(id: str, events: list[Event]) -> list[Detection]:
    """What the signature finds. Any trouble of the engine's fails the test."""
    found: list[Detection] = []
    reports: list[Report] = []
    tree = ProcessTree()
    chosen: list[Signature] = [s for s in load_signatures().signatures if s.metadata.id == id]
    engine = Engine(chosen, tree, on_finding=found.append, on_report=reports.append)
    engine.start()
    try:
        tree.apply_all(events)
        engine.dispatch(events)
    finally:
        engine.close()
    assert reports == []
    return found


def cases(kind: str) -> list[object]:
    return [
        pytest.param(id, case(), id=f"{id}: {name}")
        for id, both in CASES.items()
        for name, case in getattr(both, kind).items()
    ]


def stated_piecemeal(event: Event) -> Event:
    """An exec that states its facts one by one, as an event log does."""
    if not isinstance(event, Exec) or not isinstance(event.facts, State):
        return event
    state = event.facts
    parts = (state.image, state.context)
    given = {name: getattr(part, name) for part in parts for name in part.__struct_fields__}
    given |= {"comm": state.comm, "cwd": state.cwd}
    given.pop("exec_time")
    return msgspec.structs.replace(event, facts={k: v for k, v in given.items() if v is not None})


def test_every_signature_has_cases_of_both_kinds_and_every_case_a_signature() -> None:
    assert sorted(CASES) == IDS
    for id, both in CASES.items():
        assert both.fires, id
        assert both.silent, id


@pytest.mark.parametrize(("id", "history"), cases("fires"))
def test_fires(id: str, history: History) -> None:
    found = run(id, history.events)
    assert [detection.signature.id for detection in found] == [id]
    detection = found[0]
    assert detection.process is not None
    assert detection.lineage[0] == detection.process
    assert json.loads(msgspec.json.encode(detection))["data"]


@pytest.mark.parametrize(("id", "history"), cases("silent"))
def test_stays_silent(id: str, history: History) -> None:
    assert run(id, history.events) == []


@pytest.mark.parametrize(("id", "history"), cases("fires"))
def test_fires_as_well_where_facts_are_stated_piecemeal(id: str, history: History) -> None:
    events = [stated_piecemeal(event) for event in history.events]
    assert len(run(id, events)) == 1


@pytest.mark.parametrize("signature", load_signatures().signatures, ids=lambda s: s.metadata.id)
def test_says_what_it_is_about(signature: Signature) -> None:
    metadata = signature.metadata
    assert metadata.techniques
    assert metadata.id.startswith("PT-")
    module = __import__(type(signature).__module__, fromlist=["*"])
    assert "Known false positives" in (module.__doc__ or "")
    assert "Fires" in (module.__doc__ or "")


def executes(path: Path) -> History:
    facts = path.stat()
    history = History()
    known = {"size": facts.st_size, "device": facts.st_dev, "inode": facts.st_ino}
    history.spawn(1, str(path), ctime=facts.st_ctime_ns, **known)
    return history


def test_a_copied_shell_is_told_by_its_content(tmp_path: Path) -> None:
    copy = tmp_path / "updater"
    shutil.copyfile("/bin/bash", copy)
    (found,) = run("PT-RENAMED-SHELL", executes(copy).events)
    assert found.data["basis"] == "content"
    assert found.data["path"] == str(copy)


def test_another_file_of_the_same_size_is_no_shell(tmp_path: Path) -> None:
    other = tmp_path / "updater"
    other.write_bytes(bytes(Path("/bin/bash").stat().st_size))
    assert run("PT-RENAMED-SHELL", executes(other).events) == []


TEXT = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(["", "\0", "/", "[", "[]", "[kworker/0:1]", "-c", "socket", "/dev/tcp/", "sh"]),
)
PATH = st.one_of(TEXT, st.sampled_from(["/bin/bash", "/usr/bin/python3", "/tmp/\udcff", "busybox"]))
SIZE = st.one_of(st.none(), st.just(Path("/bin/bash").stat().st_size), st.integers(0, 2**63))


@settings(deadline=None)
@given(path=PATH, comm=TEXT, argv=st.lists(TEXT, max_size=4), script=st.none() | PATH, size=SIZE)
def test_no_process_can_make_a_signature_fail(
    path: str, comm: str, argv: list[str], script: str | None, size: int | None
) -> None:
    history = History()
    history.spawn(
        1, path, argv=tuple(argv), comm=comm, script=script, size=size, inode=1, device=1, mode=size
    )
    history.change(100, comm=comm)
    reports: list[Report] = []
    tree = ProcessTree()
    signatures = load_signatures().signatures
    engine = Engine(signatures, tree, on_finding=encode, on_report=reports.append)
    engine.start()
    try:
        tree.apply_all(history.events)
        engine.dispatch(history.events)
    finally:
        engine.close()
    assert reports == []
