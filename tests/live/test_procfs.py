"""The source without BPF: process events from netlink, and walks through /proc."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from commands import command, environment, run

from proctree_ds import DataSource, PidKey, ProcessTree, entity_id
from proctree_ds.model import (
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Loss,
    Picture,
    Snapshot,
)
from proctree_ds.sources.connector import Connector
from proctree_ds.sources.procfs_source import ProcfsSource

from .test_detect import MARK, SIGNATURE

E = TypeVar("E", Fork, Exec, Exit, Change, Snapshot)

FOREVER = 3600.0
WAITING = ["/bin/sh", "-c", "read go; exec /bin/cat", "told"]
"""Runs one program until it is written to, and then another until it is closed."""


class Watch:
    """A source whose events are read as they come."""

    def __init__(self, source: ProcfsSource) -> None:
        self.source = source
        self.tree = ProcessTree()
        self.events: list[Event] = []
        self._batches = source.batches()
        self.read()

    def read(self) -> Sequence[Event]:
        batch = next(self._batches, None)
        assert batch is not None, "the source has ended"
        self.tree.apply_all(batch)
        self.events += batch
        return batch

    def until(self, kind: type[E], tid: int) -> E:
        """The first event of its kind about a task from here on."""
        while True:
            for event in self.read():
                if isinstance(event, kind) and event.task.tid == tid:
                    return event

    def until_loss(self) -> Loss:
        while True:
            for event in self.read():
                if isinstance(event, Loss):
                    return event

    def finish(self) -> None:
        self.source.stop()
        for batch in self._batches:
            self.tree.apply_all(batch)
            self.events += batch
        self.source.close()
        self.tree._check()

    def of(self, kind: type[E], tid: int) -> list[E]:
        return [e for e in self.events if isinstance(e, kind) and e.task.tid == tid]

    @property
    def ds(self) -> DataSource:
        return DataSource(self.tree)


@pytest.fixture
def listening() -> Iterator[Watch]:
    source = ProcfsSource()
    assert source.refusal is None
    assert not source.walks
    watch = Watch(source)
    yield watch
    watch.source.close()


@pytest.fixture
def walking() -> Iterator[Watch]:
    watch = Watch(ProcfsSource(use_netlink=False, walk_seconds=0.02))
    yield watch
    watch.source.close()


def waiting() -> subprocess.Popen[bytes]:
    return subprocess.Popen(WAITING, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


# --------------------------------------------------------------------------------- netlink


def test_a_life_with_all_that_proc_shows_of_it(listening: Watch) -> None:
    with waiting() as process:
        first = listening.until(Exec, process.pid)
        let_go(process)
        second = listening.until(Exec, process.pid)
    listening.finish()
    (fork,) = listening.of(Fork, process.pid)
    (end,) = listening.of(Exit, process.pid)
    assert fork.parent is not None
    assert fork.parent.tid == os.getpid()
    assert fork.time <= first.time < second.time < end.time
    assert {e.origin for e in (fork, first, second, end)} == {"netlink"}
    assert (end.exit_code, end.exit_signal) == (0, None)

    boot_time = listening.tree.boot_time
    info = listening.ds.get(PidKey(process.pid, boot_time + first.time))["process_info"]
    assert info.cmd == tuple(WAITING)
    assert info.cwd == str(Path.cwd())
    assert info.uid == os.getuid()
    assert info.ns_pid == process.pid
    assert info.certainty.source == "netlink"
    assert info.certainty.inferred == ("start_time",)
    info = listening.ds.process(info.entity_id, boot_time + second.time)
    assert info.cmd == ("/bin/cat",)
    assert info.execution_binary is not None
    assert info.execution_binary.inode == Path("/bin/cat").stat().st_ino
    lineage = listening.ds.lineage(info.entity_id, boot_time + second.time)
    assert lineage[1].pid == os.getpid()
    info = listening.ds.process(info.entity_id, boot_time + end.time)
    assert (info.is_alive, info.exit_code, info.certainty.exit_between) == (False, 0, None)


def test_who_has_gone_before_proc_is_read_keeps_pid_parent_and_times(listening: Watch) -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "kill -9 $$"])
    process.wait()
    listening.until(Exit, process.pid)
    listening.finish()
    (fork,), (execute,) = listening.of(Fork, process.pid), listening.of(Exec, process.pid)
    (end,) = listening.of(Exit, process.pid)
    assert (end.exit_code, end.exit_signal) == (None, signal.SIGKILL)
    boot_time = listening.tree.boot_time
    info = listening.ds.get(PidKey(process.pid, boot_time + execute.time))["process_info"]
    assert (info.pid, info.ppid) == (process.pid, os.getpid())
    assert info.start_time == boot_time + fork.time
    assert (info.name, info.cmd, info.execution_binary) == (None, None, None)
    assert listening.source.counters()["vanished"] >= 1


def test_the_start_is_within_the_tick_of_proc(listening: Watch) -> None:
    with waiting() as process:
        fork = listening.until(Fork, process.pid)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.kill()
    assert fork.task.start_time is not None
    assert 0 <= fork.task.start_time // 10_000_000 - int(fields[19]) <= 1


def test_threads_have_their_process(listening: Watch) -> None:
    program = (
        "import threading; t = threading.Thread(target=input); t.start();"
        "print(t.native_id, flush=True); t.join()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        tid = int(process.stdout.readline())
        fork = listening.until(Fork, tid)
        assert fork.leader is not None
        assert fork.leader.tid == process.pid
        info = listening.ds.process(
            listening.ds.get(PidKey(process.pid, listening.tree.boot_time + fork.time))[
                "process_info"
            ].entity_id,
            listening.tree.boot_time + fork.time,
        )
        assert tid in info.thread_ids
        let_go(process)
    listening.until(Exit, tid)
    listening.finish()
    (end,) = listening.of(Exit, process.pid)
    info = listening.ds.process(info.entity_id, listening.tree.boot_time + end.time)
    assert not info.is_alive


def test_an_exec_by_another_thread_goes_on_as_the_process(listening: Watch, victims: Path) -> None:
    program = [str(victims / "images"), "thread", str(victims / "target")]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        process.communicate()
    listening.finish()
    execute = listening.of(Exec, process.pid)[-1]
    first, last = listening.of(Exit, process.pid)
    assert first.task == execute.task == last.task
    assert first.time < execute.time < last.time
    forks = [e for e in listening.events if isinstance(e, Fork) and e.leader is not None]
    threads = {e.task.tid for e in forks if e.leader is not None and e.leader.tid == process.pid}
    assert len(threads) == 2
    (became_leader,) = (tid for tid in threads if not listening.of(Exit, tid))
    boot_time = listening.tree.boot_time
    info = listening.ds.get(PidKey(process.pid, boot_time + execute.time))["process_info"]
    assert (info.is_alive, set(info.thread_ids)) == (True, {process.pid})
    assert not listening.ds.process(info.entity_id, boot_time + last.time).is_alive
    assert not listening.ds.thread(
        next(
            entity_id(e.task.start_time, e.task.tid)
            for e in forks
            if e.task.tid == became_leader and e.task.start_time is not None
        ),
        boot_time + execute.time,
    ).is_alive


def test_a_change_of_user_is_told(listening: Watch) -> None:
    program = "import os; os.setresuid(65534, 65533, 65532); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        change = listening.until(Change, process.pid)
        while "context" not in change.given:
            change = listening.until(Change, process.pid)
        let_go(process)
    context = change.given["context"]
    assert (context.uid, context.euid, context.suid) == (65534, 65533, 65532)


def test_a_full_buffer_is_a_loss_and_a_picture_repairs_it() -> None:
    source = ProcfsSource(receive_bytes=4096)
    watch = Watch(source)
    for _ in range(50):
        subprocess.run(["/bin/true"], check=True)
    loss = watch.until_loss()
    while not any(isinstance(event, Picture) for event in watch.read()):
        pass
    while not source.counters()["lost"]:  # a CPU's loss shows when that CPU tells the next event
        subprocess.run(["/bin/true"], check=True)
        watch.read()
    watch.finish()
    assert loss.since < loss.time
    assert source.counters()["repairs"] >= 1


def test_what_others_send_is_not_believed(listening: Watch) -> None:
    connector = Connector()
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11) as sender,
        socket.socket(fileno=os.dup(connector.fileno())) as receiver,
    ):
        port, _ = receiver.getsockname()
        forged = bytes(16) + (1).to_bytes(4, "little") * 2 + bytes(100)
        sender.sendto(forged, (port, 0))
    assert all(message.numbers[0] for message in connector.drain(10_000))
    assert connector.losses() == ([], False)
    connector.close()


# ----------------------------------------------------------------------------------- walks


def test_walks_find_who_began_executed_and_ended(walking: Watch) -> None:
    header = walking.events[0]
    assert isinstance(header, Header)
    assert {"uid", "cwd", "namespaces"} <= set(header.unfollowed)
    with waiting() as process:
        found = walking.until(Snapshot, process.pid)
        if not walking.of(Exec, process.pid):  # it was seen between its fork and its exec
            walking.until(Exec, process.pid)
        let_go(process)
        second = walking.until(Exec, process.pid)
    end = walking.until(Exit, process.pid)
    walking.finish()
    assert (found.origin, second.origin, end.origin) == ("procfs", "procfs", "procfs")
    boot_time = walking.tree.boot_time
    info = walking.ds.get(PidKey(process.pid, boot_time + second.time))["process_info"]
    assert (info.cmd, info.ppid) == (("/bin/cat",), os.getpid())
    assert info.certainty.source == "procfs"
    assert "start_time" in info.certainty.inferred
    (window,) = info.certainty.loss_windows
    assert window.lost is None
    after = walking.ds.process(info.entity_id, boot_time + end.time)
    assert not after.is_alive
    assert after.exit_code is None
    assert after.certainty.exit_between is not None


def test_an_end_is_known_without_a_walk() -> None:
    with waiting() as process:
        watch = Watch(ProcfsSource(use_netlink=False, walk_seconds=FOREVER))
        process.kill()
    watch.until(Exit, process.pid)
    assert watch.source.counters()["walks"] == 1
    watch.finish()


def test_doubt_between_walks_is_one_window_however_many_there_are(walking: Watch) -> None:
    for _ in range(3):
        walking.until_loss()
    walking.finish()
    assert walking.source.counters()["walks"] >= 4
    assert len(walking.tree.losses) == 1


# ------------------------------------------------------------------------- the whole command


@pytest.fixture
def signatures(tmp_path: Path) -> Path:
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    # Others may run the same test at the same time.
    (directory / "marked.py").write_text(SIGNATURE.replace(MARK, str(tmp_path)))
    return directory


NO_BPF = ["setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon"]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
"""Without any rights; and in another network namespace, where there is no netlink of this kind."""


@pytest.mark.parametrize(
    ("through", "options", "said"),
    [
        (NO_BPF, ["--source", "auto"], "Going on without BPF: process events from netlink"),
        (NO_BPF, ["--source", "procfs"], "process events from netlink"),
        (["unshare", "-n", *NOBODY], ["--source", "auto"], "/proc is looked at every 1 s"),
    ],
)
def test_findings_without_bpf(
    through: list[str], options: list[str], said: str, signatures: Path
) -> None:
    logs = signatures.parent / "logs"
    logs.mkdir()
    logs.chmod(0o777)
    log = logs / "log.jsonl"
    command_line = command(
        "proctree-detect", "--no-builtin", "--signatures", signatures, "--write-log", log, *options
    )
    with subprocess.Popen(
        [*through, *command_line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            costs = process.stderr.readline().decode()
            assert said in costs
            while b"watching live" not in (line := process.stderr.readline()):
                assert line
            while not log.exists() or not log.stat().st_size:  # then the first picture is taken
                time.sleep(0.01)
            mark = ["/bin/sh", "-c", "read go", str(signatures.parent)]
            with subprocess.Popen(mark, stdin=subprocess.PIPE) as marked:
                found = json.loads(process.stdout.readline())
                assert marked.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        finally:
            process.kill()
    assert (found["event"]["pid"], found["data"]["by"]) == (marked.pid, os.getpid())
    assert b"Traceback" not in errors
    assert process.returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--source", "procfs", "--ring-size", "1M"],
        ["--source", "procfs", "--proctree", "follow-changes"],
        ["--source", "procfs", "--proctree", "disable-procfs"],
        ["--source", "procfs", "--replay", "-"],
    ],
)
def test_what_the_source_cannot_do_is_wrong_usage(options: list[str]) -> None:
    done = run("proctree-detect", *options)
    assert (done.returncode, done.stdout) == (2, "")


def test_without_bpf_and_without_proc_there_is_no_source() -> None:
    done = run("proctree-detect", "--proctree", "disable-procfs", through=NO_BPF)
    assert "Run as root" in done.stderr
    assert (done.returncode, done.stdout) == (1, "")
