"""Real processes on the real kernel: what the live tests share.

A test runs a victim while a source is attached and looks at what arrived. Nothing is timed: the
victim has ended before the source is asked to stop, and a source that stops drains first.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from proctree_ds.errors import SourceUnavailable
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Snapshot
from proctree_ds.sources.ebpf import EbpfSource

VICTIMS = Path(__file__).parent / "victims"

WITH_BOTH_LOADERS = frozenset(
    {
        "test_a_cgroup_of_its_own",
        "test_a_path_longer_than_the_limit",
        "test_a_relative_script",
        "test_a_setuid_program",
        "test_a_signal_is_no_exit_code",
        "test_an_exec_by_a_thread_that_does_not_lead",
        "test_an_orphan_goes_to_init",
        "test_an_orphan_goes_to_the_subreaper",
        "test_argv_as_the_kernel_passed_it",
        "test_argv_longer_than_the_limit",
        "test_ids_in_a_pid_namespace",
        "test_memfd",
        "test_selected_environment",
        "test_the_dynamic_loader",
        "test_the_facts_of_the_file",
        "test_the_layers_of_an_overlay",
        "test_the_leader_ends_before_the_process",
        "test_the_working_directory_across_mounts",
    }
)
"""The tests whose captures are made twice: together they read every field that is read."""

E = TypeVar("E", Fork, Exec, Exit, Snapshot)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session", autouse=True)
def live() -> None:
    """Skips, or fails where PROCTREE_LIVE=require, if this machine does not allow the source."""
    wish = os.environ.get("PROCTREE_LIVE", "auto")
    if wish == "skip":
        pytest.skip("PROCTREE_LIVE=skip")
    try:
        EbpfSource().close()
    except SourceUnavailable as error:
        if wish == "require":
            pytest.fail(f"PROCTREE_LIVE=require, but {error}")
        pytest.skip(str(error))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function.__name__ in WITH_BOTH_LOADERS:
        metafunc.parametrize("capture", ["libbpf", "bcc"], indirect=True)


@pytest.fixture(scope="session")
def tracefs() -> Iterator[None]:
    """The file system that names the tracepoints of system calls, mounted where it is not."""
    place = Path("/sys/kernel/tracing")
    if (place / "events").is_dir():
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "none", place], check=True)
    yield
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the hierarchy that the source looks at: v2 where it has cgroups, or v1."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    v2 = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    assert v2, "this machine has no cgroup v2 hierarchy mounted"
    place = v2[0] / f"proctree-test-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        place.rmdir()


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the compiled victims, readable by every user."""
    directory = tmp_path_factory.mktemp("victims")
    for source in VICTIMS.glob("*.c"):
        output = directory / source.stem
        subprocess.run(["gcc", "-O1", "-pthread", "-o", output, source], check=True)
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    return directory


@dataclass
class Captured:
    """What arrived while something ran."""

    header: Header
    events: list[Event]
    counters: Mapping[str, int]
    pid: int = 0
    """Of the process that was run."""
    status: int = 0
    numbers: list[int] = field(default_factory=list)
    """The numbers that it wrote."""

    def of(self, kind: type[E], tid: int) -> list[E]:
        """Events of one kind about the task `tid`, in the order of their times."""
        return [e for e in self.events if isinstance(e, kind) and e.task.tid == tid]

    def one(self, kind: type[E], tid: int) -> E:
        """The only event of its kind about the task `tid`."""
        found = self.of(kind, tid)
        assert len(found) == 1, f"{len(found)} {kind.__name__} of {tid}"
        return found[0]

    def last_exec(self, tid: int) -> Exec:
        return self.of(Exec, tid)[-1]


def collect(source: EbpfSource) -> tuple[Header, list[Event], Mapping[str, int]]:
    """Stops a source and takes all that it captured."""
    source.stop()
    events = [event for batch in source.batches() for event in batch]
    counters = source.counters()
    source.close()
    header = events.pop(0)
    assert isinstance(header, Header)
    return header, events, counters


class Capture:
    """Runs a command while a source is attached, whose programs this loader has loaded."""

    def __init__(self, loader: str) -> None:
        self.loader = loader

    def __call__(
        self,
        command: Sequence[str | bytes | Path],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        executable: Path | None = None,
        **options: Any,
    ) -> Captured:
        source = EbpfSource(loader=self.loader, **options)
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, env=env, cwd=cwd, executable=executable
            )
            output, _ = process.communicate()
        finally:
            header, events, counters = collect(source)
        numbers = [int(line) for line in output.split()]
        return Captured(header, events, counters, process.pid, process.returncode, numbers)


@pytest.fixture
def capture(request: pytest.FixtureRequest) -> Capture:
    return Capture(getattr(request, "param", "libbpf"))
