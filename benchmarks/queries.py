"""Questions to a full tree: ProcKey, ThreadKey, LineageKey, and a parent with many past children.

Each answer is read, and not only made: the name and executable of every process, all of the
lineage's names.
"""

from __future__ import annotations

from random import Random

from benchmarks import lives
from benchmarks.timing import Figure, per_call_ns, settle_memory
from proctree_ds import DataSource, LineageKey, ProcessTree, ProcKey, ThreadKey, entity_id
from proctree_ds.model import Exit, Fork, Task

SAMPLE = 2_000
DEPTH = 5


def point_queries() -> list[Figure]:
    """A full tree of families six generations deep, asked about at random instants of life."""
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    keys: list[tuple[int, int]] = []
    time = lives.START
    tid = 1_000
    while len(tree.census.processes) + DEPTH <= tree.census.process_cache:
        parent = lives.parents()[len(keys) % lives.PARENTS]
        for _ in range(DEPTH):
            time += 1_000
            tid += 1
            task = Task(tid, time)
            tree.apply(Fork(time, task, parent, comm="sh", context=lives.CONTEXT))
            parent = task
        keys.append((entity_id(time, tid), time + 500))
    sample = Random(1).sample(keys, min(SAMPLE, len(keys)))
    settle_memory()
    ds = DataSource(tree)
    ages = [(entity, at) for entity, at in sample]
    proc_keys = [ProcKey(entity, at) for entity, at in ages]
    thread_keys = [ThreadKey(entity, at) for entity, at in ages]
    lineage_keys = [LineageKey(entity, at, DEPTH) for entity, at in ages]

    def ask_processes() -> None:
        for key in proc_keys:
            ds.get(key)["process_info"].name  # noqa: B018

    def ask_threads() -> None:
        for key in thread_keys:
            ds.get(key)["thread_info"].name  # noqa: B018

    def ask_lineages() -> None:
        for key in lineage_keys:
            ds.get(key)["process_lineage"]

    def read_lineages() -> None:
        for entity, at in ages:
            for ancestor in ds.lineage(entity, at, max_depth=DEPTH):
                ancestor.name  # noqa: B018

    return [
        *_told("ProcKey, name read", per_call_ns(ask_processes, len(ages))),
        *_told("ThreadKey, name read", per_call_ns(ask_threads, len(ages))),
        *_told(f"LineageKey, {DEPTH} ancestors", per_call_ns(ask_lineages, len(ages))),
        *_told(
            f"lineage, {DEPTH} ancestors, all names read", per_call_ns(read_lineages, len(ages))
        ),
    ]


def many_children(count: int = 1_000_000) -> list[Figure]:
    """The same lineage before and after the parent has had `count` children."""
    tree = ProcessTree()
    tree.apply_all(lives.beginning())
    settle_memory()
    ds = DataSource(tree)
    parent = lives.parents()[0]
    child = Task(999, lives.START)
    tree.apply(Fork(lives.START, child, parent))
    entity = entity_id(lives.START, 999)

    def ask() -> None:
        for _ in range(SAMPLE):
            ds.lineage(entity, lives.START + 10**12, max_depth=DEPTH)

    few = per_call_ns(ask, SAMPLE)
    for i in range(count):
        start = lives.START + 1_000 * (i + 1)
        task = Task(1_000 + i % 31_000, start)
        tree.apply(Fork(start, task, parent))
        tree.apply(Exit(start + 500, task))
    many = per_call_ns(ask, SAMPLE)
    return [
        *_told("lineage below a parent with 1 child", few),
        *_told(f"lineage below a parent with {count:,} past children", many),
    ]


def _told(name: str, figures: tuple[float, float]) -> list[Figure]:
    median, best = figures
    return [Figure(name, median / 1000, "us", f"best {best / 1000:.2f}")]
