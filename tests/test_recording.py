"""Recordings on disk: what is written is read, whatever happens to the writer or to the files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arbitrary_events import events as arbitrary_events
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_ds import ConfigurationError, DataSource, ProcessTree, write_events
from proctree_ds.errors import RecordingError
from proctree_ds.model import UNKNOWN_CONTEXT as NOBODY
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Image, Loss, State, Task
from proctree_ds.recording import Recording, RecordingLimits, RecordingWriter

INIT = Task(1, 10)
STEP = 1_000_000
SMALL = RecordingLimits(segment_events=60)


def lives(count: int, boot_id: str = "one", start: int = 1_000) -> list[Event]:
    """A header, a parent, and `count` children of it: each forked, executed and gone."""
    parent = Task(100, start)
    events: list[Event] = [
        Header(boot_time=10**18, host="h", boot_id=boot_id, time=start),
        Fork(start + 1, parent, INIT, comm="sh"),
    ]
    for i in range(count):
        born = start + (i + 1) * STEP
        task = Task(1_000 + i, born)
        image = Image(argv=("tool", str(i)), exec_time=born + 10)
        events += [
            Fork(born, task, parent, comm="sh"),
            Exec(born + 10, task, State(f"tool{i}", image, "/", "/", NOBODY), parent),
            Exit(born + STEP // 2, task, None, parent, i % 256, group_exit=True, reaper=INIT),
        ]
    return events


def record(directory: Path, events: Iterable[Event], batch: int = 30, **limits: Any) -> None:
    chosen = msgspec.structs.replace(SMALL, **limits)
    told = list(events)
    with RecordingWriter(directory, limits=chosen) as writer:
        for first in range(0, len(told), batch):
            writer.write_all(told[first : first + batch])
            writer.flush()


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A recording of 100 lives in several sealed segments."""
    record(tmp_path / "r", lives(100))
    return tmp_path / "r"


# ------------------------------------------------------------------------------ the round trip


@settings(max_examples=100, deadline=None)
@given(st.lists(arbitrary_events, min_size=1, max_size=12))
def test_every_event_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event]
) -> None:
    from proctree_ds.recording.decoding import decode
    from proctree_ds.recording.encoding import Encoder

    batch = Encoder().encode(events)
    assert decode(pa.Table.from_batches([batch])) == events


def test_a_sealed_recording_gives_back_every_event(recorded: Path) -> None:
    recording = Recording(recorded)
    assert list(recording.events()) == lives(100)
    assert len(recording.segments) > 3
    assert not any(segment.is_open for segment in recording.segments)
    assert recording.skipped == []


def test_text_that_is_not_utf8_survives_on_disk(tmp_path: Path) -> None:
    odd = ("a\udcff\\x41", "\\", "\ud800", "plain")
    image = Image(argv=odd, env={"A\udc80": "\\u0041"}, exec_time=20)
    told: list[Event] = [Exec(20, INIT, State("\udcfe", image, None, None, NOBODY)), Exit(30, INIT)]
    record(tmp_path / "r", told)
    assert list(Recording(tmp_path / "r").events()) == told


def test_events_come_by_time(recorded: Path) -> None:
    boot_time = 10**18
    first, last = 30 * STEP, 40 * STEP
    since, until = boot_time + first, boot_time + last
    wanted = [event for event in lives(100)[1:] if first <= (event.time or 0) < last]
    found = list(Recording(recorded).events(since, until))
    assert [event for event in found if not isinstance(event, Header)] == wanted
    assert len(wanted) > 20


