"""The documents as data: their blocks, links, and the tables that are made from the code.

A fenced block says by its first words what it is:

    python               executed, in order, in one namespace a document
    text                 what the python block right before it prints
    python file=NAME     written to NAME, for the blocks after it; json file=NAME likewise
    console              `$ command` and its output; a line `...` stands for any number of lines
    sh                   commands that are not run here, for they need root or change the machine;
                         their options are checked
    json                 lines of an event log, if they have a "type"

Between `<!-- table: NAME -->` and `<!-- end -->` stands what the code says. After a change of the
code, `python tests/documents.py` writes it anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

import proctree_ds
from proctree_ds.answers import PROCESS_FIELDS, THREAD_FIELDS
from proctree_ds.cli.detect import main as detect
from proctree_ds.cli.query import main as query
from proctree_ds.faults import FAULTS
from proctree_ds.registry import load_signatures
from proctree_ds.service.metrics import FIGURES
from proctree_ds.states import STATES, TRANSITIONS

__all__ = ["DOCUMENTS", "ROOT", "TABLES", "Block", "anchors", "blocks", "rewritten", "tables_in"]

ROOT: Final = Path(__file__).parent.parent
DOCUMENTS: Final = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
)
RESULTS: Final = ROOT / "benchmarks" / "results"

_FENCE: Final = re.compile(r"^```(\S*)[ ]*(.*)$")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_TABLE: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, what else stands behind the fence, its text, its first line."""

    language: str
    attributes: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is to be written to."""
        return self.attributes.removeprefix("file=") if "file=" in self.attributes else None


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in their order."""
    opened: tuple[str, str, int] | None = None
    text: list[str] = []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence is not None:
            opened, text = (fence[1], fence[2].strip(), number + 1), []
        elif opened is not None and line == "```":
            yield Block(opened[0], opened[1], "\n".join(text) + "\n", opened[2])
            opened = None
        elif opened is not None:
            text.append(line)
    assert opened is None, f"{document}: a block has no end"


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(document.read_text())
    }


# ------------------------------------------------------------------------------------- tables


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _head(*cells: str) -> str:
    return _row(*cells) + "|" + "---|" * len(cells) + "\n"


