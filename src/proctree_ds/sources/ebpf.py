"""Live events from the kernel, through the programs in bpf/.

Programs are attached first, then the task iterator takes the first picture: what happens in
between is seen twice, never missed. While nothing happens nothing runs; the first event after a
quiet time wakes the reader, which then looks every few milliseconds, for a burst at a time, until
it finds nothing and goes to sleep again. Where events were lost, another picture repairs what
they leave wrong.

Lifecycle events and changes have a ring each, and are handed out as one stream: a change after
the fork of its task, an event after the change that preceded it. Where a record is written so
slowly that this does not hold, the tree puts it right.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal

from proctree_ds.clock import boot_now, measure_boot_time
from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.model import (
    INITIAL_PID_NAMESPACE,
    Change,
    Event,
    Exec,
    Exit,
    Fork,
    Header,
    Loss,
    Picture,
    Snapshot,
)
from proctree_ds.sources.procfs import pictures_missing_from, with_arguments
from proctree_ds.sources.programs import KernelPrograms, fingerprint, unavailable
from proctree_ds.sources.resumption import Notes, PinnedPrograms, Resumption
from proctree_ds.sources.ringbuf import Ring
from proctree_ds.sources.twins import Twins
from proctree_ds.wire import Decoder
from proctree_ds.wire_layout import KIND_NAMES

__all__ = [
    "CHANGES_RING_BYTES",
    "DEFAULT_BATCH",
    "DEFAULT_ENV_NAMES",
    "DEFAULT_RING_BYTES",
    "PICTURE_SECONDS",
    "REPAIR_SECONDS",
    "EbpfSource",
    "Feed",
]

DEFAULT_RING_BYTES: Final = 8 << 20
CHANGES_RING_BYTES: Final = 1 << 20
"""The ring of changes: some ten thousand of them."""
DEFAULT_BATCH: Final = 2048
"""The most records that one batch is made of, changes apart."""
PICTURE_SECONDS: Final = 600.0
"""A picture is taken at least this often, whatever went wrong without anybody counting it."""
REPAIR_SECONDS: Final = 1.0
"""The shortest time between two pictures that repair a loss."""

DEFAULT_ENV_NAMES: Final = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "BASH_ENV",
    "HISTFILE",
    "PYTHONPATH",
    "SSH_CONNECTION",
    "SSH_CLIENT",
    "SSH_TTY",
    "SUDO_USER",
    "SUDO_COMMAND",
)
"""What decides which code a process loads, and who is behind it. Small: it is copied per exec."""

_NO_HOOK: Final = ("cwd", "login_uid", "process_group", "root", "tty")
"""What no hook and no system call of the task itself tells for certain: others may set it."""
_CALLS_ONLY: Final = (
    "capabilities",
    "egid",
    "euid",
    "gid",
    "is_subreaper",
    "namespaces",
    "session_id",
    "sgid",
    "suid",
    "uid",
)
"""What only the return of a system call tells at once."""

_FIRST_LOOK: Final = 0.002
"""Seconds from the event that wakes the reader to its first look at the ring."""
_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
"""Bounds of the seconds between two looks while events come."""
_EVENTS_A_LOOK: Final = 1024
"""The pause is as long as this many events take to come: waking up with cold caches costs as much
as reading dozens of them, and the ring has room for many times as many."""
_LAST_LOOKS: Final = 100
"""How often a source that stops looks again for a record that is still being written."""
_IDLE: Final = 1.0
"""Seconds after which an empty batch tells the reader that nothing happened."""
_MISSES_INTERVAL: Final = 1_000_000_000
"""Ns between two looks at how often the kernel skipped a program: each look is a system call."""
_REPAIR_SHARE: Final = 20
"""A repair waits this many times as long as the one before took."""
_WHOLE_PICTURE_SECONDS: Final = 2.0
"""How long arguments and environments are waited for: who is looked at may draw that out."""
_READ_BYTES: Final = 1 << 20

Feed = Literal["signals", "events", "both"]
_FEEDS: Final[dict[Feed, tuple[str, ...]]] = {
    "signals": ("events",),
    "events": ("changes",),
    "both": ("events", "changes"),
}
"""The rings that get lifecycle events."""

_time_of = attrgetter("time")

_Settings = tuple[int, int, tuple[str, ...], bool, str | os.PathLike[str] | None]
"""What `KernelPrograms` takes, but for the loader."""


class EbpfSource:
    """Forks, execs, exits and changes as they happen, after a picture of what is there.

    Opening loads and attaches the kernel programs, so events count from then on. `ring_bytes` (a
    power of two, at least one page) holds what the reader has not taken yet; `batch` bounds the
    records of one batch; `env_names` are the environment variables whose values are kept, at most
    16, each of at most 31 bytes. With `use_procfs`, /proc adds to the first picture what the
    kernel's iterator keeps back, with `repair_by_procfs` to later ones. Changes of name and cgroup
    are told when they happen; others with the next event of the task, or at once with
    `follow_changes`, which costs every system call of the machine a little. `loader` is what
    loads the kernel programs: libbpf the object at `object_path`, bcc what it compiles itself,
    auto whichever can. `feed` says which ring lifecycle events come by: their own (`signals`), that
    of the other events (`events`), or `both`, and then each event is handed out once, from
    whichever has it. A picture is taken every `picture_seconds`, and after a loss.
    With `pin_directory`, on a BPF file system, the programs go on writing after the source was
    closed or killed, and the next source with that directory goes on reading; a batch counts as
    read once the next one is asked for. Raises `ConfigurationError` for other values and
    `SourceUnavailable` where the machine does not allow it.
    """

    def __init__(
        self,
        ring_bytes: int = DEFAULT_RING_BYTES,
        batch: int = DEFAULT_BATCH,
        env_names: Sequence[str] = DEFAULT_ENV_NAMES,
        object_path: str | os.PathLike[str] | None = None,
        use_procfs: bool = True,
        repair_by_procfs: bool = True,
        follow_changes: bool = False,
        changes_ring_bytes: int = CHANGES_RING_BYTES,
        loader: str = "auto",
        pin_directory: str | os.PathLike[str] | None = None,
        feed: Feed = "signals",
        picture_seconds: float = PICTURE_SECONDS,
    ) -> None:
        for size in (ring_bytes, changes_ring_bytes):
            if size < mmap.PAGESIZE or size & (size - 1) or size > 1 << 30:
                raise ConfigurationError(
                    f"a ring of {size} bytes: give a power of two from {mmap.PAGESIZE} to 1 GiB"
                )
        if batch < 1:
            raise ConfigurationError(f"a batch of {batch} records: give at least 1")
        self._names = tuple(env_names)
        self._sees_host = os.stat("/proc/self/ns/pid").st_ino == INITIAL_PID_NAMESPACE
        self._use_procfs = use_procfs and self._sees_host
        self._repair_by_procfs = self._use_procfs and repair_by_procfs
        self._whole_picture: threading.Thread | None = None
        """What reads arguments; it may be kept waiting."""
        self._unfollowed = tuple(sorted((*_NO_HOOK, *(() if follow_changes else _CALLS_ONLY))))
        self._decoder = Decoder()
        self._events: Counter[type[Event]] = Counter(
            dict.fromkeys((Fork, Exec, Exit, Change, Snapshot), 0)
        )
        self._early: list[Event] = []
        """Changes that came before lifecycle events of that time were read."""
        self._held: deque[tuple[int, int]] = deque()
        """Of what was read with them: where in the ring it began, and the time of the last one."""
        self._misses = 0
        self._misses_checked = 0
        self._lost_seen = 0
        self._picture_ns = int(picture_seconds * 1e9)
        self._picture_due = boot_now() + self._picture_ns
        self._pictures = 0
        self._repairs = 0
        self._failed_repairs = 0
        self._repair_wanted = False
        self._repair_not_before = 0
        self._closed = False
        self._stopping = False
        self._twins = Twins() if feed == "both" else None
        sizes = {"events": ring_bytes, "changes": changes_ring_bytes}
        if feed != "signals":
            sizes["changes"] = ring_bytes
        main, other = ("changes", "events") if feed == "events" else ("events", "changes")
        settings: _Settings = (
            sizes["events"],
            sizes["changes"],
            self._names,
            follow_changes,
            object_path,
        )
        if pin_directory is not None and loader == "bcc":
            raise ConfigurationError("what BCC loads cannot be pinned: use libbpf")
        if pin_directory is not None and feed != "signals":
            raise ConfigurationError("what is pinned has a ring for signals: use source=signals")
        self._resumption = _resume(pin_directory, settings, batch)
        self._told_until = 0
        if self._resumption is not None:
            self._resumption.teach(self._decoder)
            self._told_until = self._resumption.told_until
        self._notes = self._resumption.notes if self._resumption else Notes()
        self._programs: KernelPrograms | PinnedPrograms = (
            self._resumption.programs
            if self._resumption
            else KernelPrograms(*settings, loader=loader, rings=_FEEDS[feed])
        )
        try:
            self._ring: Ring[Event] = Ring(self._programs.map_fd(main), sizes[main], batch)
            self._changes: Ring[Event] = Ring(self._programs.map_fd(other), sizes[other], batch)
            self._lost_map = mmap.mmap(
                self._programs.map_fd("lost"), mmap.PAGESIZE, prot=mmap.PROT_READ
            )
            self._lost = memoryview(self._lost_map)[: 8 * (max(KIND_NAMES) + 1)].cast("Q")
            self._checked = self._notes.checked or boot_now()
            self._began = self._resumption.since if self._resumption else self._checked
            self._lost_seen = self._notes.lost
            self._programs.attach()
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            self._let_go()
            raise unavailable(error) from None
        except SourceUnavailable:
            self._let_go()
            raise

    @property
    def loader(self) -> str:
        """What loaded the kernel programs: libbpf or bcc."""
        return self._programs.loader

    # ------------------------------------------------------------------------------- reading

    def batches(self) -> Iterator[Sequence[Event]]:
        """See `Source.batches`. Events of a batch are in the order of their times."""
        yield [self._header(), *self._take_picture(self._use_procfs)]
        if self._resumption is not None:
            yield from self._resumption.remains(self._decoder)
        poll = select.epoll()
        try:
            for ring in ("events", "changes"):
                poll.register(self._programs.map_fd(ring), select.EPOLLIN)
            poll.register(self._stop_fd, select.EPOLLIN)
            quiet = True
            pause = _LONGEST_PAUSE
            while not self._stopping:
                if not quiet:
                    time.sleep(pause)
                else:
                    self._ring.rest()
                    self._changes.rest()
                    if not poll.poll(_IDLE):
                        yield self._losses() + self._repair()
                        self._handled()
                        continue
                    time.sleep(_FIRST_LOOK)
                count = 0
                for batch in self._drain():
                    count += len(batch)
                    yield batch
                    self._handled()
                    if self._stopping:
                        break  # what is left ends once nothing more is captured
                if repair := self._repair():
                    yield repair
                quiet = not count and not self._early
                expected = pause * _EVENTS_A_LOOK / max(count, 1)
                pause = min(max(expected, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        finally:
            poll.close()
        yield from self._last_batches()

    def _last_batches(self) -> Iterator[list[Event]]:
        self._programs.detach()
        # A program that was interrupted in the middle of a record finishes it in a moment. Where
        # programs go on, the next reader takes what comes.
        looks = _LAST_LOOKS if self._resumption is None else 0
        for look in range(1 + looks):
            if look:
                time.sleep(_SHORTEST_PAUSE)
            for batch in self._drain():
                yield batch
                self._handled()
            if self._ring.is_empty and self._changes.is_empty:
                break
        if self._early:
            last = self._early if self._twins is None else self._twins.without(self._early)
            self._events.update(map(type, last))
            yield last
        self._held.clear()
        self._handled()
        self._ring.rest()
        self._changes.rest()

    def _handled(self) -> None:
        """What was handed out has come back: whoever reads next need not be told of it."""
        if self._resumption is None:
            return
        self._ring.release()
        self._changes.release(self._held[0][0] if self._held else None)
        self._notes.handled(self._checked, self._lost_seen)

    def _drain(self) -> Iterator[list[Event]]:
        more = True
        while more:
            now = boot_now()
            events, more = self._read(self._ring)
            if self._told_until:
                events = self._untold(events)
            # After the lifecycle events, so that no change that came before one of them is
            # missing; and no further than what is there now, however fast more comes.
            early = self._early
            end = self._changes.produced
            while (taken := self._changes.taken) < end:
                changes, _ = self._read(self._changes)
                if self._told_until:
                    changes = self._untold(changes)
                early += changes
                if changes:
                    self._held.append((taken, max(map(_time_of, changes))))
                if self._changes.taken == taken:
                    break  # one is still being written
            if early:
                events += self._due(max(map(_time_of, events)) if events else now)
            events.sort(key=_time_of)
            if self._twins is not None:
                events = self._twins.without(events)
            self._events.update(map(type, events))
            events += self._losses()
            if events:
                yield events
        self._told_until = 0  # whatever is written from now on is later

    def _untold(self, events: list[Event]) -> list[Event]:
        """Without what the programs before these have told, too."""
        return [event for event in events if _time_of(event) >= self._told_until]

    def _read(self, ring: Ring[Event]) -> tuple[list[Event], bool]:
        result = ring.drain(self._decoder.decoders, self._decoder.unknown)
        if self._resumption is None:
            ring.release()  # nobody reads after this one
        return result

    def _due(self, until: int) -> list[Event]:
        """The changes up to `until`. Of later ones the fork may still be in the other ring."""
        while self._held and self._held[0][1] <= until:
            self._held.popleft()
        due = [event for event in self._early if event.time <= until]  # type: ignore[operator]
        self._early = [event for event in self._early if event.time > until]  # type: ignore[operator]
        return due

    def _header(self) -> Header:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Header(
            measure_boot_time(), socket.gethostname(), boot_id, self._began, self._unfollowed
        )

    # -------------------------------------------------------------------------------- pictures

    def _take_picture(self, use_procfs: bool) -> list[Event]:
        """Every task there is. It is complete where /proc has been asked as well."""
        since = boot_now()
        stream = self._whole_stream() if self._programs.reads_arguments else None
        if stream is None:
            stream = self._read_stream(with_arguments=False)
        told = self._decoder.pictures(stream)
        if not use_procfs:
            self._events.update(map(type, told))
            return list(told)
        if not self._programs.reads_arguments:
            told = [
                with_arguments(event, self._names) if isinstance(event, Snapshot) else event
                for event in told
            ]
        # First, so that the exact starts that the others name correct theirs.
        hidden = pictures_missing_from({event.task.tid for event in told})
        self._events.update(map(type, (*hidden, *told)))
        return [*hidden, *told, Picture(boot_now(), since)]

    def _whole_stream(self) -> bytes | None:
        """What the iterator writes with arguments; None if somebody keeps it waiting for them."""
        if self._whole_picture is not None and self._whole_picture.is_alive():
            return None
        streams: list[bytes] = []

        def read() -> None:
            with suppress(OSError):
                streams.append(self._read_stream(with_arguments=True))

        self._whole_picture = threading.Thread(target=read, name="picture", daemon=True)
        self._whole_picture.start()
        self._whole_picture.join(_WHOLE_PICTURE_SECONDS)
        return streams[0] if streams else None

    def _read_stream(self, with_arguments: bool) -> bytes:
        chunks = []
        fd = self._programs.picture(with_arguments)
        try:
            while chunk := os.read(fd, _READ_BYTES):
                chunks.append(chunk)
        finally:
            os.close(fd)
        return b"".join(chunks)

    def _repair(self) -> list[Event]:
        """A picture, if events were lost since the last one or it was long ago; else nothing."""
        now = boot_now()
        wanted = self._repair_wanted or now >= self._picture_due
        if not wanted or now < self._repair_not_before:
            return []
        picture: list[Event] = []
        try:
            picture = self._take_picture(self._repair_by_procfs)
        except OSError:  # no descriptor is left, for one: later there may be
            self._failed_repairs += 1
        else:
            self._repairs += self._repair_wanted
            self._pictures += not self._repair_wanted
            self._repair_wanted = False
        done = boot_now()
        self._picture_due = done + self._picture_ns
        rest = max(int(REPAIR_SECONDS * 1e9), _REPAIR_SHARE * (done - now))
        self._repair_not_before = done + rest
        return picture

    def _losses(self) -> list[Event]:
        """A `Loss` if counters have moved since the last look. Looking is a few loads."""
        since = self._checked
        now = boot_now()
        lost = sum(self._lost)
        if now - self._misses_checked > _MISSES_INTERVAL:
            misses = self._programs.skipped()
            if misses != self._misses:
                since = min(since, self._misses_checked or self._began)
                self._misses = misses
            self._misses_checked = now
        lost += self._misses
        self._checked = now
        if lost == self._lost_seen:
            return []
        count = lost - self._lost_seen
        self._lost_seen = lost
        self._repair_wanted = True
        return [Loss(boot_now(), since, count)]

    # ------------------------------------------------------------------------------- control

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopping = True
        if not self._closed:
            os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """See `Source.close`. The kernel programs are detached and freed."""
        if self._closed:
            return
        self._counters = dict(self.counters())
        self._closed = True
        self._lost.release()
        self._lost_map.close()
        self._ring.close()
        self._changes.close()
        self._let_go()
        os.close(self._stop_fd)

    def _let_go(self) -> None:
        if self._resumption is not None:
            self._resumption.close()
        else:
            self._notes.close()
            self._programs.close()

    def counters(self) -> Mapping[str, int]:
        """Events by kind, `lost_*` by kind and cause, pictures that nothing lost had asked for,
        repairs, `truncated_*`, `malformed`.

        `lost_skipped` counts program runs that the kernel skipped, as it does when one is already
        running on the same CPU. Where programs are pinned, `lost_*` count from when they were.
        """
        if self._closed:
            return self._counters
        counters = {kind.__name__.lower(): count for kind, count in self._events.items()}
        for kind, name in KIND_NAMES.items():
            counters[f"lost_{name}"] = self._lost[kind]
        counters["lost_skipped"] = self._misses
        counters["pictures"] = self._pictures
        counters["repairs"] = self._repairs
        counters["failed_repairs"] = self._failed_repairs
        for name, count in self._decoder.truncated.items():
            counters[f"truncated_{name}"] = count
        counters["malformed"] = self._decoder.malformed
        return counters


def _resume(
    directory: str | os.PathLike[str] | None, settings: _Settings, batch: int
) -> Resumption | None:
    if directory is None:
        return None
    try:
        return Resumption(
            directory,
            fingerprint(*settings),
            lambda: KernelPrograms(*settings, loader="libbpf"),
            batch,
        )
    except OSError as error:
        raise unavailable(error) from None
