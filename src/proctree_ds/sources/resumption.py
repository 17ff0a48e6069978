"""Going on where the last reader ended: kernel programs by their pins, and what is left of others.

A set of pins is used again by whoever would load programs that write the same. Any other set is
replaced: first the new programs are attached, then the old ones are detached, then what the old
ones had written is read, and at last they are unpinned. So at every instant something is attached
and pinned, and a reader that is killed in the middle leaves nothing that the next one cannot
finish.

What the names of a set mean, and the reader's notes, stay as they are in every wire version.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final
from zlib import crc32

from proctree_ds.clock import boot_now
from proctree_ds.model import Event, Loss
from proctree_ds.sources.libbpf import (
    clear_map,
    map_entries,
    map_items,
    open_iterator,
    open_pin,
    recursion_misses,
    set_item,
)
from proctree_ds.sources.pins import PinDirectory
from proctree_ds.sources.programs import KernelPrograms
from proctree_ds.sources.ringbuf import Ring
from proctree_ds.wire import Decoder
from proctree_ds.wire_layout import VERSION

__all__ = ["Notes", "PinnedPrograms", "Resumption"]

_RINGS: Final = ("events", "changes")
_KEPT_PATH_BYTES: Final = 512
"""PT_KEPT_PATH_BYTES of bpf/proctree.h."""
_SETTLED: Final = 0.001
"""Seconds after which programs that were attached run on every CPU."""
_LAST_LOOKS: Final = 100
_PAUSE: Final = 0.005

_time_of = attrgetter("time")


class Notes:
    """What a reader writes down for the next one, in a page that the pins keep.

    Times are boot-clock ns.
    """

    __slots__ = ("_map", "_words")

    def __init__(self, fd: int | None = None) -> None:
        """Of the map `fd`; None: of nobody's."""
        self._map = mmap.mmap(-1 if fd is None else fd, mmap.PAGESIZE)
        self._words = memoryview(self._map)[:32].cast("Q")

    @property
    def began(self) -> int:
        """Since when these programs write everything."""
        return self._words[0]

    @property
    def checked(self) -> int:
        """Until when everything that they wrote or lost was handed out."""
        return self._words[1]

    @property
    def lost(self) -> int:
        """How many losses were handed out."""
        return self._words[2]

    def begin(self, now: int) -> None:
        """These programs are attached by now."""
        self._words[0] = now

    @property
    def seal(self) -> int:
        """Which names the set had when it was complete, as a number."""
        return self._words[3]

    def close_set(self, names: Iterable[str]) -> None:
        """The set is complete, and has these names."""
        self._words[3] = _seal_of(names)

    def handled(self, checked: int, lost: int) -> None:
        """Everything up to here was handed out and came back."""
        self._words[1] = checked
        self._words[2] = lost

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()


