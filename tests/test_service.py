"""What a long run has besides: health, figures over HTTP, systemd's ear, and few rights."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, WEBSHELL, run
from prometheus_client.parser import text_string_to_metric_families

from proctree_ds.cli.detect import main as detect
from proctree_ds.errors import ConfigurationError, ServiceError
from proctree_ds.eventlog import read_events
from proctree_ds.model import Event, Exec, Header, Loss, Task
from proctree_ds.pipeline import Pipeline
from proctree_ds.registry import load_signatures
from proctree_ds.service.endpoint import CLIENTS_LIMIT, Endpoint, Page, parse_address
from proctree_ds.service.health import LOSS_SECONDS, STUCK_SECONDS, Health
from proctree_ds.service.metrics import FIGURES, RunFigures, health_page, metrics_page
from proctree_ds.service.notify import Notifier
from proctree_ds.service.privileges import drop_privileges, needed, require_user
from proctree_ds.sources.memory import MemorySource

LOCAL = "127.0.0.1"
SECONDS = 30


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


# -------------------------------------------------------------------------------------- health


def test_a_run_is_well_while_batches_come() -> None:
    clock = Clock()
    health = Health(clock)
    assert health.problem() == "the source has given nothing yet"
    for _ in range(100):
        health.beat()
        clock.now += STUCK_SECONDS
        assert health.problem() is None
    clock.now += 1
    assert health.problem() == "the reader is stuck: it has taken nothing for 11 s"
    health.beat()
    assert health.problem() is None
    health.end("the source has ended")
    assert health.problem() == "the source has ended"


def test_loss_that_goes_on_is_told_from_one_that_was() -> None:
    clock = Clock()
    health = Health(clock)
    health.beat(1)
    assert health.problem() is None
    for windows in range(2, 100):
        clock.now += 1
        health.beat(windows)
        lasts = windows - 1
        assert (health.problem() is None) == (lasts < LOSS_SECONDS)
    assert health.problem() == "events are being lost, for 98 s now"
    clock.now += LOSS_SECONDS + 1
    health.beat(99)
    assert health.problem() is None
    health.beat(100)
    assert health.problem() is None


# ------------------------------------------------------------------------------------ endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(LOCAL, 0)
    yield made
    made.close()


def hello() -> tuple[int, str, bytes]:
    return 200, "text/plain", b"hello"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0))],
)
def test_an_address(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "localhost:1", "::1:80"),
        *("127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", "1.2.3:4", "[::1]", "[127.0.0.1]:1"),
        "127.0.0.1:\u0664",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address to listen on"):
        parse_address(text)


def test_no_address_is_wrong_usage() -> None:
    done = run("proctree-detect", "--metrics", "9464", "--replay", WEBSHELL)
    assert "is no address to listen on" in done.stderr
    assert done.returncode == 2


def test_pages_by_path(endpoint: Endpoint) -> None:
    endpoint.start({"/hello": hello})
    assert get(f"{endpoint.url}/hello?x=1") == (200, "hello")
    status, text = get(f"{endpoint.url}/else")
    assert (status, "/metrics" in text) == (404, True)
    request = urllib.request.Request(f"{endpoint.url}/hello", method="HEAD")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        assert (answer.status, answer.read()) == (200, b"")
    request = urllib.request.Request(f"{endpoint.url}/hello", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=SECONDS)
    refused.value.close()
    assert refused.value.code == 501


def test_a_port_that_is_taken(endpoint: Endpoint) -> None:
    with pytest.raises(ServiceError, match="in use"):
        Endpoint(LOCAL, port_of(endpoint))
    done = run("proctree-detect", "--metrics", endpoint.url[7:], "--replay", WEBSHELL)
    assert "cannot listen on 127.0.0.1:" in done.stderr
    assert (done.returncode, done.stdout) == (1, "")


def test_clients_that_send_nothing_or_little_keep_nobody_out(endpoint: Endpoint) -> None:
    endpoint.start({"/hello": hello})
    silent = [
        socket.create_connection((LOCAL, port_of(endpoint)), timeout=SECONDS)
        for _ in range(4 * CLIENTS_LIMIT)
    ]
    try:
        for client in silent[::2]:
            client.send(b"G")
        for _ in range(CLIENTS_LIMIT):
            assert get(f"{endpoint.url}/hello") == (200, "hello")
        assert silent[0].recv(1) == b""  # let go
    finally:
        for client in silent:
            client.close()


def test_many_clients_at_once_and_some_that_go_away(endpoint: Endpoint) -> None:
    endpoint.start({"/hello": hello})
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        for _ in range(10):
            answers.append(get(f"{endpoint.url}/hello"))
            with socket.create_connection((LOCAL, port_of(endpoint))) as client:
                client.send(b"GET /hello HTTP/1.1\r\n\r\n")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(200, "hello")] * 40


# ------------------------------------------------------------------------------------- figures


def page_of(events: Sequence[Event], **more: Any) -> tuple[Pipeline, Page]:
    health = Health()
    signatures = load_signatures().signatures
    pipeline = Pipeline(MemorySource(events), signatures, on_batch=health.beat, **more)
    return pipeline, metrics_page(pipeline, health, RunFigures())


def samples(page: Page) -> dict[tuple[str, ...], float]:
    """The value of each sample by name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page()[2].decode())
        for sample in family.samples
    }


