"""Many processes at once as Arrow tables: every version, everybody at an instant, what changed."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.clock import to_epoch_ns
from proctree_ds.datasource import DataSource, Instant
from proctree_ds.errors import TableError
from proctree_ds.tables.asof import COLUMNS, AsOf
from proctree_ds.tables.gathering import gather

__all__ = ["diff", "processes", "snapshot", "sql", "threads", "versions"]

_CHANGES: Final = ("born", "died", "executed", "reparented", "renamed", "changed_credentials")


def versions(ds: DataSource) -> pa.Table:
    """One row per version of every process in memory: what it was from `valid_from` to before
    `valid_to` (epoch ns; null: still), with the attributes of `ProcessInfo`.

    By process in order of start, and by time. One that ends as it begins tells what became of a
    process in its very last instant. `dropped` names what a limit took; where `is_forgotten`, it
    is not even known what was executed. O(versions in memory).
    """
    return gather(ds).versions


def processes(ds: DataSource) -> pa.Table:
    """One row per process: its start and end (epoch ns), exit code, original parent, and the first
    and the last image.

    `history` is `kept`, or for a parent that is known by name only `never_seen`, or `dropped`.
    O(versions in memory).
    """
    return gather(ds).processes


def threads(ds: DataSource) -> pa.Table:
    """One row per thread that is not the leader of its process. O(versions in memory)."""
    return gather(ds).threads


def snapshot(ds: DataSource, time: Instant) -> pa.Table:
    """Every process that lived as of `time`, by start, with the columns of `versions`.

    Raises `BeyondHorizon` where some of them have been dropped. O(versions in memory).
    """
    ds.require_whole(time, "who lived")
    at = pa.scalar(to_epoch_ns(time), pa.int64())
    tables = gather(ds)
    is_kept = pc.equal(tables.processes.column("history"), "kept")
    kept = tables.processes.column("entity_id").filter(is_kept)
    rows = tables.versions
    held = pc.and_(
        pc.less_equal(rows.column("valid_from"), at),
        pc.fill_null(pc.greater(rows.column("valid_to"), at), True),
    )
    held = pc.and_(held, pc.is_in(rows.column("entity_id"), kept.combine_chunks()))
    return rows.filter(held)


def diff(ds: DataSource, since: Instant, until: Instant) -> pa.Table:
    """What happened to processes after `since` and up to `until`: one row for each change.

    `change` is `born`, `died`, `executed`, `reparented`, `renamed` or `changed_credentials`; the
    other columns are those of the process as of `until`. Raises as `DataSource.diff` does.
    O(versions in memory).
    """
    told = ds.diff(since, until)
    changed = [(change, info) for change in _CHANGES for info in getattr(told, change)]
    table = pa.table(
        {
            "change": pa.array([change for change, _ in changed], pa.string()).dictionary_encode(),
            "time": pa.array([told.until] * len(changed), pa.int64()),
            "id": pa.array([info.entity_id for _, info in changed], pa.uint64()),
        }
    )
    answered = AsOf(ds).of_entities(table, "time", "id", COLUMNS)
    return answered.drop_columns(["time", "id"])


def sql(ds: DataSource, query: str) -> pa.Table:
    """The answer of DuckDB to `query`, in which `versions`, `processes` and `threads` are tables.

    Needs the package duckdb (`pip install proctree-ds[sql]`). Raises `TableError` where it is
    missing or refuses the query.
    """
    try:
        import duckdb
    except ImportError:
        raise TableError("sql needs DuckDB: pip install 'proctree-ds[sql]'") from None
    tables = gather(ds)
    with duckdb.connect(config={"enable_external_access": False}) as connection:
        for name in ("versions", "processes", "threads"):
            connection.register(name, getattr(tables, name))
        try:
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise TableError(f"DuckDB refuses the query: {error}") from error
