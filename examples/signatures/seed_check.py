"""Does the tree agree with the event, at the very time of the event, for every program started?

This is Tracee's end-to-end signature for its process tree, ported. There it has to sleep and to try
again until the tree has caught up. Here the tree knows before the signature is called, so every
check is made once. It asks for the process, the thread and the lineage (five ancestors), compares
the answers with what the event itself says, and reports every difference. At the end of the source
it says how many programs it saw.
"""

from collections.abc import Iterator
from itertools import pairwise

from proctree_ds import (
    DataNotFound,
    EndOfSource,
    EventSelector,
    ExecEvent,
    Finding,
    LineageKey,
    ProcKey,
    Signal,
    Signature,
    SignatureContext,
    SignatureMetadata,
    ThreadKey,
)

MAX_DEPTH = 5
"""Ancestors asked for, beside the process itself."""


class SeedCheck(Signature):
    """Compares the data source with the event on every exec."""

    metadata = SignatureMetadata(
        id="EX-SEED-CHECK",
        version="1",
        name="Process tree agrees with the event",
        description="Process, thread and lineage as of an exec are what the exec itself says.",
        severity="info",
    )
    selectors = (EventSelector(event="sched_process_exec"),)

    def init(self, context: SignatureContext) -> None:
        self.tree = context.get_data_source("tracee", "process_tree")
        self.execs = 0
        self.mismatches = 0

    def on_event(self, event: ExecEvent) -> Iterator[Finding]:
        self.execs += 1
        for check in (self.check_process, self.check_thread, self.check_lineage):
            try:
                differences = list(check(event))
            except DataNotFound as error:
                differences = [f"no answer: {error}"]
            for difference in differences:
                self.mismatches += 1
                yield Finding(data={"check": check.__name__, "difference": difference})

    def on_signal(self, signal: Signal) -> Finding | None:
        if isinstance(signal, EndOfSource):
            return Finding(data={"execs": self.execs, "mismatches": self.mismatches})
        return None

    def check_process(self, event: ExecEvent) -> Iterator[str]:
        answer = self.tree.get(ProcKey(event.process_entity_id, event.time))
        process = answer["process_info"]
        yield from different("pid", process.pid, event.pid)
        yield from different("ns_pid", process.ns_pid, event.ns_pid)
        yield from different("ppid", process.ppid, event.ppid)
        yield from different("name", process.name, event.comm)
        yield from different("cmd", process.cmd, event.argv)
        if event.tid not in process.thread_ids:
            yield f"thread {event.tid} is not among {sorted(process.thread_ids)}"

    def check_thread(self, event: ExecEvent) -> Iterator[str]:
        answer = self.tree.get(ThreadKey(event.thread_entity_id, event.time))
        thread = answer["thread_info"]
        yield from different("tid", thread.tid, event.tid)
        yield from different("ns_tid", thread.ns_tid, event.ns_tid)
        yield from different("pid", thread.pid, event.pid)

    def check_lineage(self, event: ExecEvent) -> Iterator[str]:
        answer = self.tree.get(LineageKey(event.process_entity_id, event.time, MAX_DEPTH))
        lineage = answer["process_lineage"]
        yield from different("first of the lineage", lineage[0].pid, event.pid)
        if len(lineage) > 1 + MAX_DEPTH:
            yield f"{len(lineage) - 1} ancestors where {MAX_DEPTH} were asked for"
        for child, parent in pairwise(lineage):
            made_by = child.original_parent_entity_id
            yield from different(f"parent of {child.pid}", parent.entity_id, made_by)
            if parent.start_time > child.start_time:
                yield f"parent {parent.pid} is younger than its child {child.pid}"


def different(what: str, answer: object, said: object) -> Iterator[str]:
    """A sentence, if the tree's answer is not what the event said."""
    if answer != said:
        yield f"{what}: the tree says {answer!r}, the event {said!r}"
