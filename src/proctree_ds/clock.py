"""The boot clock and the wall clock: the only file that reads either.

Events are ordered by the boot clock (`CLOCK_BOOTTIME`: ns since boot, suspend included), which
nobody can set. Public times are ns since the Unix epoch, UTC. The bridge between the two is one
number, the epoch ns of boot-clock zero, measured once per capture: later steps of the wall clock
reorder nothing. Everything here is exact integer arithmetic; no instant passes through a float.
"""

from __future__ import annotations

import ctypes
import operator
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from proctree_ds.errors import InvalidTime

__all__ = [
    "boot_lead",
    "boot_now",
    "format_time",
    "measure_boot_time",
    "parse_duration",
    "parse_time",
    "to_epoch_ns",
    "wall_clock_error",
]

_SECOND: Final = 1_000_000_000
_BRACKETS: Final = 32
"""Readings of the wall clock between two of the boot clock; the tightest pair wins."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# ----------------------------------------------------------------------------------- the clocks


def boot_now() -> int:
    """Now, in boot-clock ns: the clock of `bpf_ktime_get_boot_ns` and of process start times."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def measure_boot_time() -> int:
    """Epoch ns of boot-clock zero, as the wall clock stands now; exact to well under 1 µs.

    The wall clock is read between two readings of the boot clock, several times: an interruption
    widens that bracket, so the tightest one is the truest.
    """
    return min(_bracket() for _ in range(_BRACKETS))[1]


def boot_lead() -> int:
    """Ns by which the boot clock is ahead of CLOCK_MONOTONIC: how long the machine was suspended.

    Exact to about 1 µs; the tightest of several readings, as in `measure_boot_time`.
    """
    return min(_lead() for _ in range(_BRACKETS))[1]


def _lead() -> tuple[int, int]:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return after - before, (before + after) // 2 - monotonic


def _bracket() -> tuple[int, int]:
    """How wide one bracket was (ns), and the boot time that it gives."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return after - before, wall - (before + after) // 2


class _Timex(ctypes.Structure):
    """The head of struct timex (include/uapi/linux/timex.h), and room for all of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror_us", ctypes.c_long),
        ("esterror_us", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


_UNSYNCHRONISED: Final = 0x40
"""STA_UNSYNC, adjtimex(2)."""


def wall_clock_error() -> int | None:
    """By how many ns the wall clock may be off, as whoever keeps it right says (adjtimex(2)).

    None where nobody does, or where it cannot be asked.
    """
    clock = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(clock)) < 0 or clock.status & _UNSYNCHRONISED:
        return None
    return int(clock.maxerror_us) * 1_000


# ------------------------------------------------------------------------- instants from callers


def to_epoch_ns(value: object) -> int:
    """Any instant that a caller may hold, as ns since the Unix epoch.

    Takes an int (epoch ns already), an aware `datetime`, a `pandas.Timestamp` with a time zone
    and a `numpy.datetime64`, which is UTC by definition; all to the last nanosecond. Raises
    `InvalidTime` for a naive datetime or Timestamp, NaT, a float, a bool and anything else.
    """
    if type(value) is int:
        return value
    if isinstance(value, datetime):
        return _from_datetime(value)
    if type(value).__name__ == "datetime64" and type(value).__module__ == "numpy":
        return _from_datetime64(value)
    if isinstance(value, float):
        raise InvalidTime(
            f"{value!r} is a float, which cannot hold ns since the epoch: give an int"
        )
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]  # an IntEnum, a numpy.int64
    except TypeError:
        pass
    raise InvalidTime(
        f"{value!r:.80} is not an instant: give epoch ns, an aware datetime, "
        "a numpy.datetime64 or a pandas.Timestamp"
    )


