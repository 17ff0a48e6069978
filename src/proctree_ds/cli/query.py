"""`proctree`: ask a recorded history, or the machine as it is now, as of an instant."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from proctree_ds.cli.answers import Asked
from proctree_ds.cli.console import Console, abandon_output, describe_error
from proctree_ds.cli.doctor import doctor
from proctree_ds.cli.options import TreeOptions, entity, tree_options, version
from proctree_ds.cli.record import export, record
from proctree_ds.errors import ConfigurationError, DataNotFound, InvalidTime, ProctreeError

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo
    from proctree_ds.datasource import Parents

__all__ = ["main"]

_COMMAND: Final = "proctree"
_Command = TypeVar("_Command", bound=Callable[..., None])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=version,
    help="Show the version and exit.",
)
def main() -> None:
    """Ask who processes were, and who their ancestors were, as of an instant.

    SOURCE is a recording (a directory), an event log (.jsonl, .gz, .zst), - for one on standard
    input, or live (the default): the machine as it is now.

    Exit status: 0 fine, 1 the source failed or there is no answer, 2 wrong usage.
    """
    if sys.stdout is None:
        raise click.ClickException("standard output is closed: there is nowhere to answer to")


# ------------------------------------------------------------------------------- what all share


def _source(command: _Command) -> _Command:
    """The argument and options of every question; `_asked` takes them."""
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
        click.option(
            "--output",
            type=click.Choice(["json", "table"]),
            help="json, an object a line, or table, for reading."
            "  [default: table on a terminal, else json]",
        ),
        click.option(
            "--at",
            metavar="T",
            help="As of when: epoch ns, ISO 8601, -5m (before the end), +2s (after the start)."
            "  [default: the end]",
        ),
        click.argument("source", default="live"),
    ):
        command = decorate(command)
    return command


def _which(command: _Command) -> _Command:
    """The options that name one process."""
    command = click.option(
        "--entity", "entity_id", metavar="ID", callback=entity, help="By entity id: 12 or 0xc."
    )(command)
    return click.option("--pid", type=click.IntRange(0), help="By process id, as of then.")(command)


@contextmanager
def _asked(
    source: str,
    at: str | None,
    output: str | None,
    options: TreeOptions,
    skip_bad_lines: bool,
    needs_all: bool = False,
) -> Iterator[Asked]:
    """What is asked, and how; what goes wrong on the way ends the command with a reason.

    Of a recording only what the instant needs is read, unless it `needs_all`.
    """
    from proctree_ds.cli.history import read_history
    from proctree_ds.clock import parse_time
    from proctree_ds.users import UserNames

    console = Console(_COMMAND)
    try:
        history = read_history(
            source,
            options,
            lambda start, end: end if at is None else parse_time(at, start=start, now=end),
            needs_all=needs_all,
            skip_bad_lines=skip_bad_lines,
            on_skip=lambda error: console.skipped(str(error)),
        )
        if history.end is None:
            raise DataNotFound(f"{source} holds no events: there is nothing to ask about")
        time = history.end if at is None else parse_time(at, start=history.start, now=history.end)
        users = UserNames(lambda: history.data_source.tree.boot_id)
        yield Asked(history, time, output, console, users if users.are_known else None)
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


def _need_one(pid: int | None, entity_id: int | None) -> None:
    if (pid is None) == (entity_id is None):
        raise click.UsageError("which process? give --pid or --entity, one of them")


# ----------------------------------------------------------------------------------- questions


@main.command()
@_source
@click.option("--all", "with_exited", is_flag=True, help="Also those that had exited by then.")
def ps(with_exited: bool, **common: Any) -> None:
    """List the processes that lived at an instant, in the order of their starts."""
    with _asked(**common, needs_all=with_exited) as asked:
        asked.show_list(asked.processes(with_exited))


@main.command()
@_source
@_which
@click.option(
    "--all",
    "with_exited",
    is_flag=True,
    help="Also those that had exited by then, each below the process that made it.",
)
def tree(with_exited: bool, pid: int | None, entity_id: int | None, **common: Any) -> None:
    """Draw the tree of processes at an instant, whole or below one of them."""
    from proctree_ds.sinks.tree_view import descendants

    if pid is not None and entity_id is not None:
        raise click.UsageError("give --pid or --entity, not both")
    with _asked(**common, needs_all=with_exited) as asked:
        processes = asked.processes(with_exited)
        known = {info.entity_id for info in processes}
        children: defaultdict[int, list[ProcessInfo]] = defaultdict(list)
        roots: list[ProcessInfo] = []
        for info in processes:
            parent = info.original_parent_entity_id if with_exited else info.parent_entity_id
            if parent is not None and parent in known:
                children[parent].append(info)
            else:
                roots.append(info)
        if pid is not None or entity_id is not None:
            roots = [asked.one(processes, pid, entity_id)]
        asked.show_tree(list(descendants(roots, children)))


@main.command()
@_source
@_which
def process(pid: int | None, entity_id: int | None, **common: Any) -> None:
    """Tell everything about one process as of an instant."""
    _need_one(pid, entity_id)
    with _asked(**common) as asked:
        asked.show_one(asked.find(pid, entity_id))


@main.command()
@_source
@_which
@click.option("--max-depth", type=click.IntRange(0), help="So many ancestors at most.")
@click.option(
    "--parents",
    type=click.Choice(["original", "as_of"]),
    default="original",
    show_default=True,
    help="By the parents at the start, or by those that they had at the instant, as of then.",
)
def lineage(
    max_depth: int | None,
    parents: Parents,
    pid: int | None,
    entity_id: int | None,
    **common: Any,
) -> None:
    """Tell the ancestors of a process, each as it was when it made the next, the first on top."""
    from proctree_ds.sinks.tree_view import chain

    _need_one(pid, entity_id)
    with _asked(**common) as asked:
        found = asked.find(pid, entity_id)
        ancestry = asked.answers.lineage(
            found.entity_id, asked.time, max_depth=max_depth, parents=parents
        )
        asked.show_tree(chain(ancestry))
        if ancestry.end in ("unknown_parent", "evicted"):
            why = {"unknown_parent": "it was never seen", "evicted": "its history was dropped"}
            asked.console.say(f"there is a parent above, but {why[ancestry.end]}")


@main.command()
@click.option(
    "--of",
    type=click.Choice(["event-log", "answers"]),
    default="event-log",
    show_default=True,
    help="A line of an event log, or the answers of the data source by key.",
)
def schema(of: str) -> None:
    """Print a JSON Schema."""
    import json

    from proctree_ds.datasource import DataSource
    from proctree_ds.eventlog import json_schema
    from proctree_ds.tree import ProcessTree

    found = json_schema() if of == "event-log" else DataSource(ProcessTree()).schema()
    try:
        click.echo(json.dumps(found, indent=2))
    except OSError as error:
        abandon_output()
        raise click.ClickException(describe_error(error)) from None


main.add_command(doctor)
main.add_command(record)
main.add_command(export)

if __name__ == "__main__":
    main()
