"""Pinned programs on the real kernel: what one reader leaves, the next one reads, and nobody else.

A source that is closed without having been stopped leaves what a killed one leaves: the kernel
does not tell them apart.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from commands import command, environment, run

from benchmarks.restarts import restart_under_load
from proctree_ds.errors import SourceUnavailable
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Loss, State
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.pins import find_pins, remove_pins
from proctree_ds.wire_layout import VERSION

from .conftest import collect
from .test_detect import SIGNATURE, detecting, ended, marked
from .test_source import run_many


@pytest.fixture(scope="module")
def bpf_fs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("bpf")
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=700", "bpf", place], check=True)
    yield place
    remove_pins(place / "shared")
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def pins(bpf_fs: Path) -> Path:
    """A directory whose programs one test leaves to the next: loading them takes the most time."""
    return bpf_fs / "shared"


@pytest.fixture
def own_pins(bpf_fs: Path) -> Iterator[Path]:
    """A directory that does not exist yet."""
    yield bpf_fs / "own"
    remove_pins(bpf_fs / "own")


def leave(pins: Path, **options: Any) -> None:
    """A source that took its picture and all that there was, and then was killed."""
    source = EbpfSource(pin_directory=pins, **options)
    collect(source)


def executed(program: Path) -> int:
    process = subprocess.Popen([program])
    process.wait()
    return process.pid


def executed_in(cgroup: Path, program: Path) -> int:
    process = subprocess.Popen(["sh", "-c", f"echo $$ > {cgroup}/cgroup.procs; exec {program}"])
    process.wait()
    return process.pid


def executed_last(events: list[Event], pid: int) -> State:
    facts = [e.facts for e in events if isinstance(e, Exec) and e.task.tid == pid][-1]
    assert isinstance(facts, State)
    return facts


def is_named(event: Event, pid: int) -> bool:
    """Whether this task changed its name to `told`."""
    return isinstance(event, Change) and event.task.tid == pid and event.given.get("comm") == "told"


def about(events: list[Event], tid: int) -> list[type[Event]]:
    """The kinds of the events about a task, changes apart."""
    return [
        type(event)
        for event in events
        if isinstance(event, (Fork, Exec, Exit)) and event.task.tid == tid
    ]


# ------------------------------------------------------------------------------- going on


def test_nothing_is_missing_after_kills_under_load() -> None:
    outcome = restart_under_load(3, Random(7))
    assert outcome.processes > 0
    assert (dict(outcome.missing), outcome.lost) == ({}, 0)


def test_what_happens_while_nobody_reads_is_read_once(pins: Path, victims: Path) -> None:
    leave(pins)
    pid = executed(victims / "target")
    first, events, _ = collect(EbpfSource(pin_directory=pins))
    assert about(events, pid) == [Fork, Exec, Exit]
    assert not [event for event in events if isinstance(event, Loss)]
    (fork,) = (e for e in events if isinstance(e, Fork) and e.task.tid == pid)
    assert first.time is not None
    assert first.time < fork.time
    _, events, _ = collect(EbpfSource(pin_directory=pins))
    assert about(events, pid) == []


def test_a_batch_that_was_in_hand_is_told_again(pins: Path, victims: Path) -> None:
    leave(pins)
    handled = executed(victims / "target")
    source = EbpfSource(pin_directory=pins, batch=1)
    in_hand: list[Event] = []
    for batch in source.batches():
        in_hand = list(batch)
        if Exit in about(in_hand, handled):
            break
    source.close()
    _, events, _ = collect(EbpfSource(pin_directory=pins))
    assert [event for event in in_hand if event in events] == in_hand
    assert Fork not in about(events, handled)


def test_a_cgroup_is_known_to_the_next_reader_though_it_is_gone(
    pins: Path, victims: Path, cgroup: Path
) -> None:
    gone = cgroup / "gone"
    gone.mkdir()
    first = EbpfSource(pin_directory=pins)
    executed_in(gone, victims / "target")
    collect(first)
    pid = executed_in(gone, victims / "target")
    gone.rmdir()
    _, events, _ = collect(EbpfSource(pin_directory=pins))
    assert str(executed_last(events, pid).context.cgroup).endswith(f"/{cgroup.name}/gone")


def test_a_cgroup_that_was_empty_is_named_to_the_next_reader(
    pins: Path, victims: Path, cgroup: Path
) -> None:
    leave(pins)
    executed_in(cgroup, victims / "target")
    collect(EbpfSource(pin_directory=pins))
    source = EbpfSource(pin_directory=pins)
    pid = executed_in(cgroup, victims / "target")
    _, events, _ = collect(source)
    assert str(executed_last(events, pid).context.cgroup).endswith(f"/{cgroup.name}")


def test_system_calls_are_followed_while_nobody_reads(own_pins: Path, tracefs: None) -> None:
    leave(own_pins, follow_changes=True)
    with subprocess.Popen(
        ["/bin/sh", "-c", "cd /usr; echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.communicate()
    _, events, _ = collect(EbpfSource(pin_directory=own_pins, follow_changes=True))
    (exit_,) = (e for e in events if isinstance(e, Exit) and e.task.tid == process.pid)
    changes = [e for e in events if isinstance(e, Change) and e.task.tid == process.pid]
    moved = [e.time for e in changes if e.given.get("cwd") == "/usr"]
    assert moved
    assert moved[0] < exit_.time - 1  # at the exit, changes that nothing followed come to light


def test_a_change_that_waits_for_the_events_before_it_is_told_again(pins: Path) -> None:
    leave(pins)
    script = "printf told > /proc/$$/comm; echo; read line"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        source = EbpfSource(pin_directory=pins)
        told = next(e for batch in source.batches() for e in batch if is_named(e, process.pid))
        source.close()
        _, events, _ = collect(EbpfSource(pin_directory=pins))
    assert told in events


# ---------------------------------------------------------------------------------- losses


def test_what_found_no_room_while_nobody_read_is_counted_once(
    own_pins: Path, victims: Path
) -> None:
    leave(own_pins, ring_bytes=4096)
    run_many(victims / "target", 30)
    _, events, counters = collect(EbpfSource(pin_directory=own_pins, ring_bytes=4096))
    losses = [event for event in events if isinstance(event, Loss)]
    lost = sum(n for name, n in counters.items() if name.startswith("lost_"))
    told = sum(loss.lost or 0 for loss in losses)
    assert 60 < told <= lost  # programs go on: the last losses are told to the next reader
    forks = [event for event in events if isinstance(event, Fork)]
    assert losses[0].since < forks[0].time < losses[-1].time
    assert len(forks) + counters["lost_fork"] >= 30
    _, events, later = collect(EbpfSource(pin_directory=own_pins, ring_bytes=4096))
    told += sum(event.lost or 0 for event in events if isinstance(event, Loss))
    assert lost <= told <= sum(n for name, n in later.items() if name.startswith("lost_"))


def test_a_loss_that_was_in_hand_is_told_again(own_pins: Path, victims: Path) -> None:
    leave(own_pins, ring_bytes=4096)
    run_many(victims / "target", 30)
    source = EbpfSource(pin_directory=own_pins, ring_bytes=4096)
    told = next(e for batch in source.batches() for e in batch if isinstance(e, Loss))
    source.close()
    _, events, _ = collect(EbpfSource(pin_directory=own_pins, ring_bytes=4096))
    again = next(event for event in events if isinstance(event, Loss))
    assert again.since == told.since
    assert (again.lost or 0) >= (told.lost or 0) > 60


@pytest.mark.parametrize("ring", ["8M", "4K"])
def test_a_reader_that_is_suspended_under_load(ring: str, victims: Path, tmp_path: Path) -> None:
    """Whatever is not in the log is counted."""
    log = tmp_path / "log.jsonl"
    with detecting(log, "--ring-size", ring) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        run_many(victims / "target", 100)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        _, errors = ended(process)
    events = [json.loads(line) for line in log.read_bytes().splitlines()]
    target = str(victims / "target")
    seen = sum(e["type"] == "exec" and e["argv"] == [target] for e in events)
    lost = sum(e["lost"] for e in events if e["type"] == "loss")
    if ring == "8M":
        assert (seen, lost) == (100, 0)
        assert "none lost" in errors
    else:
        assert seen < 100 <= seen + lost
        assert f"{lost} lost in" in errors


# ------------------------------------------------------------------------------ replacement


def test_programs_with_other_settings_take_over(pins: Path, victims: Path) -> None:
    leave(pins)
    (old,) = find_pins(pins).sets
    before = executed(victims / "target")
    source = EbpfSource(pin_directory=pins, env_names=("HOME",))
    after = executed(victims / "target")
    first, events, _ = collect(source)
    for pid in (before, after):
        assert about(events, pid) == [Fork, Exec, Exit]
    assert not [event for event in events if isinstance(event, Loss)]
    assert first.time is not None
    assert all(first.time < e.time for e in events if isinstance(e, Fork) and e.task.tid == before)
    (new,) = find_pins(pins).sets
    assert new.path != old.path


def test_losses_of_programs_that_are_replaced_are_counted(own_pins: Path, victims: Path) -> None:
    leave(own_pins, ring_bytes=4096)
    run_many(victims / "target", 30)
    _, events, counters = collect(EbpfSource(pin_directory=own_pins))
    lost = sum(event.lost or 0 for event in events if isinstance(event, Loss))
    told = sum(isinstance(event, (Fork, Exec, Exit)) for event in events)
    assert lost > 60
    assert told + lost >= 90
    assert sum(n for name, n in counters.items() if name.startswith("lost_")) == 0


@pytest.mark.parametrize("then", [{"env_names": ()}, {}], ids=["goes-on", "goes-back"])
def test_replacing_that_was_cut_short(then: Any, pins: Path, victims: Path) -> None:
    leave(pins)
    pid = executed(victims / "target")
    EbpfSource(pin_directory=pins, env_names=()).close()
    assert len(find_pins(pins).sets) == 2
    _, events, _ = collect(EbpfSource(pin_directory=pins, **then))
    assert not [event for event in events if isinstance(event, Loss)]
    assert about(events, pid) == [Fork, Exec, Exit]
    assert len(find_pins(pins).sets) == 1


def test_pins_of_another_wire_version_are_a_loss_of_as_much_as_is_there(
    pins: Path, victims: Path
) -> None:
    leave(pins)
    (old,) = find_pins(pins).sets
    run_many(victims / "target", 20)
    renamed = old.path.with_name(f"v{VERSION + 1}-0123")
    old.path.rename(renamed)
    assert [found.version for found in find_pins(pins).sets] == [VERSION + 1]
    source = EbpfSource(pin_directory=pins)
    pid = executed(victims / "target")
    _, events, _ = collect(source)
    (loss,) = (event for event in events if isinstance(event, Loss))
    assert loss.lost is not None
    assert loss.lost >= 60
    assert loss.since < loss.time
    assert about(events, pid) == [Fork, Exec, Exit]
    assert [found.version for found in find_pins(pins).sets] == [VERSION]


def test_a_set_that_is_no_set_is_a_loss_of_unknown_size(pins: Path) -> None:
    leave(pins)
    (pins / f"v{VERSION}-0123").mkdir(mode=0o700)
    _, events, _ = collect(EbpfSource(pin_directory=pins))
    assert [event.lost for event in events if isinstance(event, Loss)] == [None]
    assert len(find_pins(pins).sets) == 1


def test_what_a_reader_without_rights_could_not_unpin_goes_later(pins: Path, victims: Path) -> None:
    leave(pins)
    executed(victims / "target")
    source = EbpfSource(pin_directory=pins, env_names=("HOME",))
    os.seteuid(1000)
    try:
        collect(source)
    finally:
        os.seteuid(0)
    assert len(find_pins(pins).sets) == 2
    pid = executed(victims / "target")
    _, events, _ = collect(EbpfSource(pin_directory=pins, env_names=("HOME",)))
    assert about(events, pid) == [Fork, Exec, Exit]
    assert not [event for event in events if isinstance(event, Loss)]
    assert len(find_pins(pins).sets) == 1


def test_a_set_that_lost_a_pin_is_made_anew(pins: Path, victims: Path) -> None:
    leave(pins)
    (found,) = find_pins(pins).sets
    (found.path / "link_on_exec").unlink()
    source = EbpfSource(pin_directory=pins)
    pid = executed(victims / "target")
    _, events, _ = collect(source)
    assert about(events, pid) == [Fork, Exec, Exit]
    assert [event.lost for event in events if isinstance(event, Loss)] == [None]
    assert find_pins(pins).sets == (found,)


# ------------------------------------------------------------------------------ who may not


def test_only_one_reader_at_a_time(pins: Path) -> None:
    source = EbpfSource(pin_directory=pins)
    try:
        assert find_pins(pins).reader == os.getpid()
        for refused in (lambda: EbpfSource(pin_directory=pins), lambda: remove_pins(pins)):
            with pytest.raises(SourceUnavailable, match=f"process {os.getpid()} reads"):
                refused()
    finally:
        source.close()
    assert find_pins(pins).reader is None


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda place: os.chown(place, 1000, 1000), "belongs to user 1000"),
        (lambda place: place.chmod(0o770), "others can write"),
        (lambda place: place.chmod(0o702), "others can write"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_pins_that_others_could_have_made(
    inside: bool, spoil: Any, problem: str, pins: Path
) -> None:
    leave(pins)
    place = find_pins(pins).sets[0].path if inside else pins
    spoil(place)
    with pytest.raises(SourceUnavailable, match=problem):
        EbpfSource(pin_directory=pins)
    if not inside:
        with pytest.raises(SourceUnavailable, match=problem):
            remove_pins(pins)
    os.chown(place, 0, 0)
    place.chmod(0o700)


def test_a_directory_on_another_file_system(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"on no BPF file system.*mount -t bpf"):
        EbpfSource(pin_directory=tmp_path / "pins")
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailable, match="on no BPF file system"):
        remove_pins(tmp_path)
    assert (tmp_path / "file").exists()


def apart(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell where nothing is mounted at /sys/fs/bpf, and `detect` is a short run."""
    detect = " ".join(command("proctree-detect", "--no-builtin", "--duration", "100ms", "--pin"))
    prelude = f"""
        mount --make-rprivate /
        while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf; done
        detect() {{ "$@" {detect}; }}
    """
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", textwrap.dedent(prelude) + textwrap.dedent(script)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_file_system_is_mounted_where_it_is_missing() -> None:
    done = apart("detect; ls /sys/fs/bpf/proctree")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"v{VERSION}-[0-9a-f]+\n", done.stdout)
    assert "pinned in /sys/fs/bpf/proctree" in done.stderr


