"""What the questions of `proctree` share: their arguments, and how a source becomes an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import click

from proctree_ds.cli.answers import Asked
from proctree_ds.cli.console import Console, abandon_output, describe_error, number
from proctree_ds.cli.options import TreeOptions, duration, entity, tree_options
from proctree_ds.clock import format_time, parse_time
from proctree_ds.errors import ConfigurationError, DataNotFound, InvalidTime, ProctreeError

if TYPE_CHECKING:
    from proctree_ds.model import Event

__all__ = [
    "TABLE_LIMIT",
    "asked",
    "at_option",
    "history_options",
    "limit_option",
    "need_one",
    "output_option",
    "refuse_unwatched",
    "tell_losses",
    "watch_option",
    "which",
    "window",
    "window_options",
]

TABLE_LIMIT: Final = 1_000
"""Lines of a table of changes, unless told otherwise."""

_COMMAND: Final = "proctree"
_Command = TypeVar("_Command", bound=Callable[..., None])


def history_options(command: _Command) -> _Command:
    """The source, and how it is read; `asked` takes them."""
    for decorate in (
        click.option(
            "--skip-bad-lines", is_flag=True, help="Tell of lines that cannot be read, and go on."
        ),
        click.option(
            "--proctree",
            "options",
            metavar="OPTION,...",
            multiple=True,
            callback=tree_options,
            help="What is kept in memory: process-cache=N, thread-cache=N.",
        ),
        click.argument("source", default="live"),
    ):
        command = decorate(command)
    return command


output_option: Final = click.option(
    "--output",
    type=click.Choice(["json", "table"]),
    help="json, an object a line, or table, for reading."
    "  [default: table on a terminal, else json]",
)

at_option: Final = click.option(
    "--at",
    metavar="T",
    help="As of when: epoch ns, ISO 8601, -5m (before the end), +2s (after the start)."
    "  [default: the end]",
)


def watch_option(help: str) -> Callable[[_Command], _Command]:
    """How long a live machine is watched."""
    return click.option("--duration", "duration_ns", metavar="TIME", callback=duration, help=help)


def limit_option(help: str) -> Callable[[_Command], _Command]:
    """How many lines there are at most."""
    return click.option("--limit", type=click.IntRange(1), help=help)


def which(command: _Command) -> _Command:
    """The options that name one process."""
    command = click.option(
        "--entity", "entity_id", metavar="ID", callback=entity, help="By entity id: 12 or 0xc."
    )(command)
    return click.option("--pid", type=click.IntRange(0), help="By process id, as of then.")(command)


def need_one(pid: int | None, entity_id: int | None) -> None:
    """Refuse a question that names no process, or two."""
    if (pid is None) == (entity_id is None):
        raise click.UsageError("which process? give --pid or --entity, one of them")


@contextmanager
def asked(
    source: str,
    options: TreeOptions,
    skip_bad_lines: bool,
    *,
    at: str | None = None,
    output: str | None = None,
    needs_all: bool = False,
    duration_ns: int | None = None,
    on_batch: Callable[[Sequence[Event]], object] | None = None,
    on_skip: Callable[[], object] = lambda: None,
) -> Iterator[Asked]:
    """What is asked, and how; what goes wrong on the way ends the command with a reason.

    Of a recording only what the instant `at` needs is read, unless the question `needs_all`.
    """
    from proctree_ds.cli.history import read_history
    from proctree_ds.users import UserNames

    if duration_ns is not None and source != "live":
        raise click.UsageError(
            f"--duration is how long this machine is watched: it means nothing for {source}"
        )
    console = Console(_COMMAND)

    def skipped(error: Exception) -> None:
        console.skipped(str(error))
        on_skip()

    is_watched = False

    def batch(events: Sequence[Event]) -> None:
        nonlocal is_watched
        if duration_ns is not None and not is_watched:
            is_watched = True
            console.say(f"watching this machine for {duration_ns / 1e9:g} s; Ctrl-C ends it early")
        if on_batch is not None:
            on_batch(events)

    try:
        history = read_history(
            source,
            options,
            lambda start, end: end if at is None else parse_time(at, start=start, now=end),
            needs_all=needs_all,
            skip_bad_lines=skip_bad_lines,
            on_skip=skipped,
            on_batch=batch,
            duration_ns=duration_ns,
        )
        if history.end is None:
            raise DataNotFound(f"{source} holds no events: there is nothing to ask about")
        users = UserNames(lambda: history.data_source.tree.boot_id)
        question = Asked(history, history.end, output, console, users if users.are_known else None)
        yield question if at is None else question.at(at)
    except BrokenPipeError:
        abandon_output()
    except (ConfigurationError, InvalidTime) as error:
        raise click.UsageError(str(error)) from None
    except (ProctreeError, OSError) as error:
        if isinstance(error, OSError):
            abandon_output()
        console.fail(describe_error(error))
    if console.has_failed:
        sys.exit(1)


def window(question: Asked, since: str | None, until: str | None) -> tuple[int, int]:
    """The stretch of time that is meant: the whole history, unless told otherwise."""
    start = question.history.start
    assert start is not None
    first = start if since is None else question.at(since).time
    last = question.time if until is None else question.at(until).time
    end = question.history.end
    assert end is not None
    if until is None and first > end:
        raise InvalidTime(f"--since is after the end of the history, {format_time(end)}")
    if last < first:
        raise InvalidTime("--until is before --since: give the earlier time to --since")
    if last > end:
        question.console.warn(f"the history ends at {format_time(end)}: nothing later is known")
    if first < start:
        question.console.warn(f"the history begins at {format_time(start)}, little before is known")
    tell_losses(question, first, last)
    return first, last


def tell_losses(question: Asked, first: int, last: int) -> None:
    """Say so where events were lost in a stretch of time, or changes dropped by a limit."""
    tree = question.answers.tree
    losses = [
        loss
        for loss in tree.losses
        if loss.since + tree.boot_time <= last and loss.time + tree.boot_time >= first
    ]
    if losses:
        lost = sum(loss.lost or 0 for loss in losses)
        question.console.warn(
            f"{number(lost, 'event') if lost else 'events'} of this time were lost,"
            f" in {number(len(losses), 'window')}: what happened then may be missing here"
        )
    dropped = tree.counters["dropped_versions"]
    if dropped:
        question.console.warn(
            f"{number(dropped, 'change')} of processes that change all the time were dropped"
        )


def window_options(command: _Command) -> _Command:
    """The options that name a stretch of time; `window` takes them."""
    for name, what, otherwise in (
        ("--until", "Up to then, included", "the end"),
        ("--since", "What happened after then", "the start"),
    ):
        command = click.option(
            name,
            metavar="T",
            help=f"{what}: epoch ns, ISO 8601, -5m (before the end), +2s (after the start)."
            f"  [default: {otherwise}]",
        )(command)
    return command


def refuse_unwatched(source: str, duration_ns: int | None, what: str) -> None:
    """Refuse a question about what happens to a machine that is not watched."""
    if source == "live" and duration_ns is None:
        raise click.UsageError(
            f"{what} needs time to pass: give --duration 10s to watch this machine for so long,"
            " or an event log"
        )
