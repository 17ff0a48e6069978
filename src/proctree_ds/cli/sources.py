"""From what a person calls a source to one that is open. Imports a source only when it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctree_ds.cli.options import TreeOptions
    from proctree_ds.sources import Source

__all__ = ["open_live", "open_replay"]


def open_live(options: TreeOptions, ring_bytes: int | None = None) -> Source:
    """The kernel's events, from now on. Raises `SourceUnavailable` and `ConfigurationError`."""
    from proctree_ds.sources.ebpf import DEFAULT_RING_BYTES, EbpfSource

    return EbpfSource(
        ring_bytes or DEFAULT_RING_BYTES,
        use_procfs=not options.disable_procfs,
        repair_by_procfs=not options.disable_procfs_query,
        follow_changes=options.follow_changes,
    )


def open_replay(
    name: str,
    *,
    skip_bad_lines: bool = False,
    on_skip: Callable[[Exception], object] | None = None,
) -> Source:
    """The recording or event log at `name`, `-` for a log on standard input.

    `on_skip` is told of what could not be read. Raises `ProctreeError` if there is none.
    """
    from proctree_ds.sources.eventlog import EventLogSource

    if name != "-" and os.path.isdir(name):
        from proctree_ds.recording import RecordingSource

        return RecordingSource(name, on_skip)
    return EventLogSource(name, skip_bad_lines=skip_bad_lines, on_skip=on_skip)
