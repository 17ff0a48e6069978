"""Tables of the tree, and what is asked for whole tables: kinds of tables, and bad input."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from histories import BOOT_TIME, History

import proctree_ds
from proctree_ds import AsOf, BeyondHorizon, DataSource, InvalidTime, ProcessTree, TableError
from proctree_ds.model import Exit, Fork, Task
from proctree_ds.tables import diff, processes, snapshot, sql, threads, versions

WEB, SHELL = 100, 101


def story() -> DataSource:
    """A web server forks, its child becomes a shell, changes its user, is orphaned and ends."""
    history = History()
    web = history.spawn(1, "/usr/sbin/nginx")
    shell = history.spawn(web, "/bin/sh", "sh", "-c", "id")
    history.change(shell, uid=33)
    history.exit(web)
    history.exit(shell, code=3)
    assert (web, shell) == (WEB, SHELL)
    tree = ProcessTree()
    tree.apply_all(history.events)
    return DataSource(tree)


def times_of(ds: DataSource, pid: int) -> tuple[int, int]:
    """Start and exit."""
    (row,) = [row for row in processes(ds).to_pylist() if row["pid"] == pid]
    return row["start_time"], row["exit_time"]


@pytest.fixture(scope="module")
def ds() -> DataSource:
    return story()


@pytest.fixture(scope="module")
def index(ds: DataSource) -> AsOf:
    return AsOf(ds)


def log(*rows: tuple[int | None, int | None]) -> pa.Table:
    return pa.table(
        {
            "time": pa.array([time for time, _ in rows], pa.int64()),
            "pid": pa.array([pid for _, pid in rows], pa.int64()),
        }
    )


# ------------------------------------------------------------------------------------ tables


def test_versions_follow_each_other_from_start_to_exit(ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    rows = [row for row in versions(ds).to_pylist() if row["pid"] == SHELL]
    living = [row for row in rows if row["valid_from"] < row["valid_to"]]
    assert living[0]["valid_from"] == start and living[-1]["valid_to"] == end
    for row, later in pairwise(living):
        assert row["valid_to"] == later["valid_from"]
    assert [(row["name"], row["uid"], row["ppid"]) for row in living] == [
        ("nginx", 0, WEB),
        ("sh", 0, WEB),
        ("sh", 33, WEB),
        ("sh", 33, 1),
    ]
    assert living[1]["cmd"] == ["sh", "-c", "id"] and living[1]["executable"] == "/bin/sh"


def test_a_version_that_still_holds_has_no_end(ds: DataSource) -> None:
    rows = [row for row in versions(ds).to_pylist() if row["pid"] == 1]
    assert rows[-1]["valid_to"] is None


def test_a_process_has_one_row(ds: DataSource) -> None:
    rows = {row["pid"]: row for row in processes(ds).to_pylist()}
    assert sorted(rows) == [1, 2, WEB, SHELL]
    shell = rows[SHELL]
    assert (shell["first_name"], shell["last_name"], shell["exit_code"]) == ("nginx", "sh", 3)
    assert shell["original_parent_entity_id"] == rows[WEB]["entity_id"]
    assert rows[1]["exit_time"] is None and rows[1]["lineage_end"] == "root"


def test_a_snapshot_is_what_lived_then(ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    assert snapshot(ds, start).column("pid").to_pylist() == [1, 2, WEB, SHELL]
    assert snapshot(ds, end).column("pid").to_pylist() == [1, 2]
    moment = pandas.Timestamp(end - 1, tz="UTC")
    assert snapshot(ds, moment).column("pid").to_pylist() == [1, 2, SHELL]


def test_a_difference_names_what_changed(ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    rows = diff(ds, start, end).select(["change", "pid"]).to_pylist()
    assert {(row["change"], row["pid"]) for row in rows} == {
        ("died", WEB),
        ("died", SHELL),
        ("reparented", SHELL),
        ("renamed", SHELL),
        ("changed_credentials", SHELL),
    }


def test_threads_are_told_apart_from_processes() -> None:
    tree = ProcessTree()
    leader, thread = Task(50, 100), Task(51, 200)
    tree.apply_all([Fork(100, leader, Task(1, 1)), Fork(200, thread, None, leader, leader)])
    ds = DataSource(tree)
    assert threads(ds).column("tid").to_pylist() == [51]
    found = AsOf(ds).asof(log((250, 51), (250, 50), (150, 51)), columns=["pid"])
    assert found.column("process_status").to_pylist() == ["thread", "found", "never_seen"]


def test_sql_asks_the_tables(ds: DataSource) -> None:
    query = (
        "SELECT DISTINCT name FROM versions JOIN processes USING (entity_id) WHERE exit_code = 3"
    )
    assert sorted(sql(ds, query).column("name").to_pylist()) == ["nginx", "sh"]
    with pytest.raises(TableError, match="DuckDB refuses"):
        sql(ds, "SELECT * FROM nothing")
    with pytest.raises(TableError, match="DuckDB refuses"):
        sql(ds, "SELECT * FROM read_csv('/etc/passwd')")


def test_bytes_that_are_not_utf8_are_written_out() -> None:
    history = History()
    pid = history.fork()
    history.exec(pid, "/tmp/\udcff", "\udcff\udcfe", "ok", comm="a\udc80")
    tree = ProcessTree()
    tree.apply_all(history.events)
    row = versions(DataSource(tree)).to_pylist()[-1]
    assert (row["name"], row["executable"]) == ("a\\x80", "/tmp/\\xff")
    assert row["cmd"] == ["\\xff\\xfe", "ok"]


def test_numpy_and_arrow_are_imported_only_when_asked_for() -> None:
    check = "import proctree_ds, sys; print({'numpy', 'pyarrow'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = proctree_ds.nothing_like_it


# -------------------------------------------------------------------------- kinds of tables


def asked(index: AsOf, table: Any) -> list[tuple[str | None, str]]:
    """Names and statuses, whatever kind of table."""
    answer = index.asof(table)
    assert type(answer) is type(table)
    rows = answer.to_pandas() if not isinstance(answer, pandas.DataFrame) else answer
    names = rows["process_name"].astype(object).where(rows["process_name"].notna(), None)
    return list(zip(names, rows["process_status"], strict=True))


def test_every_kind_of_table_comes_back_as_it_was_given(index: AsOf, ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    table = log((start, SHELL), (end - 1, SHELL), (end, SHELL))
    expected = [("nginx", "found"), ("sh", "found"), (None, "exited")]
    assert asked(index, table) == expected
    assert asked(index, table.to_pandas()) == expected
    assert asked(index, table.to_pandas().set_index(np.array([7, 7, 9]))) == expected
    assert asked(index, polars.from_arrow(table)) == expected
    assert asked(index, pa.concat_tables([table.slice(0, 1), table.slice(1)])) == expected
    batch = index.asof(table.to_batches()[0])
    assert batch.column("process_name").to_pylist() == ["nginx", "sh", None]


def test_ids_survive_pandas_and_polars(index: AsOf, ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    table = log((start, SHELL), (end, SHELL))
    expected = ds.pid(SHELL, start).entity_id
    assert index.asof(table.to_pandas())["process_entity_id"][0] == expected
    assert index.asof(polars.from_arrow(table))["process_entity_id"].to_list() == [expected, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_every_unit_are_exact(unit: str, index: AsOf) -> None:
    scale = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    moment = (BOOT_TIME + 10**9) // scale
    table = pa.table(
        {"time": pa.array([moment, None], pa.timestamp(unit, "Europe/Berlin")), "pid": [1, 1]}
    )
    whole = pa.table({"time": pa.array([moment * scale, None], pa.int64()), "pid": [1, 1]})
    answers = [index.asof(t).drop_columns(["time"]).to_pylist() for t in (table, whole)]
    assert answers[0] == answers[1]
    assert [row["process_status"] for row in answers[0]] == ["found", "no_key"]
    in_pandas = index.asof(table.to_pandas())
    assert list(in_pandas["process_status"]) == ["found", "no_key"]
    if unit != "s":
        assert list(index.asof(polars.from_arrow(table))["process_status"]) == ["found", "no_key"]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"time": pa.array([1], pa.timestamp("ns")), "pid": [1]}),
        pandas.DataFrame({"time": pandas.to_datetime(["2026-01-01"]), "pid": [1]}),
        polars.DataFrame({"time": [datetime(2026, 1, 1)], "pid": [1]}),
        pa.table({"time": [1.5], "pid": [1]}),
        pa.table({"time": ["2026-01-01"], "pid": [1]}),
        pa.table({"time": pa.array([1], pa.date32()), "pid": [1]}),
        pa.table({"time": pa.array([2**62], pa.timestamp("s", "UTC")), "pid": [1]}),
    ],
    ids=["arrow", "pandas", "polars", "floats", "texts", "dates", "too-large"],
)
def test_what_names_no_instant_is_refused(table: Any, index: AsOf) -> None:
    with pytest.raises(InvalidTime, match="'time'"):
        index.asof(table)


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"time": [1]}, {}, "there is no column 'pid'; there are: 'time'"),
        ({"pid": [1]}, {}, "there is no column 'time'"),
        ({"time": [1], "pid": ["1"]}, {}, "'pid' of string does not hold integers"),
        ({"time": [1], "pid": [1.5]}, {}, "not whole"),
        ({"time": [1], "id": [1.0]}, {"entity_id": "id"}, "floats, which cannot hold 64-bit"),
        ({"time": [1], "pid": [1]}, {"columns": ["colour"]}, "no column 'colour' to add"),
        ({"time": [1], "pid": [1]}, {"columns": "name"}, "give a list"),
        ({"time": [1], "pid": [1]}, {"columns": ["name", "name"]}, "named twice"),
        ({"time": [1], "pid": [1], "process_name": [1]}, {}, "'process_name' already"),
        ({"time": [1], "pid": [1]}, {"pid": "pid", "entity_id": "pid"}, "not several"),
        ({"time": [1], "pid": [1]}, {"ns_pid": "pid"}, "belong together"),
    ],
)
def test_a_table_that_does_not_fit_says_why(
    table: dict[str, Any], options: dict[str, Any], message: str, index: AsOf
) -> None:
    for ask in (index.asof, index.lineages):
        if "process_name" not in table or ask == index.asof:
            with pytest.raises(TableError, match=message):
                ask(pa.table(table), **options)


def test_what_is_no_table_is_refused(index: AsOf) -> None:
    for thing in ({"time": [1]}, [1], None, pandas.Series([1]), polars.DataFrame().lazy()):
        with pytest.raises(TableError, match="is not a table"):
            index.asof(thing)
    double = pandas.DataFrame([[1, 1, 1]], columns=["time", "pid", "pid"])
    with pytest.raises(TableError, match="several columns 'pid'"):
        index.asof(double)
    objects = pandas.DataFrame({"time": [datetime(2026, 1, 1, tzinfo=UTC), "x"], "pid": [1, 1]})
    with pytest.raises(TableError, match="'time'"):
        index.asof(objects)


@pytest.mark.parametrize("depth", [-1, 65])
def test_a_depth_out_of_range_is_refused(depth: int, index: AsOf) -> None:
    with pytest.raises(ValueError, match="depth"):
        index.lineages(log((1, 1)), depth=depth)


def test_nulls_are_answered_with_nulls(index: AsOf, ds: DataSource) -> None:
    start, _ = times_of(ds, SHELL)
    table = log((None, SHELL), (start, None), (start, SHELL))
    statuses = ["no_key", "no_key", "found"]
    for ask in (index.asof, index.lineages):
        answer = ask(table)
        assert answer.column("process_status").to_pylist() == statuses
        assert answer.column("process_entity_id").is_null().to_pylist() == [True, True, False]
        floats = ask(table.to_pandas().astype({"time": "Int64"}))  # pids have become floats
        assert list(floats["process_status"]) == statuses


@pytest.mark.parametrize("kind", [pa.int64(), pa.null()])
def test_an_empty_table_stays_empty(kind: pa.DataType, index: AsOf) -> None:
    table = pa.table({"time": pa.array([], kind), "pid": pa.array([], kind)})
    for of in (table, table.to_pandas(), polars.from_arrow(table)):
        assert len(index.asof(of)) == len(index.lineages(of)) == 0
    nothing = AsOf(DataSource(ProcessTree()))
    assert len(nothing.asof(table)) == 0
    assert nothing.asof(log((5, 5))).column("process_status").to_pylist() == ["never_seen"]
    by_id = nothing.lineages(log((5, 5)), entity_id="pid")
    assert by_id.column("process_status").to_pylist() == ["never_seen"]


def test_a_million_rows_of_unknown_pids_find_nobody(index: AsOf) -> None:
    count = 1_000_000
    pids = np.arange(count, dtype=np.int64) * 5_000_000_003 - 7
    table = pa.table({"time": np.full(count, BOOT_TIME + 10**9), "pid": pids})
    for options in ({}, {"entity_id": "pid"}):
        answer = index.lineages(table, depth=2, **options)
        assert answer.column("process_status").unique().to_pylist() == ["never_seen"]
        assert answer.column("ancestor1_entity_id").null_count == count


def test_times_at_the_edges(index: AsOf, ds: DataSource) -> None:
    start, end = times_of(ds, SHELL)
    edges = [-(2**63), 0, start - 1, start, end - 1, end, 2**63 - 1]
    table = log(*((time, SHELL) for time in edges))
    answer = index.asof(table).column("process_status").to_pylist()
    before_boot = ["beyond_horizon"] * 2
    assert answer == [*before_boot, "never_seen", "found", "found", "exited", "exited"]
    entity = pa.array([ds.pid(SHELL, start).entity_id] * 7, pa.uint64())
    ids = pa.table({"time": edges, "id": entity})
    answer = index.asof(ids, entity_id="id", columns=["exit_code"])
    assert answer.column("process_status").to_pylist() == [*["not_started"] * 3, *["found"] * 4]
    assert answer.column("process_exit_code").to_pylist() == [*[None] * 5, 3, 3]
    late = pa.table({"time": pa.array([2**64 - 1], pa.uint64()), "pid": [1]})
    assert index.asof(late).column("process_name").to_pylist() == ["systemd"]


def test_what_was_dropped_is_told_apart_from_what_never_was() -> None:
    tree = ProcessTree(process_cache=4, thread_cache=8)
    for i in range(20):
        task = Task(700 + i, 1_000 + 10 * i)
        tree.apply_all([Fork(1_000 + 10 * i, task, Task(1, 1)), Exit(1_005 + 10 * i, task)])
    ds = DataSource(tree)
    index = AsOf(ds)
    gone = proctree_ds.entity_id(1_000, 700)
    ids = pa.table({"time": [1_002], "id": pa.array([gone], pa.uint64())})
    answer = index.asof(ids, entity_id="id")
    assert answer.column("process_status").to_pylist() == ["beyond_horizon"]
    assert index.asof(log((1_002, 700))).column("process_status").to_pylist() == ["beyond_horizon"]
    with pytest.raises(BeyondHorizon):
        snapshot(ds, 1_002)
    with pytest.raises(BeyondHorizon):
        diff(ds, 1_002, 1_190)


def test_what_is_learned_later_does_not_change_an_index() -> None:
    ds = story()
    index = AsOf(ds)
    start, _ = times_of(ds, SHELL)
    before = index.asof(log((start, SHELL)))
    ds.tree.apply(Fork(5 * 10**9, Task(SHELL, 5 * 10**9), Task(1, 1)))
    assert index.asof(log((start, SHELL))) == before