class PinnedPrograms:
    """Programs that are attached and stay so: what `KernelPrograms` can do, by way of pins."""

    loader = "libbpf"

    def __init__(self, directory: str) -> None:
        """Raises OSError where they cannot be opened."""
        self._fds: dict[str, int] = {}
        try:
            for name in os.listdir(directory):
                if not name.startswith("link_on_"):  # their pins are enough
                    self._fds[name] = open_pin(f"{directory}/{name}")
        except OSError:
            self.close()
            raise
        self.reads_arguments = "link_picture_sleeping" in self._fds

    def attach(self) -> None:
        """They are."""

    def detach(self) -> None:
        """They stay attached: that is what pins are for."""

    def map_fd(self, name: str) -> int:
        """See `KernelPrograms.map_fd`."""
        return self._fds[name]

    def skipped(self) -> int:
        """See `KernelPrograms.skipped`."""
        programs = (fd for name, fd in self._fds.items() if name.startswith("program_"))
        return sum(map(recursion_misses, programs))

    def picture(self, with_arguments: bool) -> int:
        """See `KernelPrograms.picture`."""
        kind = "sleeping" if with_arguments else "plain"
        return open_iterator(self._fds[f"link_picture_{kind}"])

    def teach_cgroups(self, decoder: Decoder) -> None:
        """What the last reader had learnt; of all else the path is sent again."""
        for cgroup_id, raw in map_items(self._fds["cgroup_paths"]).items():
            path = raw.rstrip(b"\0")
            decoder.learn_cgroup(cgroup_id, path and path + b"\0")
        clear_map(self._fds["cgroups_sent"])

    def keep_cgroup(self, cgroup_id: int, raw: bytes) -> None:
        """For the next reader. With no room left it starts anew; long paths are not kept."""
        fd = self._fds["cgroup_paths"]
        if len(raw) < _KEPT_PATH_BYTES:
            value = raw.ljust(_KEPT_PATH_BYTES, b"\0")
            if not set_item(fd, cgroup_id, value):
                clear_map(fd)
                set_item(fd, cgroup_id, value)

    def close(self) -> None:
        """Let go of the pins, which stay."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


class Resumption:
    """The programs of this fingerprint, found or made, and what other sets have left to be read.

    `load` gives programs that are not attached yet; `batch` bounds the records of one batch.
    Raises what `load` raises, OSError, and `SourceUnavailable`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        fingerprint: str,
        load: Callable[[], KernelPrograms],
        batch: int,
    ) -> None:
        self._batch = batch
        self._pins = PinDirectory(directory)
        self._name = f"v{VERSION}-{fingerprint}"
        try:
            others = self._pins.names()
            self._is_damaged = False
            if self._name in others:
                others.remove(self._name)
                self._is_damaged = not self._is_whole()
                if self._is_damaged:
                    others.append(self._rename(self._name))
            if self._name not in self._pins.names():
                self._make(load())
            self.programs = PinnedPrograms(self._pins.below(self._name))
            self.notes = Notes(self.programs.map_fd("reader"))
            self._others = [(name, self._left_of(name)) for name in map(self._retire, others)]
            self._remove_finished()
            self._divide_time()
        except BaseException:
            self._pins.close()
            raise

    def _retire(self, name: str) -> str:
        """Detach a set, under another name first: by its own it would be taken for whole."""
        name = self._rename(name)
        self._pins.unpin(name, "link_")
        return name

    def _remove_finished(self) -> None:
        """Sets that were handed out whole by a reader who had no right to unpin them."""
        for name, left in self._others:
            if left is not None and left.is_finished:
                left.close()
                self._pins.remove(name)
        names = self._pins.names()
        self._others = [other for other in self._others if other[0] in names]

    def _rename(self, name: str) -> str:
        version, _, _ = name.partition("-")
        return self._pins.rename(name, f"{version}-{boot_now():016x}")

    def _divide_time(self) -> None:
        """While two sets were attached, both told of everything: the older one is believed."""
        readable = [left for name, left in self._others if left and _is_readable(name)]
        readable.sort(key=attrgetter("began"))
        until = self.notes.began
        for left in reversed(readable):
            left.since, left.until = left.began, until
            until = min(until, left.began)
        if readable:
            readable[0].since = 0
        self.told_until = self.notes.began if readable and not self._is_damaged else 0
        """Boot-clock ns up to which other sets tell of what this one has as well."""

    def _make(self, programs: KernelPrograms) -> None:
        """Attach and pin; the set has its name only when it is whole."""
        try:
            now = boot_now()
            programs.attach()
            time.sleep(_SETTLED)
            directory = self._pins.begin()
            programs.pin(directory)
            notes = Notes(programs.map_fd("reader"))
            notes.begin(boot_now())
            notes.handled(now, 0)
            notes.close_set(os.listdir(directory))
            notes.close()
            self._pins.complete(self._name)
        except BaseException:
            self._pins.names()  # what is half done must not go on
            raise
        finally:
            programs.close()

    def _is_whole(self) -> bool:
        """Whether nobody took a pin away: what is not attached any more would not be missed."""
        directory = self._pins.below(self._name)
        try:
            fd = open_pin(f"{directory}/reader")
        except OSError:
            return False
        try:
            notes = Notes(fd)
            seal = notes.seal
            notes.close()
        finally:
            os.close(fd)
        return seal == _seal_of(os.listdir(directory))

    def teach(self, decoder: Decoder) -> None:
        """What readers before this one had learnt, for the sake of what they left unread."""
        self.programs.teach_cgroups(decoder)
        decoder.on_cgroup = self.programs.keep_cgroup
        for _, left in self._others:
            if left is not None:
                with suppress(KeyError):
                    left.programs.teach_cgroups(decoder)

    def remains(self, decoder: Decoder) -> Iterator[list[Event]]:
        """What is left of other sets, which are unpinned when everything was handed out."""
        if self._is_damaged:
            yield [_unknown_loss()]
        for name, left in self._others:
            if left is None:  # made by a stranger
                yield [_unknown_loss()]
            elif _is_readable(name):
                yield from left.events(decoder)
            else:
                yield left.unreadable()
            if left is not None:
                left.finish()
                left.close()
            with suppress(OSError):  # who has given up root leaves it to the next one
                self._pins.remove(name)
        self._others = []

    @property
    def since(self) -> int:
        """From when on everything is told, or counted as lost: the boot clock, ns."""
        others = (left.checked for name, left in self._others if left and _is_readable(name))
        return min([self.notes.checked, *others])

    def _left_of(self, name: str) -> _Remains | None:
        try:
            return _Remains(self._pins.below(name), self._batch)
        except (OSError, KeyError, ValueError):
            return None

    def close(self) -> None:
        """Everything is let go of, and stays as it is."""
        for _, left in self._others:
            if left is not None:
                left.close()
        self.notes.close()
        self.programs.close()
        self._pins.close()


