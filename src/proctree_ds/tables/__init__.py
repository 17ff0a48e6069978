"""The tree as tables, and questions about whole tables at once."""

from proctree_ds.tables.asof import ANCESTOR_COLUMNS, COLUMNS, AsOf
from proctree_ds.tables.gathering import Tables, gather
from proctree_ds.tables.surveys import diff, processes, snapshot, sql, threads, versions

__all__ = [
    "ANCESTOR_COLUMNS",
    "COLUMNS",
    "AsOf",
    "Tables",
    "diff",
    "gather",
    "processes",
    "snapshot",
    "sql",
    "threads",
    "versions",
]
