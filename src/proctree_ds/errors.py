"""Every error that the library raises on purpose, in one tree.

ProctreeError
├── DataNotFound (LookupError)        the tree has no answer for this key at this instant
│   ├── NeverSeen                     nothing with this identity was ever observed
│   ├── NotStartedYet                 it started later than the instant asked about
│   └── BeyondHorizon                 it was known, but its history then is gone
├── KeyNotSupported (TypeError)       the data source does not take this kind of key
├── InvalidTime (ValueError)          an instant that cannot be placed on the time line
├── TableError (ValueError)        a table that lacks a column, or has one of a wrong type
├── EventLogError (ValueError)        an event log line that cannot be read
├── SignatureError                    a signature that cannot be loaded or used
├── ConfigurationError                an option or a directory that cannot be accepted
├── ServiceError                      what a long run needs beside a source and signatures
└── SourceError                       a source of events that cannot be opened or read
    ├── RecordingError                a recording, or a segment of it, that cannot be read
    └── SourceUnavailable             this machine does not allow it: cause and remedy

A message says where, what, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "BeyondHorizon",
    "ConfigurationError",
    "DataNotFound",
    "EventLogError",
    "InvalidTime",
    "KeyNotSupported",
    "NeverSeen",
    "NotStartedYet",
    "ProctreeError",
    "RecordingError",
    "ServiceError",
    "SignatureError",
    "SourceError",
    "SourceUnavailable",
    "TableError",
]


class ProctreeError(Exception):
    """The root of the tree: catch it to catch every error of this library."""


class DataNotFound(ProctreeError, LookupError):
    """The data source has no answer for the key at the instant asked about."""


class NeverSeen(DataNotFound):
    """No event, picture or reference ever named this identity."""


class NotStartedYet(DataNotFound):
    """The process or thread started after the instant asked about.

    `start_time` is its start, in ns since the epoch.
    """

    def __init__(self, message: str, start_time: int) -> None:
        super().__init__(message)
        self.start_time = start_time


class BeyondHorizon(DataNotFound):
    """The process or thread may have been known then, but that part of history was dropped.

    `horizon` is the instant, in ns since the epoch, from which answers are whole again.
    """

    def __init__(self, message: str, horizon: int) -> None:
        super().__init__(message)
        self.horizon = horizon


class KeyNotSupported(ProctreeError, TypeError):
    """The data source was asked with a key of a type that it does not take."""


class InvalidTime(ProctreeError, ValueError):
    """A time argument that names no instant, such as a `datetime` without a time zone."""


class TableError(ProctreeError, ValueError):
    """A table that cannot be asked about: a column is missing, or of a type that does not fit."""


class EventLogError(ProctreeError, ValueError):
    """A line of an event log that cannot be read.

    `where` names the file, `line` the line (from 1), `field` the JSON path of the culprit,
    None where the line as a whole is at fault.
    """

    def __init__(self, where: str, line: int, field: str | None, problem: str) -> None:
        place = f"{where}:{line}" + (f", field {field}" if field else "")
        super().__init__(f"{place}: {problem}")
        self.where = where
        self.line = line
        self.field = field
        self.problem = problem


class SignatureError(ProctreeError):
    """A signature that cannot be loaded or used."""


class ConfigurationError(ProctreeError):
    """An option, a file or a directory that cannot be accepted."""


class ServiceError(ProctreeError):
    """What a long run needs besides: a port that is taken, rights that cannot be dropped."""


class SourceError(ProctreeError):
    """A source of events that cannot be opened or read."""


class RecordingError(SourceError):
    """A recording, or a segment of it, that cannot be read: the message names the file."""


class SourceUnavailable(SourceError):
    """This machine does not allow the source: the message gives the cause and the remedy."""
