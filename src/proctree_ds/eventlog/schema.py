"""What a line of an event log holds: one struct a line type, told apart by `type`.

These structs are the single statement of the format. msgspec reads and checks lines with them,
writes lines from them, and makes the JSON Schema of them. Raise `VERSION` when a line that was
right becomes wrong or changes its meaning; a new optional field leaves it.

A versioned attribute has three cases: left out (UNSET: nothing is stated), null (stated as none,
or unknown), and a value.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, get_args

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import schema as _schema_of

from proctree_ds.model import Origin

__all__ = [
    "ATTRIBUTES",
    "LINES",
    "LINE_TYPES",
    "MAX_LINE_BYTES",
    "ORIGINS",
    "VERSION",
    "CapabilitiesLine",
    "ChangeLine",
    "ExecLine",
    "ExitLine",
    "FileLine",
    "ForkLine",
    "HeaderLine",
    "Line",
    "LossLine",
    "NamespacesLine",
    "PictureLine",
    "SnapshotLine",
    "TaskLine",
    "TaskRefLine",
    "json_schema",
]

VERSION: Final = 1
"""The version of the format, written in the header line."""

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""The longest line that is read: above what `execve` takes as arguments, escaped."""

_U64_MAX: Final = 2**64 - 1

Time = Annotated[int, Meta(ge=0, le=2**63 - 1, description="boot-clock ns")]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1, description="a process or thread id")]
ExitCode = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Signal = Annotated[int, Meta(ge=1, le=127)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Unsigned64 = Annotated[int, Meta(ge=0)]  # msgspec takes no bound above 2**63: see _check_64_bits
EpochTime = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, description="epoch ns")]

# ----------------------------------------------------------------------------------- the parts


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    unsigned64: ClassVar[tuple[str, ...]] = ()

    def _check_64_bits(self) -> None:
        for name in self.unsigned64:
            if (getattr(self, name) or 0) > _U64_MAX:
                raise ValueError(f"`{name}` is more than 64 bits hold")


class TaskLine(_Part, frozen=True):
    """The task that an event is about: thread id and exact start."""

    tid: Pid
    start_time: Time


class TaskRefLine(_Part, frozen=True):
    """Another task that an event names; its start may be unknown."""

    tid: Pid
    start_time: Time | None = None


class FileLine(_Part, frozen=True):
    """A file, as the kernel held it when it was executed."""

    unsigned64: ClassVar[tuple[str, ...]] = ("device", "inode")

    path: str | None = None
    path_truncated: bool = False
    device: Unsigned64 | None = None
    inode: Unsigned64 | None = None
    mode: Unsigned32 | None = None
    owner: Unsigned32 | None = None
    size: Size | None = None
    ctime: EpochTime | None = None
    mtime: EpochTime | None = None
    link_count: Unsigned32 | None = None
    is_memfd: bool | None = None
    is_deleted: bool | None = None
    on_upper_layer: bool | None = None

    def __post_init__(self) -> None:
        self._check_64_bits()


class CapabilitiesLine(_Part, frozen=True):
    """The five capability sets of a task, as bit masks."""

    unsigned64: ClassVar[tuple[str, ...]] = (
        "effective",
        "permitted",
        "inheritable",
        "bounding",
        "ambient",
    )

    effective: Unsigned64
    permitted: Unsigned64
    inheritable: Unsigned64
    bounding: Unsigned64
    ambient: Unsigned64

    def __post_init__(self) -> None:
        self._check_64_bits()


class NamespacesLine(_Part, frozen=True):
    """Inode numbers of a task's namespaces."""

    pid: Unsigned32 | None = None
    mnt: Unsigned32 | None = None
    net: Unsigned32 | None = None
    user: Unsigned32 | None = None
    uts: Unsigned32 | None = None
    ipc: Unsigned32 | None = None
    cgroup: Unsigned32 | None = None
    time: Unsigned32 | None = None


# ------------------------------------------------------------------------------- the line types


class _Line(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="type"
):
    """Any line. The order of the fields is the order in which they are written."""


