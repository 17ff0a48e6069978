"""A versioned process tree for Linux, asked as of an instant.

Feed a `ProcessTree` with events, ask a `DataSource` as of a time, write detection as a `Signature`.
"""

from typing import TYPE_CHECKING, Any

from proctree_ds.answers import ProcessInfo, ProcessLineage, ThreadInfo
from proctree_ds.certainty import Certainty, LossWindow
from proctree_ds.datasource import (
    ChildrenKey,
    DataSource,
    DiffKey,
    LineageKey,
    PidKey,
    ProcKey,
    SnapshotKey,
    SubtreeKey,
    ThreadKey,
    TimelineKey,
)
from proctree_ds.errors import (
    BeyondHorizon,
    ConfigurationError,
    DataNotFound,
    EventLogError,
    InvalidTime,
    KeyNotSupported,
    NeverSeen,
    NotStartedYet,
    ProctreeError,
    RecordingError,
    SignatureError,
    SourceError,
    SourceUnavailable,
    TableError,
)
from proctree_ds.eventlog import read_events, write_events
from proctree_ds.model import (
    Capabilities,
    Event,
    FileInfo,
    Namespaces,
    Task,
    entity_id,
)
from proctree_ds.signature import (
    EndOfSource,
    EventSelector,
    Finding,
    LossSignal,
    Signal,
    Signature,
    SignatureContext,
    SignatureMetadata,
    Tick,
)
from proctree_ds.signature_event import ChangeEvent, ExecEvent, ExitEvent, ForkEvent, TaskEvent
from proctree_ds.succession import HeldImage, HeldParent
from proctree_ds.surveys import ProcessDiff, ProcessSubtree, TimelineEntry
from proctree_ds.tree import ProcessTree

if TYPE_CHECKING:
    from proctree_ds.tables import AsOf

__all__ = [
    "AsOf",
    "BeyondHorizon",
    "Capabilities",
    "Certainty",
    "ChangeEvent",
    "ChildrenKey",
    "ConfigurationError",
    "DataNotFound",
    "DataSource",
    "DiffKey",
    "EndOfSource",
    "Event",
    "EventLogError",
    "EventSelector",
    "ExecEvent",
    "ExitEvent",
    "FileInfo",
    "Finding",
    "ForkEvent",
    "HeldImage",
    "HeldParent",
    "InvalidTime",
    "KeyNotSupported",
    "LineageKey",
    "LossSignal",
    "LossWindow",
    "Namespaces",
    "NeverSeen",
    "NotStartedYet",
    "PidKey",
    "ProcKey",
    "ProcessDiff",
    "ProcessInfo",
    "ProcessLineage",
    "ProcessSubtree",
    "ProcessTree",
    "ProctreeError",
    "RecordingError",
    "Signal",
    "Signature",
    "SignatureContext",
    "SignatureError",
    "SignatureMetadata",
    "SnapshotKey",
    "SourceError",
    "SourceUnavailable",
    "SubtreeKey",
    "TableError",
    "Task",
    "TaskEvent",
    "ThreadInfo",
    "ThreadKey",
    "Tick",
    "TimelineEntry",
    "TimelineKey",
    "entity_id",
    "read_events",
    "write_events",
]


def __getattr__(name: str) -> Any:
    """Tables need NumPy and Arrow, which take longer to import than all else: only when asked."""
    if name == "AsOf":
        from proctree_ds.tables import AsOf

        return AsOf
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
