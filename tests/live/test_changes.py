"""What changes between an exec and the exit: told at once by a hook, or with the next event."""

from __future__ import annotations

import os
import subprocess
import threading
from errno import EMFILE
from itertools import pairwise
from pathlib import Path

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import Change, Exit, Fork, Header, Loss, Picture, Snapshot
from proctree_ds.sources import ebpf
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.programs import KernelPrograms

from .conftest import Capture, Captured, collect

CHANGES = 256
"""PT_CHANGES."""


def changes_of(seen: Captured, tid: int | None = None) -> list[Change]:
    who = seen.pid if tid is None else tid
    return [e for e in seen.events if isinstance(e, Change) and e.task.tid == who]


def tree_of(seen: Captured) -> DataSource:
    tree = ProcessTree()
    tree.apply_all([seen.header, *seen.events])
    tree._check()
    return DataSource(tree)


def test_a_rename_is_told_when_it_happens(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "nc"])
    begin, end, _ = seen.numbers
    change, *_ = changes_of(seen)
    assert begin < change.time < end
    assert change.given == {"comm": "renamed"}
    ds = tree_of(seen)
    boot = seen.header.boot_time
    assert ds.pid(seen.pid, boot + change.time - 1).name == "changes"
    assert ds.pid(seen.pid, boot + change.time).name == "renamed"


def test_an_exec_is_no_rename(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "target"])
    assert changes_of(seen) == []


def test_what_no_hook_tells_comes_with_the_fork(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "hcruf"])
    (change,) = changes_of(seen)
    child = next(
        e for e in seen.events if isinstance(e, Fork) and e.parent and e.parent.tid == seen.pid
    )
    assert child.task.start_time is not None
    assert change.time == child.task.start_time - 1
    context = change.given["context"]
    assert (context.uid, context.euid, context.suid) == (1000, 1001, 1002)
    assert (context.gid, context.egid, context.sgid) == (1, 2, 3)
    assert context.namespaces.uts != os.stat("/proc/self/ns/uts").st_ino
    assert (change.given["cwd"], change.subreaper) == ("/usr", True)
    ds = tree_of(seen)
    now = seen.header.boot_time + child.time
    info, born = ds.pid(seen.pid, now), ds.pid(child.task.tid, now)
    for one in (info, born):
        assert (one.cwd, one.uid, one.sgid) == ("/usr", 1000, 3)
    assert info.is_subreaper
    assert not born.is_subreaper


def test_what_no_hook_tells_comes_with_the_exit(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "sc"])
    (change,) = changes_of(seen)
    exit_ = seen.one(Exit, seen.pid)
    assert change.time == exit_.time - 1
    assert (change.given["cwd"], change.given["context"].session_id) == ("/usr", seen.pid)


def test_a_process_that_changes_nothing_is_told_of_once(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "fff"])
    assert changes_of(seen) == []


@pytest.mark.usefixtures("tracefs")
def test_with_calls_followed_every_change_has_its_time(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "hcusrRf"], follow_changes=True)
    times = seen.numbers
    told = changes_of(seen)
    ds = tree_of(seen)
    boot = seen.header.boot_time

    assert [sum(a < e.time < b for e in told) for a, b in pairwise(times)] == [
        1, 1, 2, 1, 1, 1, 0,
    ]  # fmt: skip
    before = ds.pid(seen.pid, boot + times[0])
    assert (before.cwd, before.uid, before.is_subreaper) == (os.getcwd(), 0, False)
    assert before.namespaces != ds.pid(seen.pid, boot + times[1]).namespaces
    assert ds.pid(seen.pid, boot + times[2]).cwd == "/usr"
    assert ds.pid(seen.pid, boot + times[3]).suid == 1002
    assert ds.pid(seen.pid, boot + times[4]).session_id == seen.pid
    assert ds.pid(seen.pid, boot + times[5]).is_subreaper
    assert not ds.pid(seen.pid, boot + times[6]).is_subreaper
    assert "uid" not in seen.header.unfollowed


