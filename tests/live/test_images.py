"""What a process executes, from which file, with which arguments, as whom."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctree_ds.model import Exec, Exit, FileInfo, Fork, Image, State
from proctree_ds.sources.ebpf import DEFAULT_ENV_NAMES

from .conftest import Capture, Captured

ARGV_BYTES = 7168
"""PT_ARGV_BYTES."""


def state_of(seen: Captured, pid: int | None = None) -> State:
    facts = seen.last_exec(pid or seen.pid).facts
    assert isinstance(facts, State)
    return facts


def executable_of(image: Image) -> FileInfo:
    assert image.executable is not None
    return image.executable


@pytest.fixture
def target(victims: Path, tmp_path: Path) -> Path:
    """A copy of the target that a test may spoil."""
    copy = tmp_path / "copy"
    shutil.copy(victims / "target", copy)
    return copy


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs below the test's directory."""
    place = tmp_path / "mounted" / "here"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_the_facts_of_the_file(capture: Capture, target: Path) -> None:
    target.chmod(0o751)
    os.chown(target, 1234, 0)
    os.link(target, target.with_name("second"))
    os.utime(target, ns=(1, 1_234_567_890_123_456_789))
    seen = capture([target])
    file = executable_of(state_of(seen).image)
    status = target.stat()
    assert file == FileInfo(
        path=str(target),
        device=status.st_dev,
        inode=status.st_ino,
        mode=status.st_mode,
        owner=1234,
        size=status.st_size,
        ctime=status.st_ctime_ns,
        mtime=1_234_567_890_123_456_789,
        link_count=2,
        is_memfd=False,
        is_deleted=False,
        on_upper_layer=False,
    )


def test_the_dynamic_loader(capture: Capture, target: Path) -> None:
    seen = capture([target])
    loader = state_of(seen).image.interpreter
    assert loader is not None
    assert loader.path is not None
    maps = Path("/proc/self/maps").read_text()
    assert loader.path in maps
    assert loader.inode == os.stat(loader.path).st_ino


def test_a_static_program_has_no_loader(capture: Capture, victims: Path, tmp_path: Path) -> None:
    source = Path(__file__).parent / "victims" / "target.c"
    static = tmp_path / "static"
    subprocess.run(["gcc", "-static", "-o", static, source], check=True)
    assert state_of(capture([static])).image.interpreter is None


def test_the_layers_of_an_overlay(capture: Capture, victims: Path, tmp_path: Path) -> None:
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for layer in layers.values():
        layer.mkdir()
    for name in ("kept", "changed"):
        shutil.copy(victims / "target", layers["lower"] / name)
    places = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    merged = layers["merged"]
    subprocess.run(["mount", "-t", "overlay", "-o", places, "none", merged], check=True)
    try:
        (merged / "changed").chmod(0o700)
        kept = executable_of(state_of(capture([merged / "kept"])).image)
        changed = executable_of(state_of(capture([merged / "changed"])).image)
        assert (kept.path, changed.path) == (str(merged / "kept"), str(merged / "changed"))
        assert kept.on_upper_layer is False
        assert changed.on_upper_layer is True
        assert kept.inode == (merged / "kept").stat().st_ino
    finally:
        subprocess.run(["umount", merged], check=True)


def test_argv_as_the_kernel_passed_it(capture: Capture, target: Path) -> None:
    argv = ["other name", "0", "", "a\nb\t'\"", "ü", "\udcff\udc80"]
    seen = capture(argv, executable=target)
    image = state_of(seen).image
    assert image.argv == tuple(argv)
    assert image.argv_truncated is False
    assert image.script is None
    assert state_of(seen).comm == "copy"


def test_argv_that_is_empty(capture: Capture, victims: Path, target: Path) -> None:
    seen = capture([victims / "images", "empty_argv", target])
    # The kernel passes one empty string since 5.18 (fs/exec.c, do_execveat_common()).
    assert state_of(seen).image.argv in ((), ("",))
    assert executable_of(state_of(seen).image).path == str(target)


def test_argv_longer_than_the_limit(capture: Capture, target: Path) -> None:
    seen = capture([target, "0", "x" * ARGV_BYTES])
    image = state_of(seen).image
    assert image.argv_truncated is True
    assert image.argv is not None
    assert image.argv[:2] == (str(target), "0")
    assert sum(len(argument) + 1 for argument in image.argv) == ARGV_BYTES + 1
    assert set(image.argv[2]) == {"x"}
    assert seen.counters["truncated_argv"] >= 1


