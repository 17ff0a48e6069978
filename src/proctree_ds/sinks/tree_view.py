"""A process tree, or a lineage, as lines for a person: who made whom, when, and what it ran.

    571     -4.0 h  alive         nginx  nginx: worker process
   2201  +31.553 s  84 ms         └─ sh  sh -c id
   2202  +31.560 s  2 ms exit 1      └─ id  id

Nothing that a process controls gets here unescaped, no line is wider than asked for, and a chain
of any depth costs a stack of Python objects, not of calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from proctree_ds.answers import ProcessInfo
from proctree_ds.sinks.process_view import command_of, cut, life_of, name_of, started, user_of

if TYPE_CHECKING:
    from proctree_ds.users import UserNames

__all__ = ["DEPTH_SHOWN", "Line", "chain", "descendants", "draw"]

DEPTH_SHOWN: Final = 24
"""Levels that are indented at most. What is deeper stands at the last of them, with its depth."""

_USER_WIDTH: Final = 16
"""Characters of a user's name at most."""
_LEVEL: Final = "   "
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_OFF: Final = "\x1b[0m"


class Line(msgspec.Struct, frozen=True):
    """One process in a drawing: its place (`branches`: for each level, whether more follows)."""

    info: ProcessInfo
    branches: tuple[bool, ...]
    depth: int


def chain(lineage: Iterable[ProcessInfo]) -> list[Line]:
    """A lineage, which begins at the process, as lines that begin at the first ancestor."""
    infos = list(lineage)[::-1]
    return [
        Line(info, (False,) * min(depth, DEPTH_SHOWN), depth) for depth, info in enumerate(infos)
    ]


def descendants(
    roots: Sequence[ProcessInfo], children: Mapping[int, Sequence[ProcessInfo]]
) -> Iterator[Line]:
    """The processes at and below `roots`; `children` by the id of their parent. Each comes once."""
    seen: set[int] = set()
    stack = [Line(info, (), 0) for info in reversed(roots)]
    while stack:
        line = stack.pop()
        entity = line.info.entity_id
        if entity in seen:
            continue
        seen.add(entity)
        yield line
        below = children.get(entity, ())
        depth = line.depth + 1
        for index in range(len(below) - 1, -1, -1):
            branches = line.branches
            if depth <= DEPTH_SHOWN:
                branches = (*branches, index < len(below) - 1)
            stack.append(Line(below[index], branches, depth))


def draw(
    lines: Sequence[Line],
    *,
    width: int,
    since: int | None,
    color: bool = False,
    users: UserNames | None = None,
) -> Iterator[str]:
    """The lines as text of at most `width` characters; times count from `since` (epoch ns).

    With `users`, there is a column of the effective users, by name where they have one.
    """
    rows = [(str(line.info.pid), started(line.info, since), life_of(line.info)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    owners = (
        [] if users is None else [cut(user_of(line.info, users), _USER_WIDTH) for line in lines]
    )
    owner_width = max(map(len, owners), default=0)
    facts_width = sum(widths) + 6 + (owner_width + 2 if owners else 0)
    levels = max(1, min(DEPTH_SHOWN, (width - facts_width) // 2 // len(_LEVEL)))
    for index, (line, (pid, time, life)) in enumerate(zip(lines, rows, strict=True)):
        facts = f"{pid:>{widths[0]}}  {time:>{widths[1]}}  {life:<{widths[2]}}  "
        if owners:
            facts += f"{owners[index]:<{owner_width}}  "
        stem = _stem(line, levels)
        room = width - facts_width - len(stem)
        name = cut(name_of(line.info), max(1, room))
        command = cut(command_of(line.info), room - len(name) - 2)
        if color:
            yield f"{_DIM}{facts}{stem}{_OFF}{_BOLD}{name}{_OFF}  {command}".rstrip()
        else:
            yield f"{facts}{stem}{name}  {command}".rstrip()


def _stem(line: Line, levels: int) -> str:
    if not line.branches:
        return ""
    *above, last = line.branches[:levels]
    stem = "".join("│  " if more else _LEVEL for more in above)
    if line.depth > levels:
        return f"{stem}⋮ {line.depth} "
    return stem + ("├─ " if last else "└─ ")
