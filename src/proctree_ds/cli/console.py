"""What a command says to a person: on standard error, every foreign word made harmless."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import click

from proctree_ds.sinks.escape import visible

if TYPE_CHECKING:
    from proctree_ds.pipeline import Summary
    from proctree_ds.report import SignatureStatistics

__all__ = ["Console", "abandon_output", "describe_error", "number", "table_width"]

_SLOWEST: Final = 3
_MESSAGES: Final = 1_000
"""Different failures that are remembered, so that each is told once."""
_SKIPPED_TOLD: Final = 10
_NANOSECONDS: Final = 1e9
_NARROWEST: Final = 40


class Console:
    """Says what happens. With `quiet`, only what went wrong; `has_failed` remembers that."""

    def __init__(self, command: str, quiet: bool = False) -> None:
        self.command = command
        self.quiet = quiet
        self.has_failed = False
        self._failures: set[str] = set()
        self._skipped = 0

    def say(self, text: str) -> None:
        """Tell what is going on, unless that was not wanted."""
        if not self.quiet:
            self._write(click.style(visible(text), dim=True))

    def warn(self, text: str) -> None:
        """Tell of something that is not as it should be, and goes on."""
        self._write(f"{self.command}: {visible(text)}")

    def fail(self, text: str) -> None:
        """Tell of something that failed, once: the exit status will be 1."""
        self.has_failed = True
        if text in self._failures:
            return
        if len(self._failures) < _MESSAGES:
            self._failures.add(text)
        self._write(click.style(f"{self.command}: ", fg="red") + visible(text))

    def skipped(self, problem: str) -> None:
        """Tell of a line that was skipped; of many, only of the first ones."""
        self._skipped += 1
        if self._skipped <= _SKIPPED_TOLD:
            self.warn(f"skipped: {problem}")
            if self._skipped == _SKIPPED_TOLD:
                self.warn("further bad lines are only counted")

    def summarise(self, summary: Summary) -> None:
        """The last word of a run: what was seen, lost and found, and who was slow."""
        for line in summary_lines(summary):
            self.say(line)

    def _write(self, text: str) -> None:
        try:
            click.echo(text, err=True)
        except (OSError, ValueError):  # nobody is there to read it
            self.quiet = True


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
