"""What the engine tells about the signatures themselves: limits, troubles, figures."""

from __future__ import annotations

import sys
import traceback
from typing import Final, Literal

import msgspec

from proctree_ds.errors import SignatureError
from proctree_ds.signature import Signature
from proctree_ds.watchdog import SignatureTimeout

__all__ = ["EngineLimits", "Report", "ReportKind", "SignatureStatistics", "message_of", "place_of"]

_MESSAGE_LENGTH: Final = 500


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a signature may do before it is stopped. Every limit counts over the whole run.

    `errors`: calls that raised, returned something else than findings, or had data that JSON
    cannot hold; at this number the signature is switched off. `timeouts`: the same for calls that
    had to be interrupted after `call_seconds` (`init_seconds` for `init`). A call of more than
    `slow_seconds` is slow; from `slow_calls` of them on, a signature that is slow in a tenth of
    its calls is switched off. `findings`: how many one event may give. Calls are timed for one
    event in `timed_every`, and for all of them for a while after a slow one.
    """

    errors: int = 10
    timeouts: int = 2
    call_seconds: float = 1.0
    init_seconds: float = 10.0
    slow_seconds: float = 0.05
    slow_calls: int = 20
    findings: int = 1_000
    timed_every: int = 16


ReportKind = Literal["init", "error", "timeout", "slow", "close", "switched_off", "unwatched"]


class Report(msgspec.Struct, frozen=True):
    """Something that went wrong in a signature, or in watching over them.

    `where` is "file:line" in the signature's code; `count` how often this kind has happened to
    this signature by now.
    """

    kind: ReportKind
    signature_id: str | None
    message: str
    where: str | None = None
    count: int = 1

    def __str__(self) -> str:
        who = f"signature {self.signature_id}: " if self.signature_id else ""
        place = f" ({self.where})" if self.where else ""
        return f"{who}{self.message}{place}"


class SignatureStatistics(msgspec.Struct, frozen=True):
    """What a signature did so far. `nanoseconds` is estimated from the calls that were timed."""

    events: int
    findings: int
    errors: int
    timeouts: int
    slow_calls: int
    nanoseconds: int
    is_enabled: bool
    off_because: str | None


def message_of(problem: BaseException) -> str:
    if isinstance(problem, SignatureTimeout):
        return "interrupted: it did not return in time"
    text = str(problem) if isinstance(problem, SignatureError) else None
    text = text or traceback.format_exception_only(problem)[-1].strip()
    return text if len(text) <= _MESSAGE_LENGTH else text[:_MESSAGE_LENGTH] + "..."


def place_of(problem: BaseException, signature: Signature) -> str | None:
    """The deepest line of the signature's own file that the error came through."""
    module = sys.modules.get(type(signature).__module__)
    own = getattr(module, "__file__", None)
    frames = traceback.extract_tb(problem.__traceback__)
    for frame in reversed(frames):
        if frame.filename == own:
            return f"{frame.filename}:{frame.lineno}"
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
