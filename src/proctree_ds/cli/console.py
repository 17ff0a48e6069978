"""What a command says: on standard error, to a person or, as JSON, to a program.

Every foreign word is made harmless. What is said is bounded: of a message that comes again and
again, and of very many different ones, some are left out, and how many is said later. Where there
is no room for it (a full disk) the run goes on, and that is said when there is room again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from io import UnsupportedOperation
from time import monotonic
from typing import TYPE_CHECKING, Final

import click

from proctree_ds.sinks.escape import visible

if TYPE_CHECKING:
    from proctree_ds.pipeline import Summary
    from proctree_ds.report import SignatureStatistics

__all__ = [
    "BURST",
    "REFILL_SECONDS",
    "Console",
    "abandon_output",
    "describe_error",
    "number",
    "table_width",
]

BURST: Final = 200
"""Warnings and errors that may be told at once."""
REFILL_SECONDS: Final = 10.0
"""After that one more is told for every so many seconds."""
_SLOWEST: Final = 3
_MESSAGES: Final = 1_000
"""Different failures that are remembered, so that each is told once."""
_SKIPPED_TOLD: Final = 10
_NANOSECONDS: Final = 1e9
_NARROWEST: Final = 40


class Console:
    """Says what happens. With `quiet`, only what went wrong; `has_failed` remembers that.

    `log_format` is `text` or `json`: an object a line with `time`, `level`, `message`, and the
    fields that are given with it. `clock` gives seconds.
    """

    def __init__(
        self,
        command: str,
        quiet: bool = False,
        log_format: str = "text",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.command = command
        self.quiet = quiet
        self.has_failed = False
        self.dropped = 0
        """Messages that were left out because of their number, or for want of room."""
        self._is_json = log_format == "json"
        self._clock = clock
        self._allowance = float(BURST)
        self._allowed_at = clock()
        self._untold = 0
        self._is_torn = False
        """Whether the last line was cut for want of room."""
        self._failures: set[str] = set()
        self._skipped = 0

    def say(self, text: str, /, **fields: object) -> None:
        """Tell what is going on, unless that was not wanted."""
        if not self.quiet:
            self._write("info", text, fields)

    def warn(self, text: str, /, **fields: object) -> None:
        """Tell of something that is not as it should be, and goes on."""
        self._tell("warning", text, fields)

    def fail(self, text: str, /, **fields: object) -> None:
        """Tell of something that failed, once: the exit status will be 1."""
        self.has_failed = True
        if text in self._failures:
            return
        if len(self._failures) < _MESSAGES:
            self._failures.add(text)
        self._tell("error", text, fields)

    def skipped(self, problem: str) -> None:
        """Tell of a line that was skipped; of many, only of the first ones."""
        self._skipped += 1
        if self._skipped <= _SKIPPED_TOLD:
            self.warn(f"skipped: {problem}")
            if self._skipped == _SKIPPED_TOLD:
                self.warn("further bad lines are only counted")

    def summarise(self, summary: Summary) -> None:
        """The last word of a run: what was seen, lost and found, and who was slow."""
        lines = list(summary_lines(summary))
        self.say(lines[0], **_figures(summary))
        for line in lines[1:]:
            self.say(line)

    def close(self) -> None:
        """Nothing more will be said but how much was not."""
        if self._untold:
            self._write_untold()

    def _tell(self, level: str, text: str, fields: Mapping[str, object]) -> None:
        """Write it, if there were not too many before."""
        now = self._clock()
        self._allowance += (now - self._allowed_at) / REFILL_SECONDS
        self._allowance = min(self._allowance, float(BURST))
        self._allowed_at = now
        if self._allowance < 1:
            self._drop()
            return
        self._allowance -= 1
        self._write(level, text, fields)

    def _write(self, level: str, text: str, fields: Mapping[str, object]) -> None:
        if self._untold:
            self._write_untold()
        if not self._put(level, text, fields):
            self._drop()

    def _write_untold(self) -> None:
        text = f"{number(self._untold, 'message')} left out here: too many, or no room for them"
        if self._put("warning", text, {"left_out": self._untold}):
            self._untold = 0

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _put(self, level: str, text: str, fields: Mapping[str, object]) -> bool:
        if self._is_json:
            line = _json_line(level, text, fields)
        elif level == "info":
            line = click.style(visible(text), dim=True)
        elif level == "warning":
            line = f"{self.command}: {visible(text)}"
        else:
            line = click.style(f"{self.command}: ", fg="red") + visible(text)
        try:
            self._emit(line + "\n")
        except (OSError, ValueError):  # nobody is there to read it, or there is no room
            return False
        return True

    def _emit(self, line: str) -> None:
        """Write a line to standard error, past its buffer: what finds no room must not stay there.

        Raises OSError, or ValueError where it is closed.
        """
        stream = sys.stderr
        if stream is None:
            raise ValueError("closed")
        try:
            descriptor = stream.fileno()
        except UnsupportedOperation:  # not a file of the system
            click.echo(line, nl=False, err=True)
            return
        if not stream.isatty():
            line = click.unstyle(line)
        rest = line.encode(errors="backslashreplace")
        if self._is_torn:
            rest = b"\n" + rest
        while rest:
            written = os.write(descriptor, rest)
            self._is_torn = written < len(rest)
            rest = rest[written:]


def summary_lines(summary: Summary) -> Iterable[str]:
    """A summary for reading, a line each."""
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in summary.events.items() if count and kind != "loss"
    )
    seconds = summary.elapsed_ns / _NANOSECONDS
    yield (
        f"{summary.total_events:,} events in {seconds:.1f} s{f' ({kinds})' if kinds else ''};"
        f" {_losses(summary)}; {number(summary.findings, 'finding')}"
    )
    if summary.skipped_lines:
        yield f"{number(summary.skipped_lines, 'bad line')} skipped"
    dropped = {
        name: count
        for name, count in summary.tree.items()
        if count and name.startswith(("evicted_living", "dropped_", "fault_"))
    }
    if dropped:
        listed = ", ".join(f"{name} {count:,}" for name, count in dropped.items())
        yield f"the tree reports: {listed}"
    slowest = _slowest(summary.signatures)
    if slowest:
        yield f"slowest signatures: {', '.join(slowest)}"


def describe_error(error: BaseException) -> str:
    """An error in words: of an OSError what the system says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def abandon_output() -> None:
    """The reader of standard output is gone: nothing may complain about that any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _json_line(level: str, text: str, fields: Mapping[str, object]) -> str:
    """One message as JSON, in ASCII. A byte that was no text is shown as in `visible`."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(_as_text({"time": now, "level": level, "message": text, **given}))


