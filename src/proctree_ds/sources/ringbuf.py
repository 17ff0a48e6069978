"""Reads a BPF ring buffer through its memory mapping; only this file moves the consumer position.

The kernel maps (kernel/bpf/ringbuf.c, 6.18): at offset 0 a page with the consumer position, the
only one that may be written; then a page with the producer position and the data, mapped twice in
a row so that a record is always one run of bytes. A record has a header of 8 bytes: its length,
with one bit for "being written" and one for "given up", and an offset that only the kernel needs.

The consumer position moves in `release()`, once a batch was handled: where the ring outlives its
reader the next one begins there, and so is told of a batch twice rather than never. The kernel
wakes the reader for a record only if the reader had taken everything before it, and a wake-up
costs whoever wrote the record far more than the record. So the position stays one record behind
while the reader is at work, and moves all the way in `rest()`, when it goes to sleep.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, Generic, TypeVar

__all__ = ["Ring"]

_BUSY: Final = 1 << 31
_DISCARDED: Final = 1 << 30
_LENGTH: Final = _DISCARDED - 1
_HEADER_BYTES: Final = 8

_head: Final = Struct("=I4xI").unpack_from
"""The kernel's header and the first word of the record, which tells what it is."""

_ORDERED_LOADS: Final = frozenset({"x86_64", "i686", "s390x"})
"""Machines on which a load never overtakes an earlier one."""

_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365}
"""The number of membarrier(2) by machine."""
_PRIVATE_EXPEDITED: Final = 1 << 3
_REGISTER_PRIVATE_EXPEDITED: Final = 1 << 4

T = TypeVar("T")


class Ring(Generic[T]):
    """One ring buffer map, read in batches of at most `batch` records."""

    def __init__(self, fd: int, size: int, batch: int, ordered: bool | None = None) -> None:
        """Maps the ring `fd` of `size` data bytes.

        `ordered` False puts a memory barrier between seeing that records are there and reading
        them; None decides by the machine. Raises OSError where the map cannot be mapped.
        """
        page = mmap.PAGESIZE
        self._batch = batch
        self._mask = size - 1
        self._control = mmap.mmap(fd, page)
        self._data = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._control)[:8].cast("Q")
        self._producer = memoryview(self._data)[:8].cast("Q")
        self._page = page
        self._position = self._last = self._consumer[0]
        if ordered is None:
            ordered = platform.machine() in _ORDERED_LOADS
        self._barrier = None if ordered else _memory_barrier()

    def drain(
        self,
        decoders: Mapping[int, Callable[[mmap.mmap, int, int], T | None]],
        unknown: Callable[[mmap.mmap, int, int], T | None],
    ) -> tuple[list[T], bool]:
        """The next batch, and whether it was full, so that more may be waiting.

        `decoders` has a function of (buffer, offset, length) for each first word of a record;
        `unknown` takes the rest. What they return is collected unless it is None. The buffer is
        only theirs during the call: they must copy what they keep.
        """
        data, mask, page = self._data, self._mask, self._page
        position = last = self._position
        end = self._producer[0]
        if position == end:
            return [], False
        if self._barrier is not None:
            end = self._committed(position, end)
            self._barrier()
        results: list[T] = []
        find = decoders.get
        keep = results.append
        left = self._batch
        while position < end and left:
            offset = page + (position & mask)
            length, word = _head(data, offset)
            if length & _BUSY:
                break
            if not length & _DISCARDED:
                result = find(word, unknown)(data, offset + _HEADER_BYTES, length)
                if result is not None:
                    keep(result)
            last = position
            position += (length & _LENGTH) + 15 & -8
            left -= 1
        if position != self._position:
            self._position = position
            self._last = last
        return results, not left

    def release(self, until: int | None = None) -> None:
        """What was drained has been handled: the kernel may write there again.

        With `until`, an earlier value of `taken`, only what came before it.
        """
        self._consumer[0] = self._last if until is None else min(until, self._last)

    def _committed(self, position: int, end: int) -> int:
        """Where the first record stands that is still being written; `end` if none is."""
        while position < end:
            length, _ = _head(self._data, self._page + (position & self._mask))
            if length & _BUSY:
                return position
            position += (length & _LENGTH) + 15 & -8
        return end

    @property
    def taken(self) -> int:
        """How many bytes have been read since the ring was made."""
        return self._position

    @property
    def produced(self) -> int:
        """How many bytes have been reserved for records since the ring was made."""
        return self._producer[0]

    @property
    def is_empty(self) -> bool:
        """Whether every record was taken; one that is still being written has not been."""
        return bool(self._position == self._producer[0])

    def rest(self) -> None:
        """Everything was handled, and all of it is given back: the next record wakes."""
        self._consumer[0] = self._last = self._position

    def close(self) -> None:
        """Unmap. Closing twice is fine."""
        if not self._control.closed:
            self._consumer.release()
            self._producer.release()
            self._control.close()
            self._data.close()


def _memory_barrier() -> Callable[[], int]:
    """A full barrier for this thread: membarrier(2), whose caller passes through one too."""
    number = _MEMBARRIER.get(platform.machine())
    call = ctypes.CDLL(None, use_errno=True).syscall
    if number is None or call(number, _REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no memory barrier is known for this machine")

    def barrier() -> int:
        return int(call(number, _PRIVATE_EXPEDITED, 0, 0))

    return barrier