def test_whoever_may_not_mount_it_is_told_the_command() -> None:
    done = apart("detect setpriv --bounding-set -sys_admin")
    assert done.returncode == 1
    assert "Run `mount -t bpf bpf /sys/fs/bpf` as root" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_system_that_is_read_only() -> None:
    done = apart("mount -t bpf -o ro bpf /sys/fs/bpf; detect")
    assert done.returncode == 1
    assert "read-only" in done.stderr
    assert "Without --pin everything works, but" in done.stderr


# --------------------------------------------------------------------------------- removal


def test_removed_programs_write_no_more(own_pins: Path, victims: Path) -> None:
    leave(own_pins)
    (found,) = find_pins(own_pins).sets
    assert found.version == VERSION
    assert {"events", "changes", "lost", "reader", "link_on_fork"} <= set(found.names)
    assert remove_pins(own_pins) == (found.path,)
    assert not own_pins.exists()
    pid = executed(victims / "target")
    _, events, _ = collect(EbpfSource(pin_directory=own_pins))
    assert about(events, pid) == []


def test_nothing_to_remove(own_pins: Path) -> None:
    assert find_pins(own_pins).sets == ()
    assert remove_pins(own_pins) == ()
    assert not own_pins.exists()


def test_what_was_left_unfinished_is_removed(pins: Path) -> None:
    leave(pins)
    (pins / "new").mkdir(mode=0o700)
    assert [found.version for found in find_pins(pins).sets] == [None, VERSION]
    leave(pins)
    assert [found.version for found in find_pins(pins).sets] == [VERSION]


