"""Tables as callers hold them: Arrow, pandas or Polars, read by column and given back the same.

Neither pandas nor Polars is imported here; who hands over such a table has imported it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proctree_ds.errors import InvalidTime, TableError
from proctree_ds.tables.columns import INT64_MAX
from proctree_ds.tables.search import Array

__all__ = ["Frame", "frame_of", "ids_in", "instants_in", "numbers_in"]

_NS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


class Frame(Protocol):
    """A table of some library."""

    def names(self) -> list[str]: ...

    def column(self, name: str) -> pa.Array: ...

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Any: ...


def frame_of(table: Any) -> Frame:
    """`table` by its library. Anything else that is an Arrow stream is read as Arrow.

    Raises `TableError` where it is no table.
    """
    library = type(table).__module__.partition(".")[0]
    if library == "pandas" and hasattr(table, "columns"):
        return _PandasFrame(table)
    if library == "polars" and hasattr(table, "with_columns") and hasattr(table, "to_arrow"):
        return _PolarsFrame(table)
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if not isinstance(table, pa.Table) and hasattr(table, "__arrow_c_stream__"):
        if library != "pyarrow" and not hasattr(table, "dtype"):
            table = pa.table(table)
    if isinstance(table, pa.Table):
        return _ArrowFrame(table)
    raise TableError(
        f"a {type(table).__name__} is not a table: give an Arrow table, a pandas or a Polars "
        "DataFrame (of a LazyFrame what .collect() returns)"
    )


class _ArrowFrame:
    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def names(self) -> list[str]:
        return list(self._table.column_names)

    def column(self, name: str) -> pa.Array:
        return _whole(self._table.column(name))

    def with_columns(self, columns: Mapping[str, pa.Array]) -> pa.Table:
        table = self._table
        names = [*table.column_names, *columns]
        return pa.table([*table.columns, *columns.values()], names=names)


class _PolarsFrame:
    def __init__(self, table: Any) -> None:
        self._table = table

    def names(self) -> list[str]:
        return list(self._table.columns)

    def column(self, name: str) -> pa.Array:
        return self._table.get_column(name).to_arrow()

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Any:
        import polars

        added = polars.from_arrow(pa.table(dict(columns)))
        assert isinstance(added, polars.DataFrame)
        return self._table.hstack(added)


class _PandasFrame:
    def __init__(self, table: Any) -> None:
        self._table = table

    def names(self) -> list[str]:
        return list(self._table.columns)

    def column(self, name: str) -> pa.Array:
        series = self._table[name]
        if series.ndim != 1:
            raise TableError(f"there are several columns {name!r}: rename them")
        try:
            array = _whole(pa.array(series, from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"column {name!r} of {series.dtype} cannot be read: {error}") from None
        if series.dtype == object and not pa.types.is_integer(array.type):
            if not pa.types.is_null(array.type):
                raise TableError(
                    f"column {name!r} is of Python objects: convert it first, times with "
                    "pandas.to_datetime(..., utc=True), numbers with .astype('UInt64')"
                )
        return array

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Any:
        import pandas

        kinds = {
            pa.bool_(): pandas.BooleanDtype(),
            pa.int8(): pandas.Int8Dtype(),
            pa.int64(): pandas.Int64Dtype(),
            pa.uint32(): pandas.UInt32Dtype(),
            pa.uint64(): pandas.UInt64Dtype(),
        }
        added = pa.table(dict(columns)).to_pandas(types_mapper=kinds.get)
        added.index = self._table.index
        return pandas.concat([self._table, added], axis=1)


def _whole(array: Any) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    return array


# ------------------------------------------------------------------------ what columns hold


def instants_in(frame: Frame, name: str) -> tuple[Array, Array | None]:
    """A column of instants as epoch ns, and where it is null (None: nowhere).

    Integers are epoch ns already; timestamps of any unit are converted exactly. Raises `TableError`
    where there is no such column, `InvalidTime` where it does not hold instants.
    """
    array = _column(frame, name)
    kind = array.type
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            raise InvalidTime(
                f"column {name!r} has times without a time zone: add one, for example "
                "UTC by dt.tz_localize('UTC') in pandas, dt.replace_time_zone('UTC') in Polars"
            )
        numbers, nulls = _numbers(array.cast(pa.int64()))
        scale = _NS[kind.unit]
        if scale > 1:
            limit = INT64_MAX // scale
            if bool(np.any((numbers > limit) | (numbers < -limit))):
                raise InvalidTime(f"column {name!r} has times that ns since the epoch cannot hold")
            numbers = numbers * scale
        return numbers, nulls
    if pa.types.is_uint64(kind):
        array = pc.min_element_wise(array, pa.scalar(INT64_MAX, pa.uint64()), skip_nulls=False)
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return _numbers(array.cast(pa.int64()))
    reason = ""
    if pa.types.is_floating(kind):
        reason = ": floats cannot hold ns since the epoch"
    raise InvalidTime(
        f"column {name!r} of {kind} does not hold instants{reason}; give epoch ns as integers, or "
        "timestamps with a time zone"
    )


def numbers_in(frame: Frame, name: str) -> tuple[Array, Array | None]:
    """A column of pids or inodes, as unsigned numbers, and where it is null (None: nowhere).

    Floats are taken where all are whole, for pandas makes floats of integers with holes. Raises
    `TableError` otherwise.
    """
    array = _column(frame, name)
    if pa.types.is_floating(array.type):
        try:
            array = array.fill_null(float("nan"))
            array = pc.if_else(pc.is_nan(array), None, array).cast(pa.int64())
        except pa.ArrowInvalid:
            raise TableError(f"column {name!r} has numbers that are not whole") from None
    return _unsigned(array, name, nobody=INT64_MAX)


def ids_in(frame: Frame, name: str) -> tuple[Array, Array | None]:
    """A column of entity ids, and where it is null (None: nowhere)."""
    array = _column(frame, name)
    if pa.types.is_floating(array.type):
        raise TableError(
            f"column {name!r} is of floats, which cannot hold 64-bit ids: read it as uint64"
        )
    return _unsigned(array, name, nobody=0)


def _column(frame: Frame, name: str) -> pa.Array:
    names = frame.names()
    if name not in names:
        known = ", ".join(repr(known) for known in names[:20])
        raise TableError(f"there is no column {name!r}; there are: {known or 'none at all'}")
    if names.count(name) > 1:
        raise TableError(f"there are several columns {name!r}: rename them")
    return frame.column(name)


def _unsigned(array: pa.Array, name: str, nobody: int) -> tuple[Array, Array | None]:
    if pa.types.is_null(array.type):
        array = array.cast(pa.int64())
    if not pa.types.is_integer(array.type):
        raise TableError(f"column {name!r} of {array.type} does not hold integers")
    if pa.types.is_uint64(array.type):
        return _numbers(array)
    numbers, nulls = _numbers(array.cast(pa.int64()))
    if len(numbers) and numbers.min() < 0:
        numbers = np.where(numbers < 0, np.int64(nobody), numbers)
    return numbers.view(np.uint64), nulls


def _numbers(array: pa.Array) -> tuple[Array, Array | None]:
    nulls = None
    if array.null_count:
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        array = array.fill_null(0)
    return array.to_numpy(zero_copy_only=True), nulls
