"""`proctree-detect` over event logs: what it finds, what it says, and every bad input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from commands import WEBSHELL, command, environment, run

from proctree_ds.cli.detect import main
from proctree_ds.cli.options import PROCESS_CACHE, THREAD_CACHE, tree_options
from proctree_ds.eventlog import write_events
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Task

INTRUSION = {
    ("PT-SHELL-FROM-SERVER", 2201),
    ("PT-ODD-LOCATION", 2220),
    ("PT-ODD-LOCATION", 2223),
    ("PT-KERNEL-THREAD-NAME", 2225),
    ("PT-FILELESS-EXECUTION", 2230),
    ("PT-REVERSE-SHELL", 2231),
    ("PT-RENAMED-SHELL", 2243),
}
"""What the bundled history certainly holds."""

LIFE: list[Event] = [
    Header(boot_time=1_700_000_000_000_000_000),
    Fork(1_000, Task(601, 1_000), parent=Task(600, 50)),
    Exec(1_500, Task(601, 1_000), {"comm": "ls", "argv": ("ls", "-l")}),
    Exit(2_000, Task(601, 1_000), exit_code=0, group_exit=True),
]


def detect(*arguments: str | Path, input: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def findings(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def who(text: str) -> set[tuple[str, int]]:
    return {(found["signature"]["id"], found["event"]["pid"]) for found in findings(text)}


def signature(
    name: str, body: str = "return Finding(data={'pid': event.pid})", more: str = ""
) -> str:
    """The source of a signature of execs."""
    return textwrap.dedent(
        f"""
        from proctree_ds.signature import *

        class Test(Signature):
            metadata = SignatureMetadata(
                id={name!r}, version="1", name="n", description="d", severity="info"
            )
            selectors = (EventSelector(event="exec"),)

            def on_event(self, event):
                {body}

            {more}
        """
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A signature directory with a signature that works."""
    place = tmp_path / "signatures"
    place.mkdir(mode=0o755)
    (place / "good.py").write_text(signature("GOOD"))
    return place


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "life.jsonl"
    write_events(path, LIFE)
    return path


# ------------------------------------------------------------------------------------- findings


def test_the_bundled_intrusion_is_found() -> None:
    result = detect("--replay", WEBSHELL)
    assert result.exit_code == 0
    assert who(result.stdout) >= INTRUSION
    for found in findings(result.stdout):
        assert list(found) == ["time", "signature", "event", "process", "lineage", "data"]
        assert found["process"] == found["lineage"][0]
        assert found["process"]["pid"] == found["event"]["pid"]
        assert found["time"] == found["event"]["time"] == found["process"]["time"]
    assert "118 events" in result.stderr
    assert "3 lost in 1 loss window" in result.stderr
    assert f"{len(findings(result.stdout))} findings" in result.stderr


def test_a_replay_finds_the_same_again_from_a_file_a_stream_and_compressed(tmp_path: Path) -> None:
    first = detect("--replay", WEBSHELL).stdout
    assert detect("--replay", WEBSHELL).stdout == first
    assert run("proctree-detect", "--replay", "-", input=WEBSHELL.read_bytes()).stdout == first
    compressed = tmp_path / "log.jsonl.gz"
    compressed.write_bytes(gzip.compress(WEBSHELL.read_bytes()))
    assert detect("--replay", compressed).stdout == first


