"""The kernel's process connector: forks, execs, exits and changes of name and user, by netlink.

struct cn_msg and struct proc_event, include/uapi/linux/{connector,cn_proc}.h, 6.18. What is sent at
which instant: drivers/connector/cn_proc.c. Time stamps are ktime_get_ns(), the monotonic clock, and
are moved to the boot clock here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Final, NamedTuple

_NETLINK_CONNECTOR: Final = 11
_SO_RCVBUFFORCE: Final = 33
_CN_IDX_PROC: Final = 1
_LISTEN, _IGNORE = 1, 2
_RECEIVE_BYTES: Final = 256 << 20
_MESSAGE_BYTES: Final = 4096

FORK: Final = 0x1
EXEC: Final = 0x2
UID: Final = 0x4
GID: Final = 0x40
SID: Final = 0x80
COMM: Final = 0x200
EXIT: Final = 0x80000000
_NONE: Final = 0

NAMES: Final = {
    FORK: "fork",
    EXEC: "exec",
    UID: "uid",
    GID: "gid",
    SID: "sid",
    COMM: "comm",
    EXIT: "exit",
}

_netlink = struct.Struct("=IHHII")
_cn_msg = struct.Struct("=IIIIHH")
_event = struct.Struct("=IIQ6I")
_head = struct.Struct("=IIQII")
_SEQUENCE_AT: Final = _netlink.size + 8
_EVENT_AT: Final = _netlink.size + _cn_msg.size
_WORD: Final = 1 << 32


class Notice(NamedTuple):
    """One message. `numbers` are those of its kind, after the pid and tgid of the task."""

    kind: int
    time: int
    """Boot-clock ns."""
    tid: int
    pid: int
    numbers: tuple[int, ...]
    comm: str = ""


class Connector:
    """Listens from its making on. `missed` counts what the kernel could not deliver."""

    def __init__(self) -> None:
        self.missed = 0
        self._last: dict[int, int] = {}
        self._behind_ns = _boot_minus_monotonic()
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self._socket.bind((0, _CN_IDX_PROC))
        self._send(_LISTEN)

    def read(self) -> list[Notice]:
        """All that has arrived, in the order of delivery."""
        notices: list[Notice] = []
        receive = self._socket.recv
        while True:
            try:
                data = receive(_MESSAGE_BYTES)
            except BlockingIOError:
                return notices
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.missed += 1  # at least; the gap in the sequence tells the rest
                continue
            notice = self._notice(data)
            if notice is not None:
                notices.append(notice)

    def close(self) -> None:
        self._send(_IGNORE)
        self._socket.close()

    def _send(self, operation: int) -> None:
        body = struct.pack("=I", operation)
        message = _cn_msg.pack(_CN_IDX_PROC, 1, 0, 0, len(body), 0) + body
        self._socket.send(
            _netlink.pack(_netlink.size + len(message), 3, 0, 0, os.getpid()) + message
        )

    def _notice(self, data: bytes) -> Notice | None:
        (sequence,) = struct.unpack_from("=I", data, _SEQUENCE_AT)
        kind, cpu, stamp, *words = _event.unpack_from(data, _EVENT_AT)
        # Each CPU counts its own messages: send_msg(), drivers/connector/cn_proc.c.
        last = self._last.get(cpu)
        if last is not None:
            self.missed += (sequence - last - 1) % _WORD
        self._last[cpu] = sequence
        moment = stamp + self._behind_ns
        if kind == FORK:
            parent_tid, parent_pid, tid, pid, *_ = words
            return Notice(kind, moment, tid, pid, (parent_tid, parent_pid))
        if kind not in NAMES:
            return None
        tid, pid, *numbers = words
        comm = ""
        if kind == COMM:
            raw = data[_EVENT_AT + _head.size : _EVENT_AT + _head.size + 16]
            comm = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return Notice(kind, moment, tid, pid, tuple(numbers), comm)


def _boot_minus_monotonic() -> int:
    """How long the machine was suspended: the clocks differ by nothing else."""
    readings = []
    for _ in range(16):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        readings.append((after - before, boot - (before + after) // 2))
    behind = min(readings)[1]
    return 0 if abs(behind) < 1_000_000 else behind