@pytest.mark.usefixtures("tracefs")
def test_what_a_thread_changes_of_its_process(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "tncsf"], follow_changes=True)
    ds = tree_of(seen)
    boot = seen.header.boot_time
    end = seen.numbers[-1]
    info = ds.pid(seen.pid, boot + end)
    assert (info.name, info.cwd, info.session_id) == ("changes", "/usr", seen.pid)
    thread = next(
        e.task for e in seen.events if isinstance(e, Fork) and e.leader and e.leader.tid == seen.pid
    )
    child = next(e.task for e in seen.events if isinstance(e, Fork) and e.creator == thread)
    born = ds.pid(child.tid, boot + (child.start_time or 0))
    assert (born.name, born.cwd, born.session_id) == ("renamed", "/usr", seen.pid)


def test_too_many_renames_are_told_to_be_too_many(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "FFFFFf"])
    told = changes_of(seen)
    paced = [change for change in told if change.untold_until is not None]
    assert CHANGES <= len(told) < 500
    assert paced
    assert all(change.untold_until and change.untold_until > change.time for change in paced)
    # The fork then tells the last name.
    assert told[-1].given["comm"] == "name99"
    ds = tree_of(seen)
    last = seen.header.boot_time + seen.numbers[-1]
    assert ds.pid(seen.pid, last).name == "name99"


def test_a_move_to_another_cgroup_is_told_when_it_happens(
    capture: Capture, victims: Path, cgroup: Path
) -> None:
    script = f"read x; echo $$ > {cgroup}/cgroup.procs; exec {victims}/target"
    source = EbpfSource()
    process = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE)
    process.communicate(b"\n")
    header, events, _ = collect(source)
    moves = [
        e
        for e in events
        if isinstance(e, Change)
        and e.task.tid == process.pid
        and (e.given["context"].cgroup or "").endswith(cgroup.name)
    ]
    assert moves
    exit_ = next(e for e in events if isinstance(e, Exit) and e.task.tid == process.pid)
    assert moves[0].time < exit_.time
    tree = ProcessTree()
    tree.apply_all([header, *events])
    info = DataSource(tree).pid(process.pid, header.boot_time + moves[0].time)
    assert info.cgroup is not None
    assert info.cgroup.endswith(cgroup.name)


def test_changes_and_lifecycle_events_come_as_one_stream(victims: Path) -> None:
    """In small batches too, no change comes before its task's fork or after a later event."""
    source = EbpfSource(batch=3)
    for _ in range(5):
        subprocess.run([victims / "changes", "nfcftFf"], check=True, stdout=subprocess.DEVNULL)
    _, events, _ = collect(source)
    last: dict[int, int] = {}
    changes = 0
    for event in events:
        if isinstance(event, (Snapshot, Header, Loss, Picture)):
            continue
        known = last.get(event.task.tid)
        assert known is None or known <= event.time
        if isinstance(event, Change):
            changes += 1
        last[event.task.tid] = event.time
    assert changes > 100


def test_with_calls_followed_there_is_a_pace_too(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "FFFFFcf"], follow_changes=True)
    told = changes_of(seen)
    assert any(change.untold_until is not None for change in told)
    assert len(told) < 500
    assert told[-1].given["cwd"] == "/usr"


def test_a_flood_of_changes_holds_nothing_else_up(victims: Path) -> None:
    """Threads that end after a few renames are many tasks; their process is one."""
    source = EbpfSource(changes_ring_bytes=1 << 16)
    batches = source.batches()
    next(batches)
    flood = subprocess.Popen([victims / "changes", "T"], stdout=subprocess.DEVNULL)
    exits: set[int] = set()
    changes = 0
    for _ in range(20):
        subprocess.run([victims / "target"], check=True)
    flood.wait()
    source.stop()
    for batch in batches:
        exits |= {event.task.tid for event in batch if isinstance(event, Exit)}
        changes += sum(isinstance(event, Change) for event in batch)
    counters = source.counters()
    source.close()
    assert flood.returncode == 0
    assert counters["lost_exit"] == 0
    assert flood.pid in exits
    assert counters["change"] == changes < 20_000


def test_a_leader_that_has_ended_takes_no_namespaces_away(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "changes", "lcf"])
    ds = tree_of(seen)
    boot = seen.header.boot_time
    before = ds.pid(seen.pid, boot + seen.numbers[0])
    after = ds.pid(seen.pid, boot + seen.numbers[-1])
    assert before.namespaces is not None
    assert before.namespaces.mnt is not None
    assert after.namespaces == before.namespaces