def test_the_endpoint_gives_the_figures_that_are_listed_and_those_of_the_process() -> None:
    pipeline, page = page_of(list(read_events(WEBSHELL)))
    pipeline.run()
    status, kind, body = page()
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    given: dict[str, tuple[bool, set[str]]] = {}
    for family in text_string_to_metric_families(body.decode()):
        counts = family.type == "counter"
        for sample in family.samples:
            labels = set(sample.labels)
            assert given.setdefault(sample.name, (counts, labels)) == (counts, labels)
    own = {name: facts for name, facts in given.items() if not name.startswith("process_")}
    assert own == {
        figure.name: (figure.kind == "counter", set(figure.labels)) for figure in FIGURES
    }
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total"} <= set(given)


def test_figures_are_those_of_the_summary() -> None:
    pipeline, page = page_of(list(read_events(WEBSHELL)))
    summary = pipeline.run()
    values = samples(page)
    assert values["proctree_events_total", "exec"] == summary.events["exec"] > 0
    assert values["proctree_lost_total",] == summary.lost == 3
    assert values["proctree_findings_total",] == summary.findings > 0
    assert values["proctree_processes",] == summary.tree["processes"]
    assert values["proctree_signatures",] == 0  # all are closed
    for name, statistics in summary.signatures.items():
        assert values["proctree_signature_events_total", name] == statistics.events
        assert values["proctree_signature_findings_total", name] == statistics.findings


def test_figures_can_be_asked_for_before_during_and_after_a_run() -> None:
    ended = threading.Event()
    seen: list[float] = []
    events = (Exec(time, Task(time, time - 1), {"comm": f"c{time}"}) for time in range(10, 20_000))
    pipeline, page = page_of([Header(), *events, Loss(30_000, 29_000, 5)])
    assert samples(page)["proctree_events_total", "exec"] == 0

    def ask() -> None:
        while not ended.is_set():
            seen.append(samples(page)["proctree_events_total", "exec"])

    thread = threading.Thread(target=ask)
    thread.start()
    pipeline.run()
    ended.set()
    thread.join()
    assert seen == sorted(seen)
    values = samples(page)
    assert values["proctree_events_total", "exec"] == 19_990
    assert values["proctree_lost_total",] == 5
    assert values["proctree_horizon_timestamp_seconds",] > 0


def test_the_health_page() -> None:
    health = Health()
    page = health_page(health)
    assert page()[0] == 503
    health.beat()
    assert page() == (200, "text/plain; charset=utf-8", b"ok\n")


