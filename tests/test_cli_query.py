"""`proctree`: questions to a history, as JSON and for reading."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from commands import WEBSHELL, answers, ask, run

from proctree_ds.clock import format_time
from proctree_ds.eventlog import read_events, write_events
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Snapshot, Task, entity_id

BOOT = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

INIT, SHELL, CHILD = Task(1, 1), Task(600, 100), Task(601, 1_000)
LIFE: list[Event] = [
    Header(boot_time=BOOT),
    Snapshot(50, INIT, {"comm": "init"}, ns_pid=1),
    Fork(100, SHELL, parent=INIT),
    Exec(200, SHELL, {"comm": "bash", "argv": ("-bash",)}),
    Fork(1_000, CHILD, parent=SHELL),
    Exec(SECOND, CHILD, {"comm": "curl", "argv": ("curl", "x y"), "uid": 1000}),
    Exit(2 * SECOND, SHELL, exit_code=3, group_exit=True, reaper=INIT),
    Change(3 * SECOND, CHILD, {"comm": "renamed"}),
    Exit(4 * SECOND, CHILD, exit_signal=9, group_exit=True),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "life.jsonl"
    write_events(path, LIFE)
    return path


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (str(BOOT + 1_000), "bash"),
        (str(BOOT + SECOND - 1), "bash"),
        (str(BOOT + SECOND), "curl"),
        (format_time(BOOT + SECOND), "curl"),
        ("+2.5s", "curl"),
        ("-1s", "renamed"),
    ],
)
def test_a_process_is_what_it_was_at_the_time(log: Path, at: str, name: str) -> None:
    (process,) = answers("process", log, "--pid", 601, "--at", at)
    assert process["name"] == name
    assert process["is_alive"]
    assert process["exit_time"] is None
    by_id = answers("process", log, "--entity", entity_id(1_000, 601), "--at", at)
    assert by_id == answers("process", log, "--entity", hex(entity_id(1_000, 601)), "--at", at)
    assert by_id == [process]


def test_ps_lists_who_lived_then(log: Path) -> None:
    def pids(*arguments: str | Path) -> list[int]:
        return [process["pid"] for process in answers("ps", *arguments)]

    assert pids(log, "--at", str(BOOT + 500)) == [1, 600]
    assert pids(log, "--at", "+1s") == [1, 600, 601]
    assert pids(log, "--at", "+2.5s") == [1, 601]
    assert pids(log) == [1]
    assert pids(log, "--all") == [1, 600, 601]


def test_a_tree_goes_by_parents_and_with_the_dead_by_who_made_whom(log: Path) -> None:
    then = answers("tree", log, "--at", "+2.5s")
    assert [(process["pid"], process["parent_entity_id"]) for process in then] == [
        (1, None),
        (601, entity_id(1, 1)),
    ]
    drawn = ask("tree", log, "--all", "--output", "table").stdout.splitlines()
    assert [line[-24:].split("─ ")[-1].split()[0] for line in drawn[1:]] == ["bash", "renamed"]
    assert drawn[1].index("└─") < drawn[2].index("└─")
    assert "exit 3" in drawn[1]
    assert "SIGKILL" in drawn[2]
    below = answers("tree", log, "--all", "--pid", 600)
    assert [process["pid"] for process in below] == [600, 601]


def test_a_lineage_by_the_parents_of_the_time() -> None:
    asked = ("lineage", WEBSHELL, "--pid", 2225, "--at", "+75s")
    original = [row["pid"] for row in answers(*asked)]
    now = [row["pid"] for row in answers(*asked, "--parents", "as_of")]
    assert len(original) > len(now) > 1
    assert (original[0], original[-1]) == (now[0], now[-1])


def test_a_lineage_ends_at_the_process_as_a_drawing(log: Path) -> None:
    found = answers("lineage", log, "--pid", 601, "--at", "+2.5s")
    assert [process["pid"] for process in found][-1] == 601
    assert [process["name"] for process in found][-2:] == ["bash", "curl"]
    assert len(answers("lineage", log, "--pid", 601, "--at", "+2.5s", "--max-depth", 0)) == 1
    drawn = ask("lineage", log, "--pid", 601, "--at", "+2.5s", "--output", "table").stdout
    assert drawn.index("bash") < drawn.index("curl")


def test_everything_about_one_process_is_readable(log: Path) -> None:
    text = ask("process", log, "--pid", 601, "--at", "+2s", "--output", "table").stdout
    facts = dict(line.split(None, 1) for line in text.splitlines())
    assert facts["pid"] == "601"
    assert facts["cmd"] == "curl x y"
    assert facts["uid"] == "1000"
    assert facts["start_time"] == format_time(BOOT + 1_000)
    assert facts["entity_id"] == f"{entity_id(1_000, 601):#018x}"
    assert "exit_time" not in facts


def test_a_table_is_no_wider_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    for question in (["tree", "--all"], ["ps"], ["process", "--pid", "560"]):
        name, *more = question
        drawn = ask(name, WEBSHELL, *more, "--output", "table").stdout.splitlines()
        assert drawn
        assert max(map(len, drawn)) <= 72


def test_text_of_a_process_never_acts_on_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e\udcff\n"
    path = tmp_path / "evil.jsonl"
    write_events(path, [Fork(5, Task(5, 5)), Exec(6, Task(5, 5), {"comm": evil, "argv": (evil,)})])
    for question in (["ps"], ["tree"], ["process", "--pid", "5"], ["lineage", "--pid", "5"]):
        shown = run("proctree", question[0], path, *question[1:], "--output", "table").stdout
        assert "\\x1b[2J" in shown
        assert not set(shown) & {"\x1b", "\u202e"}
        assert "\\xff" in shown


def test_a_chain_of_any_depth_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    tasks = [Task(pid, pid) for pid in range(1, 3_001)]
    path = tmp_path / "deep.jsonl"
    write_events(path, [Fork(task.tid, task, parent=maker) for maker, task in pairwise(tasks)])
    drawn = ask("tree", path, "--output", "table").stdout.splitlines()
    assert len(drawn) == 2_999
    assert max(map(len, drawn)) <= 120
    assert "⋮ 2998" in drawn[-1]


def test_standard_input_is_a_source() -> None:
    whole = run("proctree", "ps", "-", input=WEBSHELL.read_bytes())
    assert whole.stdout == run("proctree", "ps", WEBSHELL).stdout != ""


def test_the_schema_is_that_of_every_line() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(ask("schema").stdout))
    for line in WEBSHELL.read_text().splitlines():
        validator.validate(json.loads(line))
    assert not validator.is_valid({"type": "birth"})
    by_key = json.loads(ask("schema", "--of", "answers").stdout)
    assert {"ProcKey", "ThreadKey", "LineageKey"} <= set(by_key)


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (["process", WEBSHELL], "give --pid or --entity", 2),
        (["lineage", WEBSHELL, "--pid", "1", "--entity", "5"], "one of them", 2),
        (["tree", WEBSHELL, "--pid", "1", "--entity", "5"], "not both", 2),
        (["ps", WEBSHELL, "--at", "yesterday"], "is not a time", 2),
        (["ps", WEBSHELL, "--at", "2026-03-14T10:00:31"], "has no time zone", 2),
        (["process", WEBSHELL, "--entity", "zero"], "is no entity id", 2),
        (["process", WEBSHELL, "--entity", "0"], "is no entity id", 2),
        (["process", WEBSHELL, "--pid", "-1"], "not in the range", 2),
        (["ps", "/"], "holds no recording", 1),
        (["export", "/", "--to", "x.jsonl"], "holds no recording", 1),
        (["record"], "record into what", 2),
        (["record", "/", "--from", WEBSHELL], "holds other things", 2),
        (["process", WEBSHELL, "--pid", "99999"], "no process is known", 1),
        (["process", WEBSHELL, "--entity", "5"], "was ever seen", 1),
        (["process", WEBSHELL, "--pid", "2201", "--at", "+1s"], "pid 2201", 1),
        (["process", WEBSHELL, "--pid", "2201"], "had exited", 1),
        (["tree", WEBSHELL, "--pid", "2201"], "lived at that time", 1),
        (["ps", "/nonexistent.jsonl"], "No such file", 1),
        (["ps", "/dev/null"], "holds no events", 1),
    ],
)
def test_what_cannot_be_answered_says_why(arguments: list[str], reason: str, status: int) -> None:
    result = ask(*arguments)
    assert reason in " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (status, "")


def test_a_bad_line_ends_the_question_or_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"nonsense\n" + WEBSHELL.read_bytes())
    result = ask("ps", path)
    assert f"{path}:1" in result.stderr
    assert (result.exit_code, result.stdout) == (1, "")
    skipped = ask("ps", path, "--skip-bad-lines")
    assert skipped.exit_code == 0
    assert f"{path}:1" in skipped.stderr
    assert skipped.stdout == ask("ps", WEBSHELL).stdout


def test_history_that_was_dropped_is_told() -> None:
    lives = sum(isinstance(event, Fork) for event in read_events(WEBSHELL))
    assert lives > 10
    result = ask("tree", WEBSHELL, "--all", "--at", "+10s", "--proctree", "process-cache=10")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) <= 20


def test_a_full_disk_is_an_error_without_a_traceback() -> None:
    with open("/dev/full", "wb") as full:
        for output in ("json", "table"):
            result = run("proctree", "ps", WEBSHELL, "--output", output, stdout=full)
            assert "No space left on device" in result.stderr
            assert result.returncode == 1
