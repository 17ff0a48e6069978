"""`proctree doctor` on the real kernel: as root, as nobody, with parts of the machine hidden."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import environment, run

from proctree_ds.diagnosis import Places, find_pins, remove_pins
from proctree_ds.diagnosis.pins import pins
from proctree_ds.errors import ConfigurationError
from proctree_ds.sources.libbpf import load_library

HIDDEN = ["unshare", "--mount", "sh", "-e", "-c"]
"""Runs a shell in mounts of its own; what follows `"$@"` is the command."""

NEEDED = (
    "tp_btf/task_newtask",
    "tp_btf/sched_process_exec",
    "tp_btf/sched_process_exit",
    "tp_btf/task_rename",
    "tp_btf/cgroup_attach_task",
    "iter/task",
    "iter.s/task",
)


def verdicts(*arguments: str | Path, through: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
    """The exit status, and each check by its name; the last line under ''."""
    done = run("proctree", "doctor", "--output", "json", *arguments, through=through)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines.pop()
    return done.returncode, {"": last, **{line["name"]: line for line in lines}}


def test_what_works_here_is_tried_and_told(tracefs: None) -> None:
    status, found = verdicts()
    assert (status, found[""]) == (0, {"can_capture": True, "shortest_way": None})
    for name in ("kernel", "types (BTF)", "CAP_BPF", "ring", "capture"):
        assert (found[name]["verdict"], found[name]["is_required"]) == ("ok", True), found[name]
    for name in ("libbpf", "programs"):  # without them, BCC would do
        assert found[name]["verdict"] == "ok"
    for hook in (*NEEDED, "tracepoint/syscalls"):
        assert found[f"hook {hook}"]["verdict"] == "ok", found[f"hook {hook}"]


AS_NOBODY = textwrap.dedent(
    """
    import os
    import proctree_ds.diagnosis, proctree_ds.sinks.jsonl
    from proctree_ds.cli.query import main

    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    main(["doctor", "--output", "table"])
    """
)


def test_nobody_is_told_which_rights_are_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    told = {line.split("  ")[0] + " " + line.split()[1]: line for line in lines}
    assert "missing CAP_BPF" in told and "missing CAP_PERFMON" in told
    assert "missing ring" in told and "missing capture" in told
    hooks = [line for line in lines if " hook " in line]
    assert all(line.startswith("missing") for line in hooks)
    assert lines[-1].startswith("a live capture cannot run: run as root")


def test_the_rights_that_are_named_are_enough() -> None:
    """Of all rights, only these are left; root's files can be read without any."""
    keep = "-all,+bpf,+perfmon"
    status, found = verdicts(through=["setpriv", "--bounding-set", keep])
    assert (status, found[""]["can_capture"]) == (0, True)
    assert found["CAP_SYS_PTRACE"]["verdict"] == "missing"
    assert found["capture"]["verdict"] == "ok"


def test_rights_of_a_user_namespace_are_not_taken_for_rights() -> None:
    status, found = verdicts(through=["unshare", "--user", "--map-root-user"])
    assert status == 1
    assert "user namespace" in found["CAP_BPF"]["found"]
    assert "user namespace" in found[""]["shortest_way"]
    assert found["capture"]["verdict"] == "missing"


def test_a_kernel_that_does_not_describe_its_types() -> None:
    hide = 'mount -t tmpfs none /sys/kernel/btf; exec "$@"'
    status, found = verdicts(through=[*HIDDEN, hide, "sh"])
    assert (status, found["types (BTF)"]["verdict"]) == (1, "missing")
    assert "CONFIG_DEBUG_INFO_BTF" in found[""]["shortest_way"]
    assert found["hook tp_btf/sched_process_exec"]["verdict"] == "missing"
    assert "BTF" in found["hook tp_btf/sched_process_exec"]["found"]


LOOK = textwrap.dedent(
    """
    import msgspec, sys
    from proctree_ds.diagnosis import Places
    from proctree_ds.diagnosis.connector import process_events
    from proctree_ds.diagnosis.machine import bpf_file_system, pid_namespace

    checks = [bpf_file_system(Places()), pid_namespace(Places()), process_events()]
    sys.stdout.buffer.write(msgspec.json.encode({check.name: check for check in checks}))
    """
)


