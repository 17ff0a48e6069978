"""The event log: everything that the tree can be told, one JSON object a line.

It is written by hand in tests and reports, by programs in bulk, and read back without loss: any
event of `proctree_ds.model` becomes one line of UTF-8 JSON and that line the same event again,
bytes that are not UTF-8 included. `schema` says what a line holds, `reading` and `writing` are
the two directions, `files` knows `.gz` and `.zst`.
"""

from __future__ import annotations

from proctree_ds.eventlog.reading import LineDecoder, decode_event, read_events
from proctree_ds.eventlog.schema import MAX_LINE_BYTES, VERSION, json_schema
from proctree_ds.eventlog.writing import EventLogWriter, encode_event, write_events

__all__ = [
    "MAX_LINE_BYTES",
    "VERSION",
    "EventLogWriter",
    "LineDecoder",
    "decode_event",
    "encode_event",
    "json_schema",
    "read_events",
    "write_events",
]