def test_a_log_that_was_written_replays_to_the_same_findings(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl.gz"
    first = detect("--replay", WEBSHELL, "--write-log", copy)
    second = detect("--replay", copy)
    assert second.stdout == first.stdout != ""


def test_signatures_of_ones_own_with_and_without_the_built_in_ones(directory: Path) -> None:
    both = detect("--replay", WEBSHELL, "--signatures", directory)
    assert {name for name, _ in who(both.stdout)} > {"GOOD", "PT-REVERSE-SHELL"}
    alone = detect("--replay", WEBSHELL, "--signatures", directory, "--no-builtin")
    assert {name for name, _ in who(alone.stdout)} == {"GOOD"}
    none = detect("--replay", WEBSHELL, "--no-builtin")
    assert (none.stdout, none.exit_code) == ("", 0)
    assert "118 events" in none.stderr


def test_a_tree_that_is_turned_off_gives_no_lineage(directory: Path, log: Path) -> None:
    result = detect(
        "--replay", log, "--signatures", directory, "--no-builtin", "--proctree", "source=none"
    )
    (found,) = findings(result.stdout)
    assert found["process"] is None
    assert found["data"] == {"pid": 601}


def test_quiet_says_nothing_but_findings() -> None:
    result = detect("--replay", WEBSHELL, "--quiet")
    assert who(result.stdout) >= INTRUSION
    assert result.stderr == ""


def test_a_table_is_readable_and_no_wider_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = detect("--replay", WEBSHELL, "--output", "table")
    assert "Shell below a web server" in result.stdout
    assert "php-fpm8.2" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_of_many_findings_alike_a_table_draws_a_few_and_counts_all(
    tmp_path: Path, directory: Path
) -> None:
    events: list[Event] = []
    for number in range(1, 201):
        task = Task(number, number)
        events += [Fork(number, task), Exec(1_000 + number, task, {"comm": "again"})]
    path = tmp_path / "many.jsonl"
    write_events(path, events)
    arguments = ("--replay", path, "--signatures", directory, "--no-builtin")
    table = detect(*arguments, "--output", "table")
    assert "200 findings" in table.stderr
    assert "190 findings left out" in table.stderr
    assert table.stdout.count("GOOD") == 10
    assert len(findings(detect(*arguments).stdout)) == 200


def test_what_a_process_calls_itself_never_acts_on_the_terminal(
    tmp_path: Path, directory: Path
) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e\udcff\r\n"
    task = Task(5, 5)
    path = tmp_path / "evil.jsonl"
    write_events(path, [Fork(5, task), Exec(6, task, {"comm": evil, "argv": (evil, evil)})])
    (directory / "bad.py").write_text(signature("BAD", "raise ValueError(event.comm)"))
    arguments = ("--replay", path, "--signatures", directory, "--no-builtin")
    table = run("proctree-detect", *arguments, "--output", "table")
    for text in (table.stdout, table.stderr):
        assert not set(text) & {"\x1b", "\x07", "\r", "\u202e"}
        assert "owned" in text
    (found,) = findings(run("proctree-detect", *arguments).stdout)
    assert found["process"]["name"] == evil


# ---------------------------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--replay", "-", "--proctree", "source=both"], "means nothing with --replay"),
        (["--replay", "-", "--proctree", "source=events"], "means nothing with --replay"),
        (["--proctree", "source=magic"], "give one of signals, events, both, none"),
        (["--proctree", "source"], "give one of signals"),
        (["--proctree", "process-cache=many"], "give a number"),
        (["--proctree", "process-cache=-5"], "give a number"),
        (["--proctree", "process-cache=1"], "from 2 to"),
        (["--proctree", "thread-cache=99999999999"], "from 2 to"),
        (["--proctree", "thread-cache"], "give a number"),
        (["--proctree", "process-cache=10,process-cache=20"], "given twice"),
        (["--proctree", "process-cache=10", "--proctree", "process-cache=20"], "given twice"),
        (["--proctree", "disable-procfs=yes"], "takes no value"),
        (["--proctree", "cache=5"], "is no option of the tree"),
        (["--proctree", ""], "is no option of the tree"),
        (["--duration", "soon"], "is not a duration"),
        (["--duration", "0s"], "more than nothing"),
        (["--duration", "-5s"], "is not a duration"),
        (["--ring-size", "big"], "is no size"),
        (["--ring-size", "8M"], "means nothing with --replay"),
        (["--record", "/"], "holds other things"),
        (["--loader", "bcc"], "means nothing with --replay"),
        (["--loader", "magic"], "is not one of"),
        (["--output", "xml"], "is not one of"),
        (["--signatures", "/nonexistent"], "No such file or directory"),
        (["--signatures", "/etc/passwd"], "Not a directory"),
        (["extra"], "unexpected extra argument"),
        (["--magic"], "No such option"),
    ],
)
def test_wrong_usage_says_why_and_ends_with_2(arguments: list[str], reason: str) -> None:
    result = detect("--replay", WEBSHELL, *arguments)
    assert reason in result.stderr.replace("\n", " ")
    assert (result.exit_code, result.stdout) == (2, "")


