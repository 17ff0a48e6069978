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

WITH_BOTH_LOADERS = ("test_lives", "test_images")
"""The modules whose captures are made twice: they look at every fact that is read. Tests that have
parameters already are left as they are."""

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
    module = metafunc.module.__name__.rpartition(".")[2]
    has_parameters = metafunc.definition.get_closest_marker("parametrize") is not None
    if "capture" in metafunc.fixturenames and module in WITH_BOTH_LOADERS and not has_parameters:
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
