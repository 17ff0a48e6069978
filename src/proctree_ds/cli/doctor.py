"""`proctree doctor`: whether this machine can be watched by this user, and what to do if not."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proctree_ds.cli.console import Console, abandon_output, describe_error, number, table_width
from proctree_ds.errors import ConfigurationError
from proctree_ds.sinks.escape import visible

if TYPE_CHECKING:
    from proctree_ds.diagnosis import Check, Diagnosis

__all__ = ["doctor"]

_PIPE_WIDTH: Final = 1_000
"""Columns where there is no terminal: a line for each check."""
_STYLES: Final = {"ok": "green", "degraded": "yellow", "missing": "red"}
_NARROWEST_TEXT: Final = 30


@click.command()
@click.option(
    "--unpin",
    is_flag=True,
    help="First remove what programs left pinned, so that nothing goes on unread.",
)
@click.option(
    "--pins",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where programs are pinned.  [default: /sys/fs/bpf/proctree]",
)
@click.option(
    "--output",
    type=click.Choice(["json", "table"]),
    help="json, an object a line, or table, for reading."
    "  [default: table on a terminal, else json]",
)
def doctor(unpin: bool, directory: Path | None, output: str | None) -> None:
    """Try out what this machine and this user can watch, and tell what to do about the rest.

    Exit status: 0 a live capture can run, 1 it cannot, 2 wrong usage.
    """
    from proctree_ds.diagnosis import PINS, diagnose, remove_pins

    console = Console("proctree")
    directory = directory or PINS
    if unpin:
        try:
            removed = remove_pins(directory)
        except ConfigurationError as error:
            console.fail(str(error))
            sys.exit(1)
        console.say(f"{number(len(removed), 'pin')} removed from {directory}")
    diagnosis = diagnose(pin_directory=directory)
    try:
        if output == "json" or (output is None and not sys.stdout.isatty()):
            _print_json(diagnosis)
        else:
            _print_table(diagnosis)
    except OSError as error:
        abandon_output()
        if not isinstance(error, BrokenPipeError):
            console.fail(describe_error(error))
    sys.exit(0 if diagnosis.can_capture and not console.has_failed else 1)


def _print_json(diagnosis: Diagnosis) -> None:
    from proctree_ds.sinks.jsonl import encode

    out = sys.stdout.buffer
    for check in diagnosis.checks:
        out.write(encode(check))
    last = {"can_capture": diagnosis.can_capture, "shortest_way": diagnosis.shortest_way}
    out.write(encode(last))
    out.flush()


def _print_table(diagnosis: Diagnosis) -> None:
    stream: Any = sys.stdout
    stream.reconfigure(errors="backslashreplace")
    color = stream.isatty() and "NO_COLOR" not in os.environ
    column = max(len(visible(check.name)) for check in diagnosis.checks)
    for check in diagnosis.checks:
        for line in _lines(check, column, table_width(_PIPE_WIDTH), color):
            stream.write(line + "\n")
    way = diagnosis.shortest_way
    end = "a live capture can run" if way is None else f"a live capture cannot run: {visible(way)}"
    stream.write(end + "\n")
    stream.flush()


def _lines(check: Check, column: int, width: int, color: bool) -> Iterator[str]:
    """A check as one line, or as many as the terminal is narrow."""
    text = visible(check.found)
    if check.cost is not None:
        text += f". Cost: {visible(check.cost)}"
    if check.remedy is not None:
        text += f". To do: {visible(check.remedy)}"
    longest = max(map(len, _STYLES))
    margin = longest + column + 4
    room = max(_NARROWEST_TEXT, width - margin)
    for index, part in enumerate(textwrap.wrap(text, room, break_on_hyphens=False)):
        if index:
            yield " " * margin + part
            continue
        verdict = f"{check.verdict:<{longest}}"
        if color:
            verdict = click.style(verdict, fg=_STYLES[check.verdict])
        yield f"{verdict}  {visible(check.name):<{column}}  {part}"