def test_the_doctor_removes_them_when_nobody_reads(own_pins: Path) -> None:
    source = EbpfSource(pin_directory=own_pins)
    unpin = ("doctor", "--unpin", "--pins", own_pins)
    done = run("proctree", *unpin)
    assert done.returncode == 1
    assert f"process {os.getpid()} reads" in done.stderr
    collect(source)
    (left,) = find_pins(own_pins).sets
    done = run("proctree", "doctor", "--pins", own_pins)
    assert f"{len(left.names)} in {own_pins}" in done.stdout
    done = run("proctree", *unpin)
    assert f"{len(left.names)} pins removed" in done.stderr
    assert not own_pins.exists()


# --------------------------------------------------------------------------------- command


def test_a_run_that_ends_leaves_its_pins_and_says_so(
    pins: Path, victims: Path, tmp_path: Path
) -> None:
    options = ("--pin", "--pin-directory", pins)
    with detecting(tmp_path / "first.jsonl", *options) as process:
        process.send_signal(signal.SIGTERM)
        _, errors = ended(process)
    assert process.returncode == 0
    assert f"pinned in {pins}" in errors
    pid = executed(victims / "target")
    log = tmp_path / "second.jsonl"
    done = run("proctree-detect", *options, "--duration", "100ms", "--write-log", log)
    assert done.returncode == 0
    events = [json.loads(line) for line in log.read_bytes().splitlines()]
    kinds = [e["type"] for e in events if e.get("task", {}).get("tid") == pid]
    assert [kind for kind in kinds if kind != "change"] == ["fork", "exec", "exit"]


def test_findings_that_nobody_took_are_found_again(
    pins: Path, victims: Path, tmp_path: Path
) -> None:
    """The reader of standard output is gone; the next run has one."""
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    (directory / "marked.py").write_text(SIGNATURE)
    options = ("--pin", "--pin-directory", pins, "--signatures", directory)
    with detecting(tmp_path / "log.jsonl", *options) as process:
        assert process.stdout is not None
        process.stdout.close()
        pids = set()
        while process.poll() is None:
            pids.add(marked())
    done = run("proctree-detect", "--no-builtin", *options, "--duration", "100ms")
    found = {json.loads(line)["event"]["pid"] for line in done.stdout.splitlines()}
    assert found >= pids > set()


def test_pins_mean_nothing_in_a_replay() -> None:
    done = run("proctree-detect", "--pin", "--replay", "-")
    assert done.returncode == 2
    assert "--pin is the kernel's" in done.stderr
