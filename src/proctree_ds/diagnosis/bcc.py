"""Which package called `bcc` there is: iovisor's BCC from the system, or an unrelated one.

Neither is imported here: a package of that name from PyPI has nothing to do with BPF, and the real
one brings a compiler with it. BCC is tried in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from proctree_ds.diagnosis.checks import Check, Places
from proctree_ds.registry import danger_of

__all__ = ["bcc", "unrelated_bcc"]

_MARK: Final = "libbcc.py"
"""The file of iovisor's package that binds its library; no other package has it."""
_SECONDS: Final = 30
_TRY: Final = "import sys; sys.path.append(sys.argv[1]); import bcc; print(bcc.__version__)"


def bcc(places: Places) -> Check:
    """Whether iovisor's BCC can be imported from where the distribution puts it."""
    name = "BCC"
    package = places.system_packages / "bcc"
    if not (package / _MARK).is_file():
        return _missing(f"{package} is not there")
    if danger := danger_of(package):
        return _missing(f"{package} is not tried: {danger}")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY, str(places.system_packages)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _missing(f"{package} could not be tried: {type(error).__name__}")
    if done.returncode == 0:
        return Check(name, "ok", f"{package}, version {_text(done.stdout)}")
    last = _text(done.stderr).rpartition("\n")[2]
    return _missing(f"{package} cannot be imported: {last}")


def _missing(found: str) -> Check:
    return Check(
        "BCC",
        "missing",
        found,
        "nothing stands in where libbpf or the compiled programs are missing",
        "apt-get install python3-bpfcc; never the package `bcc` of PyPI, an unrelated one",
    )


def unrelated_bcc() -> Check | None:
    """A warning where a package of that name is there that is not iovisor's; None if none is."""
    for directory in dict.fromkeys(sys.path):
        package = Path(directory or os.curdir) / "bcc"
        try:
            is_other = (package / "__init__.py").is_file() and not (package / _MARK).is_file()
        except OSError:
            continue
        if is_other:
            return Check(
                "PyPI's bcc",
                "degraded",
                f"{package} is an unrelated package, not iovisor's BCC",
                "what imports bcc from this environment gets the wrong one",
                f"{sys.executable} -m pip uninstall bcc",
            )
    return None


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").strip()
