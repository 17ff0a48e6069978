"""Where events come from. A source is a small seam: it opens, yields batches, and closes.

A source does the I/O and reads the clocks; it never touches the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from proctree_ds.model import Event

__all__ = ["Source"]


class Source(Protocol):
    """A stream of events in batches. Iterate `batches()` once, then `close()`."""

    def batches(self) -> Iterator[Sequence[Event]]:
        """Batches in the order of arrival; the first one begins with a `Header`.

        A live source yields an empty batch when nothing happened for a while, so that its reader
        can look after other things. Ends after `stop()`, once what was captured is drained.
        """
        ...

    def stop(self) -> None:
        """Ask the stream to end. Safe from a signal handler and from another thread."""
        ...

    def close(self) -> None:
        """Release everything. Closing twice is fine."""
        ...

    def counters(self) -> Mapping[str, int]:
        """What was dropped, cut or found wrong so far, by name; 0 is shown too."""
        ...
