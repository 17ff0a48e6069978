"""`proctree-detect` on the real kernel: it sees what happens, and ends as it is told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import command, environment, run

MARK = "proctree-live-test"

SIGNATURE = textwrap.dedent(
    f"""
    from proctree_ds.signature import *

    class Marked(Signature):
        metadata = SignatureMetadata(
            id="MARKED", version="1", name="n", description="d", severity="info"
        )
        selectors = (EventSelector(event="exec"),)

        def init(self, context):
            self.tree = context.get_data_source("proctree", "process_tree")

        def on_event(self, event):
            if event.argv and event.argv[-1].startswith({MARK!r}):
                above = self.tree.lineage(event.process_entity_id, event.time, max_depth=1)
                return Finding(data={{"mark": event.argv[-1], "by": above[1].pid}})
    """
)


@pytest.fixture
def signatures(tmp_path: Path) -> Path:
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    (directory / "marked.py").write_text(SIGNATURE)
    return directory


@contextmanager
def detecting(log: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A live run that has begun: its log holds the first picture."""
    with subprocess.Popen(
        command("proctree-detect", "--no-builtin", "--write-log", log, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            while not log.exists() or not log.stat().st_size:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes]) -> tuple[list[dict[str, Any]], str]:
    output, errors = process.communicate()
    assert b"Traceback" not in errors, errors
    return [json.loads(line) for line in output.splitlines()], errors.decode()


def marked(number: int = 0) -> int:
    """A process that a signature recognises. Its pid."""
    process = subprocess.Popen(["/bin/echo", f"{MARK}-{number}"], stdout=subprocess.DEVNULL)
    process.wait()
    return process.pid


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_process_is_found_and_the_run_ends_with_its_summary(
    ending: signal.Signals, signatures: Path, tmp_path: Path
) -> None:
    with detecting(tmp_path / "log.jsonl", "--signatures", signatures) as process:
        pids = [marked(number) for number in range(20)]
        process.send_signal(ending)
        found, errors = ended(process)
    assert process.returncode == 0
    assert [finding["event"]["pid"] for finding in found] == pids
    assert [finding["data"]["mark"] for finding in found] == [f"{MARK}-{n}" for n in range(20)]
    assert {finding["data"]["by"] for finding in found} == {os.getpid()}
    for finding in found:
        assert finding["lineage"][1]["pid"] == os.getpid()
        assert finding["process"]["user"] == "root"
    assert "20 findings" in errors
    assert "none lost" in errors


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_live_run_replays_to_the_same_findings(
    suffix: str, signatures: Path, tmp_path: Path
) -> None:
    log = tmp_path / f"log.{suffix}"
    with detecting(log, "--signatures", signatures) as process:
        for number in range(20):
            marked(number)
        process.send_signal(signal.SIGINT)
        live, _ = ended(process)
    again = run("proctree-detect", "--no-builtin", "--signatures", signatures, "--replay", log)
    assert again.returncode == 0
    assert [json.loads(line) for line in again.stdout.splitlines()] == live
    assert len(live) == 20


def test_a_duration_ends_a_live_run(signatures: Path) -> None:
    done = run("proctree-detect", "--signatures", signatures, "--duration", "300ms")
    assert done.returncode == 0
    assert "events in" in done.stderr


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "signatures"
    directory.mkdir(mode=0o755)
    (directory / "slow.py").write_text(
        SIGNATURE + "\n    def close(self):\n        import time\n        time.sleep(60)\n"
    )
    with detecting(tmp_path / "log.jsonl", "--signatures", directory) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.returncode == -signal.SIGINT


def test_a_reader_that_goes_away_ends_a_live_run(signatures: Path, tmp_path: Path) -> None:
    with detecting(tmp_path / "log.jsonl", "--signatures", signatures) as process:
        assert process.stdout is not None
        process.stdout.close()
        while process.poll() is None:
            marked()
        assert process.returncode == 0


def test_what_the_kernel_refuses_is_an_error_that_names_the_remedy() -> None:
    assert shutil.which("setpriv")
    less = ["setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon"]
    for name, *arguments in (["proctree-detect", "--source", "ebpf"], ["proctree", "ps"]):
        done = run(name, *arguments, through=less)
        assert "Run as root" in done.stderr
        assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("size", ["3000", "5G", "1K"])
def test_a_ring_of_a_size_that_cannot_be_is_wrong_usage(size: str) -> None:
    done = run("proctree-detect", "--ring-size", size, "--duration", "100ms")
    assert "power of two" in done.stderr
    assert done.returncode == 2


def test_questions_about_the_machine_as_it_is_now() -> None:
    done = run("proctree", "ps")
    processes = {found["pid"]: found for found in map(json.loads, done.stdout.splitlines())}
    assert processes[os.getpid()]["is_alive"]
    done = run("proctree", "lineage", "--pid", str(os.getpid()))
    lineage = [json.loads(line) for line in done.stdout.splitlines()]
    assert lineage[-1]["pid"] == os.getpid()
    assert lineage[-2]["pid"] == os.getppid()


def test_the_demo_workload_is_noticed_by_every_built_in_signature(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with detecting(log) as process:
        workload = Path(__file__).parents[2] / "examples" / "harmless_intrusion.py"
        subprocess.run(
            [*command("proctree")[:1], workload, "--pause", "0"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        process.send_signal(signal.SIGINT)
        ended(process)
    found = run("proctree-detect", "--replay", log).stdout.splitlines()
    assert {json.loads(line)["signature"]["id"] for line in found} >= {
        "PT-BROKEN-ANCESTRY",
        "PT-FILELESS-EXECUTION",
        "PT-KERNEL-THREAD-NAME",
        "PT-ODD-LOCATION",
        "PT-RENAMED-SHELL",
        "PT-REVERSE-SHELL",
        "PT-SETUID-WITHOUT-ARGV",
        "PT-SHELL-FROM-SERVER",
    }
