"""What a person may write behind an option, turned into values, or into a clear "no".

These are click's callbacks: they raise `click.BadParameter`, which is exit status 2 and a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal

import click
import msgspec

from proctree_ds.clock import parse_duration
from proctree_ds.errors import ConfigurationError, InvalidTime, ServiceError

__all__ = [
    "CACHE_LIMIT",
    "PROCESS_CACHE",
    "THREAD_CACHE",
    "TreeOptions",
    "account",
    "address",
    "duration",
    "entity",
    "size",
    "tree_options",
    "version",
]

CACHE_LIMIT: Final = 16_777_216
"""The largest cache that can be asked for, in processes or threads: more than any machine has."""

PROCESS_CACHE: Final = 16_384
"""Processes that `proctree-detect` keeps."""
THREAD_CACHE: Final = 32_768
"""Tasks that it keeps, leaders included."""

_SOURCES: Final = ("signals", "events", "both", "none")
_CACHES: Final = ("process-cache", "thread-cache")
_FLAGS: Final = ("disable-procfs", "disable-procfs-query", "follow-changes")
_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMG]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LONGEST_NS: Final = 10**18


class TreeOptions(msgspec.Struct, frozen=True):
    """What `--proctree` decides."""

    source: Literal["signals", "events", "both", "none"] = "signals"
    process_cache: int | None = None
    thread_cache: int | None = None
    disable_procfs: bool = False
    disable_procfs_query: bool = False
    follow_changes: bool = False

    def caches(self, processes: int, threads: int) -> tuple[int, int]:
        """How many processes and how many tasks to keep, where `processes` and `threads` are usual.

        A number of processes that is given alone raises that of tasks: one that has room for as
        many threads beside them. Otherwise there would be no room for them either.
        """
        process_cache = self.process_cache or processes
        if self.thread_cache is not None:
            return process_cache, self.thread_cache
        return process_cache, max(threads, 2 * process_cache)


def tree_options(_: click.Context, __: click.Parameter, values: Iterable[str]) -> TreeOptions:
    """All `--proctree` of a command as one: `name=value` and flags, separated by commas.

    Refuses an unknown name, a bad value, and a name that is given two values.
    """
    said: dict[str, Any] = {}
    for item in ",".join(values).split(",") if values else ():
        name, has_value, text = item.strip().partition("=")
        try:
            decided = _decide(name, text if has_value else None)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        if said.setdefault(name.replace("-", "_"), decided) != decided:
            raise click.BadParameter(f"{name} is given twice, with different values")
    return TreeOptions(**said)


def _decide(name: str, text: str | None) -> str | int | bool:
    if name == "source":
        if text not in _SOURCES:
            raise ValueError(f"source={text or ''}: give one of {', '.join(_SOURCES)}")
        return text
    if name in _CACHES:
        if text is None or not re.fullmatch(r"\d{1,12}", text, re.ASCII):
            raise ValueError(f"{name}={text or ''}: give a number of tasks, such as {name}=16384")
        if not 2 <= int(text) <= CACHE_LIMIT:
            raise ValueError(f"{name}={text}: give a number from 2 to {CACHE_LIMIT}")
        return int(text)
    if name in _FLAGS:
        if text is not None:
            raise ValueError(f"{name} takes no value")
        return True
    known = ", ".join(("source", *_CACHES, *_FLAGS))
    raise ValueError(f"{name!r} is no option of the tree; there are {known}")


def duration(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A length of time in ns: `30s`, `5m`, `500ms`."""
    if value is None:
        return None
    try:
        length = parse_duration(value)
    except InvalidTime as error:
        raise click.BadParameter(str(error)) from None
    if not 0 < length < _LONGEST_NS:
        raise click.BadParameter(f"{value!r}: give a duration of more than nothing, up to 30 years")
    return length


def size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A number of bytes: `8M`, `512K`, `65536`."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: write for example 8M, 512K or 65536")
    return int(match[1]) * _UNITS[match[2].upper()]


def entity(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """An entity id: 64 bits, decimal or 0x and hexadecimal."""
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,20}|0[xX][0-9a-fA-F]{1,16}", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no entity id: write 12345 or 0x3039")
    number = int(value, 16) if value[:2] in ("0x", "0X") else int(value)
    if not 0 < number < 1 << 64:
        raise click.BadParameter(f"{value!r} is no entity id: it has 64 bits and is not 0")
    return number


def address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Where to listen: `127.0.0.1:9464`, `[::1]:9464`."""
    if value is None:
        return None
    from proctree_ds.service.endpoint import parse_address

    try:
        return parse_address(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def account(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """The name of a user of this machine, who is not root."""
    if value is None:
        return None
    from proctree_ds.service.privileges import require_user

    try:
        require_user(value)
    except ServiceError as error:
        raise click.BadParameter(str(error)) from None
    return value


def version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print the version, and end there."""
    if not is_asked:
        return
    from importlib import metadata

    try:
        number = metadata.version("proctree-ds")
    except metadata.PackageNotFoundError:  # run from a checkout
        number = "(not installed)"
    click.echo(f"{ctx.info_name} {number}")
    ctx.exit()
