"""The live tree against /proc, the process connector and the kernel's count of forks, under load.

`python -m benchmarks truth` takes ten minutes, and so does `truth-followed`, where changes that
only system calls tell are followed as well; `python -m benchmarks.truth SECONDS` takes as long as
is said. What is compared, how, and what explains a difference: tests/live/truth/. Needs root, gcc
and stress-ng; everything is bounded and ends by itself.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter

from benchmarks.timing import Figure
from tests.live.truth.ledger import EXPLANATIONS
from tests.live.truth.stage import load
from tests.live.truth.watch import Outcome, Watch

SECONDS = 600


def followed() -> list[Figure]:
    """The same with `follow-changes`: fewer differences are explained by what is not followed."""
    return live(follow_changes=True)


def live(seconds: float = SECONDS, follow_changes: bool = False) -> list[Figure]:
    """What was compared and what differed. Raises RuntimeError where anything is unexplained."""
    watch = Watch(follow_changes=follow_changes)
    try:
        with load(seconds) as command:
            outcome = watch.run(command)
    finally:
        watch.close()
    figures = [*_compared(outcome), *_explained(outcome), *_told(outcome), *_memory(outcome)]
    ledger = outcome.ledger
    if ledger.unexplained or outcome.lost or outcome.missed:
        for line in (*map(str, figures), *ledger.differences):
            print(line)
        raise RuntimeError(
            f"{ledger.unexplained} unexplained differences, {outcome.lost} events lost,"
            f" {outcome.missed} notices of the connector missed"
        )
    return figures


def _compared(outcome: Outcome) -> list[Figure]:
    ledger = outcome.ledger
    values = sum(ledger.compared.values())
    return [
        Figure("watched for", outcome.seconds, "s"),
        Figure("sweeps of /proc", ledger.sweeps, "sweeps"),
        Figure("rows", ledger.rows, "rows", f"and {ledger.thread_rows:,} of threads"),
        Figure("values compared", values, "values"),
        *(Figure(f"  {name}", count, "values") for name, count in ledger.compared.items()),
        Figure("differences that nothing explains", ledger.unexplained, "values"),
    ]


def _explained(outcome: Outcome) -> list[Figure]:
    """By kind, with the attributes that it was about."""
    kinds: dict[str, Counter[str]] = {}
    longest: Counter[str] = Counter()
    for (kind, name), entry in outcome.ledger.explained.items():
        kinds.setdefault(kind, Counter())[name] += entry.count
        longest[kind] = max(longest[kind], entry.longest_ns)
    figures = []
    for kind, names in sorted(kinds.items()):
        what = ", ".join(f"{name} {count:,}" for name, count in names.most_common())
        lasted = f"; {longest[kind] / 1e6:,.1f} ms at most" if longest[kind] else ""
        note = f"{EXPLANATIONS[kind]}{lasted}: {what}"
        figures.append(Figure(f"explained: {kind}", names.total(), "values", note))
    return figures


def _told(outcome: Outcome) -> list[Figure]:
    """The observers' counts beside the source's."""
    chronicle, forks = outcome.chronicle, outcome.forks
    told = {
        "fork": chronicle.fork_count,
        "exec": chronicle.exec_count,
        "exit": chronicle.exit_count,
    }
    figures = [
        Figure(
            f"the connector told of: {kind}",
            count,
            "notices",
            f"the source, which was there a little longer, of {told[kind]:,}"
            if kind in told
            else "",
        )
        for kind, count in outcome.ledger.witnessed.most_common()
    ]
    note = f"the source told of {forks.told:,}; compared at {forks.anchors:,} instants"
    return [
        *figures,
        Figure("tasks that the kernel counted", forks.kernel, "tasks", note),
        Figure("events lost", outcome.lost, "events"),
        Figure("notices that the connector lost", outcome.missed, "notices"),
    ]


def _memory(outcome: Outcome) -> list[Figure]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    evicted = outcome.tree["evicted_processes"]
    return [
        Figure("processes evicted, all long gone", evicted, "processes"),
        Figure("living processes evicted", outcome.tree["evicted_living_processes"], "processes"),
        Figure("peak resident memory of the tree and its judges", peak, "MiB"),
    ]


if __name__ == "__main__":
    for figure in live(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS):
        print(figure)
