"""Live events without BPF: the kernel's process events where it gives them, else looks at /proc.

The process events tell of every fork, exec and exit at its time, and of a few changes; details come
from /proc. Where they are refused, /proc is walked at an interval. Either way a start is known
to the tick of 10 ms only, and what is not followed is named in the header.
"""

from __future__ import annotations

import os
import select
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from proctree_ds.clock import boot_now, measure_boot_time
from proctree_ds.errors import SourceUnavailable
from proctree_ds.model import (
    CONTEXT_FIELDS,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Given,
    Header,
    Loss,
    Picture,
    Snapshot,
)
from proctree_ds.sources.connector import RECEIVE_BYTES, Connector, Message
from proctree_ds.sources.ebpf import DEFAULT_BATCH, DEFAULT_ENV_NAMES, REPAIR_SECONDS
from proctree_ds.sources.process_events import Narrator
from proctree_ds.sources.procfs import pictures_missing_from, with_arguments
from proctree_ds.sources.walks import Walks

__all__ = ["WALK_SECONDS", "ProcfsSource"]

WALK_SECONDS: Final = 1.0
"""The time between two walks through /proc, where the kernel gives no process events."""

_WALK_SHARE: Final = 10
"""A walk waits at least this many times as long as the one before took."""
_IDLE: Final = 1.0
"""Seconds after which an empty batch tells the reader that nothing happened."""
_TOLD: Final = frozenset({"uid", "euid", "suid", "gid", "egid", "sgid", "session_id"})
"""What process events tell at once; names are never among what is not followed."""
_ALL: Final = CONTEXT_FIELDS | {"cwd", "is_subreaper", "root"}


_Arrived = tuple[list[Message], list[Given]]
"""Messages, and what those who executed showed at once."""


