"""BCC as a loader of the same programs: the same events, and what stands in its way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Snapshot, State
from proctree_ds.sources import libbpf, programs
from proctree_ds.sources.bcc.compiler import compile_programs
from proctree_ds.sources.ebpf import EbpfSource

from .conftest import collect

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
SOURCES = Path(__file__).parents[2] / "bpf"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nothing was compiled."""
    monkeypatch.setattr(programs, "_OBJECT", tmp_path / "none.o")


def facts(events: list[Event], pid: int) -> list[Fork | Exec | Exit]:
    """What was told of a process, without when, for each source looks at the clock itself."""
    return [timeless(e) for e in events if isinstance(e, (Fork, Exec, Exit)) and e.task.tid == pid]


def timeless(event: Fork | Exec | Exit) -> Fork | Exec | Exit:
    if isinstance(event, Exec):
        assert isinstance(event.facts, State) and event.facts.image is not None
        image = replace(event.facts.image, exec_time=None)
        event = replace(event, facts=replace(event.facts, image=image))
    return replace(event, time=0)


def test_both_loaders_tell_the_same_at_the_same_time(victims: Path) -> None:
    sources = [EbpfSource(loader="libbpf"), EbpfSource(loader="bcc")]
    process = subprocess.Popen(
        [victims / "target", "one", "two"], env={"SSH_TTY": "x", "A": "b"}, cwd="/usr"
    )
    process.wait()
    told = [collect(source)[1] for source in sources]
    of_process = [facts(events, process.pid) for events in told]
    assert list(map(type, of_process[0])) == [Fork, Exec, Exit]
    assert of_process[0] == of_process[1]
    pictures = [
        next(e.given for e in events if isinstance(e, Snapshot) and e.task.tid == os.getpid())
        for events in told
    ]
    assert pictures[0] == pictures[1]
    assert pictures[1]["argv"]


@pytest.mark.usefixtures("tracefs")
def test_system_calls_can_be_followed(tmp_path: Path) -> None:
    source = EbpfSource(loader="bcc", follow_changes=True)
    before = os.getcwd()
    os.chdir(tmp_path)
    os.chdir(before)
    _, events, counters = collect(source)
    places = [
        e.given.get("cwd") for e in events if isinstance(e, Change) and e.task.tid == os.getpid()
    ]
    assert str(tmp_path) in places
    assert counters["malformed"] == 0


@pytest.mark.usefixtures("bare")
def test_auto_takes_bcc_where_nothing_was_compiled() -> None:
    source = EbpfSource()
    assert source.loader == "bcc"
    source.close()


def test_auto_takes_bcc_where_there_is_no_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "SONAME", "libnone.so.1")
    monkeypatch.setattr(libbpf, "_library", None)
    source = EbpfSource()
    assert source.loader == "bcc"
    source.close()
    with pytest.raises(SourceUnavailable, match=r"Install libbpf 1\.x"):
        EbpfSource(loader="libbpf")


def test_auto_takes_libbpf_where_it_can() -> None:
    source = EbpfSource()
    assert source.loader == "libbpf"
    source.close()


def test_nothing_is_left_behind() -> None:
    EbpfSource(loader="bcc").close()  # what is compiled once is there now
    fds = len(os.listdir("/proc/self/fd"))
    EbpfSource(loader="bcc").close()
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_loader_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match="'magic' is no loader"):
        EbpfSource(loader="magic")


def test_another_package_of_the_name(tmp_path: Path) -> None:
    """As the one on PyPI: it can be imported, and has nothing of iovisor's BCC."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("print('noise')\n")
    with pytest.raises(SourceUnavailable, match=r"is not iovisor's BCC \(.*/bcc/__init__.py\)"):
        compile_programs(KERNEL_BTF, search=[str(tmp_path)])
    (tmp_path / "bcc" / "__init__.py").write_text("raise SyntaxError('print 1')\n")
    with pytest.raises(SourceUnavailable, match="is not iovisor's BCC"):
        compile_programs(KERNEL_BTF, search=[str(tmp_path)])


def test_no_bcc(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"BCC is not there\. .*python3-bpfcc"):
        compile_programs(KERNEL_BTF, search=[])
    (tmp_path / "bcc.py").write_text("raise OSError('libbcc.so.0: cannot open shared object')\n")
    with pytest.raises(SourceUnavailable, match=r"libbcc\.so\.0: cannot open .*python3-bpfcc"):
        compile_programs(KERNEL_BTF, search=[str(tmp_path)])


def test_no_types(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="CONFIG_DEBUG_INFO_BTF"):
        compile_programs(tmp_path / "none")
    (tmp_path / "btf").write_bytes(b"no types at all, but enough of them")
    with pytest.raises(SourceUnavailable, match=f"cannot be read .{tmp_path}/btf"):
        compile_programs(tmp_path / "btf")


def test_what_the_compiler_says_is_in_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "bpf"
    shutil.copytree(SOURCES, sources)
    with (sources / "told.bpf.h").open("a") as file:
        file.write("int broken(void) { return nothing_of_this_name; }\n")
    with pytest.raises(SourceUnavailable) as raised:
        compile_programs(KERNEL_BTF, sources)
    message = str(raised.value)
    assert f"{sources}/told.bpf.h:" in message
    assert "undeclared identifier 'nothing_of_this_name'" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_function_that_the_compiler_passes_over(tmp_path: Path) -> None:
    """As BCC does with one in an included file, unless a macro begins it."""
    sources = tmp_path / "bpf"
    shutil.copytree(SOURCES, sources)
    header = sources / "bcc.bpf.h"
    header.write_text(
        header.read_text().replace("#define SEC(name) __attr", "#define SEC(name) //")
    )
    with pytest.raises(SourceUnavailable, match="nothing came of on_call, picture_plain"):
        compile_programs(KERNEL_BTF, sources)
