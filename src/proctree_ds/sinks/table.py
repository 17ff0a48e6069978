"""Findings for a person: a panel each, with the time, the severity, the process and its ancestors.

Every text that a process controls goes through `visible`, and none is read as markup. A finding is
rendered first and written at once, so that a file that takes no more raises a plain `OSError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.console import Console
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text
from rich.tree import Tree

from proctree_ds.clock import format_time
from proctree_ds.detection import Detection
from proctree_ds.sinks.escape import visible

if TYPE_CHECKING:
    from proctree_ds.users import UserNames

__all__ = ["Table"]

_STYLES: Final = {
    "info": "cyan",
    "low": "green",
    "medium": "yellow",
    "high": "red",
    "critical": "bold white on red",
}
_VALUE_LENGTH: Final = 500
"""Characters shown of one value; the JSON form has all of it."""
_ANCESTORS: Final = 12
"""Ancestors shown; the JSON form has more."""
_WIDTH_OF_A_FILE: Final = 120


class Table:
    """Writes findings to a text file or a terminal. An `OSError` means that it can take no more.

    `width` is in characters: by default the terminal's. Colours are used on a terminal, unless the
    environment says NO_COLOR. With `users`, uids are shown with the names that they have there.
    """

    def __init__(
        self, file: TextIO, *, width: int | None = None, users: UserNames | None = None
    ) -> None:
        self._file = file
        self._users = users
        if width is None and not file.isatty():
            width = _WIDTH_OF_A_FILE
        self._console = Console(file=file, width=width, highlight=False, emoji=False, markup=False)

    def write(self, detection: Detection) -> None:
        """Take one finding."""
        with self._console.capture() as captured:
            self._console.print(_panel(detection, self._users))
        text = captured.get()
        encoding = self._file.encoding or "utf-8"
        self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Hand over what was written."""
        self._file.flush()


def _panel(detection: Detection, users: UserNames | None) -> Panel:
    about = detection.signature
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("time", format_time(detection.time))
    known = " ".join(about.techniques)
    grid.add_row("signature", Text(visible(f"{about.id} {about.version}  {known}".rstrip())))
    grid.add_row("event", Text(_event(detection.event)))
    if detection.lineage:
        grid.add_row("lineage", _lineage(detection.lineage, users))
    for name, value in detection.data.items():
        grid.add_row(Text(_cut(visible(name))), Text(_cut(_value(value))))
    title = Text(about.severity.upper(), style=_STYLES[about.severity])
    title.append(f"  {visible(about.name)}", style="default")
    return Panel(grid, title=title, title_align="left", border_style="dim")


def _event(event: Mapping[str, Any]) -> str:
    words = [f"{event['name']}"]
    words += [f"{name} {event[name]}" for name in ("pid", "tid", "ppid") if event.get(name)]
    if event.get("container_id"):
        words.append(f"container {visible(str(event['container_id']))[:12]}")
    return "  ".join(words)


def _lineage(lineage: Sequence[Mapping[str, Any]], users: UserNames | None) -> Tree:
    """The ancestors, the first one on top, each one indented below the one that made it."""
    shown = list(lineage[: _ANCESTORS + 1])[::-1]
    left_out = len(lineage) - len(shown)
    above = [Text(f"... {left_out} more above")] if left_out else []
    rows = iter([*above, *(_process(info, users) for info in shown)])
    root = branch = Tree(next(rows), guide_style="dim")
    for row in rows:
        branch = branch.add(row)
    return root


def _process(info: Mapping[str, Any], users: UserNames | None) -> Text:
    name = info.get("name")
    row = Text(f"{info.get('pid')} ", style="dim")
    row.append("?" if name is None else visible(name), style="bold")
    command = info.get("cmd")
    binary = info.get("execution_binary") or {}
    if command:
        row.append(f"  {_cut(visible(' '.join(command)))}", style="default")
    elif binary.get("path"):
        row.append(f"  {_cut(visible(binary['path']))}", style="default")
    if info.get("uid") is not None:
        user = None if users is None else users.of(info)
        known = "" if user is None else f" ({visible(user)})"
        row.append(f"  uid {info['uid']}{known}", style="dim")
    return row


def _value(value: object) -> str:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{visible(str(k))}={_value(v)}" for k, v in value.items())
    if isinstance(value, Sequence):
        return " ".join(_items(value))
    return "-" if value is None else str(value)


def _items(values: Sequence[object]) -> Iterator[str]:
    for value in values:
        shown = _value(value)
        yield f"'{shown}'" if shown == "" or " " in shown else shown


def _cut(text: str) -> str:
    if len(text) <= _VALUE_LENGTH:
        return text
    return f"{text[:_VALUE_LENGTH]}... ({len(text) - _VALUE_LENGTH} more)"
