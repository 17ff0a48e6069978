"""`proctree-detect`: watch processes, live or in a replay, and tell what signatures find.

Findings go to standard output, everything else to standard error. What a live run needs is
imported when it is needed, because what happens before the first event is not seen.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from proctree_ds.cli.console import Console, abandon_output, describe_error, table_width
from proctree_ds.cli.options import (
    PROCESS_CACHE,
    THREAD_CACHE,
    TreeOptions,
    account,
    address,
    duration,
    size,
    tree_options,
    version,
)
from proctree_ds.cli.record import describe_recording_trouble, open_recording
from proctree_ds.cli.service import Service, ServiceOptions
from proctree_ds.errors import ConfigurationError, ProctreeError

if TYPE_CHECKING:
    from proctree_ds.pipeline import Pipeline, Recorder, Sink, Trouble
    from proctree_ds.registry import Registry
    from proctree_ds.report import Report
    from proctree_ds.sources import Source
    from proctree_ds.tree import ProcessTree

__all__ = ["main"]

_COMMAND: Final = "proctree-detect"
_FILE_WIDTH: Final = 120
"""Columns of a table that goes to no terminal."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--signatures",
    "directories",
    metavar="DIR",
    multiple=True,
    help="Load every *.py in DIR. Repeatable.",
)
@click.option("--no-builtin", is_flag=True, help="Leave the built-in signatures out.")
@click.option(
    "--replay",
    metavar="SOURCE",
    help="Read a recording (a directory) or an event log (.jsonl, .gz, .zst; - for standard input)"
    " instead of the kernel.",
)
@click.option(
    "--source",
    "kind",
    type=click.Choice(["auto", "ebpf", "procfs"]),
    default="auto",
    show_default=True,
    help="Where live events come from: kernel programs, or netlink and /proc, which needs no BPF"
    " and sees less; auto takes the first that the machine allows.",
)
@click.option(
    "--write-log",
    "log_path",
    metavar="FILE",
    help="Write all events to FILE as an event log (.jsonl, .gz, .zst), to be replayed later.",
)
@click.option("--record", metavar="DIR", help="Record all events into DIR, for questions later.")
@click.option(
    "--duration",
    "duration_ns",
    metavar="TIME",
    callback=duration,
    help="End after this time, such as 30s or 5m.",
)
@click.option(
    "--output",
    type=click.Choice(["json", "table"]),
    help="How findings are written: json, a line each, or table, for reading."
    "  [default: table on a terminal, else json]",
)
@click.option(
    "--proctree",
    "options",
    metavar="OPTION,...",
    multiple=True,
    callback=tree_options,
    help="The tree: source=signals|events|both|none, process-cache=N, thread-cache=N,"
    " disable-procfs, disable-procfs-query, follow-changes; separated by commas, or repeated.",
)
@click.option(
    "--loader",
    type=click.Choice(["auto", "libbpf", "bcc"]),
    default="auto",
    show_default=True,
    help="What loads the kernel programs: bcc compiles them first, auto is libbpf where it can.",
)
@click.option(
    "--ring-size",
    metavar="SIZE",
    callback=size,
    help="The kernel's ring of events, a power of two.  [default: 8M]",
)
@click.option(
    "--pin",
    is_flag=True,
    help="Leave the kernel programs attached at the end, however it comes; the next start with"
    " --pin reads what they wrote meanwhile.",
)
@click.option(
    "--pin-directory",
    metavar="DIR",
    default="/sys/fs/bpf/proctree",
    show_default=True,
    help="Where --pin keeps them, on a BPF file system.",
)
@click.option(
    "--skip-bad-lines", is_flag=True, help="Count lines that cannot be read, instead of ending."
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    callback=address,
    help="Give figures at /metrics (Prometheus) and /health, over HTTP on this address.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How standard error is written: text, for reading, or json, an object a line.",
)
@click.option(
    "--user",
    metavar="NAME",
    callback=account,
    help="Go on as this user once the kernel's programs are attached.",
)
@click.option(
    "--keep-privileges",
    is_flag=True,
    help="Keep capabilities that are not needed once the kernel's programs are attached.",
)
@click.option("--quiet", is_flag=True, help="Say nothing but findings and what went wrong.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=version,
    help="Show the version and exit.",
)
def main(
    directories: tuple[str, ...],
    no_builtin: bool,
    replay: str | None,
    kind: str,
    log_path: str | None,
    record: str | None,
    duration_ns: int | None,
    output: str | None,
    options: TreeOptions,
    loader: str,
    ring_size: int | None,
    pin: bool,
    pin_directory: str,
    skip_bad_lines: bool,
    metrics: tuple[str, int] | None,
    log_format: str,
    user: str | None,
    keep_privileges: bool,
    quiet: bool,
) -> None:
    """Watch processes and tell what signatures find, live (the default) or in a replay.

    Exit status: 0 fine, 1 the source or a signature failed, 2 wrong usage.
    """
    _refuse_what_is_not_there(options, loader, replay, ring_size)
    _refuse_what_cannot_be(replay, log_path, record)
    pins = pin_directory if pin else None
    _refuse_what_the_source_lacks(kind, replay, options, ring_size, loader, pins)
    if user is not None and (keep_privileges or replay is not None):
        raise click.UsageError("--user is for a live run that does not --keep-privileges")
    if user is not None and record is not None:
        raise click.UsageError("--record needs the rights that --user gives up: leave one out")
    console = Console(_COMMAND, quiet, log_format)
    try:
        registry = _load(directories, not no_builtin)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    for failure in registry.failures:
        console.fail(f"not loaded: {failure}", path=failure.path, line=failure.line)
    if not registry.signatures:
        console.warn("there is no signature to run; events are only counted")
    try:
        source = _open(replay, kind, ring_size, loader, pins, options, skip_bad_lines, console)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    except ProctreeError as error:
        console.fail(str(error))
        sys.exit(1)
    tree = _tree(options)
    log, recorder = _open_outputs(log_path, record, options, tree, source, console)
    sink, left_out = _sink(output, tree)
    chosen = ServiceOptions(metrics, user, keep_privileges)
    service = Service(chosen, console, registry, is_live=replay is None)
    pipeline = _assemble(
        registry,
        source,
        sink,
        log,
        recorder,
        options,
        tree,
        duration_ns,
        replay,
        console,
        service,
        pins,
    )
    try:
        service.prepare(_rights(options, source) if replay is None else None, directories)
    except ProctreeError as error:
        source.close()
        for kept in (log, recorder):
            if kept is not None:
                kept.close()
        service.end()
        console.fail(str(error))
        sys.exit(1)
    service.attend(pipeline)
    if replay is None:
        console.say(f"watching live with {len(registry.signatures)} signatures; Ctrl-C ends")
    _watch(pipeline, console, service)
    for line in left_out():
        console.say(line)
    if pins is not None:
        console.say(
            f"pinned in {pins}: the kernel programs stay attached, and the next start with --pin"
            " reads on from here"
        )
    console.close()
    sys.exit(1 if console.has_failed else 0)