def _from_datetime(value: datetime) -> int:
    if value != value:  # only pandas.NaT, which calls itself a datetime, differs from itself
        raise InvalidTime("NaT is not an instant")
    if value.utcoffset() is None:
        raise InvalidTime(
            f"{value.isoformat()} has no time zone: add one, for example tzinfo=datetime.UTC"
        )
    since: timedelta = value - _EPOCH
    nanoseconds: int = getattr(since, "nanoseconds", 0)  # a pandas.Timedelta goes below the µs
    return (
        (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1_000 + nanoseconds
    )


# The length of each numpy unit, as a fraction of ns. Y and M have none: numpy turns them to days.
_UNITS: Final = {
    "W": (7 * 86_400 * _SECOND, 1),
    "D": (86_400 * _SECOND, 1),
    "h": (3_600 * _SECOND, 1),
    "m": (60 * _SECOND, 1),
    "s": (_SECOND, 1),
    "ms": (1_000_000, 1),
    "us": (1_000, 1),
    "ns": (1, 1),
    "ps": (1, 1_000),
    "fs": (1, 1_000_000),
    "as": (1, 1_000_000_000),
}


def _from_datetime64(value: Any) -> int:
    # numpy itself would do this with astype("datetime64[ns]"), and wrap around without a word.
    unit = re.search(r"\[(\d*)(\w+)\]", value.dtype.str)
    if value != value or unit is None:
        raise InvalidTime("NaT is not an instant")
    if unit[2] in ("Y", "M"):
        return _from_datetime64(value.astype("datetime64[D]"))
    numerator, denominator = _UNITS[unit[2]]
    return int(value.astype("int64")) * int(unit[1] or 1) * numerator // denominator


# ------------------------------------------------------------------------ instants from a person

_DURATION: Final = re.compile(r"(\d{1,19})(?:\.(\d{1,19}))?\s*(ns|us|µs|ms|s|m|h|d)?", re.ASCII)
_DURATION_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3_600 * _SECOND,
    "d": 86_400 * _SECOND,
}
_FRACTION: Final = re.compile(r"(\d\d:?\d\d:?\d\d)[.,](\d+)", re.ASCII)


def parse_duration(text: str) -> int:
    """A length of time in ns, from `30s`, `5m`, `1.5h`, `500ms`, `2d` or bare seconds (`2`).

    Raises `InvalidTime` for anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidTime(f"{text!r} is not a duration: write for example 30s, 5m, 1h or 500ms")
    whole, fraction, unit = match[1], match[2] or "", match[3] or "s"
    return int(whole + fraction) * _DURATION_UNITS[unit] // int(10 ** len(fraction))


def parse_time(text: str, *, start: int | None, now: int) -> int:
    """An instant in epoch ns, as a person writes it.

    Takes epoch ns in digits, an ISO 8601 time with a zone (`2026-03-01T12:00:00Z`), `-5m` (before
    `now`, which is the end of a recording) and `+2s` (after `start`, where there is one). Raises
    `InvalidTime` for anything else.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,19}", text, re.ASCII):
        return int(text)
    if text.startswith("-"):
        return now - parse_duration(text[1:])
    if text.startswith("+"):
        if start is None:
            raise InvalidTime(f"{text!r} counts from the start, which is not known here")
        return start + parse_duration(text[1:])
    return _parse_iso(text)


def _parse_iso(text: str) -> int:
    # datetime keeps six digits of a second; the rest is added by hand.
    fraction = _FRACTION.search(text)
    whole = _FRACTION.sub(r"\1", text, count=1)
    try:
        # A fraction that is left is one of a minute, which datetime takes for one of a second.
        parsed = datetime.fromisoformat(whole if "." not in whole and "," not in whole else "")
    except ValueError:
        raise InvalidTime(
            f"{text!r} is not a time: write epoch ns, 2026-03-01T12:00:00Z, -5m or +2s"
        ) from None
    nanoseconds = int(fraction[2][:9].ljust(9, "0")) if fraction else 0
    return _from_datetime(parsed) + nanoseconds


def format_time(epoch_ns: int) -> str:
    """`epoch_ns` as ISO 8601 in UTC with nine digits: `2026-03-01T12:00:00.000000001Z`.

    `parse_time` reads it back to the same ns. Raises `InvalidTime` outside the years 1 to 9999.
    """
    seconds, nanoseconds = divmod(epoch_ns, _SECOND)
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidTime(f"{epoch_ns} ns is beyond the calendar") from None
    return f"{moment.replace(tzinfo=None).isoformat()}.{nanoseconds:09}Z"
