"""`proctree stats` and `proctree top`: what is in a history, and which programs are busiest."""

from __future__ import annotations

from typing import Any, Final

import click
import msgspec

from proctree_ds.cli.answers import print_json, print_lines
from proctree_ds.cli.asking import (
    asked,
    history_options,
    limit_option,
    output_option,
    watch_option,
    window,
    window_options,
)
from proctree_ds.cli.console import number

__all__ = ["stats", "top"]

_BUSIEST: Final = 10
_TOP_PROGRAMS: Final = 20
_WATCHED_NS: Final = 5_000_000_000
"""How long `top` watches a live machine, unless told otherwise."""


@click.command()
@history_options
@output_option
@watch_option("Watch this machine for so long first (live only), such as 10s.")
@limit_option(f"So many of the busiest parents and programs.  [default: {_BUSIEST}]")
def stats(duration_ns: int | None, limit: int | None, **common: Any) -> None:
    """Tell what is in a history: events by kind, processes, losses, faults, and who was busiest."""
    from proctree_ds.tallies import EventTally, statistics

    tally = EventTally()

    def skipped() -> None:
        tally.skipped_lines += 1

    with asked(
        needs_all=True, duration_ns=duration_ns, on_batch=tally.add, on_skip=skipped, **common
    ) as question:
        first, last = question.history.start, question.history.end
        assert first is not None and last is not None
        found = statistics(
            question.answers,
            question.history.picture(last, with_exited=True).processes,
            tally,
            first,
            last,
            limit or _BUSIEST,
        )
        if question.is_json:
            programs = [program.to_dict() for program in found.busiest_programs]
            print_json([{**msgspec.structs.asdict(found), "busiest_programs": programs}])
            return
        from proctree_ds.sinks.figures_view import draw_statistics

        print_lines(draw_statistics(found, width=question.width))


@click.command()
@history_options
@output_option
@window_options
@watch_option("How long this machine is watched (live only); Ctrl-C ends it early.  [default: 5s]")
@click.option(
    "--by",
    type=click.Choice(["started", "executed", "forked", "short_lived"]),
    default="started",
    show_default=True,
    help="What the busiest do most of.",
)
@limit_option(f"So many programs at most.  [default: {_TOP_PROGRAMS}]")
def top(
    source: str,
    since: str | None,
    until: str | None,
    duration_ns: int | None,
    by: str,
    limit: int | None,
    **common: Any,
) -> None:
    """Tell which programs start, execute and fork most, here and now or in a stretch of history."""
    from proctree_ds.tallies import programs_between

    if source == "live" and duration_ns is None:
        duration_ns = _WATCHED_NS
    with asked(source, needs_all=True, duration_ns=duration_ns, **common) as question:
        first, last = window(question, since, until)
        programs = programs_between(question.answers, first, last)
        programs.sort(key=lambda program: -getattr(program, by))
        shown = programs[: limit or _TOP_PROGRAMS]
        if question.is_json:
            print_json(program.to_dict() for program in shown)
        else:
            from proctree_ds.sinks.figures_view import draw_programs, totals

            seconds = (last - first) / 1e9
            print_lines([totals(programs, seconds, question.width)])
            print_lines(draw_programs(shown, width=question.width))
        if len(programs) > len(shown):
            question.console.warn(
                f"left out: {number(len(programs) - len(shown), 'program')};"
                " a larger --limit shows more"
            )
