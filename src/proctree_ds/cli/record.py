"""`proctree record` and `proctree export`: keep what happens, and turn what was kept into a log."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from proctree_ds.cli.console import Console, describe_error
from proctree_ds.cli.options import TreeOptions, duration, size, tree_options
from proctree_ds.errors import ConfigurationError, ProctreeError

if TYPE_CHECKING:
    from proctree_ds.pipeline import Pipeline, Trouble
    from proctree_ds.recording import RecordingWriter
    from proctree_ds.tree import ProcessTree

__all__ = ["describe_recording_trouble", "export", "open_recording", "record"]

_COMMAND: Final = "proctree"

_NO_THREADS: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""What keeps numpy and pyarrow from starting threads: rights are dropped while there is one."""


def open_recording(
    directory: str, tree: ProcessTree | None, **limits: int | None
) -> RecordingWriter:
    """A writer into `directory`. Raises `ConfigurationError`."""
    for name, value in _NO_THREADS.items():
        os.environ.setdefault(name, value)
    from proctree_ds.recording import RecordingLimits, RecordingWriter

    chosen: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    return RecordingWriter(directory, tree=tree, limits=RecordingLimits(**chosen))


def describe_recording_trouble(error: Exception) -> str:
    """Why a recording ends, what is left of it, and what to do."""
    return (
        f"the recording ends here: {describe_error(error)}; what is in it stays readable;"
        " make room or keep less (--keep-size), and record again into the same directory"
    )


@click.command()
@click.argument("directory", required=False)
@click.option("--to", "path", metavar="FILE", help="Write an event log (.jsonl, .gz, .zst), too.")
@click.option("--from", "source", metavar="SOURCE", default="live", help="What to record.")
@click.option(
    "--duration",
    "duration_ns",
    metavar="TIME",
    callback=duration,
    help="End after this time, such as 30s or 5m.",
)
@click.option(
    "--keep", "keep_ns", metavar="TIME", callback=duration, help="Delete what is older: 7d."
)
@click.option(
    "--keep-size", metavar="SIZE", callback=size, help="Delete the oldest beyond this: 10G."
)
@click.option(
    "--proctree",
    "options",
    metavar="OPTION,...",
    multiple=True,
    callback=tree_options,
    help="The tree, as for proctree-detect.",
)
@click.option("--quiet", is_flag=True, help="Say nothing but what went wrong.")
def record(
    directory: str | None,
    path: str | None,
    source: str,
    duration_ns: int | None,
    keep_ns: int | None,
    keep_size: int | None,
    options: TreeOptions,
    quiet: bool,
) -> None:
    """Record all processes into DIRECTORY, or as an event log (--to), until Ctrl-C.

    Exit status: 0 fine, 1 the source or the recording failed, 2 wrong usage.
    """
    from proctree_ds.cli.sources import open_live, open_replay
    from proctree_ds.clock import boot_now
    from proctree_ds.eventlog import EventLogWriter
    from proctree_ds.pipeline import Pipeline
    from proctree_ds.tree import ProcessTree

    if directory is None and path is None:
        raise click.UsageError("record into what? give a directory, or --to FILE, or both")
    console = Console(_COMMAND, quiet)

    def on_trouble(trouble: Trouble) -> None:
        if trouble.part == "recording":
            console.fail(describe_recording_trouble(trouble.error))
        else:
            console.fail(f"the event log ends here: {describe_error(trouble.error)}")
        alive.discard(trouble.part)
        if not alive:
            pipeline.stop()

    alive = {part for part, into in (("recording", directory), ("log", path)) if into is not None}
    is_live = source == "live"
    recorder = log = None
    with _explained(console):
        tree = ProcessTree(options.process_cache or 16_384, options.thread_cache or 32_768)
        if directory is not None:
            recorder = open_recording(directory, tree, keep_ns=keep_ns, keep_bytes=keep_size)
        if path is not None:
            log = EventLogWriter(path)
        reader = (
            open_live(options)
            if is_live
            else open_replay(source, on_skip=lambda error: console.skipped(str(error)))
        )
        pipeline = Pipeline(
            reader,
            tree=tree,
            log=log,
            recorder=recorder,
            duration_ns=duration_ns,
            clock=boot_now if is_live else None,
            on_trouble=on_trouble,
            on_fault=lambda fault: console.warn(str(fault), fault=fault.kind),
        )
        if is_live:
            console.say("recording; Ctrl-C ends")
        with _stopped_by_signals(pipeline):
            pipeline.run()
        console.summarise(pipeline.summary())
    if console.has_failed:
        sys.exit(1)


@click.command()
@click.argument("source")
@click.option("--to", "path", metavar="FILE", required=True, help="A new .jsonl, .gz or .zst file.")
def export(source: str, path: str) -> None:
    """Write a recording, or an event log, as an event log.

    Exit status: 0 fine, 1 something could not be read or written, 2 wrong usage.
    """
    from contextlib import closing

    from proctree_ds.cli.sources import open_replay
    from proctree_ds.eventlog import EventLogWriter

    console = Console(_COMMAND)

    def on_skip(error: Exception) -> None:
        console.fail(str(error))

    with _explained(console), closing(open_replay(source, on_skip=on_skip)) as reader:
        with EventLogWriter(path) as log:
            for batch in reader.batches():
                for event in batch:
                    log.write(event)
        console.say(f"{log.events} events written to {path}")
    if console.has_failed:
        sys.exit(1)


@contextmanager
def _explained(console: Console) -> Iterator[None]:
    """What goes wrong ends the command with a reason."""
    try:
        yield
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    except ProctreeError as error:
        console.fail(str(error))
    except OSError as error:
        console.fail(describe_error(error))


@contextmanager
def _stopped_by_signals(pipeline: Pipeline) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run, and seal what was recorded; a second one ends at once."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        pipeline.stop()

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
