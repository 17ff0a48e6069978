"""Execution from a place where no program lives: scratch directories and hidden ones.

Fires when the executable, or the `#!` script, lies in /dev/shm, /run/shm, /tmp or /var/tmp, or when
its name, or that of a directory on the way to it, begins with a dot.

Known false positives, and what is let pass:
- Tools of developers keep programs in hidden directories of their own. Those in `_TOOL_DIRECTORIES`
  (`~/.cargo`, `~/.local`, `.venv`, `.git/hooks`, ...) are let pass, unless they lie in a scratch
  directory. An intruder who puts a file there is not seen by this signature.
- Builds execute what they just made below /tmp. This is let pass for the directories in
  `_SCRATCH_OF_TOOLS`, if the tool that makes them is among the nearest ancestors.
- Installers that unpack themselves into /tmp, and `configure` scripts run there, do fire.
"""

from __future__ import annotations

import posixpath
from typing import Final

from proctree_ds.datasource import DataSource
from proctree_ds.errors import DataNotFound
from proctree_ds.signature import (
    EventSelector,
    Finding,
    Signature,
    SignatureContext,
    SignatureMetadata,
)
from proctree_ds.signature_event import ExecEvent
from proctree_ds.signatures._programs import family, file_name, words

__all__ = ["OddLocation"]

_SCRATCH: Final = ("/tmp/", "/dev/shm/", "/var/tmp/", "/run/shm/")  # noqa: S108 - what is looked for
_TOOL_DIRECTORIES: Final = words(
    ".asdf .bazel .bin .bun .cabal .cache .cargo .conda .config .cursor-server .deno .direnv "
    ".dotnet .fzf .gem .git .ghcup .gradle .husky .jenv .julia .krew .linuxbrew .local .m2 "
    ".mamba .micromamba .mise .nix-profile .nodenv .nox .npm .npm-global .nvm .oh-my-zsh "
    ".opam .pdm .phpenv .pixi .pnpm-store .pre-commit .pub-cache .pyenv .rbenv .rustup .rvm "
    ".rye .sdkman .stack .steam .tfenv .tox .uv .venv .virtualenvs .volta .vscode .vscode- "
    "server .yarn"
)
_SCRATCH_OF_TOOLS: Final = (
    ("/tmp/go-build", frozenset({"go"})),  # noqa: S108
    ("/tmp/pip-", frozenset({"python", "pip"})),  # noqa: S108
    ("/tmp/cargo-install", frozenset({"cargo"})),  # noqa: S108
    ("/var/tmp/rpm-tmp", frozenset({"rpm", "dnf", "yum", "zypper", "rpm-ostree"})),  # noqa: S108
)
_NEAREST: Final = 3


class OddLocation(Signature):
    """A program or script is executed from a scratch or a hidden directory."""

    metadata = SignatureMetadata(
        id="PT-ODD-LOCATION",
        version="1",
        name="Execution from a scratch or hidden directory",
        description="A program or a script was executed from /tmp, /dev/shm, /var/tmp or from a "
        "hidden directory.",
        severity="medium",
        techniques=("T1564.001", "T1105"),
        tags=("defense-evasion", "execution"),
    )
    selectors = (EventSelector(event="exec"),)
    tree: DataSource

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("proctree", "process_tree")

    def on_event(self, event: ExecEvent) -> Finding | None:
        file = event.executable
        path = None if file is None else file.path
        # A memfd's name is made up, and has a signature of its own.
        if path is not None and file is not None and not file.is_memfd:
            finding = self._judge(event, path)
            if finding is not None:
                return finding
        script = event.script
        if script is None:
            return None
        if not script.startswith("/"):
            script = posixpath.join(event.cwd or "/", script)
        return self._judge(event, posixpath.normpath(script))

    def _judge(self, event: ExecEvent, path: str) -> Finding | None:
        is_usual = path.startswith("/usr/")  # the quick way out for most of them
        if not is_usual and path.startswith(_SCRATCH):
            for prefix, tools in _SCRATCH_OF_TOOLS:
                if path.startswith(prefix) and self._is_below(event, tools):
                    return None
            kind = "scratch directory"
        elif "/." in path and not self._is_tools_own(path):
            kind = "hidden"
        else:
            return None
        return Finding(data={"kind": kind, "path": path, "command": event.argv})

    def _is_tools_own(self, path: str) -> bool:
        *directories, name = path.split("/")
        if name.startswith("."):
            return False
        hidden = [directory for directory in directories if directory.startswith(".")]
        if hidden == [".bin"]:
            return "node_modules" in directories
        return all(directory in _TOOL_DIRECTORIES for directory in hidden)

    def _is_below(self, event: ExecEvent, tools: frozenset[str]) -> bool:
        try:
            lineage = self.tree.lineage(event.process_entity_id, event.time, max_depth=_NEAREST)
        except DataNotFound:
            return False
        for ancestor in lineage[1:]:
            file = ancestor.execution_binary
            name = file_name(file.path) if file is not None else ancestor.name
            if name is not None and family(name) in tools:
                return True
        return False