class ProcfsSource:
    """Processes as netlink and /proc tell of them.

    Listening begins when it is made. With `use_netlink` false, or where the kernel refuses,
    `walks` is true: /proc is compared every `walk_seconds`. `env_names` are the environment
    variables whose values are kept, `receive_bytes` what the kernel is asked to keep room for.
    Raises `SourceUnavailable` where there is no /proc.
    """

    def __init__(
        self,
        use_netlink: bool = True,
        walk_seconds: float = WALK_SECONDS,
        env_names: Sequence[str] = DEFAULT_ENV_NAMES,
        receive_bytes: int = RECEIVE_BYTES,
    ) -> None:
        if not Path("/proc/self/stat").exists():
            raise SourceUnavailable("/proc is not mounted. Mount it: mount -t proc proc /proc")
        self._names = tuple(env_names)
        self._walk_seconds = walk_seconds
        self._connector: Connector | None = None
        self.refusal: str | None = None
        """Why the kernel gives no process events; None if it does, or was not asked."""
        if use_netlink:
            try:
                self._connector = Connector(receive_bytes)
            except OSError as error:
                self.refusal = error.strerror or str(error)
        self._walks = Walks() if self._connector is None else None
        self._narrator = Narrator(self._names)
        self._began = boot_now()
        self._checked = self._began
        self._repair_not_before = 0
        self._repair_wanted = False
        self._repairs = 0
        self._lost = 0
        self._closed = False
        self._stopping = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._events: Counter[type[Event]] = Counter(
            dict.fromkeys((Fork, Exec, Exit, Change, Snapshot), 0)
        )

    @property
    def walks(self) -> bool:
        """Whether it only compares looks at /proc."""
        return self._connector is None

    def batches(self) -> Iterator[Sequence[Event]]:
        """See `Source.batches`. Events of a batch are in the order of their times."""
        rounds = self._listen() if self._walks is None else self._walk(self._walks)
        for batch in rounds:
            self._events.update(map(type, batch))
            self._lost += sum(event.lost or 0 for event in batch if isinstance(event, Loss))
            yield batch

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopping = True
        if not self._closed:
            os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """See `Source.close`."""
        if self._closed:
            return
        self._closed = True
        if self._connector is not None:
            self._connector.close()
        if self._walks is not None:
            self._walks.close()
        os.close(self._stop_fd)

    def counters(self) -> Mapping[str, int]:
        """Events by kind; of netlink what was lost, repaired and out of reach; of walks how many.

        `vanished` counts execs and changes whose details had gone before /proc was read,
        `unplaced` messages about tasks that were never known, `unawaited` processes whose ends
        are only found by walks.
        """
        counters = {kind.__name__.lower(): count for kind, count in self._events.items()}
        if self._connector is not None:
            counters |= {
                "lost": self._lost,
                "repairs": self._repairs,
                "vanished": self._narrator.vanished,
                "unplaced": self._narrator.unplaced,
                "malformed": self._connector.malformed,
            }
        if self._walks is not None:
            counters |= {"walks": self._walks.walks, "unawaited": self._walks.unawaited}
        return counters

    def _header(self) -> Header:
        boot_id = None
        with suppress(OSError):
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        unfollowed = _ALL if self._connector is None else _ALL - _TOLD
        return Header(
            measure_boot_time(),
            socket.gethostname(),
            boot_id,
            self._began,
            tuple(sorted(unfollowed)),
        )

    # ------------------------------------------------------------------------------- netlink

    def _listen(self) -> Iterator[Sequence[Event]]:
        connector = self._connector
        assert connector is not None
        yield [self._header(), *self._picture()]
        waiting: _Arrived = ([], [])
        with select.epoll() as poll:
            poll.register(connector, select.EPOLLIN)
            poll.register(self._stop_fd, select.EPOLLIN)
            while not self._stopping:
                if not waiting[0] and not poll.poll(_IDLE):
                    yield self._losses()
                    continue
                batch, waiting = self._take(waiting)
                yield batch
                if self._repair_wanted and boot_now() >= self._repair_not_before:
                    yield self._repair()
        until = boot_now()
        while True:
            batch, waiting = self._take(waiting)
            if batch:
                yield batch
            if not waiting[0] or waiting[0][0].time > until:
                break

    def _take(self, waiting: _Arrived) -> tuple[list[Event], _Arrived]:
        """The events of what has arrived, and what came while they were made."""
        if not waiting[0]:
            waiting = self._arrived()
        events = self._narrator.tell(*waiting)
        later = self._arrived() if events else ([], [])
        events = self._narrator.retract(events, later[0])
        return [*events, *self._losses()], later

    def _arrived(self) -> _Arrived:
        assert self._connector is not None
        messages = self._connector.drain(DEFAULT_BATCH)
        return messages, self._narrator.look_at(messages)

    def _losses(self) -> list[Event]:
        assert self._connector is not None
        losses, overrun = self._connector.losses()
        now = boot_now()
        if overrun and not losses:
            losses = [Loss(now, self._checked)]
        self._checked = now
        self._repair_wanted = self._repair_wanted or bool(losses)
        return list(losses)

    def _picture(self) -> list[Event]:
        since = boot_now()
        rows = [with_arguments(row, self._names) for row in pictures_missing_from(set())]
        return [*self._narrator.learn_picture(rows), Picture(boot_now(), since)]

    def _repair(self) -> list[Event]:
        began = boot_now()
        picture = self._picture()
        self._repair_wanted = False
        self._repairs += 1
        done = boot_now()
        rest = max(int(REPAIR_SECONDS * 1e9), _WALK_SHARE * (done - began))
        self._repair_not_before = done + rest
        return picture

    # --------------------------------------------------------------------------------- walks

    def _walk(self, walks: Walks) -> Iterator[Sequence[Event]]:
        since = boot_now()
        yield [self._header(), *walks.walk(), Picture(boot_now(), since)]
        next_walk = self._after(since)
        with select.epoll() as poll:
            poll.register(walks, select.EPOLLIN)
            poll.register(self._stop_fd, select.EPOLLIN)
            while not self._stopping:
                pause = (next_walk - boot_now()) / 1e9
                if pause > 0:
                    poll.poll(pause)
                    yield walks.ended()
                    continue
                began = boot_now()
                yield walks.walk()
                next_walk = self._after(began)
        yield walks.walk()

    def _after(self, began: int) -> int:
        now = boot_now()
        return now + max(int(self._walk_seconds * 1e9), _WALK_SHARE * (now - began))
