"""Answers to a person or a program: found in a history, and printed as it was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proctree_ds.cli.console import table_width
from proctree_ds.clock import parse_time
from proctree_ds.errors import DataNotFound, NeverSeen

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo, ThreadInfo
    from proctree_ds.cli.console import Console
    from proctree_ds.cli.history import History
    from proctree_ds.datasource import DataSource
    from proctree_ds.sinks.tree_view import Line
    from proctree_ds.users import UserNames

__all__ = ["Asked", "print_json", "print_lines"]

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

    def at(self, text: str) -> Asked:
        """The same as of the instant that a person wrote. Raises `InvalidTime`."""
        assert self.history.end is not None
        time = parse_time(text, start=self.history.start, now=self.history.end)
        return msgspec.structs.replace(self, time=time)

    def who(self, entity_id: int | None, time: int) -> ProcessInfo | None:
        """A process by its id as of an instant, None where that is not known."""
        try:
            return None if entity_id is None else self.answers.process(entity_id, time)
        except DataNotFound:
            return None

    def find(self, pid: int | None, entity_id: int | None) -> ProcessInfo:
        """The process that is meant. Raises `DataNotFound`."""
        if entity_id is not None:
            return self.answers.process(entity_id, self.time)
        assert pid is not None
        return self.answers.pid(pid, self.time)

    def find_last(self, pid: int | None, entity_id: int | None, time: int) -> ProcessInfo:
        """The process that is meant, as of `time`; of a pid its last holder, exited or not.

        Raises `DataNotFound`.
        """
        if entity_id is not None:
            return self.answers.process(entity_id, time)
        assert pid is not None
        return self.history.last_holder(pid, time)

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
        if self.is_json:
            self._print_json(line.info for line in lines)
            return
        from proctree_ds.sinks.tree_view import draw

        print_lines(
            draw(
                lines,
                width=self.width,
                since=self.history.start,
                color=self.has_color,
                users=self.users,
            )
        )

    def show_list(self, infos: Sequence[ProcessInfo]) -> None:
        """Print processes, a line each, in JSON or with a heading."""
        if self.is_json:
            self._print_json(infos)
            return
        from proctree_ds.sinks.process_view import listing

        print_lines(listing(infos, width=self.width, since=self.history.start))

    def show_one(self, info: ProcessInfo) -> None:
        """Print everything that is known of one process: JSON, or a field a line."""
        if self.is_json:
            self._print_json([info])
            return
        from proctree_ds.sinks.process_view import facts

        print_lines(facts(info, width=self.width, users=self.users))

    def show_thread(self, info: ThreadInfo) -> None:
        """Print everything that is known of one thread: JSON, or a field a line."""
        if self.is_json:
            self._print_json([info])
            return
        from proctree_ds.sinks.process_view import facts

        print_lines(facts(info, width=self.width, users=self.users))

    def show_threads(self, info: ProcessInfo) -> None:
        """Print the threads of a process that lived at the instant, a line each."""
        found = (self.answers.thread(entity, self.time) for entity in info.thread_ids.values())
        threads = sorted(found, key=lambda thread: (thread.start_time, thread.tid))
        if self.is_json:
            self._print_json(threads)
            return
        from proctree_ds.sinks.process_view import thread_listing

        print_lines(thread_listing(threads, width=self.width, since=self.history.start))

    @property
    def is_json(self) -> bool:
        """Whether the answer is for a program."""
        return self.output == "json" or (self.output is None and not sys.stdout.isatty())

    @property
    def width(self) -> int:
        """The columns of a table."""
        return table_width(_PIPE_WIDTH)

    @property
    def has_color(self) -> bool:
        """Whether the answer goes to a terminal whose owner did not object to colours."""
        return sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def _print_json(self, infos: Iterable[ProcessInfo] | Iterable[ThreadInfo]) -> None:
        users = self.users
        print_json(
            info.to_dict() if users is None else users.named(info.to_dict()) for info in infos
        )


def print_json(rows: Iterable[dict[str, Any]]) -> None:
    """Print an object a line."""
    from proctree_ds.sinks.jsonl import encode

    out = sys.stdout.buffer
    for row in rows:
        out.write(encode(row))
    out.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Print text for reading."""
    # Box-drawing and names in any script: a terminal that cannot show them gets escapes.
    stream: Any = sys.stdout
    stream.reconfigure(errors="backslashreplace")
    for line in lines:
        stream.write(line + "\n")
    stream.flush()
