"""Live events from the kernel, through the programs in bpf/.

Programs are attached first, then the task iterator takes the first picture: what happens in
between is seen twice, never missed. While nothing happens nothing runs; the first event after a
quiet time wakes the reader, which then looks every few milliseconds, for a burst at a time, until
it finds nothing and goes to sleep again.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from errno import EACCES, ENOMEM, EPERM
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Final

from proctree_ds.clock import boot_now, measure_boot_time
from proctree_ds.errors import ConfigurationError, SourceUnavailable
from proctree_ds.model import Event, Exec, Exit, Fork, Header, Loss, Snapshot
from proctree_ds.sources.libbpf import BpfObject, LibbpfError, LibbpfMissing
from proctree_ds.sources.procfs import pictures_missing_from
from proctree_ds.sources.ringbuf import Ring
from proctree_ds.wire import Decoder
from proctree_ds.wire_layout import KIND_NAMES

__all__ = ["DEFAULT_BATCH", "DEFAULT_ENV_NAMES", "DEFAULT_RING_BYTES", "EbpfSource"]

DEFAULT_RING_BYTES: Final = 8 << 20
DEFAULT_BATCH: Final = 2048
"""The most records that one batch is made of."""

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

_OBJECT: Final = Path(__file__).parent.parent / "_bpf" / "proctree.bpf.o"
_KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")

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

_EVENT_PROGRAMS: Final = ("on_fork", "on_exec", "on_exit")
_PICTURE_PROGRAMS: Final = ("picture_sleeping", "picture_plain")
"""In the order of preference: the first one also reads argv and environment."""

_MAX_NAMES: Final = 16
_NAME_BYTES: Final = 32
_config: Final = Struct("=IIQ")
"""The head of struct pt_config; the names follow, each as 32 bytes and 32 bytes of mask."""
_HIERARCHIES: Final = ((0, ""), (1, "memory"), (2, "pids"))
_READ_BYTES: Final = 1 << 20

_time_of = attrgetter("time")


class EbpfSource:
    """Forks, execs and exits of the whole machine as they happen, after a picture of what is there.

    Opening loads and attaches the kernel programs, so events count from then on. `ring_bytes` (a
    power of two, at least one page) holds what the reader has not taken yet; `batch` bounds the
    records of one batch; `env_names` are the environment variables whose values are kept, at most
    16, each of at most 31 bytes. With `use_procfs`, /proc adds to the first picture what the
    kernel's iterator keeps back. Raises `ConfigurationError` for other values and
    `SourceUnavailable` where the machine does not allow it.
    """

    def __init__(
        self,
        ring_bytes: int = DEFAULT_RING_BYTES,
        batch: int = DEFAULT_BATCH,
        env_names: Sequence[str] = DEFAULT_ENV_NAMES,
        object_path: str | os.PathLike[str] | None = None,
        use_procfs: bool = True,
    ) -> None:
        if ring_bytes < mmap.PAGESIZE or ring_bytes & (ring_bytes - 1) or ring_bytes > 1 << 30:
            raise ConfigurationError(
                f"a ring of {ring_bytes} bytes: give a power of two from {mmap.PAGESIZE} to 1 GiB"
            )
        if batch < 1:
            raise ConfigurationError(f"a batch of {batch} records: give at least 1")
        self._names = tuple(env_names)
        self._use_procfs = use_procfs
        self._constants = _config_bytes(_hierarchy(), self._names)
        self._ring_bytes = ring_bytes
        self._decoder = Decoder()
        self._events: Counter[type[Event]] = Counter({Fork: 0, Exec: 0, Exit: 0, Snapshot: 0})
        self._misses = 0
        self._misses_checked = 0
        self._lost_seen = 0
        self._closed = False
        self._stopping = False
        self._object, self._picture_program = self._open(Path(object_path or _OBJECT))
        try:
            self._ring: Ring[Event] = Ring(self._object.map_fd("events"), ring_bytes, batch)
            self._lost_map = mmap.mmap(
                self._object.map_fd("lost"), mmap.PAGESIZE, prot=mmap.PROT_READ
            )
            self._lost = memoryview(self._lost_map)[: 8 * (max(KIND_NAMES) + 1)].cast("Q")
            self._checked = boot_now()
            for program in (*_EVENT_PROGRAMS, self._picture_program):
                self._object.attach(program)
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            self._object.close()
            raise _unavailable(error) from None

    # ------------------------------------------------------------------------------- opening

    def _open(self, path: Path) -> tuple[BpfObject, str]:
        """The loaded object, and the iterator program that this kernel took."""
        if _is_missing(path):
            raise SourceUnavailable(
                f"the compiled kernel programs are missing ({path}): clang was not there at"
                " installation. Install clang, llvm and libbpf-dev, then run `make -C bpf` or"
                " install proctree-ds again."
            )
        if not _KERNEL_BTF.exists():
            raise SourceUnavailable(
                f"this kernel does not describe its types ({_KERNEL_BTF} is missing). Use a kernel"
                " built with CONFIG_DEBUG_INFO_BTF, or another source."
            )
        failure: OSError | None = None
        for chosen in _PICTURE_PROGRAMS:
            try:
                return self._load(path, chosen), chosen
            except OSError as error:
                failure = error
                if isinstance(error, LibbpfMissing) or error.errno in (EPERM, EACCES):
                    break
        assert failure is not None
        raise _unavailable(failure) from None

    def _load(self, path: Path, picture_program: str) -> BpfObject:
        loading = BpfObject(str(path))
        try:
            for program in _PICTURE_PROGRAMS:
                if program != picture_program:
                    loading.leave_out(program)
            loading.set_entries("events", self._ring_bytes)
            loading.set_entries("drafts", 1 + loading.possible_cpus())
            loading.set_constants(self._constants)
            loading.load()
        except OSError:
            loading.close()
            raise
        return loading

    # ------------------------------------------------------------------------------- reading

    def batches(self) -> Iterator[Sequence[Event]]:
        """See `Source.batches`. Events of a batch are in the order of their times."""
        yield [_header(), *self._first_picture()]
        poll = select.epoll()
        try:
            ring_fd = self._object.map_fd("events")
            poll.register(ring_fd, select.EPOLLIN)
            poll.register(self._stop_fd, select.EPOLLIN)
            quiet = True
            pause = _LONGEST_PAUSE
            while not self._stopping:
                if not quiet:
                    time.sleep(pause)
                else:
                    self._ring.rest()
                    if not poll.poll(_IDLE):
                        yield self._losses()
                        continue
                    time.sleep(_FIRST_LOOK)
                quiet = True
                count = 0
                for batch in self._drain():
                    quiet = False
                    count += len(batch)
                    yield batch
                    if self._stopping:
                        break  # what is left ends once nothing more is captured
                expected = pause * _EVENTS_A_LOOK / max(count, 1)
                pause = min(max(expected, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        finally:
            poll.close()
        for program in _EVENT_PROGRAMS:
            self._object.detach(program)
        yield from self._drain()
        # A program that was interrupted in the middle of a record finishes it in a moment.
        for _ in range(_LAST_LOOKS):
            if self._ring.is_empty:
                break
            time.sleep(_SHORTEST_PAUSE)
            yield from self._drain()

    def _drain(self) -> Iterator[list[Event]]:
        decoder = self._decoder
        more = True
        while more:
            events, more = self._ring.drain(decoder.decoders, decoder.unknown)
            events.sort(key=_time_of)
            self._events.update(map(type, events))
            events += self._losses()
            if events:
                yield events

    def _first_picture(self) -> list[Snapshot]:
        chunks = []
        fd = self._object.iterator(self._picture_program)
        try:
            while chunk := os.read(fd, _READ_BYTES):
                chunks.append(chunk)
        finally:
            os.close(fd)
        snapshots = self._decoder.pictures(b"".join(chunks))
        if self._use_procfs:
            if self._picture_program != "picture_sleeping":
                snapshots = [_with_arguments(snapshot, self._names) for snapshot in snapshots]
            # First, so that the exact starts that the others name correct theirs.
            hidden = pictures_missing_from({snapshot.task.tid for snapshot in snapshots})
            snapshots = hidden + snapshots
        self._events[Snapshot] += len(snapshots)
        return snapshots

    def _losses(self) -> list[Event]:
        """A `Loss` if counters have moved since the last look. Looking is a few loads."""
        since = self._checked
        now = boot_now()
        if now - self._misses_checked > _MISSES_INTERVAL:
            self._misses_checked = now
            self._misses = sum(map(self._object.recursion_misses, _EVENT_PROGRAMS))
        lost = sum(self._lost) + self._misses
        self._checked = now
        if lost == self._lost_seen:
            return []
        count = lost - self._lost_seen
        self._lost_seen = lost
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
        self._object.close()
        os.close(self._stop_fd)

    def counters(self) -> Mapping[str, int]:
        """Events by kind, `lost_*` by kind and cause, `truncated_*` by what, `malformed`.

        `lost_skipped` counts program runs that the kernel skipped, as it does when one is already
        running on the same CPU.
        """
        if self._closed:
            return self._counters
        counters = {kind.__name__.lower(): count for kind, count in self._events.items()}
        for kind, name in KIND_NAMES.items():
            counters[f"lost_{name}"] = self._lost[kind]
        counters["lost_skipped"] = self._misses
        for name, count in self._decoder.truncated.items():
            counters[f"truncated_{name}"] = count
        counters["malformed"] = self._decoder.malformed
        return counters


def _header() -> Header:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Header(measure_boot_time(), socket.gethostname(), boot_id)


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except PermissionError:
        return False  # whoever may not look will be told so by the loader


def _config_bytes(hierarchy: int, names: Sequence[str]) -> bytes:
    """struct pt_config of bpf/proctree.h."""
    if len(names) > _MAX_NAMES:
        raise ConfigurationError(f"{len(names)} environment variables: at most {_MAX_NAMES}")
    letters = 0
    parts = []
    for name in names:
        raw = os.fsencode(name) + b"="
        if not 1 < len(raw) <= _NAME_BYTES or raw.count(b"=") > 1 or b"\0" in raw:
            raise ConfigurationError(
                f"{name!r} is no environment variable to keep: give a name of 1 to"
                f" {_NAME_BYTES - 1} bytes without '='"
            )
        letters |= 1 << (raw[0] + 5 * raw[1]) % 64
        parts.append(raw.ljust(_NAME_BYTES, b"\0"))
        parts.append((b"\xff" * len(raw)).ljust(_NAME_BYTES, b"\0"))
    return _config.pack(hierarchy, len(names), letters) + b"".join(parts)


def _hierarchy() -> int:
    """The cgroup hierarchy that tells processes apart: v2, or one of v1 where v2 has no cgroups."""
    mounted: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        place = fields.split(" ")[4]
        if kind == "cgroup2":
            mounted[""] = place
        elif kind == "cgroup":
            for name in options.rpartition(" ")[2].split(","):
                mounted[name] = place
    for number, name in _HIERARCHIES:
        place = mounted.get(name, "")
        if place and any(child.is_dir() for child in Path(place).iterdir()):
            return number
    return 0


def _with_arguments(snapshot: Snapshot, names: Sequence[str]) -> Snapshot:
    """The snapshot with argv and environment from /proc, where the kernel program gave none."""
    if "executable" not in snapshot.given or snapshot.given["executable"] is None:
        return snapshot
    directory = Path(f"/proc/{snapshot.task.tid}")
    try:
        argv = (directory / "cmdline").read_bytes()
        environ = (directory / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return snapshot
    given = dict(snapshot.given)
    text = argv.removesuffix(b"\0").decode("utf-8", "surrogateescape")
    given["argv"] = tuple(text.split("\0")) if argv else ()
    env: dict[str, str] = {}
    for variable in environ.decode("utf-8", "surrogateescape").split("\0"):
        name, found, value = variable.partition("=")
        if found and name in names:
            env.setdefault(name, value)
    given["env"] = env
    return Snapshot(
        snapshot.time,
        snapshot.task,
        given,
        snapshot.leader,
        snapshot.parent,
        snapshot.creator,
        snapshot.ns_tid,
        snapshot.ns_pid,
        snapshot.subreaper,
    )


def _unavailable(error: OSError) -> SourceUnavailable:
    """What went wrong in one sentence, and what to do about it in another."""
    if isinstance(error, LibbpfMissing):
        return SourceUnavailable(
            "libbpf.so.1 cannot be loaded. Install libbpf 1.x (Debian, Ubuntu: libbpf1)."
        )
    if error.errno in (EPERM, EACCES):
        return SourceUnavailable(
            "the kernel does not let this user load BPF programs. Run as root, or with the"
            " capabilities CAP_BPF and CAP_PERFMON."
        )
    if error.errno == ENOMEM:
        return SourceUnavailable(
            f"there is no memory for the ring ({_reason(error)}). Give a smaller ring."
        )
    return SourceUnavailable(
        f"the kernel refuses the programs ({_reason(error)}). Use Linux 5.11 or newer, or another"
        " source."
    )


def _reason(error: OSError) -> str:
    log = error.log if isinstance(error, LibbpfError) else ()
    return "; ".join((error.strerror or str(error), *log))
