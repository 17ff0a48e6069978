"""A recording as a source: from its first event to the last that is there now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from proctree_ds.errors import RecordingError
from proctree_ds.model import Event
from proctree_ds.recording.reader import Recording
from proctree_ds.sources.memory import header_first

__all__ = ["RecordingSource"]


class RecordingSource:
    """Replays the recording in `directory`.

    A segment that cannot be read is handed to `on_skip` as a `RecordingError`, and the others are
    replayed. Raises `RecordingError` where there is none that can.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        on_skip: Callable[[RecordingError], object] | None = None,
    ) -> None:
        self.recording = Recording(directory)
        self._on_skip = on_skip or (lambda error: None)
        self._told = 0
        self._events = 0
        self._is_stopped = False

    def batches(self) -> Iterator[Sequence[Event]]:
        """The first keyframe, and all events, segment by segment."""
        for batch in header_first(self.recording.replay()):
            self._events += len(batch)
            self._tell()
            yield batch
            if self._is_stopped:
                return

    def _tell(self) -> None:
        for skipped in self.recording.skipped[self._told :]:
            self._told += 1
            self._on_skip(RecordingError(skipped.problem))

    def stop(self) -> None:
        """End the stream after the current batch."""
        self._is_stopped = True

    def close(self) -> None:
        """Nothing is held open."""

    def counters(self) -> Mapping[str, int]:
        """The `events` handed out, the `segments`, and those that were `skipped_segments`."""
        return {
            "events": self._events,
            "segments": len(self.recording.segments),
            "skipped_segments": len(self.recording.skipped),
        }
