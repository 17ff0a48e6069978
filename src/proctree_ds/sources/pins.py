"""The directory of pins: where kernel programs have names by which they outlive who loaded them.

It lies on a BPF file system and belongs to one reader at a time, by flock(2) on the directory
itself, which the kernel gives back however the reader ends. Below it stands a directory for each
set of programs, `v<wire version>-<fingerprint>`; it comes by that name only when it is complete.
A directory that others could have written to is refused, and nothing but pins is ever removed.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final, NamedTuple

from proctree_ds.errors import SourceUnavailable

__all__ = ["PINS_DIRECTORY", "FoundPins", "PinDirectory", "PinSet", "find_pins", "remove_pins"]

PINS_DIRECTORY: Final = Path("/sys/fs/bpf/proctree")

_BPF_FS: Final = Path("/sys/fs/bpf")
_STAGING: Final = "new"
"""Where a set is put together. One that is found was never completed, and nobody relies on it."""
_SET_NAME: Final = re.compile(r"v(\d{1,9})-[0-9a-f]+")
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_WRITABLE_BY_OTHERS: Final = 0o022


@dataclass(frozen=True, slots=True)
class PinSet:
    """One set of pinned programs: where, of which wire version (None: never completed), what."""

    path: Path
    version: int | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundPins:
    """What is pinned in a directory. `reader` is the pid of who reads it: None if nobody does,
    0 if that process cannot be seen from here.
    """

    directory: Path
    sets: tuple[PinSet, ...]
    reader: int | None


def find_pins(directory: str | os.PathLike[str] = PINS_DIRECTORY) -> FoundPins:
    """What is pinned there; nothing where there is no such directory. Changes nothing.

    Raises `SourceUnavailable` where it may not be looked at or lies on no BPF file system.
    """
    path = Path(directory)
    try:
        fd = _open(path)
    except FileNotFoundError:
        return FoundPins(path, (), None)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        _require_bpf(path)
        sets = tuple(
            PinSet(path / name, _version(name), tuple(sorted(os.listdir(_below(fd, name)))))
            for name in _set_names(fd)
        )
        return FoundPins(path, sets, _reader(fd))
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(fd)


def remove_pins(directory: str | os.PathLike[str] = PINS_DIRECTORY) -> tuple[Path, ...]:
    """Unpin everything there, which ends the programs; the directories that were removed.

    What they had written and nobody read is gone. Raises `SourceUnavailable` where somebody reads
    from it just now, and where it does not belong to this user or may not be written to.
    """
    path = Path(directory)
    find_pins(path)  # says so where it may not be looked at
    if not path.exists():
        return ()
    pins = PinDirectory(path)
    try:
        names = _set_names(pins.fd)
        for name in names:
            pins.remove(name)
        os.rmdir(path)
    except OSError as error:
        raise SourceUnavailable(
            f"pins in {path} cannot be removed ({error.strerror}). Remove what else is there."
        ) from None
    finally:
        pins.close()
    return tuple(path / name for name in names)


class PinDirectory:
    """The directory, made where it is missing and held by this process until `close()`.

    Raises `SourceUnavailable`, saying which of its conditions is not met and what to do.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory)
        if _BPF_FS in self.path.parents:
            _mount_bpf_fs()
        _require_bpf(self.path.parent)
        try:
            with suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            self.fd = _open(self.path)
        except OSError as error:
            raise SourceUnavailable(
                f"no pins can be made in {self.path} ({error.strerror}). {_WITHOUT}"
            ) from None
        try:
            _require_bpf(self.path)
            _require_own(self.path, os.fstat(self.fd))
            self._lock()
        except SourceUnavailable:
            os.close(self.fd)
            raise

    def names(self) -> list[str]:
        """The complete sets, after what was left unfinished is gone."""
        names = _set_names(self.fd)
        if _STAGING in names:
            self.remove(_STAGING)
        complete = [name for name in names if name != _STAGING]
        for name in complete:
            _require_own(self.path / name, os.stat(name, dir_fd=self.fd, follow_symlinks=False))
        return complete

    def below(self, name: str) -> str:
        """A path to a set that holds whatever becomes of the path of this directory."""
        return _below(self.fd, name)

    def begin(self) -> str:
        """The path of a new set that is to be filled, and then given its name by `complete`."""
        os.mkdir(_STAGING, 0o700, dir_fd=self.fd)
        return _below(self.fd, _STAGING)

    def complete(self, name: str) -> None:
        """The set that was begun is whole from here on."""
        os.rename(_STAGING, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def rename(self, name: str, new: str) -> str:
        """Give a set another name; the new one."""
        os.rename(name, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        return new

    def remove(self, name: str) -> None:
        """Unpin a set: what nothing else holds is detached and freed.

        It loses its name first: who is killed in the middle of it leaves no half of a set.
        """
        if name != _STAGING:
            os.rename(name, _STAGING, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        self.unpin(_STAGING, "")
        os.rmdir(_STAGING, dir_fd=self.fd)

    def unpin(self, name: str, prefix: str) -> None:
        """Unpin what begins with `prefix` in a set."""
        fd = os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            for pinned in os.listdir(fd):
                if pinned.startswith(prefix):
                    os.unlink(pinned, dir_fd=fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let somebody else read here. Pins stay."""
        os.close(self.fd)

    def _lock(self) -> None:
        try:
            flock(self.fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            reader = _reader(self.fd)
            who = f"process {reader}" if reader else "a process that is not visible from here"
            raise SourceUnavailable(
                f"{who} reads from the pins in {self.path}, and only one can. End it first, or"
                " run without --pin."
            ) from None


_WITHOUT: Final = (
    "Without --pin everything works, but for what happens from the end of one run to the start of"
    " the next, which is not seen."
)


class _Mount(NamedTuple):
    kind: str
    is_read_only: bool


def _set_names(fd: int) -> list[str]:
    return sorted(n for n in os.listdir(fd) if n == _STAGING or _SET_NAME.fullmatch(n))


def _version(name: str) -> int | None:
    match = _SET_NAME.fullmatch(name)
    return int(match[1]) if match else None


def _below(fd: int, name: str) -> str:
    return f"/proc/self/fd/{fd}/{name}"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _mount_of(path: Path) -> _Mount:
    """What is mounted where `path` is. The last line that fits is on top of those before it."""
    place = os.path.realpath(path)
    found, depth = _Mount("", False), -1
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n")[:-1]:
        fields, _, rest = line.partition(" - ")
        point, options = fields.split(" ")[4:6]
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        kind, _, super_options = rest.split(" ", 2)
        if len(point) >= depth and (place + "/").startswith(point.rstrip("/") + "/"):
            read_only = "ro" in options.split(",") or "ro" in super_options.split(",")
            found, depth = _Mount(kind, read_only), len(point)
    return found


def _mount_bpf_fs() -> None:
    if _mount_of(_BPF_FS).kind == "bpf":
        return
    mount = ctypes.CDLL(None, use_errno=True).mount
    mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
    place = os.fsencode(_BPF_FS)
    if mount(b"bpf", place, b"bpf", _NOSUID | _NODEV | _NOEXEC, b"mode=700") != 0:
        raise SourceUnavailable(
            f"there is no BPF file system at {_BPF_FS}, and this user may not mount it"
            f" ({os.strerror(ctypes.get_errno())}). Run `mount -t bpf bpf {_BPF_FS}` as root."
            f" {_WITHOUT}"
        )


def _require_bpf(path: Path) -> None:
    mount = _mount_of(path)
    if mount.kind != "bpf":
        raise SourceUnavailable(
            f"{path} is on no BPF file system, and pins can be nowhere else. Give a directory"
            f" below {_BPF_FS}, or run `mount -t bpf bpf {path}` as root. {_WITHOUT}"
        )
    if mount.is_read_only:
        raise SourceUnavailable(
            f"the BPF file system of {path} is read-only. Mount it anew with `mount -o remount,rw`,"
            f" or run without --pin. {_WITHOUT}"
        )


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        problem = f"it belongs to user {status.st_uid}"
    elif status.st_mode & _WRITABLE_BY_OTHERS:
        problem = "others can write to it"
    else:
        return
    raise SourceUnavailable(
        f"pins in {path} are not used: {problem}, so that what is pinned there may be anything."
        f" See who made it, then remove it: rm -r {path}"
    )


def _reader(fd: int) -> int | None:
    """Who holds the lock. See `FoundPins.reader`."""
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == device:
            return max(int(fields[4]), 0)
    return None


def _unreadable(path: Path, error: OSError) -> SourceUnavailable:
    return SourceUnavailable(
        f"pins in {path} cannot be listed ({error.strerror}). Run as root, and give a directory."
    )
