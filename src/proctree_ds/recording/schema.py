"""The columns of a segment, one row an event: what they are called, and what type they have.

A change here is a change of the format: a new column is a new minor thing that old readers may
overlook, anything else is a new `FORMAT_VERSION` (see `segment`).
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from proctree_ds.model import (
    Capabilities,
    Change,
    Context,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Header,
    Image,
    Loss,
    Namespaces,
    Picture,
    Snapshot,
)

__all__ = [
    "CONTEXT_COLUMNS",
    "FILE_COLUMNS",
    "IMAGE_COLUMNS",
    "KINDS",
    "REFERENCES",
    "SCHEMA",
    "STRING_COLUMNS",
]

KINDS: Final[tuple[type, ...]] = (Header, Fork, Exec, Change, Exit, Snapshot, Picture, Loss)
"""The kinds of events; the column `kind` has their names in small letters."""

REFERENCES: Final = ("leader", "parent", "creator", "reaper")
"""Other tasks that an event names: two columns each, `_tid` and `_start_time`."""

_TEXTS: Final = pa.list_(pa.string())
_UNSIGNED32: Final = pa.uint32()
_UNSIGNED64: Final = pa.uint64()

_FILE_TYPES: Final[dict[str, Any]] = {
    "path": pa.string(),
    "path_truncated": pa.bool_(),
    "device": _UNSIGNED64,
    "inode": _UNSIGNED64,
    "mode": _UNSIGNED32,
    "owner": _UNSIGNED32,
    "size": pa.int64(),
    "ctime": pa.int64(),
    "mtime": pa.int64(),
    "link_count": _UNSIGNED32,
    "is_memfd": pa.bool_(),
    "is_deleted": pa.bool_(),
    "on_upper_layer": pa.bool_(),
}
FILE_COLUMNS: Final = tuple(_FILE_TYPES)
assert FileInfo.__struct_fields__ == FILE_COLUMNS

_IMAGE_TYPES: Final[dict[str, Any]] = {
    "script": pa.string(),
    "argv": _TEXTS,
    "argv_truncated": pa.bool_(),
    "env": pa.map_(pa.string(), pa.string()),
    "env_truncated": pa.bool_(),
    "exec_time": pa.int64(),
}
IMAGE_COLUMNS: Final = tuple(_IMAGE_TYPES)
"""The fields of an image apart from its two files."""
assert ("executable", "interpreter", *IMAGE_COLUMNS) == Image.__struct_fields__

_CONTEXT_TYPES: Final[dict[str, Any]] = {
    **dict.fromkeys(("uid", "euid", "suid", "gid", "egid", "sgid"), _UNSIGNED32),
    **{f"capabilities_{name}": _UNSIGNED64 for name in Capabilities.__struct_fields__},
    "session_id": pa.int32(),
    "process_group": pa.int32(),
    "tty": pa.string(),
    "login_uid": _UNSIGNED32,
    "cgroup": pa.string(),
    "cgroup_id": _UNSIGNED64,
    "container_id": pa.string(),
    "has_namespaces": pa.bool_(),
    **{f"{name}_namespace": _UNSIGNED32 for name in Namespaces.__struct_fields__},
}
CONTEXT_COLUMNS: Final = tuple(_CONTEXT_TYPES)
assert {name.split("_")[0] for name in CONTEXT_COLUMNS} >= {
    name.split("_")[0] for name in Context.__struct_fields__ if name != "namespaces"
}


def _numbered(name: str, types: dict[str, Any]) -> dict[str, Any]:
    return {name: pa.int32(), **{f"{name}_{field}": type_ for field, type_ in types.items()}}


SCHEMA: Final = pa.schema(
    {
        "kind": pa.string(),
        "keyframe": pa.bool_(),
        "time": pa.int64(),
        "tid": pa.int32(),
        "start_time": pa.int64(),
        **{
            column: type_
            for name in REFERENCES
            for column, type_ in ((f"{name}_tid", pa.int32()), (f"{name}_start_time", pa.int64()))
        },
        "ns_tid": pa.int32(),
        "ns_pid": pa.int32(),
        "old_tid": pa.int32(),
        "stated": pa.string(),
        "comm": pa.string(),
        "cwd": pa.string(),
        "root": pa.string(),
        "image": pa.bool_(),
        **_numbered("executable", _FILE_TYPES),
        **_numbered("interpreter", _FILE_TYPES),
        **_IMAGE_TYPES,
        "context": pa.int32(),
        **_CONTEXT_TYPES,
        "subreaper": pa.bool_(),
        "untold_until": pa.int64(),
        "origin": pa.string(),
        "exit_code": pa.int32(),
        "exit_signal": pa.int32(),
        "core_dumped": pa.bool_(),
        "group_exit": pa.bool_(),
        "since": pa.int64(),
        "lost": pa.int64(),
        "boot_time": pa.int64(),
        "host": pa.string(),
        "boot_id": pa.string(),
        "unfollowed": _TEXTS,
        "escaped": pa.bool_(),
    }
)

STRING_COLUMNS: Final = tuple(field.name for field in SCHEMA if field.type == pa.string())
