"""From what a person calls a source to one that is open. Imports a source only when it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctree_ds.errors import SourceUnavailable

if TYPE_CHECKING:
    from proctree_ds.cli.options import TreeOptions
    from proctree_ds.sources import Source

__all__ = ["open_live", "open_replay", "open_watch"]


def open_live(
    options: TreeOptions,
    ring_bytes: int | None = None,
    loader: str = "auto",
    pin_directory: str | None = None,
) -> Source:
    """The kernel's events, from now on, or from where the last reader of these pins ended.

    Raises `SourceUnavailable` and `ConfigurationError`.
    """
    from proctree_ds.sources.ebpf import DEFAULT_RING_BYTES, EbpfSource

    return EbpfSource(
        ring_bytes or DEFAULT_RING_BYTES,
        use_procfs=not options.disable_procfs,
        repair_by_procfs=not options.disable_procfs_query,
        follow_changes=options.follow_changes,
        loader=loader,
        pin_directory=pin_directory,
        feed="signals" if options.source == "none" else options.source,
    )


def open_watch(
    kind: str,
    options: TreeOptions,
    ring_bytes: int | None = None,
    on_fallback: Callable[[str], object] = lambda text: None,
    loader: str = "auto",
    pin_directory: str | None = None,
) -> Source:
    """The source that `--source` names: `ebpf`, `procfs`, or with `auto` the better one there is.

    `on_fallback` is told, in words, what is missed by not having the kernel's own events. Raises
    `SourceUnavailable` and `ConfigurationError`.
    """
    if kind == "procfs":
        return _open_procfs(on_fallback)
    try:
        return open_live(options, ring_bytes, loader, pin_directory)
    except SourceUnavailable as error:
        needs_bpf = options.follow_changes or options.disable_procfs or options.disable_procfs_query
        if kind == "ebpf" or needs_bpf or loader != "auto" or pin_directory is not None:
            raise
        reason = str(error)
    return _open_procfs(lambda costs: on_fallback(f"{reason} Going on without BPF: {costs}"))


def _open_procfs(on_costs: Callable[[str], object]) -> Source:
    from proctree_ds.sources.procfs_source import WALK_SECONDS, ProcfsSource

    source = ProcfsSource()
    if source.walks:
        on_costs(
            f"/proc is looked at every {WALK_SECONDS:g} s (no process events from the kernel:"
            f" {source.refusal}). What lives shorter is missed, and times are those of the looks."
        )
    else:
        on_costs(
            "process events from netlink, details from /proc. What has gone before it is looked at"
            " has no arguments or file, and starts are known to 10 ms."
        )
    return source


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
