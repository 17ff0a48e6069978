"""`proctree dot`: a lineage, a subtree or everybody, for Graphviz to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from proctree_ds.cli.answers import Asked, print_lines
from proctree_ds.cli.asking import asked, at_option, history_options, limit_option, which

if TYPE_CHECKING:
    from proctree_ds.sinks.tree_view import Line

__all__ = ["dot"]

_DRAWN: Final = 500
"""Processes of a drawing, unless told otherwise: more can hardly be looked at."""


@click.command()
@history_options
@at_option
@which
@click.option(
    "--lineage", "is_lineage", is_flag=True, help="The ancestors of a process, not what is below."
)
@click.option(
    "--all",
    "with_exited",
    is_flag=True,
    help="Also those that had exited by then, each below the process that made it.",
)
@limit_option(f"So many processes at most.  [default: {_DRAWN}]")
def dot(
    pid: int | None,
    entity_id: int | None,
    is_lineage: bool,
    with_exited: bool,
    limit: int | None,
    **common: Any,
) -> None:
    """Write the tree at an instant, whole or below a process, or a lineage, for Graphviz.

    To draw it: proctree dot | dot -Tsvg -o tree.svg
    """
    from proctree_ds.sinks.dot import graph

    if pid is not None and entity_id is not None:
        raise click.UsageError("give --pid or --entity, not both")
    if is_lineage and pid is None and entity_id is None:
        raise click.UsageError("whose --lineage? give --pid or --entity")
    if is_lineage and with_exited:
        raise click.UsageError("a --lineage has the exited in any case: leave --all out")
    with asked(**common, needs_all=with_exited) as question:
        lines = _lines(question, pid, entity_id, is_lineage, with_exited)
        most = limit or _DRAWN
        shown = lines[-most:] if is_lineage else lines[:most]
        left_out = len(lines) - len(shown)
        ids = (line.info.entity_id for line in shown)
        fates = {entity: question.who(entity, question.time) for entity in ids}
        print_lines(
            graph(
                shown,
                since=question.history.start,
                fates={entity: fate for entity, fate in fates.items() if fate is not None},
                is_upright=is_lineage,
                left_out=left_out,
            )
        )
        if left_out:
            question.console.warn(
                f"left out: {left_out:,} of {len(lines):,} processes; a larger --limit shows more"
            )


def _lines(
    question: Asked, pid: int | None, entity_id: int | None, is_lineage: bool, with_exited: bool
) -> list[Line]:
    """What is to be drawn, those near the top first."""
    from proctree_ds.sinks.tree_view import chain, descendants, forest

    if is_lineage:
        info = question.find_last(pid, entity_id, question.time)
        return chain(question.answers.lineage(info.entity_id, question.time))
    processes = question.processes(with_exited)
    roots, children = forest(processes, by_origin=with_exited)
    if pid is not None or entity_id is not None:
        roots = [question.one(processes, pid, entity_id)]
    return sorted(descendants(roots, children), key=lambda line: line.depth)
