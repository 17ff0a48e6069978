"""`proctree`: ask a recorded history, or the machine as it is now, as of an instant."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from proctree_ds.cli.asking import (
    asked,
    at_option,
    history_options,
    need_one,
    output_option,
    which,
)
from proctree_ds.cli.changes import diff, timeline
from proctree_ds.cli.console import abandon_output, describe_error
from proctree_ds.cli.doctor import doctor
from proctree_ds.cli.drawing import dot
from proctree_ds.cli.figures import stats, top
from proctree_ds.cli.options import entity, version
from proctree_ds.cli.record import export, record

if TYPE_CHECKING:
    from proctree_ds.datasource import Parents

__all__ = ["main"]


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


# ----------------------------------------------------------------------------------- questions


@main.command()
@history_options
@output_option
@at_option
@click.option("--all", "with_exited", is_flag=True, help="Also those that had exited by then.")
def ps(with_exited: bool, **common: Any) -> None:
    """List the processes that lived at an instant, in the order of their starts."""
    with asked(**common, needs_all=with_exited) as question:
        question.show_list(question.processes(with_exited))


@main.command()
@history_options
@output_option
@at_option
@which
@click.option(
    "--all",
    "with_exited",
    is_flag=True,
    help="Also those that had exited by then, each below the process that made it.",
)
def tree(with_exited: bool, pid: int | None, entity_id: int | None, **common: Any) -> None:
    """Draw the tree of processes at an instant, whole or below one of them."""
    from proctree_ds.sinks.tree_view import descendants, forest

    if pid is not None and entity_id is not None:
        raise click.UsageError("give --pid or --entity, not both")
    with asked(**common, needs_all=with_exited) as question:
        processes = question.processes(with_exited)
        roots, children = forest(processes, by_origin=with_exited)
        if pid is not None or entity_id is not None:
            roots = [question.one(processes, pid, entity_id)]
        question.show_tree(list(descendants(roots, children)))


@main.command()
@history_options
@output_option
@at_option
@which
def process(pid: int | None, entity_id: int | None, **common: Any) -> None:
    """Tell everything about one process as of an instant."""
    need_one(pid, entity_id)
    with asked(**common) as question:
        question.show_one(question.find(pid, entity_id))


@main.command()
@history_options
@output_option
@at_option
@which
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

    need_one(pid, entity_id)
    with asked(**common) as question:
        found = question.find(pid, entity_id)
        ancestry = question.answers.lineage(
            found.entity_id, question.time, max_depth=max_depth, parents=parents
        )
        question.show_tree(chain(ancestry))
        if ancestry.end in ("unknown_parent", "evicted"):
            why = {"unknown_parent": "it was never seen", "evicted": "its history was dropped"}
            question.console.say(f"there is a parent above, but {why[ancestry.end]}")


@main.command()
@history_options
@output_option
@at_option
@click.option("--pid", type=click.IntRange(0), help="All threads of this process.")
@click.option(
    "--entity",
    "entity_id",
    metavar="ID",
    callback=entity,
    help="One thread, by entity id: 12 or 0xc.",
)
@click.option("--tid", type=click.IntRange(0), help="One thread, by thread id, as of then.")
def thread(tid: int | None, entity_id: int | None, pid: int | None, **common: Any) -> None:
    """Tell everything about one thread as of an instant, or list the threads of a process."""
    if sum(given is not None for given in (tid, entity_id, pid)) != 1:
        raise click.UsageError("which thread? give --tid, --entity or --pid, one of them")
    with asked(**common) as question:
        if tid is not None:
            question.show_thread(question.history.thread(tid, question.time))
        elif entity_id is not None:
            question.show_thread(question.answers.thread(entity_id, question.time))
        else:
            question.show_threads(question.find(pid, None))


@main.command()
@history_options
@output_option
@at_option
@which
@click.option("--recursive", is_flag=True, help="Also their children, as a tree.")
def children(recursive: bool, pid: int | None, entity_id: int | None, **common: Any) -> None:
    """List the children of a process that lived at an instant, adopted ones included."""
    from proctree_ds.sinks.tree_view import lines_of

    need_one(pid, entity_id)
    with asked(**common) as question:
        parent = question.find(pid, entity_id)
        if recursive:
            found = question.answers.subtree(parent.entity_id, question.time)
            question.show_tree(list(lines_of(found)))
            return
        living = question.answers.children(parent.entity_id, question.time)
        question.show_list(living)
        if not living:
            question.console.say("no child of it lived at that time")


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


for _command in (diff, timeline, stats, top, dot, doctor, record, export):
    main.add_command(_command)

if __name__ == "__main__":
    main()