def test_options_of_the_tree_come_together_or_apart() -> None:
    together = "process-cache=4,thread-cache=8,disable-procfs,disable-procfs-query,source=signals"
    apart = [word for part in together.split(",") for word in ("--proctree", part)]
    for arguments in (["--proctree", together], apart):
        assert detect("--replay", WEBSHELL, *arguments).exit_code == 0


def test_a_directory_that_others_can_write_is_refused_to_root(directory: Path) -> None:
    directory.chmod(0o777)
    result = detect("--replay", WEBSHELL, "--signatures", directory)
    expected = (2, "others can write to") if os.geteuid() == 0 else (0, "")
    assert result.exit_code == expected[0]
    assert expected[1] in result.stderr.replace("\n", " ")


def test_a_log_does_not_overwrite_what_is_replayed(log: Path) -> None:
    before = log.read_bytes()
    result = detect("--replay", log, "--write-log", log)
    assert result.exit_code == 2
    assert log.read_bytes() == before


# ------------------------------------------------------------------------------- bad signatures


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = 1\n", "no subclass of Signature"),
        (signature("GOOD"), "is taken"),
        (signature("BAD", "raise ValueError('no')"), "ValueError: no"),
        (signature("BAD", "return 5"), "a value of type int"),
        (signature("BAD", more="def init(self, context): raise OSError('no init')"), "no init"),
        (signature("BAD", "pass", "def close(self): raise OSError('no close')"), "no close"),
        (signature("BAD", "while True: pass"), "did not return"),
    ],
)
def test_a_bad_signature_is_told_and_the_others_run(
    directory: Path, log: Path, source: str, reason: str
) -> None:
    (directory / "zz_bad.py").write_text(source)
    result = detect("--replay", log, "--signatures", directory, "--no-builtin")
    assert who(result.stdout) == {("GOOD", 601)}
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert result.exit_code == 1


def test_an_error_that_comes_again_and_again_is_told_once(directory: Path) -> None:
    (directory / "bad.py").write_text(signature("BAD", "raise ValueError('always')"))
    result = detect("--replay", WEBSHELL, "--signatures", directory)
    assert result.stderr.count("ValueError: always") == 1
    assert "switched off: 10 errors" in result.stderr
    assert who(result.stdout) >= INTRUSION


# --------------------------------------------------------------------------------- bad sources

BAD_LINES = {
    "cut": b'{"type":"exit","time":2000,"task":{"tid":6',
    "no object": b"42",
    "wrong type": b'{"type":"exit","time":"noon","task":{"tid":601,"start_time":1000}}',
    "unknown type": b'{"type":"birth","time":2000,"task":{"tid":601,"start_time":1000}}',
    "missing field": b'{"type":"exit","time":2000}',
    "negative time": b'{"type":"exit","time":-1,"task":{"tid":601,"start_time":1000}}',
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_ends_the_replay_with_its_place(bad: bytes, directory: Path, log: Path) -> None:
    lines = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join([*lines[:3], bad, *lines[3:]]) + b"\n")
    arguments = ("--replay", log, "--signatures", directory, "--no-builtin")
    result = detect(*arguments)
    assert f"{log}:4" in result.stderr
    assert who(result.stdout) == {("GOOD", 601)}, "what came before is seen through"
    assert "2 events" in result.stderr
    assert result.exit_code == 1

    skipped = detect(*arguments, "--skip-bad-lines")
    assert f"{log}:4" in skipped.stderr
    assert "1 bad line skipped" in skipped.stderr
    assert "3 events" in skipped.stderr
    assert skipped.exit_code == 0


