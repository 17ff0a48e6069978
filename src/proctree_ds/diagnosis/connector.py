"""Whether the kernel tells of processes through its connector (CONFIG_PROC_EVENTS), by asking it.

Who begins to listen is answered with an event of its own, whose number is one above that of the
wish (cn_proc_ack, drivers/connector/cn_proc.c, 6.18). So no process needs to be made to find out,
and what others are told is not taken for an answer.
"""

from __future__ import annotations

import os
import select
import socket
from struct import Struct
from typing import Final

from proctree_ds.clock import boot_now
from proctree_ds.diagnosis.checks import Check

__all__ = ["process_events"]

_NETLINK_CONNECTOR: Final = 11
_PROCESSES: Final = 1
"""CN_IDX_PROC, and CN_VAL_PROC (include/uapi/linux/connector.h)."""
_DONE: Final = 3
_LISTEN, _IGNORE = 1, 2
_message: Final = Struct("=IHHII IIIIHH I")
"""struct nlmsghdr, struct cn_msg, and what is wanted (enum proc_cn_mcast_op)."""
_answer: Final = Struct("=IIII")
"""The head of struct cn_msg: idx, val, seq, ack."""
_NETLINK_HEAD_BYTES: Final = 16
_OWN_BYTES: Final = 4
_PATIENCE_NS: Final = 500_000_000
"""An answer comes within microseconds; there is none where the kernel was built without it."""


def process_events() -> Check:
    """Whether events of processes come through the connector to this user."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR
        ) as sock:
            sock.bind((0, _PROCESSES))
            number = int.from_bytes(os.urandom(3), "little")
            sock.send(_wish(_LISTEN, number))
            try:
                is_heard = _hears(sock, number)
            finally:
                sock.send(_wish(_IGNORE, number))
    except OSError as error:
        return _missing(
            f"the socket is refused: {error.strerror}",
            "run as root, or with CAP_NET_ADMIN; the kernel needs CONFIG_PROC_EVENTS=y",
        )
    if is_heard:
        return Check("process events", "ok", "the kernel's connector answers")
    return _missing(
        "the kernel's connector does not answer",
        "a kernel with CONFIG_PROC_EVENTS=y; run in the host's pid, user and network namespaces",
    )


def _missing(found: str, remedy: str) -> Check:
    cost = "nothing with BPF; without it (--source procfs) only walks through /proc are left"
    return Check("process events", "missing", found, cost, remedy)


def _wish(operation: int, number: int) -> bytes:
    return _message.pack(
        *(_message.size, _DONE, 0, 0, os.getpid()),
        *(_PROCESSES, _PROCESSES, 0, number, _OWN_BYTES, 0),
        operation,
    )


def _hears(sock: socket.socket, number: int) -> bool:
    """Whether the kernel's connector of processes answers before patience ends."""
    wanted = number + 1
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    end = boot_now() + _PATIENCE_NS
    while (left := end - boot_now()) > 0 and poll.poll(left // 1_000_000 + 1):
        data, sender = sock.recvfrom(4096)
        if sender[0] == 0 and len(data) >= _NETLINK_HEAD_BYTES + _answer.size:
            if _answer.unpack_from(data, _NETLINK_HEAD_BYTES)[3] == wanted:
                return True
    return False
