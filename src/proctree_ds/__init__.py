"""A versioned process tree for Linux, asked as of an instant."""

from proctree_ds.answers import Certainty, LossWindow, ProcessInfo, ProcessLineage, ThreadInfo
from proctree_ds.datasource import DataSource, LineageKey, PidKey, ProcKey, ThreadKey
from proctree_ds.errors import (
    BeyondHorizon,
    DataNotFound,
    KeyNotSupported,
    NeverSeen,
    NotStartedYet,
    ProctreeError,
)
from proctree_ds.eventlog import read_events
from proctree_ds.model import FileInfo, entity_id
from proctree_ds.tree import ProcessTree

__all__ = [
    "BeyondHorizon",
    "Certainty",
    "DataNotFound",
    "DataSource",
    "FileInfo",
    "KeyNotSupported",
    "LineageKey",
    "LossWindow",
    "NeverSeen",
    "NotStartedYet",
    "PidKey",
    "ProcKey",
    "ProcessInfo",
    "ProcessLineage",
    "ProcessTree",
    "ProctreeError",
    "ThreadInfo",
    "ThreadKey",
    "entity_id",
    "read_events",
]