def _rights(options: TreeOptions, source: Source) -> set[str]:
    """The capabilities that a live run goes on to need."""
    from proctree_ds.service.privileges import WITHOUT_BPF, needed
    from proctree_ds.sources.procfs_source import ProcfsSource

    if isinstance(source, ProcfsSource):
        return set(WITHOUT_BPF)
    return needed(reads_procfs=not options.disable_procfs)


def _refuse_what_is_not_there(
    options: TreeOptions,
    loader: str,
    replay: str | None,
    ring_size: int | None,
) -> None:
    if loader != "auto" and replay is not None:
        raise click.UsageError("--loader is the kernel's: it means nothing with --replay")
    if ring_size is not None and replay is not None:
        raise click.UsageError("--ring-size is the kernel's: it means nothing with --replay")
    if options.follow_changes and replay is not None:
        raise click.UsageError("follow-changes is the kernel's: it means nothing with --replay")
    if options.source in ("events", "both") and replay is not None:
        raise click.UsageError(
            f"source={options.source} names rings of the kernel: it means nothing with --replay"
        )


def _refuse_what_cannot_be(replay: str | None, log_path: str | None, record: str | None) -> None:
    if sys.stdout is None:
        raise click.UsageError("standard output is closed: there is no place for findings")
    if replay is not None and log_path is not None and replay != "-":
        with suppress(OSError):  # one of them is not there: fine, or told later
            if os.path.samefile(replay, log_path):
                raise click.UsageError(f"--write-log would overwrite what --replay reads: {replay}")
    if replay is not None and record is not None and replay != "-":
        with suppress(OSError):
            if os.path.samefile(replay, record):
                raise click.UsageError(f"--record would add to what --replay reads: {replay}")


def _refuse_what_the_source_lacks(
    kind: str,
    replay: str | None,
    options: TreeOptions,
    ring_size: int | None,
    loader: str,
    pins: str | None,
) -> None:
    if kind != "auto" and replay is not None:
        raise click.UsageError("--source is for live events: it means nothing with --replay")
    if pins is not None and replay is not None:
        raise click.UsageError("--pin is the kernel's: it means nothing with --replay")
    if kind != "procfs":
        return
    if pins is not None or loader != "auto":
        raise click.UsageError(
            "--pin and --loader are for the kernel programs: use --source ebpf, or leave them out"
        )
    if ring_size is not None:
        raise click.UsageError("--ring-size is the kernel programs': --source procfs has no ring")
    if options.follow_changes:
        raise click.UsageError("follow-changes needs the kernel programs: use --source ebpf")
    if options.source in ("events", "both"):
        raise click.UsageError(
            f"source={options.source} names rings of the kernel programs: use --source ebpf"
        )
    if options.disable_procfs or options.disable_procfs_query:
        raise click.UsageError("--source procfs looks at /proc all the time: allow it that")