def _first_sentence(text: str | None) -> str:
    words = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?])\s(?=[A-Z`])", words)[0]


def built_in_signatures() -> str:
    rows = [_head("id", "severity", "techniques", "what it finds")]
    for signature in load_signatures().signatures:
        about = signature.metadata
        file = type(signature).__module__.replace(".", "/")
        link = f"[{about.id}](../src/{file}.py)"
        rows.append(_row(link, about.severity, ", ".join(about.techniques), about.description))
    return "".join(rows)


def _options(command: click.Command) -> Iterator[click.Option]:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield parameter


def detect_options() -> str:
    rows = [_head("option", "what it does")]
    context = click.Context(detect)
    for option in _options(detect):
        record = option.get_help_record(context)
        assert record is not None
        rows.append(_row(f"`{record[0]}`", " ".join(record[1].split())))
    return "".join(rows)


def query_commands() -> str:
    rows = [_head("command", "what it answers", "options of its own")]
    every = [query.commands[name] for name in ("ps", "process")]
    shared = set.intersection(*({o.opts[0] for o in _options(command)} for command in every))
    for name, command in query.commands.items():
        own = [f"`{o.opts[0]}`" for o in _options(command) if o.opts[0] not in shared]
        rows.append(_row(f"`proctree {name}`", _first_sentence(command.help), ", ".join(own)))
    return "".join(rows)


def _fields(answer: type, names: tuple[str, ...]) -> str:
    rows = [_head("field", "type", "what it is")]
    for name in names:
        getter = vars(answer)[name].fget
        kind = str(inspect.signature(getter).return_annotation)
        rows.append(_row(f"`{name}`", f"`{kind}`", " ".join((getter.__doc__ or "").split())))
    return "".join(rows)


def public_names() -> str:
    rows = [_head("name", "what it is")]
    for name in proctree_ds.__all__:
        value = getattr(proctree_ds, name)
        about = "Any event of the model." if name == "Event" else _first_sentence(value.__doc__)
        if name == "Signal":
            about = "What `on_signal` is called with: `EndOfSource`, `LossSignal` or `Tick`."
        rows.append(_row(f"`{name}`", about))
    return "".join(rows)


def faults() -> str:
    rows = [_head("counter", "what was wrong with the input, and what becomes of it")]
    rows.extend(_row(f"`fault_{kind}`", meaning) for kind, meaning in sorted(FAULTS.items()))
    return "".join(rows)


def metrics() -> str:
    rows = [_head("name", "kind", "labels", "what it is")]
    for figure in FIGURES:
        labels = ", ".join(f"`{label}`" for label in figure.labels)
        rows.append(_row(f"`{figure.name}`", figure.kind, labels, figure.about))
    return "".join(rows)


class _Figure(NamedTuple):
    what: str
    name: str
    file: str


_FIGURES: Final = (
    _Figure("Random histories, told in any order", "random histories", "histories"),
    _Figure(
        "Answers about them, compared with a naive model",
        "answers compared with the model",
        "histories",
    ),
    _Figure("Histories with an answer that differed", "mismatches", "histories"),
    _Figure(
        "Values of `/proc` compared with the live tree, ten minutes under load",
        "values compared",
        "truth",
    ),
    _Figure(
        "Of these, what nothing explains",
        "differences that nothing explains",
        "truth",
    ),
    _Figure("A fork + exec + exit loop, watched: slow-down", "slow-down, median of pairs", "loop"),
    _Figure(
        "CPU of `proctree-detect` for one process life, all built-in signatures",
        "CPU of proctree-detect per process life",
        "loop",
    ),
    _Figure(
        "CPU of `proctree-detect` while nothing happens",
        "CPU of proctree-detect with nothing happening",
        "loop",
    ),
    _Figure("Events lost in a storm of `stress-ng --vfork 2`", "lost", "storm"),
    _Figure(
        "Events and findings missing after 20 times `kill -9` and a new start, under load",
        "events and findings missing",
        "restarts",
    ),
    _Figure("Events into the tree, caches full", "events into the tree", "stream"),
    _Figure("Kernel records into the tree", "raw records decoded into the tree", "ring"),
    _Figure("Peak resident memory, caches full", "peak resident memory (events)", "stream"),
    _Figure("`ProcKey`", "ProcKey, name read", "queries"),
    _Figure("`LineageKey`, 5 ancestors", "LineageKey, 5 ancestors", "queries"),
    _Figure(
        "Lineage below a parent that has had 1,000,000 children",
        "lineage below a parent with 1,000,000 past children",
        "children",
    ),
    _Figure("Memory of an idle process in the tree", "an idle process", "memory"),
    _Figure(
        "Rows of a table joined as of their times", "as-of lookups by pid, 3,000,000 rows", "tables"
    ),
    _Figure(
        "Rows given their lineages, 5 ancestors", "lineages, 5 ancestors, 1,000,000 rows", "tables"
    ),
    _Figure("Command to first finding", "command to first finding, median", "first-event"),
)


def figures() -> str:
    rows = []
    for figure in _FIGURES:
        path = RESULTS / f"{figure.file}.txt"
        for line in path.read_text().splitlines() if path.exists() else ():
            found = re.fullmatch(rf"{re.escape(figure.name)} +(\S+ \S+).*", line)
            if found is not None:
                link = f"[{figure.file}](benchmarks/results/{path.name})"
                value = found[1].replace(" us", " µs").replace(".00 events", " events")
                rows.append(_row(figure.what, value, link))
    if not rows:
        return "No results are kept in this version yet.\n"
    return _head("what", "measured", "result and command") + "".join(rows)


def process_states() -> str:
    """A diagram (mermaid) of what happens in order, and tables of everything."""
    rows = ["```mermaid\n", "stateDiagram-v2\n", "    [*] --> unknown\n"]
    rows += [f"    {x.before} --> {x.after}: {x.because}\n" for x in TRANSITIONS if not x.is_late]
    rows += ["```\n\n", _head("state", "of a process means")]
    rows += [_row(f"`{state}`", meaning) for state, meaning in STATES.items()]
    rows += ["\n", _head("from", "to", "because of", "")]
    for change in TRANSITIONS:
        late = "only by what arrives late" if change.is_late else ""
        rows.append(_row(f"`{change.before}`", f"`{change.after}`", change.because, late))
    return "".join(rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "built-in-signatures": built_in_signatures,
    "detect-options": detect_options,
    "query-commands": query_commands,
    "process-fields": lambda: _fields(proctree_ds.ProcessInfo, PROCESS_FIELDS),
    "thread-fields": lambda: _fields(proctree_ds.ThreadInfo, THREAD_FIELDS),
    "process-states": process_states,
    "public-names": public_names,
    "faults": faults,
    "metrics": metrics,
    "figures": figures,
}


def tables_in(document: Path) -> dict[str, str]:
    """The tables that stand in a document, by name."""
    return {name: text for _, name, text, _ in _TABLE.findall(document.read_text())}


def rewritten(document: Path) -> str:
    """The document with every table as the code has it now."""

    def fresh(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]]()}{match[4]}"

    return _TABLE.sub(fresh, document.read_text())


def _main() -> None:
    for document in DOCUMENTS:
        text = rewritten(document)
        if text != document.read_text():
            document.write_text(text)
            click.echo(f"written anew: {document.relative_to(ROOT)}")


if __name__ == "__main__":
    _main()
