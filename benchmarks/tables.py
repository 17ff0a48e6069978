"""Questions about whole tables: as-of lookups and lineages, beside DuckDB and Polars.

A day of a busy machine: families six generations deep, each process forked, executed and gone,
pids used again and again. The log that is joined names a pid at a time in each row, in order of
time as logs are; one row in ten names a pid and a time at random, and mostly finds nobody.
All are given the same Arrow tables and give back an Arrow table with the same columns. Wall
clock, for all three use every processor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from random import Random

import numpy as np
import pyarrow as pa

from benchmarks import lives
from benchmarks.timing import Figure, cpu_seconds, settle_memory
from proctree_ds import DataSource, ProcessTree
from proctree_ds.model import Exec, Exit, Fork, Image, State, Task
from proctree_ds.tables import AsOf

PROCESSES = 200_000
DEPTH = 5
ROWS = 3_000_000
LINEAGE_ROWS = 1_000_000
ROUNDS = 3
FIRST_PID, LAST_PID = 1_000, 32_767

ASOF = """
    SELECT q.time, q.pid, v.entity_id, v.name, v.executable, v.uid, v.parent_entity_id
    FROM log q ASOF LEFT JOIN versions v ON q.pid = v.pid AND q.time >= v.valid_from
    WHERE v.valid_to IS NULL OR q.time < v.valid_to
"""

LINEAGES = """
    WITH RECURSIVE chain(row, depth, entity_id, moment) AS (
        SELECT q.row, 0, v.entity_id, q.time
        FROM numbered q ASOF JOIN versions v ON q.pid = v.pid AND q.time >= v.valid_from
        WHERE v.valid_to IS NULL OR q.time < v.valid_to
        UNION ALL
        SELECT c.row, c.depth + 1, p.original_parent_entity_id, p.start_time
        FROM chain c JOIN processes p ON c.entity_id = p.entity_id
        WHERE c.depth < {depth} AND p.original_parent_entity_id IS NOT NULL
    )
    SELECT c.row, c.depth, c.entity_id, v.name
    FROM chain c ASOF JOIN versions v ON c.entity_id = v.entity_id AND c.moment >= v.valid_from
