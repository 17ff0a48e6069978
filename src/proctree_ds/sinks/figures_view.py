"""Counts over a history as text for a person: what is in it, and which programs were busiest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from proctree_ds.clock import format_time
from proctree_ds.sinks.escape import visible
from proctree_ds.sinks.process_view import cut, length

if TYPE_CHECKING:
    from proctree_ds.tallies import HistoryStatistics, ProgramActivity

__all__ = ["draw_programs", "draw_statistics", "totals"]

_LABEL_WIDTH: Final = 11


def draw_statistics(found: HistoryStatistics, *, width: int) -> Iterator[str]:
    """A fact a line, then the busiest parents and programs, each of at most `width` characters."""
    events = dict(found.events)
    for name in ("header", "picture", "loss"):
        del events[name]
    lives = (
        f"{found.processes:,}: {found.processes_born:,} born, {found.processes_exited:,} exited,"
        f" {found.processes_alive:,} alive at the end"
    )
    facts = [
        ("host", visible(found.host) if found.host else "unknown"),
        ("from", format_time(found.first_time)),
        ("to", f"{format_time(found.last_time)}, {length(found.last_time - found.first_time)}"),
        ("events", f"{sum(events.values()):,}{_listed(events, prefix=': ')}"),
        ("processes", lives),
        ("threads", f"{found.threads:,}, leaders included"),
        ("lost", _lost(found)),
        ("bad input", _listed(found.faults) or "none"),
        ("dropped", _listed(found.dropped) or "nothing"),
    ]
    if found.skipped_lines:
        facts.append(("skipped", f"{found.skipped_lines:,} lines that cannot be read"))
    for label, text in facts:
        yield cut(f"{label:<{_LABEL_WIDTH}}{text}", width)
    if found.busiest_parents:
        yield ""
        rows = [("CHILDREN", "PID", "PARENT")]
        for parent in found.busiest_parents:
            pid = "?" if parent.pid is None else str(parent.pid)
            rows.append((f"{parent.children:,}", pid, visible(parent.name or "?")))
        yield from _table(rows, width)
    if found.busiest_programs:
        yield ""
        yield from draw_programs(found.busiest_programs, width=width)


def draw_programs(programs: Sequence[ProgramActivity], *, width: int) -> Iterator[str]:
    """A heading, and a line of at most `width` characters for each program."""
    rows = [("STARTED", "/s", "EXECUTED", "/s", "FORKED", "/s", "SHORT", "PROGRAM")]
    for program in programs:
        counts: list[str] = []
        for count in (program.started, program.executed, program.forked):
            counts += [f"{count:,}", _rate(count, program.seconds)]
        name = "?" if program.program is None else visible(program.program)
        rows.append((*counts, f"{program.short_lived:,}", name))  # type: ignore[arg-type]
    yield from _table(rows, width)


def totals(programs: Sequence[ProgramActivity], seconds: float, width: int) -> str:
    """What all programs did together, in one line."""
    started, executed, short = (
        sum(getattr(program, name) for program in programs)
        for name in ("started", "executed", "short_lived")
    )
    text = (
        f"within {seconds:.1f} s: {started:,} started ({_rate(started, seconds)}/s),"
        f" {executed:,} executed ({_rate(executed, seconds)}/s),"
        f" {short:,} short-lived"
    )
    return cut(text, width)


def _rate(count: int, seconds: float) -> str:
    if not seconds:
        return "?"
    rate = count / seconds
    return f"{rate:.1f}" if rate >= 1 or not count else f"{rate:.2f}"


def _table(rows: Sequence[tuple[str, ...]], width: int) -> Iterator[str]:
    """Columns to the right but for the last, which has what room there is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:>{size}}" for cell, size in zip(row[:-1], widths[:-1], strict=True)]
        yield cut("  ".join((*cells, row[-1])), width)


def _lost(found: HistoryStatistics) -> str:
    if not found.loss_windows:
        return "nothing"
    count = f"{found.lost:,} events" if found.lost else "an unknown number of events"
    windows = "window" if found.loss_windows == 1 else "windows"
    return f"{count} in {found.loss_windows:,} {windows}"


def _listed(counts: Mapping[str, int], prefix: str = "") -> str:
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return prefix + text if text else ""