def test_selected_environment(capture: Capture, target: Path) -> None:
    env = {
        "A": "",
        "B": "=LD_AUDIT=/not/a/variable",
        "LD_PRELOAD": "",
        "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22",
        "SECRET": "LD_PRELOAD=no",
        "SSH_CONNECTIONS": "no",
        "SSH_CONNECT": "no",
        "HISTFILE": "/dev/null",
        "HOME": "/",
    }
    image = state_of(capture([target], env=env)).image
    assert image.env == {
        "LD_PRELOAD": "",
        "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22",
        "HISTFILE": "/dev/null",
    }
    assert image.env_truncated is False


def test_environment_of_choice(capture: Capture, target: Path) -> None:
    env = {"MINE": "1", "M": "2", "LD_AUDIT": "3", "A_NAME_OF_THIRTY_ONE_CHARACTERS": "4"}
    names = ("MINE", "M", "A_NAME_OF_THIRTY_ONE_CHARACTERS")
    image = state_of(capture([target], env=env, env_names=names)).image
    assert image.env == {name: env[name] for name in names}


@pytest.mark.parametrize("shift", range(8))
def test_every_alignment_of_a_variable(capture: Capture, target: Path, shift: int) -> None:
    env = {"X": "." * shift, "SUDO_USER": "me", "Y": "", "Z": "", "BASH_ENV": "b"}
    assert state_of(capture([target], env=env)).image.env == {"SUDO_USER": "me", "BASH_ENV": "b"}


def test_no_value_is_read_as_a_variable(capture: Capture, target: Path) -> None:
    """Longer than any limit, and at every offset something that looks like a variable."""
    decoy = "LD_PRELOAD=/evil.so " * 2000
    image = state_of(capture([target], env={"DECOY": decoy, "LD_AUDIT": "late"})).image
    assert image.env == {}
    assert image.env_truncated is True


def test_a_value_that_is_too_long(capture: Capture, target: Path) -> None:
    image = state_of(capture([target], env={"LD_PRELOAD": "p" * 5000, "SUDO_USER": "me"})).image
    assert image.env is not None
    assert image.env["SUDO_USER"] == "me"
    assert image.env["LD_PRELOAD"] == "p" * len(image.env["LD_PRELOAD"])
    assert image.env_truncated is True


def test_nothing_is_left_from_an_environment_before(
    capture: Capture, victims: Path, target: Path
) -> None:
    """Two programs run one after the other, mostly on the same CPU, the second one with less."""
    first = dict.fromkeys(DEFAULT_ENV_NAMES, "x" * 100)
    for _ in range(4):
        capture([target], env=first)
        assert state_of(capture([target], env={"Q": "q"})).image.env == {}


def test_vfork(capture: Capture, victims: Path, target: Path) -> None:
    seen = capture([victims / "images", "vfork", target, "4"])
    (child,) = seen.numbers
    fork, execute, exit_ = seen.one(Fork, child), seen.one(Exec, child), seen.one(Exit, child)
    assert fork.task == execute.task == exit_.task
    assert fork.time < execute.time < exit_.time
    assert exit_.exit_code == 4


def test_memfd(capture: Capture, victims: Path, target: Path) -> None:
    file = executable_of(state_of(capture([victims / "images", "memfd", target])).image)
    assert file.path == "/memfd:hidden (deleted)"
    assert file.is_memfd is True
    assert file.is_deleted is False
    assert file.link_count == 0
    assert file.size == target.stat().st_size


def test_an_unlinked_file(capture: Capture, victims: Path, target: Path) -> None:
    file = executable_of(state_of(capture([victims / "images", "unlinked", target])).image)
    assert not target.exists()
    assert file.path == str(target)
    assert file.is_deleted is True
    assert file.is_memfd is False
    assert file.link_count == 0


@pytest.mark.parametrize(
    "name", ["x (deleted)", "memfd:x", "memfd:x (deleted)", "new\nline", "\udcff"]
)
def test_names_that_mean_nothing(capture: Capture, target: Path, name: str) -> None:
    odd = target.rename(target.with_name(name))
    file = executable_of(state_of(capture([odd])).image)
    assert file.path == str(odd)
    assert file.is_deleted is False
    assert file.is_memfd is False


def test_a_descriptor_names_the_real_file(capture: Capture, victims: Path, target: Path) -> None:
    image = state_of(capture([victims / "images", "descriptor", target])).image
    assert executable_of(image).path == str(target)
    assert image.script is None


def test_a_script(capture: Capture, target: Path) -> None:
    script = target.with_name("script.sh")
    script.write_text("#!/bin/sh -u\nexit 7\n")
    script.chmod(0o755)
    seen = capture(["zero", "one"], executable=script)
    state = state_of(seen)
    shell = os.path.realpath("/bin/sh")
    assert executable_of(state.image).path == shell
    assert state.image.interpreter is state.image.executable
    assert state.image.script == str(script)
    assert state.image.argv == ("/bin/sh", "-u", str(script), "one")
    assert state.comm == "script.sh"
    assert seen.status == 7


