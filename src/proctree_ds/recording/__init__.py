"""Recordings: every event of a capture on disk, in segments that each stand for themselves.

A segment opens with a keyframe, the full state of every task then alive and of their ancestors,
and goes on with the events since. The format is described in docs/recording-format.md.
"""

from __future__ import annotations

from proctree_ds.recording.reader import Recording, SkippedSegment
from proctree_ds.recording.segment import FORMAT_VERSION, SegmentHeader
from proctree_ds.recording.source import RecordingSource
from proctree_ds.recording.writer import RecordingLimits, RecordingWriter

__all__ = [
    "FORMAT_VERSION",
    "Recording",
    "RecordingLimits",
    "RecordingSource",
    "RecordingWriter",
    "SegmentHeader",
    "SkippedSegment",
]