def _load(directories: Sequence[str], builtin: bool) -> Registry:
    from proctree_ds.registry import load_signatures

    return load_signatures(directories, builtin=builtin)


def _open(
    replay: str | None,
    kind: str,
    ring_size: int | None,
    loader: str,
    pins: str | None,
    options: TreeOptions,
    skip_bad_lines: bool,
    console: Console,
) -> Source:
    from proctree_ds.cli.sources import open_replay, open_watch

    if replay is None:
        return open_watch(kind, options, ring_size, console.warn, loader, pins)
    return open_replay(
        replay, skip_bad_lines=skip_bad_lines, on_skip=lambda error: console.skipped(str(error))
    )


def _open_outputs(
    log_path: str | None,
    record: str | None,
    options: TreeOptions,
    tree: ProcessTree,
    source: Source,
    console: Console,
) -> tuple[Any, Recorder | None]:
    """The event log and the recording that were asked for; or the end of the command."""
    from proctree_ds.eventlog import EventLogWriter

    recorder: Recorder | None = None
    try:
        if record is not None:
            recorder = open_recording(record, tree if options.source != "none" else None)
        return None if log_path is None else EventLogWriter(log_path), recorder
    except ProctreeError as error:
        source.close()
        if recorder is not None:
            recorder.close()
        if isinstance(error, ConfigurationError):
            raise click.UsageError(str(error)) from None
        console.fail(str(error))
        sys.exit(1)


def _tree(options: TreeOptions) -> ProcessTree:
    from proctree_ds.tree import ProcessTree

    return ProcessTree(*options.caches(PROCESS_CACHE, THREAD_CACHE))


def _sink(output: str | None, tree: ProcessTree) -> tuple[Sink, Callable[[], Iterable[str]]]:
    """Where findings go, and who tells at the end what was left out there."""
    from proctree_ds.users import UserNames

    users = UserNames(lambda: tree.boot_id)
    if output == "table" or (output is None and sys.stdout.isatty()):
        from proctree_ds.cli.digest import Digest
        from proctree_ds.sinks.table import Table

        width = table_width(_FILE_WIDTH)
        digest = Digest(Table(sys.stdout, width=width, users=users), width)
        return digest, digest.left_out
    from proctree_ds.sinks.jsonl import JsonLines

    return JsonLines(sys.stdout.buffer, users), lambda: ()


def _assemble(
    registry: Registry,
    source: Source,
    sink: Sink,
    log: Any,
    recorder: Recorder | None,
    options: TreeOptions,
    tree: ProcessTree,
    duration_ns: int | None,
    replay: str | None,
    console: Console,
    service: Service,
    pins: str | None,
) -> Pipeline:
    from proctree_ds.clock import boot_now
    from proctree_ds.pipeline import Pipeline

    def on_trouble(trouble: Trouble) -> None:
        service.trouble(trouble.part)
        if trouble.part == "log":
            console.fail(
                f"the event log ends here: {describe_error(trouble.error)}; detection goes on"
            )
            return
        if trouble.part == "recording":
            told = describe_recording_trouble(trouble.error)
            console.fail(f"{told}; detection goes on")
            return
        abandon_output()
        if not isinstance(trouble.error, BrokenPipeError):
            console.fail(f"findings cannot be written: {describe_error(trouble.error)}")

    def on_report(report: Report) -> None:
        tell = console.warn if report.kind in ("slow", "unwatched") else console.fail
        tell(
            str(report),
            signature=report.signature_id,
            kind=report.kind,
            where=report.where,
            count=report.count,
        )

    return Pipeline(
        source,
        registry.signatures,
        [sink],
        tree=tree,
        feeds_tree=options.source != "none",
        log=log,
        recorder=recorder,
        duration_ns=duration_ns,
        clock=boot_now if replay is None else None,
        resumable=pins is not None,
        on_report=on_report,
        on_trouble=on_trouble,
        on_fault=lambda fault: console.warn(str(fault), fault=fault.kind),
        on_batch=service.batch,
    )


def _watch(pipeline: Pipeline, console: Console, service: Service) -> None:
    def end(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP and not service.hang_up():
            return
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        service.stopping()
        pipeline.stop()

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    gc.freeze()  # what start-up made stays; events and the tree are not tracked at all
    try:
        pipeline.run()
    except (ProctreeError, OSError) as error:
        console.fail(str(error))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        service.end()
    console.summarise(pipeline.summary())


if __name__ == "__main__":
    main()
