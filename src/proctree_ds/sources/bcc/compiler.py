"""Compiles bpf/ by BCC for the kernel that runs. The result is instructions, not yet linked.

No kernel headers are needed: bpf/vmlinux.h names the types that are touched, and the kernel's BTF
tells where their fields lie.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proctree_ds.errors import SourceUnavailable
from proctree_ds.sources.bcc import child
from proctree_ds.sources.bcc.btf import Btf, BtfError, Kind
from proctree_ds.sources.bcc.layout import kernel_types, types_named_in
from proctree_ds.sources.loading import MissingHere, require_types

__all__ = ["Compiled", "Subprogram", "compile_programs"]

_INSTALLED: Final = Path(__file__).parents[2] / "_bpf" / "source"
_CHECKOUT: Final = Path(__file__).parents[4] / "bpf"
_MAIN: Final = "proctree.bpf.c"

_SEARCH: Final = ("/usr/lib/python3/dist-packages",)
"""Where distributions put BCC's Python package; a virtual environment does not look there."""
_SECONDS: Final = 60.0
"""How long the compiler may take; it takes less than one."""
_ERRORS: Final = 3
"""How many of the compiler's complaints an error carries."""

_PROGRAM: Final = re.compile(r'^SEC\("([\w./]+)"\)\nint (?:BPF_PROG\()?(\w+)\b', re.MULTILINE)
_SUBPROGRAM: Final = re.compile(
    r"^(GLOBAL_FUNCTION|LOCAL_FUNCTION|CALLBACK)\(\w+, (\w+), \((.*)\)\)$", re.MULTILINE
)
_MAP: Final = re.compile(r"^(?:RING|TABLE)\((\w+), ", re.MULTILINE)

_FLAGS: Final = (
    "-DPT_BCC",
    "-g0",  # a third of the time goes into what a debugger would like to know
    # BCC includes these two by itself. They need kernel headers, and nothing of them is used.
    "-D__LINUX_BPF_H__",
    "-D_UAPI__LINUX_BPF_H__",
    "-D__BPF_HELPERS_H",
    # The line about the licence that it adds is of no account either: see linker.py.
    "-DBCC_SEC(name)=__attribute__((section(name)))",
)


@dataclass(frozen=True, slots=True)
class Subprogram:
    """A function that programs call."""

    is_global: bool
    parameters: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """What BCC made of the sources.

    The place of a name in `maps` and `subprograms` is the number that stands for it in the code.
    """

    functions: Mapping[str, bytes]
    programs: Mapping[str, str]
    """Where each program belongs, as its section says."""
    targets: Mapping[str, int]
    """The BTF id of what a program is attached to; of tracepoints there is none."""
    maps: Sequence[str]
    subprograms: Mapping[str, Subprogram]


def compile_programs(
    btf_path: Path, sources: Path | None = None, search: Sequence[str] = _SEARCH
) -> Compiled:
    """Compiles the sources for the kernel whose BTF is at `btf_path`.

    BCC is looked for in the directories `search` first. Raises `SourceUnavailable`, which says
    what went wrong and what to install.
    """
    require_types(btf_path)
    folder = sources or next((p for p in (_INSTALLED, _CHECKOUT) if (p / _MAIN).exists()), None)
    if folder is None:
        raise SourceUnavailable(
            f"BCC finds nothing to compile: {_INSTALLED / _MAIN} is missing. Install proctree-ds"
            " again."
        )
    text = "".join(path.read_text() for path in sorted(folder.glob("*.bpf.[ch]")))
    programs = {name: section for section, name in _PROGRAM.findall(text)}
    subprograms = {
        name: Subprogram(kind == "GLOBAL_FUNCTION", 1 + parameters.count(","))
        for kind, name, parameters in _SUBPROGRAM.findall(text)
    }
    maps = _MAP.findall(text)
    header = (folder / "vmlinux.h").read_text()
    targets = {name: _target(section) for name, section in programs.items()}
    try:
        btf = Btf(
            btf_path.read_bytes(),
            types_named_in(header) | {target[1] for target in targets.values() if target},
        )
        types = kernel_types(header, btf)
    except (OSError, BtfError) as error:
        raise SourceUnavailable(
            f"this kernel's description of its types cannot be read ({btf_path}: {error}). Use"
            " another source."
        ) from None
    numbers = [
        f"-DNUMBER_{name}={n}" for names in (maps, subprograms) for n, name in enumerate(names)
    ]
    functions = _run_compiler(folder, types, numbers, search)
    wanted = {*programs, *(f"body_{name}" for name in subprograms), *(f"define_{n}" for n in maps)}
    if missing := wanted - functions.keys():
        raise _cannot_compile(f"nothing came of {', '.join(sorted(missing)[:_ERRORS])}")
    ids = {name: btf.find(*target) or 0 for name, target in targets.items() if target}
    return Compiled(functions, programs, ids, maps, subprograms)


def _target(section: str) -> tuple[Kind, str] | None:
    """What to look up in the kernel's BTF for a program of this section."""
    kind, _, name = section.partition("/")
    if kind == "tp_btf":
        return Kind.TYPEDEF, f"btf_trace_{name}"
    if kind.startswith("iter"):
        return Kind.FUNCTION, f"bpf_iter_{name}"
    return None


def _run_compiler(
    folder: Path, types: str, numbers: Sequence[str], search: Sequence[str]
) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="proctree-bcc-") as directory:
        kernel = Path(directory)
        # BCC takes this for the kernel's headers. It includes the one file, and asks for no other.
        (kernel / "include" / "linux").mkdir(parents=True)
        (kernel / "include" / "linux" / "kconfig.h").touch()
        (kernel / "vmlinux-here.h").write_text(types)
        result = kernel / "functions.json"
        task = {
            "source": f'#include "{folder / _MAIN}"\n',
            "flags": [*_FLAGS, *numbers, f"-I{kernel}"],
            "search": list(search),
            "result": str(result),
        }
        try:
            done = subprocess.run(
                [sys.executable, "-I", child.__file__],
                input=json.dumps(task),
                capture_output=True,
                text=True,
                errors="replace",
                env={**os.environ, "BCC_KERNEL_SOURCE": str(kernel)},
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceUnavailable(
                f"BCC cannot be run in a process of its own ({error})."
            ) from None
        if done.returncode != 0:
            raise _failure(done.returncode, done.stderr)
        functions: dict[str, str] = json.loads(result.read_text())
    return {name: bytes.fromhex(code) for name, code in functions.items()}


def _failure(status: int, said: str) -> SourceUnavailable:
    if status == child.MISSING:
        return MissingHere(
            "BCC is not there"
            + (f" ({said.strip()})" if said.strip() else "")
            + ". Install it from the distribution (Debian, Ubuntu: python3-bpfcc; Fedora:"
            " python3-bcc); the package called bcc on PyPI is another one."
        )
    if status == child.ANOTHER:
        return MissingHere(
            f"the Python package bcc here is not iovisor's BCC ({said.strip()}): the one on PyPI"
            " only has the same name. Uninstall it, and install BCC from the distribution (Debian,"
            " Ubuntu: python3-bpfcc; Fedora: python3-bcc)."
        )
    errors = [line.strip() for line in said.splitlines() if "error: " in line]
    if not errors:
        errors = said.strip().splitlines()[-1:] or [f"exit status {status}"]
    return _cannot_compile("; ".join(errors[:_ERRORS]))


def _cannot_compile(reason: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"BCC cannot compile the kernel programs ({reason}). Use the libbpf loader, or another"
        " version of BCC; 0.26 was tried."
    )
