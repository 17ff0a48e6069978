"""The source itself: what it promises about batches, loss, refusal and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from errno import EINVAL
from pathlib import Path

import pytest

from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Loss, Picture, Snapshot
from proctree_ds.sources import ebpf, programs
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.loading import LoadedObject
from proctree_ds.sources.ringbuf import Ring

from .conftest import Capture, collect


def run_many(program: Path, count: int) -> None:
    for _ in range(count):
        subprocess.run([program], check=True)


def test_the_first_batch_is_the_picture(capture: Capture, victims: Path) -> None:
    source = EbpfSource()
    first = next(iter(source.batches()))
    source.close()
    header = first[0]
    assert isinstance(header, Header)
    assert header.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert header.host == os.uname().nodename
    seconds = int(Path("/proc/stat").read_text().partition("btime ")[2].split()[0])
    assert abs(header.boot_time // 1_000_000_000 - seconds) <= 1
    *tasks, complete = first[1:]
    assert all(isinstance(event, Snapshot) for event in tasks)
    assert isinstance(complete, Picture)
    assert header.time is not None
    assert header.time < complete.since < complete.time
    assert os.getpid() in {event.task.tid for event in first[1:] if isinstance(event, Snapshot)}


def test_the_picture_of_a_kernel_whose_iterator_may_not_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arguments and environment then come from /proc, and say the same."""
    monkeypatch.setenv("SSH_TTY", "/dev/pts/9")
    load = programs.KernelPrograms._load

    def refuse_once(
        self: programs.KernelPrograms, make: Callable[[], LoadedObject]
    ) -> LoadedObject:
        if self.reads_arguments:
            raise OSError(EINVAL, "no such program here")
        return load(self, make)

    pictures = []
    for loader in (load, refuse_once):
        monkeypatch.setattr(programs.KernelPrograms, "_load", loader)
        process = subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.PIPE)
        try:
            source = EbpfSource()
            first = next(iter(source.batches()))
            source.close()
        finally:
            process.kill()
            process.communicate()
        (given,) = (e.given for e in first if isinstance(e, Snapshot) and e.task.tid == process.pid)
        pictures.append(given)
    names = ("comm", "cwd", "root", "argv", "env", "executable")
    assert [pictures[0][name] for name in names] == [pictures[1][name] for name in names]
    assert pictures[0]["argv"] == ("/bin/sleep", "1000")
    assert pictures[0]["env"] == {"SSH_TTY": "/dev/pts/9"} | {
        name: os.environ[name] for name in ebpf.DEFAULT_ENV_NAMES if name in os.environ
    }


def test_batches_are_bounded_and_in_order(victims: Path) -> None:
    source = EbpfSource(batch=7)
    run_many(victims / "target", 20)
    source.stop()
    batches = list(source.batches())[1:]
    source.close()
    # Changes come between the events that they belong to, and are not counted.
    assert max(sum(not isinstance(e, Change) for e in batch) for batch in batches) == 7
    for batch in batches:
        times = [event.time for event in batch if not isinstance(event, Header)]
        assert times == sorted(times)
    assert sum(map(len, batches)) >= 60


def test_a_stop_from_another_thread_ends_a_sleeping_reader(victims: Path) -> None:
    source = EbpfSource()
    events: list[Event] = []

    def read() -> None:
        for batch in source.batches():
            events.extend(batch)
            started.set()

    started = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    started.wait()
    process = subprocess.Popen([victims / "target"])
    process.wait()
    source.stop()
    reader.join()
    source.close()
    about = [
        type(e)
        for e in events
        if not isinstance(e, (Header, Loss, Picture)) and e.task.tid == process.pid
    ]
    assert [kind for kind in about if kind is not Snapshot] == [Fork, Exec, Exit]


