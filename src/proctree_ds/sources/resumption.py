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
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

from proctree_ds.clock import boot_now
from proctree_ds.model import Event, Loss
from proctree_ds.sources.libbpf import (
    clear_map,
    map_entries,
    open_iterator,
    open_pin,
    recursion_misses,
)
from proctree_ds.sources.pins import PinDirectory
from proctree_ds.sources.programs import KernelPrograms
from proctree_ds.sources.ringbuf import Ring
from proctree_ds.wire import Decoder
from proctree_ds.wire_layout import VERSION

__all__ = ["Notes", "PinnedPrograms", "Resumption"]

_RINGS: Final = ("events", "changes")
_CGROUPS_SENT: Final = 8192
_CGROUP_ID_BYTES: Final = 8
_SETTLED: Final = 0.001
"""Seconds after which programs that were attached run on every CPU."""
_LAST_LOOKS: Final = 100
_PAUSE: Final = 0.005

_time_of = attrgetter("time")


class Notes:
    """What a reader writes down for the next one, in a page that the pins keep.

    `began`: since when these programs write everything; `checked`: until when everything that they
    wrote or lost was handed out; `lost`: how many losses were. Boot-clock ns and a count.
    """

    __slots__ = ("_map", "_words")

    def __init__(self, fd: int | None = None) -> None:
        """Of the map `fd`; None: of nobody's."""
        self._map = mmap.mmap(-1 if fd is None else fd, mmap.PAGESIZE)
        self._words = memoryview(self._map)[:32].cast("Q")

    began = property(lambda self: int(self._words[0]))
    checked = property(lambda self: int(self._words[1]))
    lost = property(lambda self: int(self._words[2]))

    def begin(self, now: int) -> None:
        """These programs are attached by now."""
        self._words[0] = now

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

    def forget_cgroups(self) -> None:
        """Paths of cgroups are sent again, for the last reader took with it what it had learnt."""
        clear_map(self._fds["cgroups_sent"], _CGROUP_ID_BYTES, _CGROUPS_SENT)

    def close(self) -> None:
        """Let go of the pins, which stay."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


class Resumption:
    """The programs of this fingerprint, found or made, and what other sets have left to be read.

    `load` gives programs that are not attached yet. Raises what it raises, OSError, and
    `SourceUnavailable`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        fingerprint: str,
        load: Callable[[], KernelPrograms],
    ) -> None:
        self._pins = PinDirectory(directory)
        self._name = f"v{VERSION}-{fingerprint}"
        try:
            names = self._pins.names()
            self.is_resumed = self._name in names
            if not self.is_resumed:
                self._make(load())
            self.programs = PinnedPrograms(self._pins.below(self._name))
            self.notes = Notes(self.programs.map_fd("reader"))
            self.programs.forget_cgroups()
            self._others = [name for name in names if name != self._name]
            for name in self._others:
                self._pins.unpin(name, "link_")
        except BaseException:
            self._pins.close()
            raise

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
            notes.close()
            self._pins.complete(self._name)
        finally:
            programs.close()

    def remains(self, decoder: Decoder, batch: int) -> Iterator[list[Event]]:
        """What is left of other sets, which are unpinned when everything was handed out."""
        for name in self._others:
            version = int(name[1:].partition("-")[0])
            try:
                left = _Remains(self._pins.below(name), batch)
            except (OSError, KeyError, ValueError):  # made by a stranger, or cut short
                yield [Loss(now := boot_now(), now)]
            else:
                try:
                    if version == VERSION:
                        yield from left.events(decoder, self.notes.began)
                    else:
                        yield left.unreadable()
                finally:
                    left.close()
            with suppress(FileNotFoundError):
                self._pins.remove(name)
        self._others = []

    def close(self) -> None:
        """Everything is let go of, and stays as it is."""
        self.notes.close()
        self.programs.close()
        self._pins.close()


class _Remains:
    """The rings and counters of a set whose programs are detached."""

    def __init__(self, directory: str, batch: int) -> None:
        self._programs = PinnedPrograms(directory)
        self._notes = Notes(self._programs.map_fd("reader"))
        self._rings: list[Ring[Any]] = []
        for name in _RINGS:
            fd = self._programs.map_fd(name)
            self._rings.append(Ring(fd, map_entries(fd), batch))

    def events(self, decoder: Decoder, until: int) -> Iterator[list[Event]]:
        """Events up to `until`, from when on the newer programs tell them; and what was lost."""
        for _ in range(_LAST_LOOKS):
            for ring in self._rings:
                more = True
                while more:
                    events, more = ring.drain(decoder.decoders, decoder.unknown)
                    due = [event for event in events if event.time < until]
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
        fd = self._programs.map_fd("lost")
        with mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ) as page:
            words = memoryview(page)[: 8 * map_entries(fd)].cast("Q")
            lost = sum(words)
            words.release()
        return lost + self._programs.skipped()

    def _loss(self, unread: int) -> Loss | None:
        lost = unread + self._counted() - self._notes.lost
        return Loss(boot_now(), self._notes.checked, lost) if lost else None

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
        self._notes.close()
        self._programs.close()
