"""The documents say what is so: every example runs, every table and link is as the code has it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from documents import DOCUMENTS, ROOT, TABLES, Block, anchors, blocks, rewritten, tables_in

import proctree_ds
from proctree_ds.cli.detect import main as detect
from proctree_ds.cli.query import main as query
from proctree_ds.eventlog import read_events, schema
from proctree_ds.report import EngineLimits

EXECUTED = [d for d in DOCUMENTS if any(b.language in ("python", "console") for b in blocks(d))]
COMMANDS = {"proctree-detect": "detect", "proctree": "query"}
FOLDERS = ("src", "bpf", "tests", "docs", "benchmarks", "examples", "packaging", "scripts")
SECONDS = 60


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


# -------------------------------------------------------------------------------- what is run


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like the checkout to whoever reads, with both commands in PATH."""
    for folder in FOLDERS:
        (tmp_path / folder).symlink_to(ROOT / folder)
    programs = tmp_path / ".programs"
    programs.mkdir()
    for name, module in COMMANDS.items():
        code = f"from proctree_ds.cli.{module} import main; main(prog_name='{name}')"
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
        program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return tmp_path


@pytest.mark.parametrize("document", EXECUTED, ids=named)
def test_every_example_does_what_it_shows(document: Path, workplace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks(document):
        place = f"{named(document)}:{block.line}"
        if block.file is not None:
            target = workplace / block.file
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.language == "python":
            printed = run_python(block, place, namespace)
            continue
        elif block.language == "console":
            for command, expected in steps(block):
                assert_like(run_command(command), expected, f"{place}: $ {command}")
        elif block.language == "text" and printed is not None:
            assert_like(printed, block.text, place)
            printed = None
            continue
        assert not printed, f"{place}: what python printed above is not shown"
        printed = None


def run_python(block: Block, place: str, namespace: dict[str, Any]) -> str:
    code = compile("\n" * (block.line - 1) + block.text, place, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, namespace)
    return output.getvalue()


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what it is to print."""
    for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = step.partition("\n")
        while command.endswith("\\"):
            line, _, expected = expected.partition("\n")
            command = f"{command[:-1]} {line.strip()}"
        yield command, expected


def run_command(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        check=False,
        text=True,
    )
    return done.stdout


def assert_like(found: str, expected: str, place: str) -> None:
    """Equal line by line, but that a line `...` stands for any lines, and `…` ends one early."""
    pattern = ""
    for line in expected.rstrip("\n").split("\n"):
        begin, cut, _ = line.partition("…")
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += re.escape(begin) + (r".*" if cut else "") + r"[ ]*\n"
    whole = found.rstrip("\n") + "\n"
    assert re.fullmatch(pattern, whole), f"{place}\nshown:\n{expected}\nprinted:\n{found}"


def lines_of(language: str) -> list[tuple[str, Block]]:
    return [(named(d), b) for d in DOCUMENTS for b in blocks(d) if b.language == language]


def test_every_line_of_an_event_log_can_be_read() -> None:
    read = 0
    for _, block in lines_of("json"):
        is_log = "type" in json.loads(block.text.splitlines()[0])
        if is_log and (block.file is None or block.file.endswith(".jsonl")):
            read += len(list(read_events(block.text.splitlines())))
    assert read > 20


def test_every_command_that_is_not_run_is_one_that_can_be_given() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    checked = 0
    for name, block in lines_of("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" | ")[0], comments=True)
            words = [w for w in words if w != "sudo"]
            if not words:
                continue
            program = words[0].rpartition("/")[2]
            checked += 1
            if program == "make":
                chosen = [w for w in words[1:] if "=" not in w]
                assert set(chosen) <= set(targets), f"{name}: {line}"
            elif program == "proctree-detect":
                detect.make_context(program, words[1:])
            elif program == "proctree" and words[1:] != ["--help"]:
                command: click.Command = query.commands[words[1]]
                command.make_context(words[1], words[2:])
            else:
                others = (
                    "proctree",
                    ".",
                    "curl",
                    "install",
                    "pip",
                    "python",
                    "python3",
                    "systemctl",
                )
                assert program in others, line
    assert checked > 5


# ---------------------------------------------------------------------- what the code says too


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_tables_are_as_the_code_has_them(document: Path) -> None:
    assert rewritten(document) == document.read_text(), "run: python tests/documents.py"


def test_every_table_stands_somewhere() -> None:
    assert {name for document in DOCUMENTS for name in tables_in(document)} == set(TABLES)


def first_column(document: str, heading: str) -> list[str]:
    """The code in the first column of the first table after `heading`."""
    text = (ROOT / document).read_text().split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| `([^`]+)`", table[0], re.MULTILINE)


@pytest.mark.parametrize("line", schema.LINES, ids=lambda line: line.__struct_config__.tag)
def test_every_field_of_the_event_log_is_described(line: type[Any]) -> None:
    tag = line.__struct_config__.tag
    described = first_column("docs/events.md", f"### {tag}")
    own = [name for name in line.__struct_fields__ if name not in schema.ATTRIBUTES]
    assert sorted(described) == sorted(own)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("## Attributes", schema.ATTRIBUTES),
        ("## Files", schema.FileLine.__struct_fields__),
    ],
)
def test_every_attribute_of_the_event_log_is_described(
    heading: str, names: tuple[str, ...]
) -> None:
    assert sorted(first_column("docs/events.md", heading)) == sorted(names)


def limits_told() -> dict[str, str]:
    """The limits that docs/operating.md tells of: `module.NAME` or `PT_NAME` to the value."""
    text = (ROOT / "docs/operating.md").read_text()
    return dict(re.findall(r"^\| `([\w.]+)` \| ([\d,]+(?:\.\d+)?)[^|]* \|", text, re.MULTILINE))


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_limits_have_the_values_that_are_told() -> None:
    header = dict(
        re.findall(
            r"^#define (PT_\w+) (\d+)\b", (ROOT / "bpf/proctree.h").read_text(), re.MULTILINE
        )
    )
    engine = msgspec.structs.asdict(EngineLimits())
    told = limits_told()
    assert len(told) > 30
    for name, value in told.items():
        if name.startswith("PT_"):
            true = float(header[name])
        elif name.startswith("EngineLimits."):
            true = float(engine.pop(name.removeprefix("EngineLimits.")))
        else:
            module, _, constant = name.rpartition(".")
            true = float(getattr(importlib.import_module(f"proctree_ds.{module}"), constant))
        assert number(value) == true, name
    assert not engine, f"limits of the engine that are not told: {sorted(engine)}"


def test_no_limit_is_left_untold() -> None:
    told = limits_told()
    source = ROOT / "src/proctree_ds"
    for path in sorted(source.rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts)
        for name in re.findall(r"^([A-Z][A-Z_]*_LIMIT): Final", path.read_text(), re.MULTILINE):
            assert f"{module}.{name}" in told, f"{module}.{name}"
    header = (ROOT / "bpf/proctree.h").read_text()
    for name in re.findall(
        r"^#define (PT_\w+(?:_BYTES|_DEPTH|_COMPONENTS|_NAMES)) \d", header, re.MULTILINE
    ):
        assert name in told, name


@pytest.mark.parametrize("name", proctree_ds.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    value = getattr(proctree_ds, name)
    assert isinstance(value, types.UnionType) or value.__doc__
    pages = [d.read_text() for d in DOCUMENTS if d.parent.name == "docs"]
    pages = [
        re.sub(r"<!-- table: public-names.*?<!-- end -->", "", p, flags=re.DOTALL) for p in pages
    ]
    assert any(re.search(rf"\b{name}\b", page) for page in pages)


def test_every_message_that_is_explained_can_be_said() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    said = re.sub(r'"\s*\n?\s*f?"', "", code)
    pieces = [
        piece.strip(" :;,")
        for message in first_column("docs/operating.md", "## What is said, and what to do")
        for piece in message.split("…")
    ]
    assert len(pieces) > 25
    assert [piece for piece in pieces if piece not in said] == []


# ------------------------------------------------------------------------------ what is named


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_that_is_named_exists(document: Path) -> None:
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]*)+)`", document.read_text()):
        if name.split("/")[0] in FOLDERS:
            assert (ROOT / name).exists(), name


def test_no_document_is_left_alone() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)\s:]+)\)", document.read_text())
    }
    assert [named(d) for d in DOCUMENTS if d.parent != ROOT and d not in linked] == []