def test_what_cannot_be_in_a_recording_is_refused(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        writer.write(Exit(10, INIT, exit_code=2**40))
        with pytest.raises(ValueError, match="`exit_code` does not fit"):
            writer.flush()


# ------------------------------------------------------------------------------------ answers


def test_an_instant_needs_its_segment_only_and_answers_as_the_whole(recorded: Path) -> None:
    whole = ProcessTree()
    whole.apply_all(lives(100))
    one = DataSource(whole)
    recording = Recording(recorded)
    instants = [whole.boot_time + (event.time or 0) for event in lives(100)[2:]]
    for at in instants:
        other = recording.at(at)
        assert summary(other, at) == summary(one, at)
    assert len(recording.tree(instants[-1]).census.processes) < len(whole.census.processes)


def test_a_replay_answers_as_the_live_tree_did_and_keeps_what_that_had_evicted(
    tmp_path: Path,
) -> None:
    live = ProcessTree(process_cache=20, thread_cache=40)
    with RecordingWriter(tmp_path / "r", tree=live, limits=SMALL) as writer:
        for event in lives(100):
            live.apply(event)
            writer.write(event)
    assert live.counters["evicted_processes"] > 0
    whole = ProcessTree()
    whole.apply_all(lives(100))
    again = Recording(tmp_path / "r").data_source()
    for process in DataSource(whole).snapshot(whole.boot_time + 1_020 + STEP):
        entity = process.entity_id
        assert again.process(entity, process.time)._state == process._state
    assert again.tree.counters["processes"] == whole.counters["processes"]


def summary(ds: DataSource, at: int) -> Any:
    living = ds.snapshot(at)
    return [
        (i.entity_id, i.name, i.cmd, i.ppid, i.child_process_ids, i.certainty, i.exit_time)
        for i in living
    ], [[a.name for a in ds.lineage(i.entity_id, at)] for i in living]


def test_a_recording_that_is_being_written_can_be_read(tmp_path: Path) -> None:
    told = lives(60)
    with RecordingWriter(tmp_path / "r", limits=SMALL) as writer:
        writer.write_all(told)
        writer.flush()
        recording = Recording(tmp_path / "r")
        assert list(recording.events()) == told[: writer.acknowledged] == told
        assert recording.segments[-1].is_open
        assert recording.at(recording.end).snapshot(recording.end)


def test_another_boot_is_another_segment(tmp_path: Path) -> None:
    told = [*lives(30), *lives(30, "two", start=500)]
    record(tmp_path / "r", told)
    recording = Recording(tmp_path / "r")
    assert list(recording.events()) == told
    boots = [segment.header.boot_id or "" for segment in recording.segments]
    assert set(boots) == {"one", "two"} and boots == sorted(boots)
    assert recording.data_source().tree.host_lives == 2


def test_a_capture_that_goes_on_later_tells_what_it_missed(tmp_path: Path) -> None:
    record(tmp_path / "r", lives(30))
    record(tmp_path / "r", lives(30, start=100 * STEP))
    tree = Recording(tmp_path / "r").data_source().tree
    assert [(loss.since, loss.time) for loss in tree.losses] == [
        (1_000 + 61 * STEP // 2, 100 * STEP)
    ]


# ------------------------------------------------------------------------- limits of a recording


def test_the_oldest_segments_go_first_and_the_last_one_stays(tmp_path: Path) -> None:
    record(tmp_path / "r", lives(200), keep_bytes=1)
    recording = Recording(tmp_path / "r")
    assert 1 <= len(recording.segments) <= 2
    assert recording.skipped == []
    assert list(recording.events())[-1] == lives(200)[-1]
    assert next(iter(recording.replay()))[0] == Header(10**18, "h", "one", 1_000)


def test_segments_end_by_age_and_go_by_age(tmp_path: Path) -> None:
    record(tmp_path / "r", lives(100), segment_events=10_000, segment_ns=5 * STEP)
    assert len(Recording(tmp_path / "r").segments) > 5
    record(tmp_path / "s", lives(100), keep_ns=30 * STEP)
    recording = Recording(tmp_path / "s")
    assert recording.start > 10**18 + 50 * STEP


# ----------------------------------------------------------------------------------- bad segments


def test_a_torn_tail_is_left_out_wherever_it_is_torn(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    told = lives(20)
    writer = RecordingWriter(directory)
    for first in range(0, len(told), 20):
        writer.write_all(told[first : first + 20])
        writer.flush()
    whole = (directory / "00000001.arrow").read_bytes()
    writer.close()
    torn = tmp_path / "t"
    torn.mkdir()
    counts = set()
    for size in range(0, len(whole), len(whole) // 150):
        (torn / "00000001.arrow").write_bytes(whole[:size])
        try:
            found = list(Recording(torn).events())
        except RecordingError as error:
            assert "00000001.arrow" in str(error)
            found = []
        assert found == told[: len(found)]
        counts.add(len(found))
    assert counts == {0, 20, 40, 60}


def test_a_writer_seals_what_another_has_left_open(tmp_path: Path) -> None:
    record(tmp_path / "r", lives(10))
    with RecordingWriter(tmp_path / "left") as writer:
        writer.write_all(lives(10))
        writer.flush()
        left = (tmp_path / "left" / "00000001.arrow").read_bytes()
    (tmp_path / "r" / "00000002.arrow").write_bytes(left + b"half a batch")
    (tmp_path / "r" / "00000003.parquet.tmp").write_bytes(b"half a segment")
    again = RecordingWriter(tmp_path / "r")
    again.close()
    assert again.torn_bytes == len(b"half a batch")
    assert sorted(os.listdir(tmp_path / "r")) == ["00000001.parquet", "00000002.parquet", "lock"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "newer", "empty"])
def test_one_bad_segment_is_named_and_the_rest_answers(recorded: Path, damage: str) -> None:
    bad = recorded / "00000002.parquet"
    before = len(Recording(recorded).segments)
    spoil(bad, damage)
    recording = Recording(recorded)
    assert len(recording.segments) == before - 1
    [skipped] = recording.skipped
    assert str(bad) in skipped.problem
    assert ("newer proctree-ds" in skipped.problem) is (damage == "newer")
    tree = recording.data_source().tree
    assert len(tree.losses) == 1 and tree.counters["processes"] > 40
    assert any(isinstance(event, Loss) for batch in recording.replay() for event in batch)


def spoil(path: Path, damage: str) -> None:
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        table = pq.read_table(path)
        header = msgspec.json.decode(table.schema.metadata[b"proctree"])
        metadata = {b"proctree": msgspec.json.encode(header | {"format_version": 99})}
        pq.write_table(table.replace_schema_metadata(metadata), path)


def test_damage_within_a_segment_is_told_when_it_is_read(recorded: Path) -> None:
    path = recorded / "00000002.parquet"
    whole = bytearray(path.read_bytes())
    whole[200:3_000] = bytes(2_800)
    path.write_bytes(whole)
    recording = Recording(recorded)
    assert len(list(recording.events())) < len(lives(100))
    assert [skipped.path for skipped in recording.skipped] == [path]
    with pytest.raises(RecordingError, match=r"00000002\.parquet"):
        recording.at(recording.segments[1].since)


def test_a_copy_of_a_segment_counts_once(recorded: Path) -> None:
    shutil.copy(recorded / "00000002.parquet", recorded / "00000001.copy.parquet")  # not a segment
    last = max(int(path.name[:8]) for path in recorded.glob("*.parquet"))
    shutil.copy(recorded / "00000002.parquet", recorded / f"{last + 1:08d}.parquet")
    recording = Recording(recorded)
    assert list(recording.events()) == lives(100)
    assert "a copy" in recording.skipped[0].problem


def test_a_directory_without_a_recording_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no recording"):
        Recording(tmp_path)
    with pytest.raises(RecordingError, match="No such file"):
        Recording(tmp_path / "nowhere")


# ------------------------------------------------------------------------------- the directory


def test_one_directory_has_one_writer(tmp_path: Path) -> None:
    with (
        RecordingWriter(tmp_path / "r"),
        pytest.raises(ConfigurationError, match="another program"),
    ):
        RecordingWriter(tmp_path / "r")
    RecordingWriter(tmp_path / "r").close()


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ConfigurationError, match=r"thesis\.txt"):
        RecordingWriter(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is careful")
def test_root_refuses_a_directory_that_others_can_write(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        RecordingWriter(directory)


def test_what_is_recorded_is_for_its_owner_only(recorded: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in recorded.glob("*.parquet")} == {0o600}


# ---------------------------------------------------------------------------- the writer's crash

_RECORDER = """
import sys
from proctree_ds.recording import RecordingLimits, RecordingWriter
sys.path.insert(0, sys.argv[2])
from test_recording import lives
writer = RecordingWriter(sys.argv[1], limits=RecordingLimits(segment_events=300))
told = lives(20_000)
for first in range(0, len(told), 50):
    writer.write_all(told[first : first + 50])
    writer.flush()
    print(writer.acknowledged, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 30, 90])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, lines: int) -> None:
    directory = tmp_path / "r"
    command = [sys.executable, "-c", _RECORDER, str(directory), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        for _ in range(lines):
            acknowledged = int(recorder.stdout.readline())
        recorder.kill()
        acknowledged = max(map(int, [str(acknowledged), *recorder.stdout.read().split()]))
    assert recorder.returncode == -9
    told = lives(20_000)
    found = list(Recording(directory).events())
    assert len(found) >= acknowledged
    assert found == told[: len(found)]
    RecordingWriter(directory).close()
    recording = Recording(directory)
    assert not any(segment.is_open for segment in recording.segments)
    assert list(recording.events()) == found


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_on_a_full_disk_the_recording_ends_and_detection_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    write_events(log, lives(20_000))
    small = tmp_path / "small"
    small.mkdir()
    keep = tmp_path / "kept"
    script = (
        f"mount -t tmpfs -o size=1m,mode=700 none {small} &&"
        f" {sys.executable} -m proctree_ds.cli.detect --replay {log} --record {small}/r"
        f" --output json; status=$?; cp -r {small}/r {keep}; exit $status"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr.count("the recording ends here: No space left on device") == 1
    assert "60,001 events" in done.stderr
    assert done.returncode == 1
    found = list(Recording(keep).events())
    assert found and found == lives(20_000)[: len(found)]


# ----------------------------------------------------------------------------------- the commands


def test_record_replay_and_export_tell_the_same(tmp_path: Path) -> None:
    told = lives(50)
    log, directory, again = tmp_path / "a.jsonl", tmp_path / "r", tmp_path / "b.jsonl"
    write_events(log, told)
    assert run("proctree", "record", str(directory), "--from", str(log)).returncode == 0
    assert run("proctree", "export", str(directory), "--to", str(again)).returncode == 0
    assert again.read_text() == log.read_text()
    done = run("proctree-detect", "--replay", str(directory), "--output", "json")
    assert done.returncode == 0 and "151 events" in done.stderr
    for extra in (["--all"], ["--at", "+1us"]):
        from_log, from_recording = (
            run("proctree", "ps", str(source), "--output", "json", *extra)
            for source in (log, directory)
        )
        assert from_recording.stdout == from_log.stdout
        assert from_recording.returncode == from_log.returncode == 0


def test_detection_can_record_what_it_sees(tmp_path: Path) -> None:
    log, directory = tmp_path / "a.jsonl", tmp_path / "r"
    write_events(log, lives(50))
    done = run("proctree-detect", "--replay", str(log), "--record", str(directory))
    assert done.returncode == 0
    assert list(Recording(directory).events()) == lives(50)
    into_itself = run("proctree-detect", "--replay", str(directory), "--record", str(directory))
    assert into_itself.returncode == 2 and "would add to" in into_itself.stderr


def test_a_skipped_segment_is_told_and_the_rest_replayed(recorded: Path) -> None:
    (recorded / "00000002.parquet").unlink()
    done = run("proctree-detect", "--replay", str(recorded), "--output", "json")
    assert "00000002.parquet: it is missing" in done.stderr and "1 loss" not in done.stdout
    exported = run("proctree", "export", str(recorded), "--to", str(recorded / "x.jsonl"))
    assert exported.returncode == 1
