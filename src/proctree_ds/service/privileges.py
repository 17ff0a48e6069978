"""Gives up the rights that a capture needs only to begin. What is given up here never comes back.

Loading and attaching the programs takes CAP_BPF and CAP_PERFMON. From then on the ring is memory
that is mapped, and a picture is read through a link that is open: neither takes any right since
Linux 5.19, and before that any use of bpf(2) took CAP_BPF where unprivileged use is off. What
goes on to be read is /proc: the links of other users' tasks take CAP_SYS_PTRACE, and, before the
kernel's own iterator could read arguments (6.0), other users' environ CAP_DAC_READ_SEARCH.

Capabilities belong to a thread and are inherited by those that it starts. So they are dropped
while there is one thread only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from proctree_ds.errors import ServiceError

__all__ = ["WITHOUT_BPF", "Kept", "drop_privileges", "has_any", "needed", "require_user"]

_NUMBERS: Final = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_BPF": 39}
_SETPCAP: Final = 8
_VERSION_3: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 (include/uapi/linux/capability.h): two words for each set."""
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_BPF_IS_FREE: Final = (5, 19)
"""Since "bpf: refine kernel.unprivileged_bpf_disabled behaviour" only making objects is guarded."""
_ITERATOR_READS_ARGUMENTS: Final = (6, 0)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Kept(msgspec.Struct, frozen=True):
    """What was kept: capabilities by name, and for each that is kept on account of a path, which.

    `user` is whom the program runs as from now on, None if that has not changed.
    """

    capabilities: tuple[str, ...]
    because: dict[str, str]
    user: str | None = None

    def __str__(self) -> str:
        names = ", ".join(self.capabilities) or "no capabilities"
        who = f"as {self.user}, " if self.user else ""
        reasons = "".join(
            f" ({path} cannot be read without {name})" for name, path in self.because.items()
        )
        return f"going on {who}with {names}{reasons}"


WITHOUT_BPF: Final = frozenset({"CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"})
"""What goes on to be needed where all there is comes from /proc: its links, and environ."""


def has_any() -> bool:
    """Whether there is any capability that could be dropped."""
    return _permitted() != 0


def needed(reads_procfs: bool = True, release: str | None = None) -> set[str]:
    """The capabilities that a live capture goes on to need; `release` as of uname(2)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release if release is None else release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    names = set()
    if reads_procfs:
        names.add("CAP_SYS_PTRACE")
        if version < _ITERATOR_READS_ARGUMENTS:
            names.add("CAP_DAC_READ_SEARCH")
    if version < _BPF_IS_FREE:
        names.add("CAP_BPF")
    return names


def require_user(name: str) -> pwd.struct_passwd:
    """The account of that name. Raises `ServiceError` if there is none, or if it is root's."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"there is no user {name!r}: name one of this machine") from None
    if account.pw_uid == 0:
        raise ServiceError(f"user {name!r} is root: name another, or leave --user out")
    return account


def drop_privileges(
    keep: Iterable[str], user: str | None = None, readable: Sequence[str | os.PathLike[str]] = ()
) -> Kept:
    """Go on with these capabilities at most, as `user` if one is named. There is no way back.

    `readable` are files and directories that will be read later. Where one of them is closed to
    what is left (a home directory, for root without its capabilities), CAP_DAC_READ_SEARCH is
    kept, and that is told. Whatever is started from here on gains nothing by set-user-id programs
    or by belonging to root. Raises `ServiceError`, and nothing is certain then but that less is
    left than before.
    """
    names = set(keep)
    account = None if user is None else require_user(user)
    if len(os.listdir("/proc/self/task")) != 1:
        raise ServiceError(
            "rights cannot be dropped: a signature has started threads as it was loaded, and they"
            " would keep theirs; start them in init(), or give --keep-privileges"
        )
    owned = _permitted()
    spare = _mask(names | {"CAP_DAC_READ_SEARCH"}) & owned
    if account is not None and os.geteuid() != 0:
        raise ServiceError(f"--user {user}: only root can become another user; leave it out")
    try:
        if account is not None:
            _prctl(_PR_SET_KEEPCAPS, 1)
            os.initgroups(account.pw_name, account.pw_gid)
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        _bound(spare, owned)
        if account is not None:
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        _capset(_mask(names) & owned, spare)
        because = {}
        closed = next((str(path) for path in readable if not _is_readable(path)), None)
        if closed is not None and spare & _mask({"CAP_DAC_READ_SEARCH"}):
            names.add("CAP_DAC_READ_SEARCH")
            because["CAP_DAC_READ_SEARCH"] = closed
        left = _mask(names) & owned
        _capset(left, left)
    except OSError as error:
        raise ServiceError(
            f"rights cannot be dropped: {error.strerror}; --keep-privileges goes on with all"
        ) from error
    kept = tuple(sorted(name for name, bit in _NUMBERS.items() if left >> bit & 1))
    return Kept(kept, because, user)


def _mask(names: Iterable[str]) -> int:
    return sum(1 << _NUMBERS[name] for name in names)


def _permitted() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapPrm:")[2].split()[0], 16)


def _bound(left: int, owned: int) -> None:
    """Take everything else out of the bounding set, where that is allowed."""
    if not owned >> _SETPCAP & 1:
        return  # then it can only be as it is; without new rights an exec gains nothing from it
    for bit in range(64):
        if not left >> bit & 1 and _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0):
            break  # EINVAL: this kernel has no more capabilities


def _is_readable(path: str | os.PathLike[str]) -> bool:
    """Whether a file or directory can be read, or is not there anyway."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct (capset(2))."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    """struct __user_cap_data_struct: 32 capabilities of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _capset(effective: int, permitted: int) -> None:
    words = (_Words * 2)(
        _Words(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, 0),
        _Words(effective >> 32, permitted >> 32, 0),
    )
    header = _Header(_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), words):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
