"""The contract a signature author sees: everything needed to write one, and nothing else.

A signature says who it is (`metadata`), which events it wants (`selectors`), and what it makes of
one (`on_event`). It gives back `Finding`s; the engine adds the event, the process and its lineage.

    class ShellStarted(Signature):
        metadata = SignatureMetadata(
            id="DEMO-1", version="1", name="A shell started", description="...", severity="info"
        )
        selectors = (EventSelector(event="exec"),)

        def init(self, context):
            self.tree = context.get_data_source("proctree", "process_tree")

        def on_event(self, event):
            if event.comm == "sh":
                parent = self.tree.lineage(event.process_entity_id, event.time, max_depth=1)[-1]
                return Finding(data={"started_by": parent.name})

When `on_event` runs, the tree already answers for the event's time: there is never a reason to
wait or to try again. Ask as of `event.time`, and the answer is the same live and in a replay.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Literal, Protocol, get_args

import msgspec

from proctree_ds.errors import SignatureError

__all__ = [
    "EVENT_NAMES",
    "EndOfSource",
    "EventSelector",
    "Finding",
    "Findings",
    "LossSignal",
    "Severity",
    "Signal",
    "Signature",
    "SignatureContext",
    "SignatureMetadata",
    "Tick",
]

Severity = Literal["info", "low", "medium", "high", "critical"]
"""How bad it would be if the finding is true."""

EVENT_NAMES: Final = ("fork", "exec", "exit", "change", "snapshot")
"""What a selector can name. "*" stands for the first four: a snapshot only tells what was so."""

_KERNEL_NAMES: Final = {
    "sched_process_fork": "fork",
    "sched_process_exec": "exec",
    "sched_process_exit": "exit",
}
_HAPPENINGS: Final = frozenset({"fork", "exec", "exit", "change"})
_ORIGINS: Final = ("*", "host", "container")
_TECHNIQUE: Final = re.compile(r"T\d{4}(\.\d{3})?")

logging.getLogger("proctree_ds").addHandler(logging.NullHandler())


class SignatureMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Who a signature is. `id` is unique among all that are loaded, and stable for ever.

    `techniques` are MITRE ATT&CK ids ("T1059" or "T1059.004"); `tags` are free words.
    Raises ValueError on a value that cannot be.
    """

    id: str
    version: str
    name: str
    description: str
    severity: Severity
    techniques: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("id", "version", "name", "description"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(
                    f"metadata.{field} must be a text that is not empty, not {value!r}"
                )
        if self.severity not in get_args(Severity):
            choices = ", ".join(get_args(Severity))
            raise ValueError(f"metadata.severity must be one of {choices}, not {self.severity!r}")
        for field in ("techniques", "tags"):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not all(isinstance(v, str) for v in values):
                raise ValueError(f"metadata.{field} must be a tuple of texts, not {values!r}")
        for technique in self.techniques:
            if not _TECHNIQUE.fullmatch(technique):
                raise ValueError(
                    f"metadata.techniques: {technique!r} is not a MITRE ATT&CK technique; "
                    'write it like "T1059" or "T1059.004"'
                )


class EventSelector(msgspec.Struct, frozen=True):
    """Which events reach `on_event`.

    `event`: one of `EVENT_NAMES`, a kernel name (sched_process_fork, sched_process_exec,
    sched_process_exit), or "*" for all that happens: fork, exec, exit, change. `origin`: "host"
    for processes outside of any container, "container" for those in one, "*" for both.
    Raises ValueError on any other word. An event that several selectors match arrives once.
    """

    event: str = "*"
    origin: str = "*"

    def __post_init__(self) -> None:
        if self.event != "*" and self.event not in EVENT_NAMES and self.event not in _KERNEL_NAMES:
            choices = ", ".join((*EVENT_NAMES, *_KERNEL_NAMES, "*"))
            raise ValueError(f"EventSelector: event must be one of {choices}, not {self.event!r}")
        if self.origin not in _ORIGINS:
            choices = ", ".join(_ORIGINS)
            raise ValueError(f"EventSelector: origin must be one of {choices}, not {self.origin!r}")

    @property
    def events(self) -> frozenset[str]:
        """The names of the events it selects, "*" and kernel names resolved."""
        if self.event == "*":
            return _HAPPENINGS
        return frozenset((_KERNEL_NAMES.get(self.event, self.event),))


class Finding(msgspec.Struct, frozen=True):
    """What a signature found. `data` says what is special about this case, in plain JSON values.

    Files, answers of the data source and anything with a `to_dict()` may stand in `data` as they
    are. Time, event, process and lineage are added by the engine.
    """

    data: dict[str, Any] = {}


Findings = Finding | Iterable[Finding] | None
"""What `on_event` and `on_signal` may give back: nothing, one, or several (a generator, too)."""


class EndOfSource(msgspec.Struct, frozen=True):
    """The last event has been seen: time for a summary. `time`: epoch ns of the last event."""

    time: int | None = None


class LossSignal(msgspec.Struct, frozen=True):
    """`lost` events (None: unknown how many) between `since` and `time` (epoch ns) are missing."""

    since: int
    time: int
    lost: int | None = None


class Tick(msgspec.Struct, frozen=True):
    """Time went by, whether or not anything happened. `time`: epoch ns on the source's clock."""

    time: int


Signal = EndOfSource | LossSignal | Tick


class AnyDataSource(Protocol):
    """What the registry of data sources needs to know of one."""

    @property
    def namespace(self) -> str: ...
    @property
    def id(self) -> str: ...


class SignatureContext:
    """What the engine gives a signature at `init`: the data sources, and a logger of its own.

    `logger` is named "proctree_ds.signature.<id>" and writes nowhere unless the program that uses
    the library says so.
    """

    __slots__ = ("_data_sources", "logger")

    def __init__(self, signature_id: str, data_sources: dict[tuple[str, str], Any]) -> None:
        self._data_sources = data_sources
        self.logger = logging.getLogger(f"proctree_ds.signature.{signature_id}")

    def get_data_source(self, namespace: str, id: str) -> Any:
        """The data source of that name; the process tree is ("proctree", "process_tree").

        It is known as ("tracee", "process_tree") as well. Raises `SignatureError`, naming those
        that exist, for any other.
        """
        try:
            return self._data_sources[namespace, id]
        except KeyError:
            known = ", ".join(f"{n}/{i}" for n, i in sorted(self._data_sources))
            raise SignatureError(
                f"there is no data source {namespace}/{id}; there are: {known}"
            ) from None


class Signature:
    """Base of every signature. Give `metadata` and `selectors`, and override what you need.

    A signature is made without arguments, once per run. All its methods are called from one
    thread, one at a time. A call that raises, or that does not return within the engine's limit,
    is counted and reported as an error of this signature; after a few of them it is switched off,
    and the others never notice.
    """

    metadata: ClassVar[SignatureMetadata]
    selectors: ClassVar[tuple[EventSelector, ...]]

    def init(self, context: SignatureContext) -> None:
        """Called once, before the first event. The place for I/O and for data sources."""

    def on_event(self, event: Any) -> Findings:
        """Called with every selected event: a `TaskEvent`, of the class of its kind.

        The tree answers for `event.time` already. Annotate the parameter with what the selectors
        ask for, such as `ExecEvent`.
        """
        return None

    def on_signal(self, signal: Signal) -> Findings:
        """Called at the end of the source, on loss, and now and then as time goes by."""
        return None

    def close(self) -> None:
        """Called once, at the end, if `init` went well. Release what `init` took."""
