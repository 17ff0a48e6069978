"""Answers to a person or a program: found in a history, and printed as it was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proctree_ds.cli.console import table_width
from proctree_ds.errors import NeverSeen

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo
    from proctree_ds.cli.console import Console
    from proctree_ds.cli.history import History
    from proctree_ds.datasource import DataSource
    from proctree_ds.sinks.tree_view import Line
    from proctree_ds.users import UserNames

__all__ = ["Asked"]

_PIPE_WIDTH: Final = 1_000
"""Columns of a table that goes to no terminal: wide enough to cut almost nothing."""


class Asked(msgspec.Struct, frozen=True):
    """A history, the instant asked about (epoch ns), and how to answer (None: as fits).

    `users` has the names of the users where the history is of this machine and boot.
    """

    history: History
    time: int
    output: str | None
    console: Console
    users: UserNames | None = None

    # ------------------------------------------------------------------------------- finding

    @property
    def answers(self) -> DataSource:
        """Where the answers come from."""
        return self.history.data_source

    def find(self, pid: int | None, entity_id: int | None) -> ProcessInfo:
        """The process that is meant. Raises `DataNotFound`."""
        if entity_id is not None:
            return self.answers.process(entity_id, self.time)
        assert pid is not None
        return self.answers.pid(pid, self.time)

    def processes(self, with_exited: bool) -> list[ProcessInfo]:
        """The processes at the instant, with a word about those that a limit has taken."""
        picture = self.history.picture(self.time, with_exited=with_exited)
        if picture.dropped:
            self.console.warn(
                f"left out: {picture.dropped} processes whose state at that time was dropped;"
                " a larger --proctree process-cache= keeps more"
            )
        return picture.processes

    def one(
        self, processes: Sequence[ProcessInfo], pid: int | None, entity_id: int | None
    ) -> ProcessInfo:
        """The one of `processes` that is meant: of a pid, its last holder. Raises `NeverSeen`."""
        for info in reversed(processes):
            if info.pid == pid or info.entity_id == entity_id:
                return info
        raise NeverSeen(
            f"no process with {f'pid {pid}' if entity_id is None else f'the id {entity_id:#x}'}"
            " lived at that time"
        )

    # ------------------------------------------------------------------------------ answering

    def show_tree(self, lines: Sequence[Line]) -> None:
        """Print processes in their places in a tree; as JSON, an object a line."""
        if self._is_json:
            self._print_json(line.info for line in lines)
            return
        from proctree_ds.sinks.tree_view import draw

        is_terminal = sys.stdout.isatty()
        color = is_terminal and "NO_COLOR" not in os.environ
        _print(
            draw(
                lines,
                width=table_width(_PIPE_WIDTH),
                since=self.history.start,
                color=color,
                users=self.users,
            )
        )

    def show_list(self, infos: Sequence[ProcessInfo]) -> None:
        """Print processes, a line each, in JSON or with a heading."""
        if self._is_json:
            self._print_json(infos)
            return
        from proctree_ds.sinks.process_view import listing

        _print(listing(infos, width=table_width(_PIPE_WIDTH), since=self.history.start))

    def show_one(self, info: ProcessInfo) -> None:
        """Print everything that is known of one process: JSON, or a field a line."""
        if self._is_json:
            self._print_json([info])
            return
        from proctree_ds.sinks.process_view import facts

        _print(facts(info, width=table_width(_PIPE_WIDTH), users=self.users))

    @property
    def _is_json(self) -> bool:
        return self.output == "json" or (self.output is None and not sys.stdout.isatty())

    def _print_json(self, infos: Iterable[ProcessInfo]) -> None:
        from proctree_ds.sinks.jsonl import encode

        out = sys.stdout.buffer
        for info in infos:
            plain = info.to_dict()
            out.write(encode(plain if self.users is None else self.users.named(plain)))
        out.flush()


def _print(lines: Iterable[str]) -> None:
    # Box-drawing and names in any script: a terminal that cannot show them gets escapes.
    stream: Any = sys.stdout
    stream.reconfigure(errors="backslashreplace")
    for line in lines:
        stream.write(line + "\n")
    stream.flush()