def test_a_full_ring_is_told(victims: Path) -> None:
    source = EbpfSource(ring_bytes=4096)
    before = source._checked
    run_many(victims / "target", 30)
    _, events, counters = collect(source)
    losses = [event for event in events if isinstance(event, Loss)]
    told = sum(loss.lost or 0 for loss in losses)
    lost = counters["lost_fork"] + counters["lost_exec"] + counters["lost_exit"]
    assert lost > 60
    assert told == lost + counters["lost_cgroup"] + counters["lost_skipped"]
    assert losses[0].since == before
    assert all(loss.since < loss.time for loss in losses)
    assert counters["fork"] + counters["lost_fork"] >= 30


def test_nothing_is_lost_in_a_ring_of_the_usual_size(victims: Path) -> None:
    source = EbpfSource()
    run_many(victims / "target", 200)
    _, events, counters = collect(source)
    assert not [event for event in events if isinstance(event, Loss)]
    assert not [name for name, n in counters.items() if n and name.startswith("lost_")]
    assert counters["malformed"] == 0
    for kind in (Fork, Exec, Exit):
        assert sum(isinstance(event, kind) for event in events) >= 200


def test_a_ring_that_wraps_around(victims: Path) -> None:
    """Far more bytes than the ring holds go through it while it is read."""
    source = EbpfSource(ring_bytes=16384)
    batches = source.batches()
    next(batches)
    done = threading.Event()

    def work() -> None:
        run_many(victims / "target", 150)
        done.set()
        source.stop()

    worker = threading.Thread(target=work)
    worker.start()
    seen: dict[type, set[int]] = {Fork: set(), Exec: set(), Exit: set()}
    for batch in batches:
        for event in batch:
            if isinstance(event, (Fork, Exec, Exit)):
                seen[type(event)].add(event.task.tid)
    worker.join()
    counters = source.counters()
    source.close()
    assert done.is_set()
    assert counters["malformed"] == 0
    whole = seen[Fork] & seen[Exec] & seen[Exit]
    assert len(whole) + sum(n for name, n in counters.items() if name.startswith("lost_")) >= 150


def test_reading_with_a_memory_barrier(victims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of machines on which loads overtake each other."""
    monkeypatch.setattr(ebpf, "Ring", lambda fd, size, batch: Ring(fd, size, batch, ordered=False))
    source = EbpfSource()
    run_many(victims / "target", 20)
    _, events, counters = collect(source)
    assert sum(isinstance(event, Exec) for event in events) >= 20
    assert counters["malformed"] == 0


def test_closing_twice_and_counting_afterwards(victims: Path) -> None:
    source = EbpfSource()
    run_many(victims / "target", 1)
    collect(source)
    source.close()
    source.stop()
    assert source.counters()["exec"] >= 1


def test_a_source_that_was_never_read_leaves_nothing_behind() -> None:
    fds = len(os.listdir("/proc/self/fd"))
    EbpfSource().close()
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize("size", [0, 4095, 5000, 3 << 20, -4096, 1 << 40])
def test_a_ring_of_an_odd_size(size: int) -> None:
    with pytest.raises(ConfigurationError, match="power of two"):
        EbpfSource(ring_bytes=size)


@pytest.mark.parametrize("names", [("",), ("A=B",), ("x" * 32,), ("a\0b",), ("N",) * 17])
def test_names_that_cannot_be_kept(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="environment variable"):
        EbpfSource(env_names=names)


def test_a_missing_object(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="Install clang"):
        EbpfSource(object_path=tmp_path / "none.o", loader="libbpf")


def test_an_object_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.o").write_bytes(b"not an object")
    with pytest.raises(SourceUnavailable, match="libbpf: "):
        EbpfSource(object_path=tmp_path / "bad.o")


@pytest.mark.parametrize("loader", ["libbpf", "bcc"])
def test_without_privileges(loader: str) -> None:
    """Refused in one sentence with a remedy; nothing on standard error, no traceback."""
    code = (
        "import os, sys\n"
        "from proctree_ds.errors import SourceUnavailable\n"
        "from proctree_ds.sources.ebpf import EbpfSource\n"
        "os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
        "try:\n"
        "    EbpfSource(loader=sys.argv[1])\n"
        "except SourceUnavailable as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    command = [sys.executable, "-c", code, loader]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Run as root" in done.stdout
    assert "\n" not in done.stdout
    assert done.stderr == ""