def test_of_many_bad_lines_only_the_first_are_told(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"nonsense\n" * 5_000)
    result = detect("--replay", log, "--skip-bad-lines", "--no-builtin")
    assert "5,000 bad lines skipped" in result.stderr
    assert len(result.stderr.splitlines()) < 20


@pytest.mark.parametrize(
    ("replay", "reason", "status"),
    [
        ("/nonexistent.jsonl", "No such file or directory", 1),
        ("/", "holds no recording", 1),
        ("/nonexistent.jsonl.gz", "No such file or directory", 1),
    ],
)
def test_a_source_that_is_not_there(replay: str, reason: str, status: int) -> None:
    result = detect("--replay", replay)
    assert reason in result.stderr.replace("\n", " ")
    assert result.exit_code == status


def test_a_compressed_log_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(WEBSHELL.read_bytes())[:-200])
    result = detect("--replay", path)
    assert str(path) in result.stderr
    assert result.exit_code == 1


def test_no_kernel_programs_and_no_kernel_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proctree_ds.sources.programs._KERNEL_BTF", tmp_path / "no-btf")
    compiled = tmp_path / "proctree.bpf.o"
    compiled.touch()
    monkeypatch.setattr("proctree_ds.sources.programs._OBJECT", compiled)
    result = detect("--source", "ebpf")
    assert "CONFIG_DEBUG_INFO_BTF" in result.stderr
    assert result.exit_code == 1
    monkeypatch.setattr("proctree_ds.sources.programs._OBJECT", tmp_path / "missing.o")
    result = detect("--source", "ebpf")
    assert "compiled kernel programs are missing" in result.stderr
    assert result.exit_code == 1


# --------------------------------------------------------------------------------- bad outputs


def test_a_full_disk_ends_the_log_and_not_the_detection() -> None:
    result = run("proctree-detect", "--replay", WEBSHELL, "--write-log", "/dev/full")
    assert who(result.stdout) >= INTRUSION
    assert "No space left on device" in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize("output", ["json", "table"])
def test_findings_on_a_full_disk_are_an_error(output: str) -> None:
    with open("/dev/full", "wb") as full:
        result = run("proctree-detect", "--replay", WEBSHELL, "--output", output, stdout=full)
    assert "findings cannot be written: No space left on device" in result.stderr
    assert "118 events" in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize("output", ["json", "table"])
def test_a_reader_that_goes_away_ends_the_command_quietly(output: str) -> None:
    arguments = ("--replay", WEBSHELL, "--quiet", "--output", output)
    with subprocess.Popen(
        command("proctree-detect", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_log_that_cannot_be_made() -> None:
    result = detect("--replay", WEBSHELL, "--write-log", "/nonexistent/log.jsonl")
    assert "cannot write /nonexistent/log.jsonl" in result.stderr
    assert (result.exit_code, result.stdout) == (1, "")


def test_help_and_version() -> None:
    assert "--signatures" in detect("-h").stdout
    assert detect("--version").exit_code == 0


@pytest.mark.parametrize(
    ("said", "caches"),
    [
        ("", (16_384, 32_768)),
        ("process-cache=1000", (1_000, 32_768)),
        ("process-cache=100000", (100_000, 200_000)),
        ("thread-cache=1000", (16_384, 1_000)),
        ("process-cache=100000,thread-cache=1000", (100_000, 1_000)),
    ],
)
def test_caches_are_given_together_or_one_by_one(said: str, caches: tuple[int, int]) -> None:
    context = click.Context(click.Command("c"))
    options = tree_options(context, click.Option(["--proctree"]), [said] if said else [])
    assert options.caches(PROCESS_CACHE, THREAD_CACHE) == caches