def _as_text(value: object) -> object:
    if isinstance(value, str):
        return "".join(visible(c) if "\ud800" <= c <= "\udfff" else c for c in value)
    if isinstance(value, Mapping):
        return {str(_as_text(str(name))): _as_text(item) for name, item in value.items()}
    return value


def _figures(summary: Summary) -> dict[str, object]:
    return {
        "events": {kind: count for kind, count in summary.events.items() if kind != "loss"},
        "lost": summary.lost,
        "loss_windows": summary.loss_windows,
        "findings": summary.findings,
        "skipped_lines": summary.skipped_lines,
        "seconds": round(summary.elapsed_ns / _NANOSECONDS, 3),
    }


def table_width(otherwise: int) -> int:
    """The columns of a table: as COLUMNS says, else the terminal's, else `otherwise`."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) >= _NARROWEST:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or otherwise
    except (OSError, ValueError):  # no terminal
        return otherwise


def _losses(summary: Summary) -> str:
    if not summary.loss_windows:
        return "none lost"
    windows = number(summary.loss_windows, "loss window")
    return f"{summary.lost or 'an unknown number'} lost in {windows}"


def _slowest(signatures: Mapping[str, SignatureStatistics]) -> list[str]:
    spent = {
        name: statistics.nanoseconds / statistics.events
        for name, statistics in signatures.items()
        if statistics.events and statistics.nanoseconds
    }
    ranked = sorted(spent, key=spent.__getitem__, reverse=True)[:_SLOWEST]
    return [f"{name} {spent[name] / 1000:.1f} µs an event" for name in ranked]


def number(count: int, what: str) -> str:
    """How many of what: `1 finding`, `2,000 findings`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
