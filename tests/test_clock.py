"""Instants from every kind of caller, exact to the last nanosecond."""

from __future__ import annotations

import enum
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctree_ds.clock import (
    boot_now,
    format_time,
    measure_boot_time,
    parse_duration,
    parse_time,
    to_epoch_ns,
)
from proctree_ds.errors import InvalidTime

NOON = 1_772_366_400_000_000_000  # 2026-03-01T12:00:00Z
NOON_AND_A_BIT = NOON + 123_456_789
SECOND = 1_000_000_000

epoch_ns = st.integers(-(2**63) + 1, 2**63 - 1)


class Known(enum.IntEnum):
    NOON = NOON


# -------------------------------------------------------------------------------- to_epoch_ns


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NOON, NOON),
        (0, 0),
        (Known.NOON, NOON),
        (np.int64(NOON), NOON),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), NOON),
        (datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
        (datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC), NOON + 123_456_000),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1_000),
        (pd.Timestamp(NOON_AND_A_BIT, tz="UTC"), NOON_AND_A_BIT),
        (pd.Timestamp(NOON_AND_A_BIT, tz="Asia/Tokyo"), NOON_AND_A_BIT),
        (pd.Timestamp("2026-03-01T12:00:00Z").as_unit("s"), NOON),
        (np.datetime64(NOON_AND_A_BIT, "ns"), NOON_AND_A_BIT),
        (np.datetime64("2026-03-01T12:00:00.123456"), NOON + 123_456_000),
        (np.datetime64("2026-03-01T12"), NOON),
        (np.datetime64("2026-03"), NOON - 12 * 3_600 * SECOND),
        (np.datetime64("1971"), 365 * 86_400 * SECOND),
        (np.datetime64(3, ("s", 25)), 75 * SECOND),
        (np.datetime64(5, "W"), 35 * 86_400 * SECOND),
        (np.datetime64(-1_500, "ps"), -2),
    ],
)
def test_every_kind_of_instant(value: object, expected: int) -> None:
    result = to_epoch_ns(value)
    assert result == expected
    assert type(result) is int or value is Known.NOON


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime(2026, 3, 1, 12), "2026-03-01T12:00:00 has no time zone"),
        (pd.Timestamp(NOON), "has no time zone"),
        (pd.NaT, "NaT is not an instant"),
        (np.datetime64("NaT"), "NaT is not an instant"),
        (np.datetime64("NaT", "ns"), "NaT is not an instant"),
        (1.5, "1.5 is a float"),
        (np.float64(1.5), "is a float"),
        (True, "True is not an instant"),
        (np.bool_(True), "is not an instant"),
        (None, "None is not an instant"),
        ("2026-03-01T12:00:00Z", "is not an instant"),
        (np.array([1, 2]), "is not an instant"),
        (timedelta(1), "is not an instant"),
    ],
)
def test_what_names_no_instant_is_refused(value: object, said: str) -> None:
    with pytest.raises(InvalidTime, match=said):
        to_epoch_ns(value)


@given(epoch_ns)
def test_nanoseconds_pass_through_pandas_and_numpy_unharmed(instant: int) -> None:
    assert to_epoch_ns(np.datetime64(instant, "ns")) == instant
    assert to_epoch_ns(instant) == instant


@given(st.integers(0, 2**62))
def test_nanoseconds_survive_a_timestamp(instant: int) -> None:
    assert to_epoch_ns(pd.Timestamp(instant, tz="UTC")) == instant


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_agrees_with_integer_arithmetic(moment: datetime) -> None:
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert to_epoch_ns(moment) == microseconds * 1_000


def test_numpy_and_pandas_are_not_imported() -> None:
    script = "import sys, proctree_ds.clock; print(sys.modules.keys() & {'numpy', 'pandas'})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert shown.stdout == b"set()\n"


# ------------------------------------------------------------------------------- from a person


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2 * SECOND),
        ("30s", 30 * SECOND),
        ("1.5 s", 1_500_000_000),
        ("500ms", 500_000_000),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("7ns", 7),
        ("5m", 300 * SECOND),
        ("0.5h", 1_800 * SECOND),
        ("2d", 172_800 * SECOND),
        ("0.0000000019s", 1),
        ("0.9ns", 0),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "s", "-5s", "5x", "1e3", "five", "1s2", ".5s", "5 m s", "9" * 30, "٣s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidTime, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (str(NOON), NOON),
        ("0", 0),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01 12:00:00.123456789Z", NOON_AND_A_BIT),
        ("2026-03-01T14:00:00,123456789+02:00", NOON_AND_A_BIT),
        ("2026-03-01T12:00:00.1Z", NOON + 100_000_000),
        ("2026-03-01T12:00:00.1234567899Z", NOON_AND_A_BIT),
        ("20260301T120000.123456789Z", NOON_AND_A_BIT),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("-5m", 900 * SECOND - 300 * SECOND),
        ("+2s", 102 * SECOND),
        (" +2s ", 102 * SECOND),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text, start=100 * SECOND, now=900 * SECOND) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yesterday", "is not a time"),
        ("", "is not a time"),
        ("2026-13-01T00:00:00Z", "is not a time"),
        ("2026-03-01T12:00.5Z", "is not a time"),
        ("2026-03-01T12:00:00", "has no time zone"),
        ("2026-03-01", "has no time zone"),
        ("-5x", "is not a duration"),
        ("--5m", "is not a duration"),
        ("9" * 20, "is not a time"),
    ],
)
def test_what_is_no_time(text: str, said: str) -> None:
    with pytest.raises(InvalidTime, match=said):
        parse_time(text, start=0, now=0)


def test_after_the_start_needs_a_start() -> None:
    with pytest.raises(InvalidTime, match="counts from the start"):
        parse_time("+2s", start=None, now=0)


def test_format_time() -> None:
    assert format_time(NOON) == "2026-03-01T12:00:00.000000000Z"
    assert format_time(NOON_AND_A_BIT) == "2026-03-01T12:00:00.123456789Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999999999Z"
    with pytest.raises(InvalidTime, match="beyond the calendar"):
        format_time(10**21)


@given(epoch_ns)
def test_what_is_written_reads_back(instant: int) -> None:
    assert parse_time(format_time(instant), start=None, now=0) == instant


# ---------------------------------------------------------------------------------- the clocks


def test_boot_time_comes_from_the_tightest_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four brackets are torn open by an interruption on one side or the other."""
    clock = 0
    pauses = iter([(900, 10), (10, 900), (3, 3), (500, 500)] * 100)
    pause: tuple[int, int] = (0, 0)
    readings = 0

    def read(which: Any) -> int:
        nonlocal clock, pause, readings
        if readings % 3 == 0:
            pause = next(pauses)
        else:
            clock += pause[readings % 3 - 1]
        readings += 1
        return clock + (NOON if which == time.CLOCK_REALTIME else 0)

    monkeypatch.setattr(time, "clock_gettime_ns", read)
    assert measure_boot_time() == NOON


def test_the_boot_clock_never_goes_back() -> None:
    readings = [boot_now() for _ in range(1_000)]
    assert readings == sorted(readings)
    assert readings[0] > 0


def test_boot_now_is_the_clock_that_the_kernel_starts_processes_by() -> None:
    before = boot_now()
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    after = boot_now()
    try:
        with open(f"/proc/{child.pid}/stat") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
    finally:
        child.communicate()
    assert before // 10_000_000 <= ticks <= after // 10_000_000