class _Attributes(_Line, frozen=True, kw_only=True):
    """The versioned attributes, which a fork, exec, change or snapshot may state.

    First what describes the program, then the fields of `model.Context` in their order.
    """

    comm: str | UnsetType | None = UNSET
    cwd: str | UnsetType | None = UNSET
    root: str | UnsetType | None = UNSET
    executable: FileLine | UnsetType | None = UNSET
    interpreter: FileLine | UnsetType | None = UNSET
    script: str | UnsetType | None = UNSET
    argv: tuple[str, ...] | UnsetType | None = UNSET
    argv_truncated: bool | UnsetType = UNSET
    env: dict[str, str] | UnsetType | None = UNSET
    env_truncated: bool | UnsetType = UNSET
    exec_time: Time | UnsetType | None = UNSET
    name: Annotated[str | None, Meta(description="the same as comm")] | UnsetType = UNSET
    cmd: Annotated[tuple[str, ...] | None, Meta(description="the same as argv")] | UnsetType = UNSET
    execution_binary: (
        Annotated[FileLine | None, Meta(description="the same as executable")] | UnsetType
    ) = UNSET
    uid: Unsigned32 | UnsetType | None = UNSET
    euid: Unsigned32 | UnsetType | None = UNSET
    suid: Unsigned32 | UnsetType | None = UNSET
    gid: Unsigned32 | UnsetType | None = UNSET
    egid: Unsigned32 | UnsetType | None = UNSET
    sgid: Unsigned32 | UnsetType | None = UNSET
    capabilities: CapabilitiesLine | UnsetType | None = UNSET
    session_id: Pid | UnsetType | None = UNSET
    process_group: Pid | UnsetType | None = UNSET
    tty: str | UnsetType | None = UNSET
    login_uid: Unsigned32 | UnsetType | None = UNSET
    cgroup: str | UnsetType | None = UNSET
    cgroup_id: Unsigned64 | UnsetType | None = UNSET
    container_id: str | UnsetType | None = UNSET
    namespaces: NamespacesLine | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        cgroup_id = self.cgroup_id
        if cgroup_id is not UNSET and cgroup_id is not None and cgroup_id > _U64_MAX:
            raise ValueError("`cgroup_id` is more than 64 bits hold")


ATTRIBUTES: Final = _Attributes.__struct_fields__
"""The names of the versioned attributes: the last fields of a line that may state them."""


class HeaderLine(_Line, frozen=True, tag="header"):
    """Opens a log: which host and boot, and the epoch ns of boot-clock zero."""

    version: int | UnsetType = UNSET
    host: str | None = None
    boot_id: str | None = None
    boot_time: Time = 0
    time: Time | None = None
    unfollowed: tuple[str, ...] = ()


class ForkLine(_Attributes, frozen=True, tag="fork"):
    """`task` was created: a process, or a thread when `leader` names another task."""

    time: Time
    task: TaskLine
    ns_tid: Pid | None = None
    ns_pid: Pid | None = None
    leader: TaskRefLine | None = None
    parent: TaskRefLine | None = None
    creator: TaskRefLine | None = None
    origin: Origin = "event"


class ExecLine(_Attributes, frozen=True, tag="exec"):
    """`task`, the leader of its process, began a new image: what is not stated of it is unknown."""

    time: Time
    task: TaskLine
    ns_tid: Pid | None = None
    ns_pid: Pid | None = None
    parent: TaskRefLine | None = None
    old_tid: Pid | None = None
    origin: Origin = "event"


class ChangeLine(_Attributes, frozen=True, tag="change"):
    """Attributes of a living task changed."""

    time: Time
    task: TaskLine
    leader: TaskRefLine | None = None
    parent: TaskRefLine | None = None
    subreaper: bool | None = None
    untold_until: Time | None = None
    origin: Origin = "event"


class ExitLine(_Line, frozen=True, tag="exit"):
    """`task` ended. Code and signal are those of the process where `group_exit` holds."""

    time: Time
    task: TaskLine
    leader: TaskRefLine | None = None
    parent: TaskRefLine | None = None
    exit_code: ExitCode | None = None
    exit_signal: Signal | None = None
    core_dumped: bool = False
    group_exit: bool | None = None
    reaper: TaskRefLine | None = None
    origin: Origin = "event"


class SnapshotLine(_Attributes, frozen=True, tag="snapshot"):
    """A picture of a task that was alive at `time`; `source` says who took it."""

    time: Time
    task: TaskLine
    ns_tid: Pid | None = None
    ns_pid: Pid | None = None
    leader: TaskRefLine | None = None
    parent: TaskRefLine | None = None
    creator: TaskRefLine | None = None
    subreaper: bool | None = None
    source: Origin = "iterator"


class PictureLine(_Line, frozen=True, tag="picture"):
    """Whoever lived from `since` to `time` has a snapshot in between; all others have ended."""

    time: Time
    since: Time


class LossLine(_Line, frozen=True, tag="loss"):
    """`lost` events between `since` and `time` never arrived; left out where nobody counted."""

    time: Time
    since: Time
    lost: Size | None = None


Line = (
    HeaderLine | ForkLine | ExecLine | ChangeLine | ExitLine | SnapshotLine | PictureLine | LossLine
)

LINES: Final[tuple[type[_Line], ...]] = get_args(Line)
LINE_TYPES: Final = tuple(str(line.__struct_config__.tag) for line in LINES)
ORIGINS: Final[tuple[str, ...]] = get_args(Origin)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"One line of a proctree event log, version {VERSION}",
        **_schema_of(Line),
    }
