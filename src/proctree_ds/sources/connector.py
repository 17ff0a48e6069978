"""The kernel's process events on netlink: forks, execs, exits and a few changes, by pid.

The process connector (drivers/connector/cn_proc.c, CONFIG_PROC_EVENTS) tells of every task of the
machine, to listeners in the initial network, user and pid namespaces. A message has a time and
ids, and no more. Each CPU numbers its messages, so that what was lost is counted exactly.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final, NamedTuple

from proctree_ds.clock import boot_lead
from proctree_ds.model import Loss

__all__ = [
    "COMM",
    "EXEC",
    "EXIT",
    "FORK",
    "GID",
    "RECEIVE_BYTES",
    "SID",
    "UID",
    "Connector",
    "Message",
]

RECEIVE_BYTES: Final = 8 << 20
"""What is asked of the kernel for messages that wait: room for some ten thousand of them."""

# enum proc_cn_event, include/uapi/linux/cn_proc.h
_ACKNOWLEDGED: Final = 0x0
FORK: Final = 0x1
EXEC: Final = 0x2
UID: Final = 0x4
GID: Final = 0x40
SID: Final = 0x80
COMM: Final = 0x200
EXIT: Final = 0x80000000

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_PROC_CN_MCAST_LISTEN: Final = 1
_SO_RCVBUFFORCE: Final = 33
_NLMSG_DONE: Final = 3
_MESSAGE_BYTES: Final = 512
_ACKNOWLEDGEMENT_SECONDS: Final = 0.5

_netlink: Final = struct.Struct("=IHHII")
_connector: Final = struct.Struct("=IIIIHHI")
_head: Final = struct.Struct("=16xIIIIHHIIQ")
"""struct nlmsghdr, struct cn_msg, and what struct proc_event opens with."""
_numbers: Final = struct.Struct("=6I")
_SEQUENCE: Final = 1 << 32
_LEAD_SLACK: Final = 1_000_000
"""Ns by which two readings of the suspended time may differ without any suspend."""


class Message(NamedTuple):
    """One process event. `time` is on the boot clock; `numbers` are the ids of its kind.

    FORK: parent tid and pid, child tid and pid. All others begin with tid and pid: UID and GID
    go on with the real and the effective id, EXIT with the wait status, the signal to the parent,
    and the parent's tid and pid (0 before Linux 4.18). `comm` is the new name of a COMM.
    """

    kind: int
    time: int
    numbers: tuple[int, ...]
    comm: str | None = None

    @property
    def tid(self) -> int:
        """The task that it is about."""
        return self.numbers[2 if self.kind == FORK else 0]


class Connector:
    """Listens from its making on. Raises `OSError` where the kernel does not let it."""

    def __init__(self, receive_bytes: int = RECEIVE_BYTES) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_CONNECTOR)
        try:
            self._enlarge(receive_bytes)
            self._socket.bind((0, _CN_IDX_PROC))
            self._listen()
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self._lead = boot_lead()
        self._next: dict[int, tuple[int, int]] = {}
        """By CPU: the number that its next message has, and the time of the last one."""
        self._losses: list[Loss] = []
        self._overrun = False
        self.malformed = 0
        """Messages that were not the kernel's, or not of the known layout."""

    def fileno(self) -> int:
        """For a poll: readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self, limit: int) -> list[Message]:
        """What has arrived, at most `limit` messages, without waiting, in the order of times."""
        lead = boot_lead()
        if abs(lead - self._lead) > _LEAD_SLACK:
            self._lead = lead
        messages: list[Message] = []
        receive = self._socket.recvfrom
        for _ in range(limit):
            try:
                data, sender = receive(_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._overrun = True
                continue
            # Anybody may send to a netlink socket; what the kernel sends comes from port 0.
            message = self._parse(data) if sender[0] == 0 else None
            if message is not None:
                messages.append(message)
        messages.sort(key=lambda message: message.time)
        return messages

    def losses(self) -> tuple[list[Loss], bool]:
        """The windows that the numbers showed since the last look, and whether the buffer was full.

        What a CPU lost last shows only when it sends again.
        """
        losses, self._losses = self._losses, []
        overrun, self._overrun = self._overrun, False
        return losses, overrun

    def close(self) -> None:
        """Listen no more. Closing twice is fine."""
        self._socket.close()

    def _enlarge(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # as much as anybody may have
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _listen(self) -> None:
        """Ask for messages, and wait for the kernel's answer, which old kernels may not give."""
        ticket = int.from_bytes(os.urandom(3), "little")
        request = _connector.pack(
            _CN_IDX_PROC, _CN_VAL_PROC, ticket, ticket, 4, 0, _PROC_CN_MCAST_LISTEN
        )
        header = _netlink.pack(_netlink.size + len(request), _NLMSG_DONE, 0, 0, 0)
        self._socket.settimeout(_ACKNOWLEDGEMENT_SECONDS)
        self._socket.send(header + request)
        # Others' events may come first; a busy machine sends no more than fit into the buffer.
        for _ in range(RECEIVE_BYTES // _MESSAGE_BYTES):
            try:
                data, sender = self._socket.recvfrom(_MESSAGE_BYTES)
            except TimeoutError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            if sender[0] != 0 or len(data) < _head.size + 4:
                continue
            _, _, _, ack, _, _, kind, _, _ = _head.unpack_from(data)
            if kind == _ACKNOWLEDGED and ack == ticket + 1:
                (code,) = struct.unpack_from("=I", data, _head.size)
                if code:
                    raise OSError(code, os.strerror(code))
                return
        raise PermissionError(errno.EPERM, "the kernel does not answer from these namespaces")

    def _parse(self, data: bytes) -> Message | None:
        if len(data) < _head.size + _numbers.size:
            self.malformed += 1
            return None
        index, value, number, _, _, _, kind, cpu, time = _head.unpack_from(data)
        if (index, value) != (_CN_IDX_PROC, _CN_VAL_PROC):
            self.malformed += 1
            return None
        time += self._lead
        self._count(cpu, number, time)
        if kind == COMM:
            raw = data[_head.size + 8 : _head.size + 24].partition(b"\0")[0]
            comm = raw.decode("utf-8", "surrogateescape")
            return Message(kind, time, _numbers.unpack_from(data, _head.size)[:2], comm)
        if kind not in (FORK, EXEC, EXIT, UID, GID, SID):
            return None
        return Message(kind, time, _numbers.unpack_from(data, _head.size))

    def _count(self, cpu: int, number: int, time: int) -> None:
        known = self._next.get(cpu)
        self._next[cpu] = (number + 1) % _SEQUENCE, time
        if known is None or known[0] == number:
            return
        lost = (number - known[0]) % _SEQUENCE
        if lost < _SEQUENCE // 2:
            self._losses.append(Loss(max(time, known[1]), known[1], lost))