def test_a_relative_script(capture: Capture, target: Path) -> None:
    script = target.with_name("script.sh")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    state = state_of(capture(["./script.sh"], cwd=script.parent))
    assert state.image.script == str(script)
    assert state.cwd == str(script.parent)


def test_the_working_directory_across_mounts(
    capture: Capture, victims: Path, mounted: Path
) -> None:
    inner = mounted / "a" / "b"
    inner.mkdir(parents=True)
    copy = shutil.copy(victims / "target", inner / "copy")
    state = state_of(capture([copy], cwd=inner))
    assert state.cwd == str(inner)
    assert state.root == "/"
    assert executable_of(state.image).path == str(inner / "copy")
    assert executable_of(state.image).device == inner.stat().st_dev


def test_the_root_directory(capture: Capture, victims: Path, tmp_path: Path) -> None:
    source = Path(__file__).parent / "victims" / "target.c"
    (tmp_path / "jail").mkdir()
    subprocess.run(["gcc", "-static", "-o", tmp_path / "jail" / "in", source], check=True)
    seen = capture(["chroot", tmp_path / "jail", "/in"])
    state = state_of(seen)
    assert state.root == str(tmp_path / "jail")
    assert state.cwd == str(tmp_path / "jail")
    assert executable_of(state.image).path == str(tmp_path / "jail" / "in")


def test_a_path_longer_than_the_limit(capture: Capture, victims: Path, tmp_path: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    try:
        for _ in range(25):  # longer than PATH_MAX
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        shutil.copy(victims / "target", "copy")
        seen = capture(["./copy"])
    finally:
        os.fchdir(before)
        os.close(before)
    state = state_of(seen)
    file = executable_of(state.image)
    assert file.path_truncated is True
    assert file.path is not None
    assert file.path.endswith("/" + "d" * 200 + "/copy")
    assert not file.path.startswith("/")
    assert state.cwd is None
    assert seen.counters["truncated_executable"] >= 1
    assert seen.counters["truncated_cwd"] >= 1


def test_a_setuid_program(capture: Capture, victims: Path) -> None:
    program = victims / "setuid"
    shutil.copy(victims / "target", program)
    program.chmod(0o4755)
    seen = capture([victims / "images", "user", program])
    context = state_of(seen).context
    assert (context.uid, context.euid, context.suid) == (1000, 0, 0)
    assert (context.gid, context.egid) == (1000, 1000)
    mode = executable_of(state_of(seen).image).mode
    assert mode is not None
    assert mode & stat.S_ISUID


def test_an_exec_by_a_thread_that_does_not_lead(
    capture: Capture, victims: Path, target: Path
) -> None:
    seen = capture([victims / "images", "thread", target])
    sleeper, thread = seen.numbers
    execute = seen.last_exec(seen.pid)
    assert execute.old_tid == thread
    assert execute.task == seen.one(Fork, seen.pid).task
    assert executable_of(state_of(seen).image).path == str(target)
    assert seen.one(Exit, sleeper).leader == execute.task
    assert seen.of(Exit, thread) == []
    exits = seen.of(Exit, seen.pid)
    assert [e.group_exit for e in exits] == [False, True]
    assert exits[0].time < execute.time < exits[1].time


def test_a_cgroup_of_its_own(capture: Capture, victims: Path) -> None:
    """In the hierarchy that the source reads: the one in which this process has a path."""
    mount = cgroup_here()
    container = "docker-" + "ab" * 32 + ".scope"
    place = mount / f"proctree-test-{os.getpid()}" / container
    place.mkdir(parents=True)
    try:
        enter = f"echo $$ > {place}/cgroup.procs; exec {victims / 'target'}"
        state = state_of(capture(["/bin/sh", "-c", enter]))
        assert state.context.cgroup == f"/{place.relative_to(mount)}"
        assert state.context.cgroup_id == place.stat().st_ino
        assert state.context.container_id == "ab" * 32
    finally:
        place.rmdir()
        place.parent.rmdir()


def cgroup_here() -> Path:
    """Where the hierarchy in use on this machine is mounted."""
    for kind, option in (("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "pids")):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            name, _, options = rest.split(" ", 2)
            place = Path(fields.split(" ")[4])
            if name == kind and (not option or option in options.split(",")):
                if any(child.is_dir() for child in place.iterdir()):
                    return place
    pytest.fail("no cgroup hierarchy with a cgroup in it")
