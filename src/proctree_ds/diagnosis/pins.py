"""What programs left under bpffs (pins), who still holds it, and how it is removed.

A pin keeps a program attached and a ring filling while nobody reads. Only a directory on bpffs that
belongs to this user is touched: what somebody else put there is no business of ours.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from proctree_ds.diagnosis.checks import Check, Places
from proctree_ds.diagnosis.machine import mounts
from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.sources.libbpf import load_library
from proctree_ds.sources.pins import remove_pins as remove_sets

__all__ = ["HOLDERS_LIMIT", "PINS", "PINS_LIMIT", "Pin", "find_pins", "pins", "remove_pins"]

PINS: Final = Path("/sys/fs/bpf/proctree")
"""Where programs are pinned unless told otherwise."""
PINS_LIMIT: Final = 256
"""Pins of one directory that are looked at."""
HOLDERS_LIMIT: Final = 16
"""Processes that are named as holders of one directory's pins."""

_KINDS: Final = {"link_id": "link", "map_id": "map", "prog_id": "program"}
"""What the kernel tells of an open object, by the field that has its number; of a link also the
program, so the order counts (bpf_link_show_fdinfo, kernel/bpf/syscall.c, 6.18)."""

_Identity = tuple[str, int]


class Pin(msgspec.Struct, frozen=True):
    """A pinned object: `kind` (link, map, program) and `number` as bpftool tells them, if known."""

    name: str
    kind: str | None = None
    number: int | None = None


def find_pins(directory: Path) -> list[Pin]:
    """What is pinned in `directory`, in order of names; nothing where it does not exist.

    At most 256. Raises `ConfigurationError` for a directory that belongs to somebody else, or is
    not on bpffs.
    """
    with _opened(directory) as fd:
        if fd is None:
            return []
        names = _names(fd)[:PINS_LIMIT]
    return [Pin(name, *(_identity_of(directory / name) or (None, None))) for name in names]


def remove_pins(directory: Path) -> list[str]:
    """Remove every pin in `directory`, and the directory. The names of what was removed.

    Raises `ConfigurationError` as `find_pins` does, where somebody reads from the pins, and where
    the directory cannot be emptied.
    """
    with _opened(directory) as fd:
        if fd is None:
            return []
        removed = _names(fd)
        try:
            for name in removed:
                if "/" not in name:
                    os.unlink(name, dir_fd=fd)
            remove_sets(directory)
        except SourceUnavailable as error:
            raise ConfigurationError(str(error)) from None
        except OSError as error:
            raise ConfigurationError(
                f"{directory} cannot be emptied: {error.strerror}; remove what is left by hand"
            ) from None
    return removed


def _names(fd: int) -> list[str]:
    """Of what is pinned in the directory itself and, as `set/name`, in those below."""
    names = []
    for name in sorted(os.listdir(fd)):
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            below = os.listdir(f"/proc/self/fd/{fd}/{name}")
            names += [f"{name}/{pinned}" for pinned in sorted(below)]
        else:
            names.append(name)
    return names


@contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """The directory, once it is sure that it is ours and on bpffs; None where there is none."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be opened: {error.strerror}; give a directory of pins"
        ) from None
    try:
        facts = os.fstat(fd)
        if facts.st_uid != os.geteuid():
            raise ConfigurationError(
                f"{directory} belongs to user {facts.st_uid}: what is pinned there is theirs"
            )
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"others can write to {directory}: what is pinned there may be theirs;"
                f" chmod go-w {directory}"
            )
        device = f"{os.major(facts.st_dev)}:{os.minor(facts.st_dev)}"
        if not any(m.kind == "bpf" and m.device == device for m in mounts(Path("/proc"))):
            raise ConfigurationError(f"{directory} is not on bpffs: nothing can be pinned there")
        yield fd
    finally:
        os.close(fd)


def pins(places: Places, directory: Path) -> Check:
    """What is pinned, and which running processes hold the same objects."""
    name = "pins"
    try:
        found = find_pins(directory)
    except ConfigurationError as error:
        return Check(
            name,
            "degraded",
            str(error),
            "what is pinned there is left alone",
            f"run as root, or look whose it is: ls -ld {directory}",
        )
    if not found:
        return Check(name, "ok", f"none in {directory}")
    kinds = {(pin.kind, pin.number) for pin in found if pin.kind and pin.number is not None}
    holders = _holders(places, {(kind, number) for kind, number in kinds if kind})
    listed = ", ".join(_told(pin) for pin in found[:8]) + (", …" if len(found) > 8 else "")
    text = f"{len(found)} in {directory}: {listed}; "
    if holders:
        return Check(name, "ok", f"{text}held by {', '.join(holders)}")
    return Check(
        name,
        "degraded",
        f"{text}no running process holds them",
        "what is pinned goes on: programs run at every event, and rings keep their memory",
        "start the capture that reads them, or remove them: proctree doctor --unpin",
    )


def _told(pin: Pin) -> str:
    return pin.name if pin.kind is None else f"{pin.name} ({pin.kind} {pin.number})"


def _identity_of(path: Path) -> _Identity | None:
    """What is pinned at `path`, by opening it; None where that is not allowed."""
    try:
        functions = load_library().functions
    except OSError:
        return None
    functions.bpf_obj_get.argtypes = (ctypes.c_char_p,)
    fd = functions.bpf_obj_get(os.fsencode(path))
    if fd < 0:
        return None
    try:
        return _described(Path(f"/proc/self/fdinfo/{fd}"))
    finally:
        os.close(fd)


def _described(path: Path) -> _Identity | None:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    for field, kind in _KINDS.items():
        if found := re.search(rf"^{field}:\s*(\d+)$", text, re.MULTILINE):
            return kind, int(found[1])
    return None


def _holders(places: Places, wanted: set[_Identity]) -> list[str]:
    """Who has one of these objects open: `name (pid)`, at most 16, other processes than this."""
    holders: list[str] = []
    for process in sorted(places.proc.glob("[0-9]*")):
        if len(holders) == HOLDERS_LIMIT:
            break
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # it has ended, or it is not ours to look at
            if any(_described(fd) in wanted for fd in _bpf_descriptors(process)):
                comm = os.fsdecode((process / "comm").read_bytes()).rstrip("\n")
                holders.append(f"{comm} ({process.name})")
    return holders


def _bpf_descriptors(process: Path) -> Iterator[Path]:
    for fd in (process / "fd").iterdir():
        with suppress(OSError):
            if os.readlink(fd).startswith("anon_inode:bpf"):
                yield process / "fdinfo" / fd.name
