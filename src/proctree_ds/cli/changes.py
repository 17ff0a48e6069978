"""`proctree diff` and `proctree timeline`: what happened, to everybody or to one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from proctree_ds.cli.answers import Asked, print_json, print_lines
from proctree_ds.cli.asking import (
    TABLE_LIMIT,
    asked,
    at_option,
    history_options,
    limit_option,
    need_one,
    output_option,
    refuse_unwatched,
    tell_losses,
    watch_option,
    which,
    window,
    window_options,
)
from proctree_ds.cli.console import number

if TYPE_CHECKING:
    from proctree_ds.changes import ChangeRow

__all__ = ["diff", "timeline"]

_WATCH_HELP = "Watch this machine for so long first (live only), such as 10s; Ctrl-C ends it early."
_LIMIT_HELP = f"So many lines at most.  [default: {TABLE_LIMIT:,} in a table, all as JSON]"


@click.command()
@history_options
@output_option
@window_options
@which
@watch_option(_WATCH_HELP)
@limit_option(_LIMIT_HELP)
def diff(
    since: str | None,
    until: str | None,
    pid: int | None,
    entity_id: int | None,
    duration_ns: int | None,
    limit: int | None,
    source: str,
    **common: Any,
) -> None:
    """Tell what happened between two instants: who was born, executed a program, was renamed,
    changed credentials, came to another parent, or died.

    With --pid or --entity, only to that process and to what it made, directly or through others.
    """
    from proctree_ds.changes import Descent, changes_between

    if pid is not None and entity_id is not None:
        raise click.UsageError("give --pid or --entity, not both")
    refuse_unwatched(source, duration_ns, "a difference")
    with asked(source, needs_all=True, duration_ns=duration_ns, **common) as question:
        first, last = window(question, since, until)
        below = None
        if pid is not None or entity_id is not None:
            top = question.find_last(pid, entity_id, last)
            below = Descent(question.answers, top.entity_id, last)
        rows = changes_between(question.answers, first, last, below)
        if question.is_json:
            print_json(row.to_dict() for row in rows[:limit])
        else:
            print_lines(_diff_table(question, rows, first, last, limit or TABLE_LIMIT))
        _tell_left_out(question, rows, limit)


@click.command()
@history_options
@output_option
@at_option
@which
@click.option("--children", "with_children", is_flag=True, help="Also the births of its children.")
@watch_option(_WATCH_HELP)
@limit_option(_LIMIT_HELP)
def timeline(
    pid: int | None,
    entity_id: int | None,
    with_children: bool,
    duration_ns: int | None,
    limit: int | None,
    source: str,
    **common: Any,
) -> None:
    """Tell everything that is known to have happened to a process up to an instant.

    A pid means the process that held it last, exited or not.
    """
    from proctree_ds.changes import births, history_of

    need_one(pid, entity_id)
    refuse_unwatched(source, duration_ns, "a timeline")
    with asked(source, needs_all=True, duration_ns=duration_ns, **common) as question:
        info = question.find_last(pid, entity_id, question.time)
        rows = history_of(question.answers, info.entity_id, question.time)
        end = question.time if info.exit_time is None else info.exit_time
        tell_losses(question, info.start_time, end)
        if with_children:
            made = (
                child
                for child in question.processes(with_exited=True)
                if child.original_parent_entity_id == info.entity_id
            )
            rows = sorted([*rows, *births(question.answers, made)], key=lambda row: row.time)
        if question.is_json:
            print_json(row.to_dict() for row in rows[:limit])
        else:
            print_lines(_timeline_table(question, rows[: limit or TABLE_LIMIT]))
        _tell_left_out(question, rows, limit)


def _diff_table(
    question: Asked, rows: Sequence[ChangeRow], first: int, last: int, limit: int
) -> Iterator[str]:
    from proctree_ds.sinks.change_view import diff_heading, draw_diff

    kinds = Counter[str](row.kind for row in rows)
    since = question.history.start
    yield from diff_heading(first, last, kinds, width=question.width)
    yield from draw_diff(
        rows[:limit],
        width=question.width,
        since=since,
        who=question.who,
        color=question.has_color,
        users=question.users,
    )


def _timeline_table(question: Asked, rows: Sequence[ChangeRow]) -> Iterator[str]:
    from proctree_ds.sinks.change_view import draw_timeline

    yield from draw_timeline(
        rows,
        width=question.width,
        since=question.history.start,
        who=question.who,
        color=question.has_color,
        users=question.users,
    )


def _tell_left_out(question: Asked, rows: Sequence[ChangeRow], limit: int | None) -> None:
    shown = limit if question.is_json else limit or TABLE_LIMIT
    if shown is not None and len(rows) > shown:
        question.console.warn(
            f"left out: the last {number(len(rows) - shown, 'change')}; a larger --limit shows more"
        )