def _seal_of(names: Iterable[str]) -> int:
    return crc32("\n".join(sorted(names)).encode())


def _unknown_loss() -> Loss:
    """Nobody knows since when: but before this capture began nothing is certain anyhow."""
    now = boot_now()
    return Loss(now, now)


def _is_readable(name: str) -> bool:
    """Whether the records of this set are laid out as they are now."""
    return name.startswith(f"v{VERSION}-")


class _Remains:
    """The rings and counters of a set whose programs are detached."""

    def __init__(self, directory: str, batch: int) -> None:
        """Raises OSError, KeyError or ValueError where something is missing or of another kind."""
        self.since = self.until = 0
        self.programs = PinnedPrograms(directory)
        try:
            self._notes = Notes(self.programs.map_fd("reader"))
            fds = [self.programs.map_fd(name) for name in (*_RINGS, "lost")][: len(_RINGS)]
            self._rings: list[Ring[Any]] = [Ring(fd, map_entries(fd), batch) for fd in fds]
        except BaseException:
            self.programs.close()
            raise

    @property
    def is_finished(self) -> bool:
        return not self._notes.seal

    def finish(self) -> None:
        """Everything was handed out: these need not be read again."""
        self._notes.close_set(())

    @property
    def began(self) -> int:
        return self._notes.began

    @property
    def checked(self) -> int:
        return self._notes.checked

    def events(self, decoder: Decoder) -> Iterator[list[Event]]:
        """Events from `since` up to `until`, which no other set tells; and what was lost."""
        for _ in range(_LAST_LOOKS):
            for ring in self._rings:
                more = True
                while more:
                    events, more = ring.drain(decoder.decoders, decoder.unknown)
                    due = [event for event in events if self.since <= event.time < self.until]
                    due.sort(key=_time_of)
                    if due:
                        yield due
                    ring.release()
            if all(ring.is_empty for ring in self._rings):
                break
            time.sleep(_PAUSE)
        for ring in self._rings:
            ring.rest()
        if loss := self._loss(0):
            yield [loss]
            self._notes.handled(loss.time, self._counted())

    def unreadable(self) -> list[Event]:
        """All that is there, as lost: its layout is not known."""
        lengths: list[int] = []

        def count(_buffer: mmap.mmap, _offset: int, length: int) -> None:
            lengths.append(length)

        for ring in self._rings:
            more = True
            while more:
                _, more = ring.drain({}, count)
        return [loss] if (loss := self._loss(len(lengths))) else []

    def _counted(self) -> int:
        fd = self.programs.map_fd("lost")
        with mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ) as page:
            words = memoryview(page)[: 8 * map_entries(fd)].cast("Q")
            lost = sum(words)
            words.release()
        return lost + self.programs.skipped()

    def _loss(self, unread: int) -> Loss | None:
        lost = unread + self._counted() - self._notes.lost
        return Loss(boot_now(), self._notes.checked, lost) if lost else None

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
        self._notes.close()
        self.programs.close()
