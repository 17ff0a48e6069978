"""`proctree stats`, `top`, `dot`, `thread` and `children`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import WEBSHELL, answers, ask, documented, run

from proctree_ds import ThreadInfo
from proctree_ds.answers import THREAD_FIELDS
from proctree_ds.eventlog import read_events, write_events
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Loss, Snapshot, Task, entity_id

BOOT = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

INIT, SHELL, OTHER = Task(1, 1), Task(600, 100), Task(601, SECOND)
THREAD = Task(602, 2 * SECOND)
LIFE: list[Event] = [
    Header(boot_time=BOOT, host="h", boot_id="b"),
    Snapshot(50, INIT, {"comm": "init"}, ns_pid=1),
    Fork(100, SHELL, parent=INIT),
    Exec(200, SHELL, {"comm": "sh", "argv": ("sh",)}),
    Fork(SECOND, OTHER, parent=SHELL),
    Exec(SECOND + 5, OTHER, {"comm": "id", "argv": ("id",), "uid": 7}),
    Fork(2 * SECOND, THREAD, leader=OTHER, parent=SHELL, creator=OTHER),
    Loss(2 * SECOND + 5, 2 * SECOND, 3),
    Exit(3 * SECOND, THREAD, leader=OTHER, group_exit=False),
    Exit(4 * SECOND, OTHER, exit_signal=9, group_exit=True),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "life.jsonl"
    write_events(path, LIFE)
    return path


# --------------------------------------------------------------------------------------- stats


def test_what_is_in_a_history_is_counted(log: Path) -> None:
    (found,) = answers("stats", log)
    assert set(found) == documented("Figures", "figure") - {"pid", "entity_id", "name", "children"}
    assert (found["host"], found["boot_id"]) == ("h", "b")
    assert (found["first_time"], found["last_time"]) == (BOOT + 50, BOOT + 4 * SECOND)
    assert (found["events"]["fork"], found["events"]["exec"], found["events"]["exit"]) == (3, 2, 2)
    assert (found["processes"], found["processes_born"]) == (3, 2)
    assert (found["processes_exited"], found["processes_alive"], found["threads"]) == (1, 2, 4)
    assert (found["loss_windows"], found["lost"]) == (1, 3)
    assert found["busiest_parents"] == [
        {"pid": 1, "entity_id": entity_id(1, 1), "name": "init", "children": 1},
        {"pid": 600, "entity_id": entity_id(100, 600), "name": "sh", "children": 1},
    ]
    assert [program["program"] for program in found["busiest_programs"]] == ["sh", "id", "init"]


def test_statistics_count_what_lines_there_are() -> None:
    (found,) = answers("stats", WEBSHELL)
    assert sum(found["events"].values()) == len(list(read_events(WEBSHELL)))
    assert len(answers("stats", WEBSHELL, "--limit", 2)[0]["busiest_parents"]) == 2


def test_bad_input_and_limits_are_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    write_events(path, [*LIFE, Exec(5 * SECOND, OTHER, {"comm": "undead"})])
    path.write_text(path.read_text() + "nonsense\n")
    (found,) = answers("stats", path, "--skip-bad-lines")
    assert found["skipped_lines"] == 1
    assert sum(found["faults"].values()) == 1
    text = ask("stats", path, "--skip-bad-lines", "--output", "table").stdout
    assert re.search(r"^skipped +1 lines", text, re.MULTILINE)
    (small,) = answers("stats", WEBSHELL, "--proctree", "process-cache=4")
    assert small["dropped"]["evicted_processes"] > 0
    assert small["busiest_programs"] == []


# ----------------------------------------------------------------------------------------- top


def test_the_busiest_programs_come_first(log: Path) -> None:
    found = {program["program"]: program for program in answers("top", log)}
    for program in found.values():
        assert set(program) == documented("Figures", "count")
    assert next(iter(found)) == "sh"
    assert (found["id"]["started"], found["id"]["executed"], found["id"]["forked"]) == (1, 1, 0)
    assert (found["sh"]["started"], found["sh"]["forked"]) == (1, 1)
    assert (found["init"]["started"], found["init"]["forked"]) == (0, 1)
    assert found["id"]["short_lived"] == 0  # it lived for three seconds
    assert found["id"]["started_per_second"] == 0.25


def test_a_stretch_of_time_and_another_order() -> None:
    whole = answers("top", WEBSHELL, "--limit", 100)
    assert sum(program["started"] for program in whole) == 34
    part = answers("top", WEBSHELL, "--since", "+47s", "--until", "+49s")
    assert {program["program"] for program in part} >= {"/usr/bin/curl", "/usr/bin/chmod"}
    assert part[0]["seconds"] == 2.0
    assert sum(program["short_lived"] for program in part) > 0
    forked = answers("top", WEBSHELL, "--by", "forked", "--limit", 100)
    counts = [program["forked"] for program in forked]
    assert counts == sorted(counts, reverse=True)
    few = ask("top", WEBSHELL, "--limit", 2)
    assert len(few.stdout.splitlines()) == 2
    assert f"left out: {len(whole) - 2} programs" in few.stderr


def test_rates_over_no_time_are_unknown(log: Path) -> None:
    at = str(BOOT + SECOND)
    text = ask("top", log, "--since", at, "--until", at, "--output", "table")
    assert text.exit_code == 0
    assert "within 0.0 s: 0 started" in text.stdout


# ----------------------------------------------------------------------------------------- dot


def nodes(text: str) -> dict[str, str]:
    return dict(re.findall(r'^  (p\w+) \[label="((?:[^"\\]|\\.)*)"', text, re.MULTILINE))


def test_a_tree_is_a_graph_of_who_made_whom() -> None:
    text = ask("dot", WEBSHELL, "--all", "--pid", 571).stdout
    asked = answers("tree", WEBSHELL, "--all", "--pid", 571)
    assert set(nodes(text)) == {f"p{info['entity_id']:016x}" for info in asked}
    edges = set(re.findall(r"^  (p\w+) -> (p\w+);", text, re.MULTILINE))
    expected = {
        (f"p{info['original_parent_entity_id']:016x}", f"p{info['entity_id']:016x}")
        for info in asked
        if info["pid"] != 571
    }
    assert edges == expected


def test_living_and_dead_look_different() -> None:
    def looks(*arguments: str | int) -> list[str]:
        text = ask("dot", WEBSHELL, *arguments).stdout
        return re.findall(r'fillcolor="(#\w+)"', text)

    assert len(set(looks())) == 1
    assert len(set(looks("--all"))) == 3  # alive, exited, killed
    lineage = looks("--lineage", "--pid", 2245, "--at", "+75s")
    assert len(lineage) == 13
    assert len(set(lineage)) == 2  # some of the ancestors had exited by then


def test_a_large_tree_is_cut_and_says_so() -> None:
    cut = ask("dot", WEBSHELL, "--limit", 3)
    assert len(nodes(cut.stdout)) == 3
    assert "more left out" in cut.stdout
    assert "left out: 15 of 18 processes" in cut.stderr
    last = ask("dot", WEBSHELL, "--lineage", "--pid", 2245, "--at", "+75s", "--limit", 1)
    assert ["2245" in label for label in nodes(last.stdout).values()] == [True]


HOSTILE = 'a"]; evil [label="<b>\\n\\N&lt;{|}\\" \x1b[2J\n\u202e\udcff' + "A" * 4096


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "hostile.jsonl"
    task = Task(5, 5)
    write_events(path, [Fork(5, task), Exec(6, task, {"comm": HOSTILE, "argv": (HOSTILE,)})])
    return path


def test_a_hostile_name_stays_within_its_label(hostile: Path) -> None:
    text = run("proctree", "dot", hostile).stdout
    (label,) = nodes(text).values()
    assert label.startswith('a\\"]; evil [label=\\"<b>')
    assert "&amp;lt;" in label
    assert "\\\\\\\\n" in label  # a backslash is shown as two, and each of them is escaped
    assert not set(text) & {"\x1b", "\u202e"}
    assert len(label) < 300
    assert len(text.splitlines()) == 7


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz")
def test_graphviz_draws_it(hostile: Path) -> None:
    drawn: subprocess.CompletedProcess[bytes] | None = None
    for arguments in (["--all", WEBSHELL], ["--lineage", "--pid", "712", WEBSHELL], [hostile]):
        graph = run("proctree", "dot", *arguments).stdout
        drawn = subprocess.run(
            ["dot", "-Tsvg"], input=graph.encode(), capture_output=True, check=True
        )
        assert drawn.stderr == b""
        assert drawn.stdout.count(b'class="node"') == len(nodes(graph))
    assert drawn is not None
    assert "&lt;b&gt;\\\\n\\\\N&amp;lt;" in drawn.stdout.decode()


# -------------------------------------------------------------------------- thread, children


def test_one_thread_by_tid_or_id(log: Path) -> None:
    (thread,) = answers("thread", log, "--tid", 602, "--at", "+2.5s")
    assert tuple(thread) == THREAD_FIELDS
    assert (thread["pid"], thread["name"], thread["is_alive"]) == (601, "id", True)
    assert [thread] == answers("thread", log, "--entity", thread["entity_id"], "--at", "+2.5s")
    (leader,) = answers("thread", log, "--tid", 600)
    assert leader["entity_id"] == leader["process_entity_id"] == entity_id(100, 600)
    ended = answers("thread", log, "--entity", thread["entity_id"])
    assert ended[0]["exit_time"] == BOOT + 3 * SECOND
    text = ask("thread", log, "--tid", 602, "--at", "+2.5s", "--output", "table").stdout
    assert re.search(r"^uid +7$", text, re.MULTILINE)
    assert isinstance(ThreadInfo.__doc__, str)


def test_the_threads_of_a_process(log: Path) -> None:
    tids = [thread["tid"] for thread in answers("thread", log, "--pid", 601, "--at", "+2.5s")]
    assert tids == [601, 602]
    assert len(answers("thread", log, "--pid", 601, "--at", "+3.5s")) == 1
    lines = ask("thread", log, "--pid", 601, "--at", "+2.5s", "--output", "table").stdout
    assert [line.split()[0] for line in lines.splitlines()] == ["TID", "601", "602"]


def test_children_are_those_that_lived_then() -> None:
    pids = [child["pid"] for child in answers("children", WEBSHELL, "--pid", 560)]
    assert pids == [571, 572]
    adopted = answers("children", WEBSHELL, "--pid", 1, "--at", "+50s")
    assert 2225 in [child["pid"] for child in adopted]
    none = ask("children", WEBSHELL, "--pid", 572)
    assert (none.exit_code, none.stdout) == (0, "")
    assert "no child of it lived at that time" in none.stderr


def test_children_of_children_are_a_tree() -> None:
    then = ("--pid", 571, "--at", "+47.66s")
    pids = [child["pid"] for child in answers("children", WEBSHELL, *then, "--recursive")]
    assert pids == [571, 2220, 2222]
    assert pids == [info["pid"] for info in answers("tree", WEBSHELL, *then)]
    drawn = ask("children", WEBSHELL, *then, "--recursive", "--output", "table").stdout
    assert [line.split("─ ")[-1].split()[0] for line in drawn.splitlines()[1:]] == [".u.sh", "curl"]


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (["thread", WEBSHELL], "give --tid, --entity or --pid", 2),
        (["thread", WEBSHELL, "--tid", "1", "--pid", "1"], "one of them", 2),
        (["thread", WEBSHELL, "--tid", "-1"], "not in the range", 2),
        (["thread", WEBSHELL, "--tid", "99999"], "no thread is known to have held tid 99999", 1),
        (["thread", WEBSHELL, "--tid", "2201"], "had exited at 2026-03-14T10:00:31", 1),
        (["thread", WEBSHELL, "--entity", "5"], "was ever seen", 1),
        (["thread", WEBSHELL, "--pid", "2201"], "had exited", 1),
        (["thread", "/dev/null", "--tid", "1"], "holds no events", 1),
        (["children", WEBSHELL], "give --pid or --entity", 2),
        (["children", WEBSHELL, "--pid", "2201"], "had exited", 1),
        (["stats", "/dev/null"], "holds no events", 1),
        (["stats", WEBSHELL, "--duration", "1s"], "means nothing for", 2),
        (["stats", WEBSHELL, "--at", "5"], "No such option", 2),
        (["top", "/dev/null"], "holds no events", 1),
        (["top", WEBSHELL, "--duration", "1s"], "means nothing for", 2),
        (["top", WEBSHELL, "--by", "luck"], "is not one of", 2),
        (["top", WEBSHELL, "--proctree", "process-cache=4"], "was dropped", 1),
        (["dot", WEBSHELL, "--lineage"], "whose --lineage?", 2),
        (["dot", WEBSHELL, "--lineage", "--all", "--pid", "1"], "leave --all out", 2),
        (["dot", WEBSHELL, "--pid", "1", "--entity", "1"], "not both", 2),
        (["dot", WEBSHELL, "--pid", "2201"], "lived at that time", 1),
        (["dot", "/dev/null"], "holds no events", 1),
    ],
)
def test_what_cannot_be_answered_says_why(arguments: list[str], reason: str, status: int) -> None:
    result = ask(*arguments)
    assert reason in " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (status, "")


def test_a_full_disk_is_an_error_without_a_traceback() -> None:
    with open("/dev/full", "wb") as full:
        for question in (["stats"], ["top"], ["dot"], ["diff"], ["children", "--pid", "1"]):
            result = run("proctree", question[0], WEBSHELL, *question[1:], stdout=full)
            assert "No space left on device" in result.stderr
            assert result.returncode == 1