"""


def tables() -> list[Figure]:
    import duckdb
    import polars

    tree, questions = _history()
    ds = DataSource(tree)
    settle_memory()
    made: list[AsOf] = []
    spent = cpu_seconds(lambda: made.append(AsOf(ds)))
    index = made[0]
    versions, processes = index.tables.versions, index.tables.processes
    figures = [
        Figure("processes", len(processes), "rows"),
        Figure("versions", len(versions), "rows"),
        Figure("making the tables and the index", spent, "s"),
    ]
    log = _log(questions, ROWS)
    few = log.take(pa.array(np.arange(0, ROWS, ROWS // LINEAGE_ROWS)))
    ours = _seconds(lambda: index.asof(log))
    by_id = index.asof(log, columns=["entity_id"]).select(["time", "process_entity_id"])
    of_ids = _seconds(lambda: index.asof(by_id, entity_id="process_entity_id", prefix="p_"))
    ours_lineages = _seconds(lambda: index.lineages(few, depth=DEPTH))
    connection = duckdb.connect()
    for name, table in (
        ("log", log),
        ("versions", versions),
        ("processes", processes),
        ("numbered", few.append_column("row", pa.array(np.arange(len(few))))),
    ):
        # Its own tables, and text as text: that is what it is fastest with.
        connection.register("given", _plain(table))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        connection.unregister("given")
    duck = _seconds(lambda: connection.sql(ASOF).to_arrow_table())
    query = LINEAGES.format(depth=DEPTH)
    duck_lineages = _seconds(lambda: connection.sql(query).to_arrow_table())
    wanted = ["valid_from", "valid_to", "pid", "entity_id", "name", "executable", "uid"]
    right = polars.from_arrow(versions.select([*wanted, "parent_entity_id"])).sort("valid_from")
    left = polars.from_arrow(log)
    bear = _seconds(
        lambda: (
            left.join_asof(
                right, left_on="time", right_on="valid_from", by="pid", check_sortedness=False
            )
            .filter(
                polars.col("valid_to").is_null() | (polars.col("time") < polars.col("valid_to"))
            )
            .to_arrow()
        )
    )
    found = index.asof(log).column("process_entity_id")
    told = connection.sql(ASOF).to_arrow_table()
    assert len(told) - told.column("entity_id").null_count >= len(found) - found.null_count
    chains = index.lineages(few, depth=DEPTH).column("lineage_depth")
    told = connection.sql(query).to_arrow_table()
    assert len(told) == sum(n + 1 for n in chains.to_pylist() if n is not None)
    return [
        *figures,
        Figure(f"as-of lookups by pid, {ROWS:,} rows", _rate(ROWS, ours), "rows/s"),
        _beside("the same in DuckDB, ASOF JOIN", ROWS, duck, ours),
        _beside("the same in Polars, join_asof", ROWS, bear, ours),
        Figure("as-of lookups by entity id", _rate(ROWS, of_ids), "rows/s"),
        Figure(
            f"lineages, {DEPTH} ancestors, {LINEAGE_ROWS:,} rows",
            _rate(LINEAGE_ROWS, ours_lineages),
            "rows/s",
        ),
        _beside("the same in DuckDB, recursive query", LINEAGE_ROWS, duck_lineages, ours_lineages),
    ]


def _rate(rows: int, seconds: float) -> float:
    return rows / seconds


def _beside(name: str, rows: int, theirs: float, ours: float) -> Figure:
    return Figure(name, _rate(rows, theirs), "rows/s", f"ours is {theirs / ours:.1f} times that")


def _seconds(work: Callable[[], object]) -> float:
    """Median wall seconds."""
    work()
    spent = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def _plain(table: pa.Table) -> pa.Table:
    """Without dictionaries."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table


def _history() -> tuple[ProcessTree, np.ndarray]:
    """The tree, and for each process pid, start and end (boot clock)."""
    tree = ProcessTree(process_cache=2 * PROCESSES, thread_cache=4 * PROCESSES)
    tree.apply_all(lives.beginning())
    parents = lives.parents()
    known = np.zeros((PROCESSES, 3), np.int64)
    now, pid, made = lives.START, FIRST_PID, 0
    while made < PROCESSES:
        parent = parents[made % len(parents)]
        family: list[Task] = []
        for _ in range(DEPTH):
            now += lives.STEP
            task = Task(pid, now)
            pid = pid + 1 if pid < LAST_PID else FIRST_PID
            executable = lives.EXECUTABLES[made % len(lives.EXECUTABLES)]
            name = (executable.path or "").rpartition("/")[2]
            image = Image(executable, lives.LOADER, None, (name, str(made)), exec_time=now + 10_000)
            state = State(name, image, "/", "/", lives.CONTEXT)
            tree.apply(Fork(now, task, parent, comm="sh", context=lives.CONTEXT))
            tree.apply(Exec(now + 10_000, task, state, parent))
            family.append(task)
            parent = task
            now += lives.STEP
        for task in reversed(family):
            now += lives.STEP
            tree.apply(Exit(now, task, group_exit=True))
            if made < PROCESSES:
                known[made] = task.tid, task.start_time, now
            made += 1
    return tree, known


def _log(lives_known: np.ndarray, rows: int) -> pa.Table:
    random = np.random.default_rng(Random(1).randrange(2**32))
    chosen = lives_known[random.integers(0, len(lives_known), rows)]
    pids = chosen[:, 0].copy()
    times = chosen[:, 1] + (random.random(rows) * (chosen[:, 2] - chosen[:, 1])).astype(np.int64)
    strange = random.random(rows) < 0.1
    pids[strange] = random.integers(1, LAST_PID, int(strange.sum()))
    order = np.argsort(times)
    return pa.table({"time": times[order], "pid": pids[order].astype(np.uint32)})
