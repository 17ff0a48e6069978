"""One segment on disk: its names, its header, and how it is read and sealed.

`00000012.arrow` is the open one: an Arrow stream, whose last whole batch survives whatever happens
to its writer. `00000012.parquet` is the same sealed: in order of time, written under another name,
synced, and renamed. Where both are there, the sealed one counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from proctree_ds.errors import RecordingError
from proctree_ds.recording.schema import SCHEMA, STRING_COLUMNS

__all__ = [
    "FORMAT_VERSION",
    "OPEN",
    "SEALED",
    "TEMPORARY",
    "SegmentHeader",
    "paths_of",
    "read_header",
    "read_segment",
    "seal",
    "stream_batches",
    "sync_directory",
]

FORMAT_VERSION: Final = 1
"""Raised when a reader of the version before would misread a segment; not for a new column."""

OPEN: Final = ".arrow"
SEALED: Final = ".parquet"
TEMPORARY: Final = ".tmp"
_NAME: Final = re.compile(r"(\d{8})(\.arrow|\.parquet)")
_KEY: Final = b"proctree"
_ROW_GROUP: Final = 131_072

_DELTAS: Final = (
    "time", "start_time", "parent_start_time", "exec_time", "tid", "ns_tid", "ns_pid",
)  # fmt: skip
"""Columns whose values mostly differ a little from those of the row before."""


class SegmentHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands at the head of a segment. Times are boot-clock ns, where nothing else is said.

    `since` is the instant of the keyframe, from which on the segment answers by itself. `until`,
    `earliest` and `events` (those of the keyframe left out) are known once it is sealed.
    """

    format_version: int
    id: str
    sequence: int
    since: int
    boot_time: int
    host: str | None = None
    boot_id: str | None = None
    kernel: str | None = None
    product_version: str | None = None
    unfollowed: tuple[str, ...] = ()
    earliest: int | None = None
    until: int | None = None
    events: int | None = None


def paths_of(directory: Path) -> dict[int, Path]:
    """The segments in `directory` by number, in order: of each the sealed file if there is one."""
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(directory)):  # .parquet comes after .arrow
        match = _NAME.fullmatch(name)
        if match is not None:
            found[int(match[1])] = directory / name
    return dict(sorted(found.items()))


def schema_with(header: SegmentHeader) -> Any:
    """`SCHEMA` with the header in its metadata."""
    return SCHEMA.with_metadata({_KEY: msgspec.json.encode(header)})


def read_header(path: Path) -> SegmentHeader:
    """The header of a segment. Raises `RecordingError`."""
    if path.suffix == OPEN:
        with _explained(path), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            return _header_of(path, stream.schema)
    with _explained(path), pq.ParquetFile(path) as parquet:
        return _header_of(path, parquet.schema_arrow)


def read_segment(path: Path, columns: list[str] | None = None) -> Any:
    """All rows of a segment that are whole, as a table. Raises `RecordingError`."""
    if path.suffix == OPEN:
        table, _ = _read_stream(path)
        return table if columns is None else table.select(columns)
    with _explained(path), pq.ParquetFile(path, read_dictionary=list(STRING_COLUMNS)) as parquet:
        _header_of(path, parquet.schema_arrow)
        table = parquet.read(columns=columns, use_threads=True)
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing and columns is None:
            raise RecordingError(f"{path}: it has no column {missing[0]!r}; leave it out")
        return table


def _read_stream(path: Path) -> tuple[Any, int]:
    """The whole batches of an open segment, and how many bytes come after the last of them."""
    with _explained(path), pa.memory_map(str(path)) as file:
        stream = pa.ipc.open_stream(file)
        _header_of(path, stream.schema)
        batches: list[Any] = []
        end = file.tell()
        for batch in stream_batches(stream):
            batches.append(batch)
            end = file.tell()
        left = file.size() - end
        return pa.Table.from_batches(batches, stream.schema), left


def stream_batches(stream: Any) -> Iterator[Any]:
    """The batches of a stream up to its end, or to where it is torn."""
    while True:
        try:
            batch = stream.read_next_batch()
            batch.validate(full=True)
        except (StopIteration, pa.ArrowInvalid, OSError):
            return
        yield batch


def seal(path: Path, header: SegmentHeader) -> tuple[Path, SegmentHeader, int]:
    """Make the Parquet file of an open segment, and remove that. Raises `OSError`.

    Returns the new file, its header, and how many bytes of a torn tail were left out.
    """
    table, torn = _read_stream(path)
    times = table.column("time").fill_null(-1).to_numpy()  # a header may have none
    is_keyframe = table.column("keyframe").to_numpy()
    own = times[~is_keyframe]
    is_header = pc.equal(table.column("kind"), "header").to_numpy()
    told = times[~is_keyframe & ~is_header]
    header = msgspec.structs.replace(
        header,
        earliest=int(told.min()) if len(told) else None,
        until=int(max(own.max(), header.since)) if len(own) else header.since,
        events=len(own),
    )
    order = np.lexsort((np.where(is_keyframe, 0, times), ~is_keyframe))
    table = table.take(pa.array(order)).replace_schema_metadata(schema_with(header).metadata)
    sealed = path.with_suffix(SEALED)
    temporary = sealed.with_name(sealed.name + TEMPORARY)
    try:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=_ROW_GROUP,
            use_dictionary=[name for name in _leaves() if name not in _DELTAS],
            column_encoding=dict.fromkeys(_DELTAS, "DELTA_BINARY_PACKED"),
            write_statistics=["time", "tid", "start_time", "kind"],
        )
        os.chmod(temporary, 0o600)
        _sync(temporary)
        os.rename(temporary, sealed)
        sync_directory(sealed.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    path.unlink()
    return sealed, header, torn


def _leaves() -> list[str]:
    """The columns as Parquet names them."""
    inner = {
        "argv": ["argv.list.element"],
        "unfollowed": ["unfollowed.list.element"],
        "env": ["env.key_value.key", "env.key_value.value"],
    }
    return [leaf for name in SCHEMA.names for leaf in inner.get(name, [name])]


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path: Path) -> None:
    """Make what was renamed or made in a directory last."""
    _sync(path)


def _header_of(path: Path, schema: Any) -> SegmentHeader:
    found = (schema.metadata or {}).get(_KEY)
    if found is None:
        raise RecordingError(f"{path}: it is no segment of a recording; move it elsewhere")
    try:
        version = msgspec.json.decode(found).get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise RecordingError(
                f"{path}: it has format version {version}, and this program reads up to"
                f" {FORMAT_VERSION}; use a newer proctree-ds"
            )
        return msgspec.json.decode(found, type=SegmentHeader)
    except (msgspec.DecodeError, AttributeError) as error:
        raise RecordingError(
            f"{path}: its header cannot be read ({error}); move it elsewhere"
        ) from error


class _explained:  # noqa: N801 - used like a function
    """What pyarrow and the system raise, as a `RecordingError` that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, pa.ArrowException | OSError | EOFError):
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RecordingError(
                f"{self._path}: it is damaged or no segment of a recording ({what:.200});"
                " restore it from a copy, or move it elsewhere"
            ) from error
