"""Builds the kernel programs into a wheel, where the tools for it are there.

Without clang the package still installs and everything but the eBPF source works; that source
says then what is missing. A wheel with the compiled object is for this architecture, one without
it for any.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECT = Path("src/proctree_ds/_bpf/proctree.bpf.o")
TOOLS = ("make", "clang", "llvm-strip")


class CompileKernelPrograms(BuildHookInterface):  # type: ignore[type-arg]
    """Runs `make -C bpf`, and takes its object into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are chosen; `version` tells editable installs."""
        problem = self._compile()
        if problem is not None:
            self.app.display_warning(f"the eBPF source is left out of this build: {problem}")
        elif version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["artifacts"].append(str(OBJECT))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"

    def _compile(self) -> str | None:
        """What stood in the way of an object, or None when there is one."""
        root = Path(self.root)
        if not (root / "bpf").is_dir():
            return "there is no bpf/ beside pyproject.toml"
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            return f"no {', '.join(missing)} (Debian: apt install make clang llvm libbpf-dev)"
        make = subprocess.run(
            ["make", "-C", "bpf"], cwd=root, capture_output=True, text=True, check=False
        )
        if make.returncode != 0 or not (root / OBJECT).is_file():
            return f"make -C bpf failed:\n{make.stderr.strip()}"
        return None
