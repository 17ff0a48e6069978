"""`proctree diff` and `timeline`: what happened, to everybody or to one process."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
from fcntl import ioctl
from itertools import pairwise
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from commands import WEBSHELL, answers, ask, command, documented, environment, run

from proctree_ds.changes import CHANGE_KINDS
from proctree_ds.eventlog import write_events
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Snapshot, Task, entity_id

BOOT = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

INIT, SHELL, CHILD, THREAD = Task(1, 1), Task(600, 100), Task(601, SECOND), Task(602, SECOND + 5)
LIFE: list[Event] = [
    Header(boot_time=BOOT),
    Snapshot(50, INIT, {"comm": "init"}, ns_pid=1),
    Fork(100, SHELL, parent=INIT),
    Exec(200, SHELL, {"comm": "bash", "argv": ("-bash",), "uid": 1000}),
    Fork(SECOND, CHILD, parent=SHELL),
    Fork(SECOND + 5, THREAD, leader=CHILD, parent=SHELL, creator=CHILD),
    Exec(2 * SECOND, CHILD, {"comm": "su", "argv": ("su", "x y")}),
    Change(3 * SECOND, CHILD, {"uid": 0, "euid": 0}),
    Change(4 * SECOND, CHILD, {"comm": "kworker"}),
    Exit(5 * SECOND, SHELL, exit_code=3, group_exit=True, reaper=INIT),
    Exit(6 * SECOND, CHILD, exit_signal=9, group_exit=True),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "life.jsonl"
    write_events(path, LIFE)
    return path


def kinds(*arguments: str | Path | int) -> list[tuple[str, int]]:
    return [(row["kind"], row["pid"]) for row in answers("diff", *arguments)]


# ---------------------------------------------------------------------------------------- diff


def test_everything_that_happened_is_told_in_order(log: Path) -> None:
    assert kinds(log) == [
        ("born", 600),
        ("executed", 600),
        ("changed_credentials", 600),
        ("born", 601),
        ("executed", 601),
        ("changed_credentials", 601),
        ("renamed", 601),
        ("died", 600),
        ("reparented", 601),
        ("died", 601),
    ]
    times = [row["time"] for row in answers("diff", log)]
    assert times == sorted(times)
    assert times[-1] == BOOT + 6 * SECOND


def test_each_change_says_from_what_to_what(log: Path) -> None:
    rows = {(row["kind"], row["pid"]): row for row in answers("diff", log)}
    shell = entity_id(100, 600)
    assert rows["born", 601]["to"] == {"ppid": 600, "parent_entity_id": shell}
    assert rows["born", 601]["name"] == "bash"
    executed = rows["executed", 601]
    assert (executed["from"]["name"], executed["to"]["name"]) == ("bash", "su")
    assert executed["cmd"] == executed["to"]["cmd"] == ["su", "x y"]
    changed = rows["changed_credentials", 601]
    assert (changed["from"], changed["to"]) == (
        {"uid": 1000, "euid": None},
        {"uid": 0, "euid": 0},
    )
    renamed = rows["renamed", 601]
    assert (renamed["from"], renamed["to"]) == ({"name": "su"}, {"name": "kworker"})
    assert rows["reparented", 601]["from"]["parent_entity_id"] == shell
    assert rows["reparented", 601]["to"]["ppid"] == 1
    assert rows["died", 600]["to"]["exit_code"] == 3
    assert rows["died", 601]["to"]["exit_signal"] == 9


def test_a_difference_is_half_open(log: Path) -> None:
    at = str(BOOT + 4 * SECOND)
    assert kinds(log, "--since", at, "--until", at) == []
    assert kinds(log, "--since", str(BOOT + 4 * SECOND - 1), "--until", at) == [("renamed", 601)]
    assert ("renamed", 601) not in kinds(log, "--since", at)
    assert kinds(log, "--since", "-1s") == [("died", 601)]


def test_a_new_name_that_came_with_a_program_is_told_once(log: Path) -> None:
    assert kinds(log, "--since", "+1.5s", "--until", "+2.5s") == [("executed", 601)]


def test_several_programs_in_a_row_are_told_each() -> None:
    rows = answers("diff", WEBSHELL, "--pid", 2220, "--since", "+47s", "--until", "+48s")
    programs = [
        row["to"]["name"] for row in rows if (row["kind"], row["pid"]) == ("executed", 2220)
    ]
    assert programs == ["sh", ".u.sh"]


def test_a_subtree_is_what_a_process_made_wherever_it_went() -> None:
    whole = answers("diff", WEBSHELL)
    below = answers("diff", WEBSHELL, "--pid", 571)
    assert {row["pid"] for row in below} >= {2201, 2220, 2225, 2232, 2247}  # 2225 went to init
    assert {row["pid"] for row in below}.isdisjoint({2101, 2210, 2270})
    assert [row for row in whole if row in below] == below
    last = answers("ps", WEBSHELL, "--all")
    (entity,) = (row["entity_id"] for row in last if row["pid"] == 571)
    assert answers("diff", WEBSHELL, "--entity", entity) == below


def test_a_table_has_the_numbers_and_a_line_for_each_change(log: Path) -> None:
    lines = ask("diff", log, "--output", "table").stdout.splitlines()
    assert lines[0].endswith("6.0 s")
    assert lines[1] == "2 born, 2 exec, 1 renamed, 2 credentials, 2 died, 1 parent"
    assert any("su → kworker" in line for line in lines)
    assert any("600 bash → 1 init" in line for line in lines)
    assert any("uid 1000 → 0" in line for line in lines)
    assert "SIGKILL" in lines[-1]
    nothing = ask("diff", log, "--since", str(BOOT + 6 * SECOND), "--output", "table")
    assert (nothing.exit_code, nothing.stdout.splitlines()[1]) == (0, "nothing happened")


def test_a_time_beyond_the_history_is_told(log: Path) -> None:
    result = ask("diff", log, "--until", "+100s")
    assert "the history ends at" in result.stderr
    assert result.exit_code == 0
    assert "the history begins at" in ask("diff", log, "--since", "-100s").stderr


def test_a_loss_in_the_time_is_told() -> None:
    told = "3 events of this time were lost, in 1 window"
    assert told in ask("diff", WEBSHELL, "--since", "+60s").stderr
    assert told not in ask("diff", WEBSHELL, "--since", "+80s").stderr
    assert told in ask("timeline", WEBSHELL, "--pid", 2244).stderr
    assert told not in ask("timeline", WEBSHELL, "--pid", 2220).stderr
    assert told not in ask("timeline", WEBSHELL, "--pid", 2244, "--at", "+73s").stderr


# ------------------------------------------------------------------------------------ timeline


def test_a_timeline_tells_every_version_and_what_changed(log: Path) -> None:
    rows = answers("timeline", log, "--pid", 601)
    assert [row["kind"] for row in rows] == ["start", "exec", "change", "change", "parent", "exit"]
    start, executed, credentials, renamed, parent, end = rows
    assert start["from"] == {}
    assert start["to"]["name"] == "bash"
    assert start["to"]["ppid"] == 600
    assert executed["to"]["cmd"] == ["su", "x y"]
    assert credentials["from"]["uid"] == 1000
    assert (renamed["from"], renamed["to"]) == ({"name": "su"}, {"name": "kworker"})
    assert (parent["from"]["ppid"], parent["to"]["ppid"]) == (600, 1)
    assert end["to"]["exit_signal"] == 9


def test_a_timeline_never_shows_the_future(log: Path) -> None:
    rows = answers("timeline", log, "--pid", 601, "--at", "+3.5s")
    assert [row["kind"] for row in rows] == ["start", "exec", "change"]
    assert rows == answers("timeline", log, "--entity", entity_id(SECOND, 601))[:3]


def test_children_stand_among_what_happened_when_they_are_asked_for(log: Path) -> None:
    rows = answers("timeline", log, "--pid", 600, "--children")
    assert [row["kind"] for row in rows] == ["start", "exec", "child", "exit"]
    child = rows[2]
    assert (child["pid"], child["name"], child["time"]) == (601, "kworker", BOOT + SECOND)
    assert child["to"]["ppid"] == 600
    early = answers("timeline", log, "--pid", 600, "--children", "--at", "+2.5s")
    assert early[2]["name"] == "su"
    assert "child" not in {row["kind"] for row in answers("timeline", log, "--pid", 600)}


def test_what_a_limit_took_is_neither_told_nor_made_up(tmp_path: Path) -> None:
    path = tmp_path / "restless.jsonl"
    changes = [Change(1_000 + i, SHELL, {"comm": f"n{i}", "uid": i}) for i in range(1_000)]
    write_events(path, [Fork(100, SHELL, parent=INIT), *changes])
    rows = answers("timeline", path, "--pid", 600)
    assert len(rows) < 100
    (gap,) = [row for row in rows if row["kind"] == "dropped"]
    assert (gap["from"], gap["to"]) == ({}, {"name": None, "uid": None})
    after = rows[rows.index(gap) + 1]
    assert after["from"] == {"name": None, "uid": None}
    assert after["to"]["name"].startswith("n9")
    result = ask("diff", path, "--output", "table")
    assert "changes of processes that change all the time were dropped" in result.stderr
    assert "- → n9" in result.stdout
    text = ask("timeline", path, "--pid", 600, "--output", "table").stdout
    assert "how these changed was dropped: name, uid" in text


def test_a_timeline_reads_well() -> None:
    lines = ask("timeline", WEBSHELL, "--pid", 2244, "--output", "table").stdout.splitlines()
    assert any(re.search(r"euid, suid +33 → 0", line) for line in lines)
    assert any(re.search(r"capabilities +effective, permitted \+41", line) for line in lines)
    assert any(re.search(r"exec +dbus-daemon → backup-helper", line) for line in lines)


# --------------------------------------------------------------------------------------- both


def test_the_fields_are_as_documented(log: Path) -> None:
    names = documented("Differences and time lines", "field")
    for row in (*answers("diff", log), *answers("timeline", log, "--pid", 600, "--children")):
        assert set(row) == names
    page = (Path(__file__).parent.parent / "docs/operating.md").read_text()
    (told,) = re.findall(r"^\| `kind` \| (.*) \|$", page, re.MULTILINE)
    timeline = {"start", "exec", "change", "snapshot", "parent", "exit", "child", "dropped"}
    assert set(re.findall(r"`(\w+)`", told)) == {*CHANGE_KINDS, *timeline}


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_gets_lines_that_fit_in_colour(columns: int) -> None:
    for question in (
        ["diff", "--since", "+72s"],
        ["timeline", "--pid", "2220", "--children"],
        ["timeline", "--pid", "2261"],
        ["stats"],
        ["top"],
    ):
        text = in_terminal(columns, question[0], str(WEBSHELL), *question[1:])
        plain = re.sub(r"\x1b\[\d*m", "", text)
        assert max(map(len, plain.splitlines())) <= columns
        assert ("\x1b[" in text) == (question[0] in ("diff", "timeline"))


def in_terminal(columns: int, *arguments: str) -> str:
    """What a command prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        command("proctree", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ):
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65_536):
                chunks.append(chunk)
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return b"".join(chunks).decode().replace("\r\n", "\n")


