r"""Processes as a graph in the language of Graphviz: who made whom, what it runs, whether it lives.

Every text is escaped twice: what is hidden or acts is made visible, and what is left means nothing
to Graphviz, which knows `\n` and the like, quotes, and entities such as `&lt;` within a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from proctree_ds.sinks.process_view import command_of, cut, life_of, moment, name_of

if TYPE_CHECKING:
    from proctree_ds.answers import ProcessInfo
    from proctree_ds.sinks.tree_view import Line

__all__ = ["graph"]

_LABEL_WIDTH: Final = 48
"""Characters of a line in a node at most."""

_HEAD: Final = """\
digraph proctree {
  graph [nodesep=0.12, ranksep=0.4];
  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10, margin="0.12,0.06"];
  edge [color="#8c959f", arrowsize=0.6];"""
_ALIVE: Final = 'fillcolor="#dafbe1", color="#1a7f37", fontcolor="#0b3d1b"'
_EXITED: Final = 'fillcolor="#eaeef2", color="#8c959f", fontcolor="#57606a"'
_KILLED: Final = 'fillcolor="#ffebe9", color="#cf222e", fontcolor="#82071e"'


def graph(
    lines: Sequence[Line],
    *,
    since: int | None,
    fates: Mapping[int, ProcessInfo] | None = None,
    is_upright: bool = False,
    left_out: int = 0,
) -> Iterator[str]:
    """The lines of a file for `dot`; times count from `since` (epoch ns).

    Living processes are green, exited ones grey, those that a signal killed red. Where `fates` has
    a process by its id, that is what became of it. `is_upright` grows downwards, not to the right.
    `left_out` more are mentioned.
    """
    yield _HEAD
    yield f"  rankdir={'TB' if is_upright else 'LR'};"
    fates = fates or {}
    shown = {line.info.entity_id for line in lines}
    for line in lines:
        info = line.info
        fate = fates.get(info.entity_id, info)
        yield f"  {_node(info.entity_id)} [label={_label(info, fate, since)}, {_look(fate)}];"
    for line in lines:
        if line.parent is not None and line.parent in shown:
            yield f"  {_node(line.parent)} -> {_node(line.info.entity_id)};"
    if left_out:
        yield f'  left_out [label="{left_out:,} more left out", shape=plaintext, style=""];'
    yield "}"


def _node(entity_id: int) -> str:
    return f"p{entity_id:016x}"


def _look(info: ProcessInfo) -> str:
    if info.is_alive:
        return _ALIVE
    return _EXITED if info.exit_signal is None else _KILLED


def _label(info: ProcessInfo, fate: ProcessInfo, since: int | None) -> str:
    facts = f"{info.pid}  {moment(info.start_time, since)}  {life_of(fate)}"
    texts = [name_of(info), command_of(info), facts]
    lines = (_escaped(cut(text, _LABEL_WIDTH)) for text in texts if text)
    return '"' + r"\n".join(lines) + '"'


def _escaped(text: str) -> str:
    """Text that `visible` has made harmless, for within the quotes of a label."""
    for character, escape in (("&", "&amp;"), ("\\", "\\\\"), ('"', '\\"')):
        text = text.replace(character, escape)
    return text
