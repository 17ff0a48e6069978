"""The first picture of a live machine: everybody is in it, down to process 1."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from proctree_ds import DataSource, ProcessTree
from proctree_ds.sources.ebpf import EbpfSource
from proctree_ds.sources.procfs import picture

pytestmark = pytest.mark.live


def first_picture(*, use_procfs: bool = True) -> ProcessTree:
    source = EbpfSource(use_procfs=use_procfs)
    try:
        tree = ProcessTree()
        tree.apply_all(next(iter(source.batches())))
        tree._check()
    finally:
        source.close()
    return tree


def pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def test_every_process_of_proc_is_in_the_picture() -> None:
    before = pids()
    tree = first_picture()
    ds = DataSource(tree)
    now = time.time_ns()
    for pid in before & pids():
        stat = Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape")
        if stat.rpartition(")")[2].split()[0] == "Z":
            continue  # it has exited, and so is in no picture
        info = ds.pid(pid, now)
        name = stat.rpartition(")")[0].partition("(")[2]
        ppid = int(stat.rpartition(")")[2].split()[1])
        assert info.ppid == ppid
        assert info.name is not None
        if ppid == 2:  # /proc adds to a kernel worker's comm what it works at
            assert name.startswith(info.name)
        else:
            assert info.name == name
        assert info.is_alive


def test_the_lineage_of_this_process_goes_back_to_the_first() -> None:
    ds = DataSource(first_picture())
    now = time.time_ns()
    lineage = ds.lineage(ds.pid(os.getpid(), now).entity_id, now)
    assert lineage.end == "root"
    assert (lineage[-1].pid, lineage[-1].ppid) == (1, 0)
    assert lineage[-1].name == Path("/proc/1/comm").read_text().strip()
    assert lineage[0].cmd == tuple(Path("/proc/self/cmdline").read_text().split("\0")[:-1])


def test_without_proc_the_kernels_iterator_alone_is_asked() -> None:
    tree = first_picture(use_procfs=False)
    origins = {version.origin for node in tree.census.processes.values() for version in node.log}
    assert origins == {"iterator"}


def test_case_43_a_name_with_parentheses_is_read_right_from_proc() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            Path("/proc/self/comm").write_text(") R 1 (")
            time.sleep(30)
        finally:
            os._exit(0)
    try:
        deadline = time.monotonic() + 5
        while (row := picture(pid, pid)) is not None and row.given["comm"] != ") R 1 (":
            assert time.monotonic() < deadline
        assert row is not None and row.parent is not None
        assert (row.parent.tid, row.ns_pid) == (os.getpid(), pid)
        assert row.given["context"].session_id == os.getsid(0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