def test_text_of_a_process_never_acts_on_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e\udcff\n" + "A" * 4096
    path = tmp_path / "evil.jsonl"
    task, child = Task(5, 5), Task(6, 20)
    write_events(
        path,
        [
            Fork(5, task),
            Exec(10, task, {"comm": evil, "argv": (evil,), "cwd": evil}),
            Change(15, task, {"comm": evil + "!"}),
            Fork(20, child, parent=task),
            Change(25, child, {"comm": "x", "tty": evil}),
            Exit(30, task, exit_code=1, group_exit=True),
        ],
    )
    questions: list[list[str]] = [
        ["diff"],
        ["timeline", "--pid", "5", "--children"],
        ["timeline", "--pid", "6"],
        ["stats"],
        ["top"],
    ]
    for name, *more in questions:
        question = [name, str(path), *more]
        done = run("proctree", *question, "--output", "table")
        assert "\\x1b[2J" in done.stdout
        assert not set(done.stdout) & {"\x1b", "\u202e"}
        assert max(map(len, done.stdout.splitlines())) <= 1_000
        as_json = ask(*question, "--output", "json").stdout
        assert not set(as_json) & {"\x1b", "\u202e"}
        assert all(json.loads(line) for line in as_json.splitlines())


def crowd(path: Path, processes: int) -> Path:
    tasks = [Task(10 + index, 1_000 * (index + 1)) for index in range(processes)]
    events: list[Event] = [Snapshot(1, INIT, {"comm": "init"}, ns_pid=1)]
    for task in tasks:
        start = task.start_time or 0
        events += [
            Fork(start, task, parent=INIT),
            Exec(start + 10, task, {"comm": "x", "argv": ("x",)}),
            Exit(start + 20, task, exit_code=0, group_exit=True),
        ]
    write_events(path, events)
    return path