# ------------------------------------------------------------------------------------- systemd


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What systemd has been told since it was last asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def told() -> list[str]:
            heard = []
            try:
                while True:
                    heard.append(listener.recv(4096).decode())
            except BlockingIOError:
                return heard

        yield told


def test_what_systemd_is_told(systemd: Callable[[], list[str]]) -> None:
    clock = Clock()
    notifier = Notifier(clock)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    notifier.ready("watching")
    notifier.beat()
    notifier.beat()
    clock.now += 10
    notifier.beat()
    notifier.stopping()
    notifier.close()
    notifier.stopping()
    assert systemd() == ["READY=1\nSTATUS=watching", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_watchdog_of_another_process_is_not_told(
    systemd: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    notifier.beat()
    notifier.close()
    assert systemd() == []


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_nobody_to_be_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.ready("x")
    notifier.close()


UNIT = ROOT / "packaging" / "proctree-detect.service"


def unit() -> RawConfigParser:
    class Repeated(dict[str, Any]):
        """A setting that is given again adds to what was given."""

        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list) and key in self:
                value = [*self[key], *value]
            super().__setitem__(key, value)

    parser = RawConfigParser(strict=False, dict_type=Repeated, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_starts_the_command_with_options_that_it_has() -> None:
    words = unit()["Service"]["ExecStart"].split()
    assert words[0].endswith("/proctree-detect")
    context = detect.make_context("proctree-detect", words[1:])
    assert context.params["metrics"] is not None
    assert context.params["pin"]


def test_the_unit_lets_through_what_the_run_needs_and_nothing_else() -> None:
    service = unit()["Service"]
    allowed = set(service["CapabilityBoundingSet"].split())
    assert allowed == {"CAP_BPF", "CAP_PERFMON", "CAP_SETPCAP", *needed(release="5.13")}
    assert service["ReadWritePaths"] == "/sys/fs/bpf"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    for name in ("NoNewPrivileges", "MemoryDenyWriteExecute", "ProtectHome", "RestrictNamespaces"):
        assert service[name] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(re.sub(r"/opt/\S+/proctree-detect", "/bin/true", UNIT.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", here], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [x for x in done.stderr.splitlines() if UNIT.name in x]) == (0, [])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=35", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# -------------------------------------------------------------------------------------- rights


@pytest.mark.parametrize(
    ("release", "names"),
    [
        ("6.18.44-x", {"CAP_SYS_PTRACE"}),
        ("6.0.0", {"CAP_SYS_PTRACE"}),
        ("5.19.1", {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}),
        ("5.13.0", {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_BPF"}),
        ("unheard of", {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_BPF"}),
    ],
)
def test_what_a_kernel_goes_on_to_ask_for(release: str, names: set[str]) -> None:
    assert needed(release=release) == names
    assert needed(reads_procfs=False, release=release) == names & {"CAP_BPF"}


@pytest.mark.parametrize(("user", "reason"), [("no-such-user", "no user"), ("root", "is root")])
def test_a_user_who_cannot_be(user: str, reason: str) -> None:
    with pytest.raises(ServiceError, match=reason):
        require_user(user)
    done = run("proctree-detect", "--user", user)
    assert done.returncode == 2
    assert reason in done.stderr


def test_rights_are_not_dropped_where_other_threads_would_keep_theirs() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        before = Path("/proc/self/status").read_text().partition("CapPrm")[2].split()[1]
        with pytest.raises(ServiceError, match="has started threads"):
            drop_privileges(set())
        assert Path("/proc/self/status").read_text().partition("CapPrm")[2].split()[1] == before
    finally:
        go.set()
        thread.join()


def test_a_replay_keeps_its_user() -> None:
    done = run("proctree-detect", "--user", "nobody", "--replay", WEBSHELL)
    assert (done.returncode, "live run" in done.stderr) == (2, True)