def look(*through: str) -> dict[str, Any]:
    """The checks of bpffs, of the pid namespace and of process events, made by another process."""
    command = [*through, sys.executable, "-c", LOOK]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment(), check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("prepare", "verdict", "remedy"),
    [
        ("umount /sys/fs/bpf || :", "missing", "mount -t bpf"),
        ("mount -t bpf none /sys/fs/bpf", "ok", None),
        (
            "mount -t bpf none /sys/fs/bpf; mount -o remount,bind,ro /sys/fs/bpf",
            "degraded",
            "remount,rw",
        ),
    ],
)
def test_bpffs_missing_and_read_only(prepare: str, verdict: str, remedy: str | None) -> None:
    check = look(*HIDDEN, f'{prepare}; exec "$@"', "sh")["bpffs"]
    assert check["verdict"] == verdict
    assert (remedy or "") in (check["remedy"] or "")


def test_namespaces_of_processes() -> None:
    here, inside = look(), look("unshare", "--pid", "--fork", "--mount-proc")
    for name, worse in (("pid namespace", "degraded"), ("process events", "missing")):
        assert (here[name]["verdict"], inside[name]["verdict"]) == ("ok", worse)


# --------------------------------------------------------------------------------------- pins


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Path]:
    """An empty directory on a bpffs of the test's own."""
    place = tmp_path / "bpffs"
    place.mkdir()
    subprocess.run(["mount", "-t", "bpf", "none", place], check=True)
    try:
        directory = place / "proctree"
        directory.mkdir(0o700)
        yield directory
    finally:
        subprocess.run(["umount", place], check=True)


def pin_a_map(path: Path) -> int:
    """Makes an array and pins it. The descriptor of it."""
    functions = load_library().functions
    functions.bpf_map_create.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32,
        ctypes.c_void_p,
    )  # fmt: skip
    fd: int = functions.bpf_map_create(2, b"pinned", 4, 8, 1, None)
    assert fd >= 0
    functions.bpf_obj_pin.argtypes = (ctypes.c_int, ctypes.c_char_p)
    assert functions.bpf_obj_pin(fd, os.fsencode(path)) == 0
    return fd


def test_pins_are_found_with_who_holds_them_and_are_removed(pinned: Path) -> None:
    fd = pin_a_map(pinned / "events")
    (pin,) = find_pins(pinned)
    assert (pin.name, pin.kind) == ("events", "map")
    holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd])
    os.close(fd)
    check = pins(Places(), pinned)
    assert (check.verdict, f"cat ({holder.pid})" in check.found) == ("ok", True), check
    holder.communicate()
    check = pins(Places(), pinned)
    assert (check.verdict, "--unpin" in (check.remedy or "")) == ("degraded", True), check
    done = run("proctree", "doctor", "--unpin", "--pins", pinned)
    assert (done.returncode, "1 pin removed" in done.stderr) == (0, True)
    assert not pinned.exists()


def test_the_name_of_a_pin_does_not_act_on_a_terminal(pinned: Path) -> None:
    os.close(pin_a_map(pinned / "x\x1b[2J\u202e"))
    done = run("proctree", "doctor", "--output", "table", "--pins", pinned)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert r"x\x1b[2J\u202e" in done.stdout
    lines = done.stdout.splitlines()  # one for each check, and the conclusion
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "degraded", "missing"}
    assert lines[-1] == "a live capture can run"
    assert remove_pins(pinned) == ["x\x1b[2J\u202e"]


def test_what_others_pinned_is_left_alone(pinned: Path) -> None:
    os.close(pin_a_map(pinned / "theirs"))
    os.chown(pinned, 65534, 65534)
    with pytest.raises(ConfigurationError, match="65534"):
        find_pins(pinned)
    assert pins(Places(), pinned).verdict == "degraded"
    done = run("proctree", "doctor", "--unpin", "--pins", pinned)
    assert (done.returncode, "belongs to user 65534" in done.stderr) == (1, True)
    os.chown(pinned, 0, 0)
    pinned.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        remove_pins(pinned)
    pinned.chmod(0o700)
    assert [pin.name for pin in find_pins(pinned)] == ["theirs"]
