"""Real work and storms, bounded in time and number: `python load.py SECONDS DIRECTORY CGROUP`.

Builds, a configure script, Python with subprocesses and pools, stress-ng, and processes that change
all that they can (changes.c), side by side and again and again until the time is over. DIRECTORY is
where files may be made; CGROUP, a directory of the followed hierarchy with two others in it, a and
b, is where it runs.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

C_FILES: Final = 24
CONFIGURE_CHECKS: Final = 24
POOL_COMMANDS: Final = 40
CHANGING_LIVES: Final = 24
THREADS: Final = (
    "import os, threading; [threading.Thread(target=os.getppid).start() for _ in range(20)]"
)
PROCESSES: Final = (
    "import multiprocessing, os\n"
    "with multiprocessing.get_context('fork').Pool(3) as pool: pool.map(os.nice, [0] * 30)"
)
TERMINAL: Final = "import pty; pty.spawn(['sh', '-c', 'sleep 0.2; sleep 0.1 & wait'])"
OVERTIME: Final = 90
"""Seconds after its time at which the load is ended, should anything of it hang."""
NOBODY: Final = 65_534
NICE: Final = 5
"""Whoever watches gets to see more of it when the load stands back a little."""
STORM_SECONDS: Final = 1
STRESS: Final = (
    "--vfork 2 --vfork-ops 20000",
    "--fork 2 --fork-ops 4000",
    "--pthread 2 --pthread-ops 8000 --pthread-max 64",
    "--exec 1 --exec-ops 400 --exec-max 8",
    "--clone 1 --clone-ops 4000 --clone-max 32",
    "--daemon 1 --daemon-ops 60",
    "--zombie 1 --zombie-ops 2000 --zombie-max 32",
    "--session 1 --session-ops 500",
    "--spawn 1 --spawn-ops 300",
    "--unshare 1 --unshare-ops 4",
    "--io-uring 1 --io-uring-ops 500",
)
"""Stressors, after how many operations they stop, and how many tasks there are at a time."""

_HERE: Final = Path(__file__).parent


class Load:
    """The streams of work, each in a thread, until `deadline` (monotonic seconds)."""

    def __init__(self, seconds: float, directory: Path, cgroup: Path) -> None:
        self.deadline = time.monotonic() + seconds
        self.directory = directory
        self.cgroup = cgroup
        self.numbers = random.Random(1)

    def run(self) -> None:
        """Every stream at least once."""
        self.prepare()
        streams = [self.build_and_configure, self.pools, self.storms, self.changes, self.sessions]
        threads = [threading.Thread(target=self.again, args=(stream,)) for stream in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def again(self, stream: Callable[[], None]) -> None:
        stream()
        while not self.is_over:
            stream()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def command(self, *words: str | Path, seconds: float = 60, **options: object) -> None:
        """Run to the end, however it ends."""
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            **options,  # type: ignore[call-overload]
        ) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    # --------------------------------------------------------------------------------- streams

    def prepare(self) -> None:
        sources = self.directory / "build"
        sources.mkdir(exist_ok=True)
        names = [f"part{i}" for i in range(C_FILES)]
        for i, name in enumerate(names):
            (sources / f"{name}.c").write_text(
                f"#include <stdio.h>\n#include <stdlib.h>\nint {name}(int x)\n"
                f'{{\n\tprintf("%d\\n", x);\n\treturn x * {i};\n}}\n'
            )
        objects = " ".join(f"{name}.o" for name in names)
        (sources / "Makefile").write_text(
            f"all: program\nprogram: {objects}\n\tgcc -shared -o $@ $^\n"
            "%.o: %.c\n\tgcc -O2 -fPIC -c -o $@ $<\nclean:\n\trm -f *.o program\n"
        )
        checks = "".join(
            f'printf "int main(void) {{ return {i}; }}\\n" > conftest{i}.c\n'
            f"if gcc -o conftest{i} conftest{i}.c 2>/dev/null; then ./conftest{i}; fi\n"
            f'answer=`echo no-{i} | sed -e s/no/yes/ | tr a-z A-Z`; test -n "$answer" || exit 1\n'
            f"expr {i} + 1 >/dev/null; (cd /usr && /bin/pwd | cat >/dev/null); rm -f conftest{i}*\n"
            for i in range(CONFIGURE_CHECKS)
        )
        (self.directory / "configure").write_text("#!/bin/sh\n" + checks)
        (self.directory / "configure").chmod(0o755)
        changes = self.directory / "changes"
        subprocess.run(
            ["gcc", "-O1", "-static", "-pthread", "-o", changes, _HERE / "changes.c"], check=True
        )
        self.directory.chmod(0o777)

    def build_and_configure(self) -> None:
        self.command("make", "-C", "build", "-j4", "all")
        self.command("make", "-C", "build", "clean")
        self.command("./configure")

    def pools(self) -> None:
        with ThreadPoolExecutor(6, thread_name_prefix="pool") as pool:
            for i in range(POOL_COMMANDS):
                pool.submit(self.command, "/bin/sh", "-c", f"/bin/true; exit {i}")
        self.command(sys.executable, "-c", THREADS)
        self.command(sys.executable, "-c", PROCESSES)

    def storms(self) -> None:
        for stressor in STRESS:
            limit = ("--timeout", f"{STORM_SECONDS}s")
            # Some refuse to run as root.
            user = NOBODY if "exec" in stressor or "spawn" in stressor else None
            command = ("stress-ng", "--quiet", "--keep-name", *limit, *stressor.split())
            self.command(*command, user=user)

    def changes(self) -> None:
        seed = str(self.numbers.randrange(1 << 31))
        self.command(
            self.directory / "changes", seed, str(CHANGING_LIVES), self.directory, self.cgroup
        )

    def sessions(self) -> None:
        self.command("unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc",
                     "sh", "-c", "sh -c 'sleep 0.1; exit 4' & ps; wait")  # fmt: skip
        self.command("unshare", "--user", "--map-root-user", "--net", "sleep", "0.1")
        self.command("setsid", "--wait", "sh", "-c", "cd /usr; sleep 0.1")
        self.command(sys.executable, "-c", TERMINAL)


if __name__ == "__main__":
    (Path(sys.argv[3]) / "cgroup.procs").write_text("0")
    os.nice(NICE)
    signal.alarm(int(float(sys.argv[1])) + OVERTIME)
    Load(float(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).run()