def test_moves_between_cgroups_are_told_with_their_path_under_load(
    victims: Path, cgroup: Path
) -> None:
    source = EbpfSource()
    batches = source.batches()
    events = list(next(batches))
    script = f"read x; echo $$ > {cgroup}/$1/cgroup.procs; exec {victims}/target"
    load = subprocess.Popen(["stress-ng", "--quiet", "--vfork", "2", "--vfork-ops", "20000"])
    moved: dict[int, str] = {}
    places = [cgroup / f"sub{i}" for i in range(30)]
    try:
        for place in places:
            place.mkdir()
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", place.name], stdin=subprocess.PIPE
            )
            moved[process.pid] = place.name
            process.communicate(b"\n")
    finally:
        for place in places:
            place.rmdir()
        load.wait()
    source.stop()
    for batch in batches:
        events += batch
    source.close()
    found = {
        e.task.tid: (e.given["context"].cgroup or "").rpartition("/")[2]
        for e in events
        if isinstance(e, Change) and e.task.tid in moved and "context" in e.given
    }
    assert found == moved


def test_a_picture_repairs_what_a_loss_left(victims: Path) -> None:
    """The ring was too small for what happened before it was read."""
    sleeper, killed = (subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(2))
    source = EbpfSource(ring_bytes=4096)
    batches = source.batches()
    events = list(next(batches))
    gone = [killed.pid]
    for _ in range(30):
        process = subprocess.Popen([victims / "target"])
        process.wait()
        gone.append(process.pid)
    killed.kill()
    killed.wait()
    try:
        for batch in batches:
            events += batch
            if any(isinstance(event, Picture) for event in batch):
                break
    finally:
        sleeper.kill()
        sleeper.wait()
    tree = ProcessTree()
    tree.apply_all(events)
    tree._check()
    losses = [event for event in events if isinstance(event, Loss)]
    pictures = [event for event in events if isinstance(event, Picture)]
    assert losses
    assert len(pictures) == 2, "the first one, and a repair"
    assert losses[0].time < pictures[1].time
    now = tree.boot_time + pictures[1].time
    living = {info.pid: info for info in DataSource(tree).snapshot(now)}
    assert living[sleeper.pid].name == "sleep"
    assert living.keys().isdisjoint(gone)
    (closed,) = (node for node in tree.census.processes.values() if node.tid == killed.pid)
    certainty = DataSource(tree).process(closed.entity_id, now).certainty
    source.stop()
    for _ in batches:
        pass
    counters = source.counters()
    source.close()
    assert counters["lost_exit"]
    assert counters["repairs"] >= 1
    assert "exit_time" in certainty.inferred
    assert certainty.exit_between is not None
    assert certainty.exit_between[1] <= now


def test_a_repair_that_fails_is_tried_again(victims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = EbpfSource(ring_bytes=4096)
    batches = source.batches()
    next(batches)
    for _ in range(30):
        subprocess.run([victims / "target"], check=True)
    picture, failures = KernelPrograms.picture, [1, 2]

    def fail_twice(self: KernelPrograms, with_arguments: bool) -> int:
        if failures:
            failures.pop()
            raise OSError(EMFILE, "no descriptor is left")
        return picture(self, with_arguments)

    monkeypatch.setattr(KernelPrograms, "picture", fail_twice)
    for batch in batches:
        if any(isinstance(event, Picture) for event in batch):
            break
    counters = source.counters()
    source.close()
    assert (counters["failed_repairs"], counters["repairs"]) == (1, 1)


def test_who_keeps_a_picture_waiting_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "_WHOLE_PICTURE_SECONDS", 0.01)
    read, wait = EbpfSource._read_stream, threading.Event()

    def slow(self: EbpfSource, with_arguments: bool) -> bytes:
        if with_arguments:
            wait.wait()
            return b""
        return read(self, with_arguments)

    monkeypatch.setattr(EbpfSource, "_read_stream", slow)
    source = EbpfSource()
    first = next(iter(source.batches()))
    wait.set()
    source.close()
    own = [e for e in first if isinstance(e, Snapshot) and e.task.tid == os.getpid()]
    assert own
    assert own[-1].given["executable"].path == os.readlink("/proc/self/exe")
