"""Who was made by whom, how they ended, and who took over their children."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from proctree_ds.model import Exec, Exit, Fork, Snapshot

from .conftest import Capture

ONE_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: the state is at 0, the start tick at 19."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_one_process_from_fork_to_exit(capture: Capture, victims: Path) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    seen = capture([victims / "target", "3"])
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    fork, execute = seen.one(Fork, seen.pid), seen.one(Exec, seen.pid)
    exit_ = seen.one(Exit, seen.pid)

    assert fork.task == execute.task == exit_.task
    start = fork.task.start_time
    assert start is not None
    assert before < start <= fork.time < execute.time < exit_.time < after
    assert fork.parent is not None
    assert fork.parent.tid == os.getpid()
    assert fork.leader is None
    assert fork.ns_pid == fork.ns_tid == seen.pid
    assert execute.old_tid is None
    assert (exit_.exit_code, exit_.exit_signal, exit_.core_dumped) == (3, None, False)
    assert exit_.group_exit is True
    assert exit_.reaper is not None
    assert exit_.reaper.tid == 1
    assert seen.counters["lost_fork"] == seen.counters["malformed"] == 0


def test_a_fork_shares_the_context_of_the_exec(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "killed"])
    execute = seen.one(Exec, seen.pid)
    assert not isinstance(execute.facts, dict)
    assert seen.one(Fork, seen.numbers[0]).context is execute.facts.context


def test_a_signal_is_no_exit_code(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "killed"])
    exit_ = seen.one(Exit, seen.numbers[0])
    assert (exit_.exit_code, exit_.exit_signal) == (None, signal.SIGKILL)
    assert not exit_.core_dumped


def test_a_core_dump(capture: Capture, victims: Path, tmp_path: Path) -> None:
    seen = capture([victims / "lives", "core"], cwd=tmp_path)
    exit_ = seen.one(Exit, seen.numbers[0])
    assert (exit_.exit_code, exit_.exit_signal) == (None, signal.SIGSEGV)
    assert exit_.core_dumped


def test_a_thread_ends_and_the_process_lives_on(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "thread"])
    (tid,) = seen.numbers
    process = seen.one(Fork, seen.pid).task
    fork = seen.one(Fork, tid)
    assert fork.leader == process
    assert fork.creator == process
    assert fork.parent is not None
    assert fork.parent.tid == os.getpid()
    exit_ = seen.one(Exit, tid)
    assert exit_.leader == process
    assert exit_.group_exit is False
    assert exit_.reaper is None
    assert seen.one(Exit, seen.pid).group_exit is True


def test_the_leader_ends_before_the_process(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "leader_first"])
    leader, thread = seen.one(Exit, seen.pid), seen.one(Exit, seen.numbers[0])
    assert leader.time < thread.time
    assert leader.group_exit is False
    assert thread.group_exit is True
    assert thread.leader == leader.task
    assert thread.exit_code == seen.status == 5


def test_clone_parent_makes_a_sibling(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "clone_parent"])
    child, sibling = (seen.one(Fork, pid) for pid in sorted(seen.numbers))
    assert sibling.parent == seen.one(Fork, seen.pid).task
    assert sibling.creator == child.task


def test_a_child_of_a_thread_belongs_to_the_process(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "thread_forks"])
    thread, child = seen.numbers
    fork = seen.one(Fork, child)
    assert fork.parent == seen.one(Fork, seen.pid).task
    assert fork.creator == seen.one(Fork, thread).task


def test_a_thread_that_the_kernel_makes_for_a_process(capture: Capture, victims: Path) -> None:
    """create_io_thread() makes it without kernel_clone(), so sched_process_fork does not fire."""
    seen = capture([victims / "uring"])
    (tid,) = seen.numbers
    process = seen.one(Fork, seen.pid).task
    fork = seen.one(Fork, tid)
    assert fork.leader == fork.creator == process
    assert fork.parent is not None
    assert fork.parent.tid == os.getpid()
    assert seen.one(Exit, tid).task == fork.task


def test_an_orphan_goes_to_init(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "double_fork"])
    process = seen.one(Fork, seen.pid).task
    middle = next(n for n in seen.numbers if seen.one(Fork, n).parent == process)
    reaper = seen.one(Exit, middle).reaper
    assert reaper is not None
    assert reaper.tid == 1
    assert reaper.start_time is not None
    assert reaper.start_time // ONE_TICK == int(stat_of(1)[19])


def test_an_orphan_goes_to_the_subreaper(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "subreaper"])
    process = seen.one(Fork, seen.pid).task
    middle = next(n for n in seen.numbers if seen.one(Fork, n).parent == process)
    (orphan,) = (n for n in seen.numbers if n != middle)
    assert seen.one(Exit, middle).reaper == process
    assert seen.one(Exit, orphan).parent == process


def test_ids_in_a_pid_namespace(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "pid_namespace"])
    init = seen.one(Fork, seen.numbers[0])
    second = next(e for e in seen.events if isinstance(e, Fork) and e.parent == init.task)
    assert (init.ns_pid, init.ns_tid) == (1, 1)
    assert second.ns_pid == second.ns_tid == 2
    assert second.task.tid > 2
    assert init.context is not None
    assert second.context is not None
    assert init.context.namespaces is not None
    assert second.context.namespaces == init.context.namespaces
    here = os.stat("/proc/self/ns/pid").st_ino
    assert init.context.namespaces.pid not in (None, here)
    assert seen.one(Exit, second.task.tid).reaper == init.task
    assert seen.one(Exit, init.task.tid).reaper is None
    assert init.context.session_id == os.getsid(0)


def test_a_session_of_its_own(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "lives", "session"])
    leader = seen.one(Fork, seen.numbers[0])
    child = next(e for e in seen.events if isinstance(e, Fork) and e.parent == leader.task)
    assert leader.context is not None
    assert leader.context.session_id == os.getsid(0)
    assert child.context is not None
    assert child.context.session_id == child.context.process_group == leader.task.tid


def test_the_first_picture(capture: Capture, victims: Path) -> None:
    seen = capture([victims / "target"])
    picture = seen.one(Snapshot, os.getpid())
    given = picture.given
    assert picture.task.start_time is not None
    assert picture.task.start_time // ONE_TICK == int(stat_of(os.getpid())[19])
    assert picture.parent is not None
    assert picture.parent.tid == os.getppid()
    assert given["comm"] == Path("/proc/self/comm").read_text().rstrip("\n")
    assert given["cwd"] == os.getcwd()
    assert given["root"] == "/"
    assert given["executable"].path == os.readlink("/proc/self/exe")
    argv = Path("/proc/self/cmdline").read_bytes().decode("utf-8", "surrogateescape")
    assert "\0".join(given["argv"]) + "\0" == argv
    context = given["context"]
    assert (context.uid, context.euid, context.gid) == (os.getuid(), os.geteuid(), os.getgid())
    assert context.session_id == os.getsid(0)
    assert context.process_group == os.getpgrp()
    names = ("pid", "mnt", "net", "user", "uts", "ipc", "cgroup", "time")
    for name in names:
        assert getattr(context.namespaces, name) == os.stat(f"/proc/self/ns/{name}").st_ino
    capabilities = {
        key: int(value, 16)
        for key, _, value in (
            line.partition(":") for line in Path("/proc/self/status").read_text().splitlines()
        )
        if key.startswith("Cap")
    }
    assert context.capabilities.effective == capabilities["CapEff"]
    assert context.capabilities.permitted == capabilities["CapPrm"]
    assert context.capabilities.inheritable == capabilities["CapInh"]
    assert context.capabilities.bounding == capabilities["CapBnd"]
    assert context.capabilities.ambient == capabilities["CapAmb"]
    kthreadd = seen.one(Snapshot, 2)
    assert kthreadd.given["executable"] is None
    assert kthreadd.given["argv"] == ()
