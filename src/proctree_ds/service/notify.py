"""Tells systemd how a run is going: sd_notify(3), a datagram to where NOTIFY_SOCKET points."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, monotonic_ns
from typing import Final

__all__ = ["Notifier"]

_PINGS_PER_LIMIT: Final = 3


class Notifier:
    """What systemd is told. Without NOTIFY_SOCKET all of it does nothing. Nothing here raises.

    The variables are taken out of the environment, so that nothing that is started from here
    speaks in the name of the run.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._socket: socket.socket | None = None
        self._pause: float | None = None
        self._next_ping = 0.0
        address = os.environ.pop("NOTIFY_SOCKET", "")
        limit = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        if not address.startswith(("/", "@")):
            return
        with suppress(OSError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
        if limit.isdigit() and int(limit) and pid == str(os.getpid()):
            self._pause = int(limit) / 1e6 / _PINGS_PER_LIMIT

    def ready(self, status: str) -> None:
        """The capture runs; `status` says in a line what is watched."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Signatures are read again; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The run comes to its end, which may take a while."""
        self._send("STOPPING=1")

    def beat(self) -> None:
        """The run is alive. To be called often: the watchdog is told a few times per limit."""
        if self._pause is None:
            return
        now = self._clock()
        if now >= self._next_ping:
            self._next_ping = now + self._pause
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Twice is fine."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # whoever listened is gone, or does not keep up
                self._socket.send(text.encode("utf-8", "replace"))
