"""The tree as tables, and questions about whole tables at once."""

from proctree_ds.tables.asof import AsOf
from proctree_ds.tables.gathering import Tables, gather

__all__ = ["AsOf", "Tables", "gather"]