def test_what_is_too_much_for_a_person_is_left_out_and_told(tmp_path: Path) -> None:
    path = crowd(tmp_path / "crowd.jsonl", 2_000)
    table = ask("diff", path, "--output", "table")
    assert len(table.stdout.splitlines()) == 1_002
    assert table.stdout.splitlines()[1] == "2,000 born, 2,000 exec, 2,000 died"
    assert "left out: the last 5,000 changes; a larger --limit shows more" in table.stderr
    assert len(answers("diff", path)) == 6_000
    few = ask("diff", path, "--limit", 5, "--output", "json")
    assert len(few.stdout.splitlines()) == 5
    assert "the last 5,995 changes" in few.stderr
    children = ask("timeline", path, "--pid", 1, "--children", "--limit", 10, "--output", "json")
    assert len(children.stdout.splitlines()) == 10
    assert "left out" in children.stderr


@pytest.mark.parametrize("output", ["json", "table"])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, output: str) -> None:
    path = crowd(tmp_path / "crowd.jsonl", 2_000)
    with subprocess.Popen(
        command("proctree", "diff", path, "--output", output, "--limit", "100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (["diff"], "a difference needs time to pass: give --duration 10s", 2),
        (["diff", "live", "--pid", "1"], "give --duration 10s", 2),
        (["timeline", "--pid", "1"], "a timeline needs time to pass", 2),
        (["diff", WEBSHELL, "--duration", "1s"], "means nothing for", 2),
        (["diff", WEBSHELL, "--duration", "soon"], "is not a duration", 2),
        (["diff", WEBSHELL, "--since", "+5s", "--until", "+1s"], "--until is before --since", 2),
        (["diff", WEBSHELL, "--since", "+5h"], "--since is after the end of the history", 2),
        (["diff", WEBSHELL, "--since", "yesterday"], "is not a time", 2),
        (["diff", WEBSHELL, "--pid", "1", "--entity", "5"], "not both", 2),
        (["diff", WEBSHELL, "--limit", "0"], "not in the range", 2),
        (["diff", WEBSHELL, "--pid", "99999"], "no process is known", 1),
        (["diff", WEBSHELL, "--entity", "5"], "was ever seen", 1),
        (["diff", "/dev/null"], "holds no events", 1),
        (["diff", "/nonexistent.jsonl"], "No such file", 1),
        (["diff", WEBSHELL, "--proctree", "process-cache=4"], "was dropped", 1),
        (["timeline", WEBSHELL], "give --pid or --entity", 2),
        (["timeline", WEBSHELL, "--pid", "99999"], "no process is known", 1),
        (["timeline", WEBSHELL, "--pid", "2201", "--at", "+1s"], "pid 2201", 1),
        (["timeline", WEBSHELL, "--entity", "5"], "was ever seen", 1),
        (["timeline", "/dev/null", "--pid", "1"], "holds no events", 1),
    ],
)
def test_what_cannot_be_answered_says_why(arguments: list[str], reason: str, status: int) -> None:
    result = ask(*arguments)
    assert reason in " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (status, "")


def test_a_long_line_of_heirs_is_told_link_by_link(tmp_path: Path) -> None:
    """Parents die one after the other: each time another one takes over."""
    tasks = [Task(pid, pid) for pid in range(2, 12)]
    path = tmp_path / "heirs.jsonl"
    events: list[Event] = [Snapshot(1, INIT, {"comm": "init"}, ns_pid=1)]
    events += [Fork(task.tid, task, parent=maker) for maker, task in pairwise((INIT, *tasks))]
    events += [
        Exit(100 + index, task, group_exit=True, reaper=heir)
        for index, (heir, task) in enumerate(pairwise((INIT, *tasks[:-1])))
    ]
    write_events(path, events)
    rows = answers("diff", path, "--since", "50")
    moved = [row for row in rows if row["kind"] == "reparented"]
    assert {row["to"]["ppid"] for row in moved} == {1}
    assert {row["pid"] for row in moved} == {task.tid for task in tasks[1:]}
