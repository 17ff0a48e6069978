"""`proctree-detect` as a service on the real kernel: few rights, reloading, figures, systemd."""

from __future__ import annotations

import json
import os
import pty
import pwd
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
from commands import command, environment

MARK = "proctree-service-test"
PTRACE = 1 << 19
DAC_READ_SEARCH = 1 << 2
SECONDS = 30
"""How long something is waited for that comes at once or never."""

SIGNATURE = textwrap.dedent(
    f"""
    from proctree_ds.signature import *

    class Marked(Signature):
        metadata = SignatureMetadata(
            id="MARKED", version="VERSION", name="n", description="d", severity="info"
        )
        selectors = (EventSelector(event="exec"),)

        def init(self, context):
            self.seen = 0

        def on_event(self, event):
            if event.argv and event.argv[-1].startswith({MARK!r}):
                self.seen += 1
                return Finding(data={{"mark": event.argv[-1], "seen": self.seen}})
    """
)


class Service:
    """A run, what it said so far, and its findings."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.messages: list[dict[str, Any]] = []

    def says(self, start: str) -> dict[str, Any]:
        """The next message that begins so."""
        errors = self.process.stderr
        assert errors is not None
        for line in errors:
            self.messages.append(json.loads(line))
            if self.messages[-1]["message"].startswith(start):
                return self.messages[-1]
        raise AssertionError(f"it never said {start!r}: {self.messages}")

    def finds(self) -> dict[str, Any]:
        """The next finding of the signature of this test."""
        output = self.process.stdout
        assert output is not None
        for line in output:
            found: dict[str, Any] = json.loads(line)
            if found["signature"]["id"] == "MARKED":
                return found
        raise AssertionError("it has ended")

    def threads(self) -> dict[str, set[str]]:
        """Of every thread's status: all that the values of a field are."""
        found: dict[str, set[str]] = {}
        for status in Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                name, _, value = line.partition(":\t")
                found.setdefault(name, set()).add(value)
        return found

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=SECONDS) as answer:
            return str(answer.read().decode())

    def figure(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.page("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def until(self, name: str, least: float) -> None:
        """Wait until a figure is no less."""
        for _ in range(SECONDS * 100):
            if self.figure(name) >= least:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} never came to {least}")

    url = ""


@pytest.fixture
def signatures(tmp_path: Path) -> Path:
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    write(directory, "1")
    for path in (directory, *directory.parents[:3]):
        path.chmod(0o755)
    return directory


def write(directory: Path, version: str) -> None:
    (directory / "marked.py").write_text(SIGNATURE.replace("VERSION", version))


@contextmanager
def serving(*arguments: str | Path, errors: int | IO[bytes] = subprocess.PIPE) -> Iterator[Service]:
    """A live run with figures, that has taken its first picture."""
    every = ("--no-builtin", "--log-format", "json", "--output", "json", "--metrics", "127.0.0.1:0")
    with subprocess.Popen(
        command("proctree-detect", *every, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment(),
    ) as process:
        service = Service(process)
        try:
            if errors == subprocess.PIPE:
                service.url = service.says("figures at ")["url"]
                service.until('proctree_events_total{kind="snapshot"}', 1)
            yield service
        finally:
            process.kill()


def marked(name: str) -> None:
    subprocess.run(["/bin/echo", f"{MARK}-{name}"], stdout=subprocess.DEVNULL, check=True)


def flood(service: Service) -> None:
    """Have more happen, while nobody reads, than the ring holds."""
    before = service.figure("proctree_lost_total")
    os.kill(service.process.pid, signal.SIGSTOP)
    subprocess.run(["sh", "-c", "for i in $(seq 200); do /bin/true; done"], check=True)
    os.kill(service.process.pid, signal.SIGCONT)
    service.until("proctree_lost_total", before + 1)


@pytest.mark.parametrize("user", [None, "nobody"])
def test_rights_are_dropped_and_losses_are_repaired_all_the_same(
    user: str | None, signatures: Path
) -> None:
    chosen = ["--user", user] if user else []
    with serving("--signatures", signatures, "--ring-size", "32K", *chosen) as service:
        threads = service.threads()
        uid = pwd.getpwnam(user).pw_uid if user else 0
        assert threads["Uid"] == {f"{uid}\t{uid}\t{uid}\t{uid}"}
        for kind in ("CapEff", "CapPrm"):
            assert {int(mask, 16) & ~DAC_READ_SEARCH for mask in threads[kind]} == {PTRACE}
        assert threads["NoNewPrivs"] == {"1"}
        flood(service)
        service.until('proctree_source_total{counter="repairs"}', 1)
        assert service.figure('proctree_source_total{counter="failed_repairs"}') == 0
        marked("after")
        assert service.finds()["data"]["mark"] == f"{MARK}-after"
        service.process.send_signal(signal.SIGHUP)
        assert service.says("events were lost")["lost"] > 0
        assert service.says("signatures read again")["failures"] == 0
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS) == 0


@pytest.mark.parametrize("is_open", [True, False])
def test_the_right_to_read_stays_only_where_it_is_needed(tmp_path: Path, is_open: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").touch()
    os.chown(home, 1000, 1000)
    home.chmod(0o755 if is_open else 0o700)
    code = (
        "import sys; from proctree_ds.service.privileges import *;"
        " print(drop_privileges({'CAP_SYS_PTRACE'}, readable=sys.argv[1:]));"
        " open(sys.argv[1]).close(); print(*open('/proc/self/status'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, home / "file"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    left = int(done.stdout.partition("CapPrm:")[2].split()[0], 16)
    assert left == (PTRACE if is_open else PTRACE | DAC_READ_SEARCH)
    assert (str(home) in done.stdout) != is_open


def test_a_hangup_reloads_what_changed_and_keeps_what_did_not(signatures: Path) -> None:
    with serving("--signatures", signatures) as service:
        marked("first")
        assert service.finds()["data"]["seen"] == 1

        def reload(unchanged: int, failures: int) -> None:
            service.process.send_signal(signal.SIGHUP)
            subprocess.run(["/bin/true"], check=True)  # wakes the reader
            said = service.says("signatures read again")
            assert (said["unchanged"], said["failures"]) == (unchanged, failures)

        reload(unchanged=1, failures=0)
        marked("second")
        assert service.finds()["data"]["seen"] == 2
        write(signatures, "2")
        marked("third")
        found = service.finds()
        assert (found["signature"]["version"], found["data"]["seen"]) == ("1", 3)
        reload(unchanged=0, failures=0)
        marked("anew")
        found = service.finds()
        assert (found["signature"]["version"], found["data"]["seen"]) == ("2", 1)
        (signatures / "marked.py").write_text("this is no Python")
        reload(unchanged=1, failures=1)
        marked("fourth")
        found = service.finds()
        assert (found["signature"]["version"], found["data"]["seen"]) == ("2", 2)
        (signatures / "marked.py").unlink()
        reload(unchanged=0, failures=0)
        assert service.figure("proctree_signatures") == 0
        assert service.figure("proctree_reloads_total") == 4
        assert service.figure("proctree_lost_total") == 0


def test_nothing_is_lost_while_signatures_are_read_again(signatures: Path) -> None:
    with serving("--signatures", signatures) as service:
        for number in range(6):
            write(signatures, str(number))
            service.process.send_signal(signal.SIGHUP)
            marked(str(number))
            assert service.finds()["data"]["mark"] == f"{MARK}-{number}"
        assert service.figure("proctree_lost_total") == 0
        assert service.figure("proctree_reloads_total") >= 1
        assert service.page("/health") == "ok\n"


def test_a_terminal_that_is_gone_ends_the_run(signatures: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    log = tmp_path / "log.jsonl"
    with subprocess.Popen(
        command("proctree-detect", "--signatures", signatures, "--write-log", log),
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            while not log.exists() or not log.stat().st_size:
                assert process.poll() is None
                time.sleep(0.01)
            os.close(slave)
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            assert any(b"signatures read again" in line for line in lines)
            os.close(master)
            process.send_signal(signal.SIGHUP)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def test_systemd_is_told_and_privileges_can_be_kept(
    signatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        with serving("--signatures", signatures, "--keep-privileges") as service:
            own = Path("/proc/self/status").read_text()
            (effective,) = service.threads()["CapEff"]
            assert f"CapEff:\t{effective}\n" in own

            def told(start: str) -> None:
                while not listener.recv(4096).decode().startswith(start):
                    pass

            told("READY=1\nSTATUS=watching with 1 signature")
            told("WATCHDOG=1")
            service.process.send_signal(signal.SIGHUP)
            told("RELOADING=1\nMONOTONIC_USEC=")
            told("READY=1")
            service.process.send_signal(signal.SIGTERM)
            told("STOPPING=1")
            assert service.process.wait(SECONDS) == 0


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_a_disk_that_is_full_ends_the_log_and_mutes_messages_and_nothing_else(
    signatures: Path, full: Path
) -> None:
    messages = full / "messages.jsonl"
    (signatures / "noisy.py").write_text(
        SIGNATURE.replace("MARKED", "NOISY").replace(
            "self.seen += 1", "raise ValueError('x' * 400 + event.argv[-1])"
        )
    )
    with (
        messages.open("wb") as errors,
        serving(
            "--signatures", signatures, "--write-log", full / "log.jsonl", errors=errors
        ) as service,
    ):
        while not messages.read_bytes().count(b"\n") >= 3:
            assert service.process.poll() is None
            time.sleep(0.01)
        service.url = json.loads(messages.read_bytes().splitlines()[1])["url"]
        service.until('proctree_troubles_total{part="log"}', 1)
        (full / "log.jsonl").unlink()  # the messages' turn
        fill(full / "rest")
        for number in range(5):
            marked(str(number))
            assert service.finds()["data"]["mark"] == f"{MARK}-{number}"
        service.until("proctree_messages_dropped_total", 1)
        (full / "rest").unlink()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SECONDS) == 1  # the event log, and the signature
    said = messages.read_text()
    assert said.count("the event log ends here: No space left") == 1
    assert len(re.findall(r"[1-9]\d* messages? left out here", said)) == 1
    last = json.loads(said.splitlines()[-1])
    assert last["message"]
