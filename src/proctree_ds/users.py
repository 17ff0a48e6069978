"""Names of users, for whoever reads a uid: looked up when shown, remembered, and never in the tree.

The names are this machine's, as getpwuid(3) gives them: out of /etc/passwd, and from wherever else
the machine is set up to look (nsswitch.conf(5)). They say who a uid is *here*: so they are for what
was captured in this boot of this machine, live or replayed. A uid in another user namespace is
somebody else, whoever has that number here; a container's own /etc/passwd is not read.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cachetools import TTLCache

from proctree_ds.clock import boot_now

__all__ = ["USERS_LIMIT", "UserNames"]

USERS_LIMIT: Final = 4_096
"""Uids whose name, or lack of one, is remembered; of more, the oldest goes."""
AGE_SECONDS: Final = 60
"""How long it is remembered."""


def _name_here(uid: int) -> str | None:
    """The name of `uid` on this machine. It may ask the network, where the machine does."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError, OSError):
        return None


class UserNames:
    """Names by uid, for what was captured in this boot, and in the user namespace of this process.

    `captured_boot` gives the boot id of what was captured (`ProcessTree.boot_id`), None as long as
    it is unknown. `boot_id` and `user_namespace` are this machine's and this process's own, unless
    given. `lookup` gives the name of a uid or None; `clock` is in ns. A name is what /etc/passwd
    says, and may hold any character: escape it where it is shown.
    """

    def __init__(
        self,
        captured_boot: Callable[[], str | None],
        *,
        boot_id: str | None = None,
        user_namespace: int | None = None,
        lookup: Callable[[int], str | None] = _name_here,
        clock: Callable[[], int] = boot_now,
    ) -> None:
        self._captured_boot = captured_boot
        self._boot_id = _own_boot() if boot_id is None else boot_id
        self._namespace = _own_namespace() if user_namespace is None else user_namespace
        self._lookup = lookup
        self._names: TTLCache[int, str | None] = TTLCache(
            USERS_LIMIT, AGE_SECONDS * 1_000_000_000, timer=clock
        )

    @property
    def are_known(self) -> bool:
        """Whether the uids are this machine's own, as of this boot."""
        return self._boot_id is not None and self._captured_boot() == self._boot_id

    def name(self, uid: int | None, user_namespace: int | None) -> str | None:
        """The name of `uid` as a process in `user_namespace` (an inode number) has it.

        None where there is no such user, the namespace or the boot is another one, or unknown.
        """
        if uid is None or user_namespace is None or user_namespace != self._namespace:
            return None
        if not self.are_known:
            return None
        try:
            return self._names[uid]
        except KeyError:
            name = self._names[uid] = self._lookup(uid)
            return name

    def of(self, process: Mapping[str, Any], field: str = "uid") -> str | None:
        """The name of the user of a process that is given as plain data (`to_dict()`)."""
        namespaces = process.get("namespaces")
        inode = namespaces.get("user") if isinstance(namespaces, Mapping) else None
        return self.name(process.get(field), inode)

    def named(self, process: dict[str, Any]) -> dict[str, Any]:
        """`process`, plain data, with `user` added: the name of its uid, where it has one."""
        name = self.of(process)
        return process if name is None else {**process, "user": name}


def _own_boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _own_namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/user").st_ino
    except OSError:  # without /proc it cannot be told who is in which
        return None
