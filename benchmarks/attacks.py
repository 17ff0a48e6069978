"""Hostile processes against a tree, and what they cost those who have nothing to do with them.

Each attack is a stream of events as long as one likes. Around it stand a few bystanders, with a
past of their own: measured is how long questions about them take before and after, what an event
of the attack costs, and how much memory is held in the end. `tests/scenarios/test_bounds.py` runs
the same attacks, shorter and against a smaller tree, and counts work instead of time.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any, Final, NamedTuple

from benchmarks.timing import Figure, cpu_seconds, per_call_ns, settle_memory
from proctree_ds import DataSource, ProcessTree, entity_id
from proctree_ds.model import (
    CLOCK_TICK_NS,
    UNKNOWN_CONTEXT,
    Change,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Image,
    Loss,
    Namespaces,
    Origin,
    Snapshot,
    State,
    Task,
)

__all__ = ["AFTER", "ATTACKS", "Attack", "ask", "bystanders", "measure"]

# --------------------------------------------------------------------------------- bystanders

INIT: Final = Task(1, 1)
DAEMON: Final = Task(300, 1_000)
SHELL: Final = Task(301, 2_000)
WORKER: Final = Task(302, 3_000)
THREAD: Final = Task(303, 4_000)
CHILD: Final = Task(304, 5_000)
GONE: Final = Task(305, 6_000)
EVIL: Final = Task(666, 10_000)
"""The hostile process: a child of the daemon, as the shell is."""

BEGIN: Final = 1_000_000_000
"""When an attack begins."""
AFTER: Final = 2**62
"""An instant after every attack."""


def _run(task: Task, path: str, at: int, *words: str, context: Context = UNKNOWN_CONTEXT) -> Exec:
    image = Image(FileInfo(path), argv=(path, *words), exec_time=at)
    return Exec(at, task, State(path.rpartition("/")[2], image, "/", "/", context))


def bystanders() -> list[Event]:
    """Init, a daemon, its shell and worker with a past, and the process that is hostile later."""
    return [
        Snapshot(500, INIT, {"comm": "init"}, parent=Task(0, 0), ns_pid=1),
        Fork(1_000, DAEMON, INIT),
        _run(DAEMON, "/usr/sbin/sshd", 1_100),
        Fork(2_000, SHELL, DAEMON),
        _run(SHELL, "/bin/bash", 2_100),
        Change(2_200, SHELL, {"cwd": "/home"}),
        Change(2_300, SHELL, {"euid": 1000, "uid": 1000}),
        Fork(3_000, WORKER, SHELL),
        _run(WORKER, "/usr/bin/make", 3_100),
        Change(3_200, WORKER, {"comm": "make-1"}),
        Change(3_300, WORKER, {"comm": "make-2"}),
        Fork(4_000, THREAD, SHELL, leader=WORKER, creator=WORKER),
        Change(4_100, THREAD, {"comm": "helper"}, leader=WORKER),
        Fork(5_000, CHILD, WORKER),
        Fork(6_000, GONE, WORKER),
        Exit(6_500, GONE, exit_code=3, reaper=INIT),
        Fork(10_000, EVIL, DAEMON),
        _run(EVIL, "/tmp/evil", 11_000),
    ]


def ask(ds: DataSource) -> list[Any]:
    """Questions about the bystanders, and what can be read of the answers."""
    worker, child = entity_id(3_000, 302), entity_id(5_000, 304)
    answers: list[Any] = []
    for at in (3_150, 3_250, 6_200, AFTER):
        info = ds.process(worker, at)
        answers += [info.name, info.execution_binary, info.uid, info.cwd, info.ppid, info.is_alive]
        answers += [info.child_process_ids.keys() - {305}]
        answers += [each.name for each in ds.lineage(child, max(at, 5_000))]
        answers += [ds.pid(302, at).entity_id]
    answers += [ds.thread(entity_id(4_000, 303), at).name for at in (4_050, AFTER)]
    answers += [each.pid for each in ds.children(worker, AFTER)]
    return answers


# ------------------------------------------------------------------------------------ attacks


def renames(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Change(BEGIN + i, EVIL, {"comm": f"n{i}"})


def execs(count: int) -> Iterator[Event]:
    for i in range(count):
        yield _run(EVIL, f"/tmp/evil{i}", BEGIN + i, f"{i}" * 100)


def credentials(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Change(BEGIN + i, EVIL, {"euid": i, "cwd": f"/{i}"})


def long_histories(count: int) -> Iterator[Event]:
    """Many processes, each of which executes again and again, with long arguments."""
    for i in range(count):
        task = Task(10_000 + i // 50, BEGIN + i // 50 * 50_000)
        assert task.start_time is not None
        at = task.start_time + i % 50
        yield _run(task, "/tmp/x", at, f"{i}" * 1_000) if i % 50 else Fork(at, task, EVIL)


def short_children(count: int) -> Iterator[Event]:
    for i in range(count):
        task = Task(10_000 + i % 20_000, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, task, EVIL)
        yield Exit(BEGIN + 10 * i + 5, task, group_exit=True, reaper=INIT)


def living_children(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Fork(BEGIN + i, Task(10_000 + i, BEGIN + i), EVIL)


def fork_bomb(count: int) -> Iterator[Event]:
    """Every process makes two more."""
    for i in range(count):
        maker = Task(10_000 + (i - 1) // 2, BEGIN + (i - 1) // 2) if i else EVIL
        yield Fork(BEGIN + i, Task(10_000 + i, BEGIN + i), maker)


def short_threads(count: int) -> Iterator[Event]:
    for i in range(count):
        thread = Task(10_000 + i % 20_000, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, thread, DAEMON, leader=EVIL, creator=EVIL)
        yield Exit(BEGIN + 10 * i + 5, thread, leader=EVIL, group_exit=False)


def living_threads(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Fork(BEGIN + i, Task(10_000 + i, BEGIN + i), DAEMON, leader=EVIL, creator=EVIL)


def children_with_threads(count: int) -> Iterator[Event]:
    """Short children with a short thread each."""
    for i in range(count):
        start = BEGIN + 10 * i
        task, thread = Task(10_000 + i % 20_000, start), Task(40_000 + i % 20_000, start + 1)
        yield Fork(start, task, EVIL)
        yield Fork(start + 1, thread, EVIL, leader=task, creator=task)
        yield Exit(start + 2, thread, leader=task, group_exit=False)
        yield Exit(start + 3, task, group_exit=True, reaper=INIT)


def threads_that_execute(count: int) -> Iterator[Event]:
    """A thread is made and executes a program, which ends all others, again and again."""
    for i in range(count):
        start, thread = BEGIN + 10 * i, Task(10_000 + i % 20_000, BEGIN + 10 * i)
        yield Fork(start, thread, DAEMON, leader=EVIL, creator=EVIL)
        yield Exit(start + 3, EVIL, group_exit=False)
        yield Exec(start + 5, EVIL, {"comm": f"x{i}", "image": Image(exec_time=start + 5)},
                   old_tid=thread.tid)  # fmt: skip


def threads_in_a_row(count: int) -> Iterator[Event]:
    """Each thread makes the next one and exits."""
    creator = EVIL
    for i in range(count):
        thread = Task(10_000 + i % 20_000, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, thread, DAEMON, leader=EVIL, creator=creator)
        if i:
            yield Exit(BEGIN + 10 * i + 5, creator, leader=EVIL, group_exit=False)
        creator = thread


def one_tid(count: int) -> Iterator[Event]:
    """One tid for all children. Of every other one the exit is lost."""
    for i in range(count):
        task = Task(10_000, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, task, EVIL)
        if i % 2:
            yield Exit(BEGIN + 10 * i + 5, task, group_exit=True, reaper=INIT)


def one_tid_for_threads(count: int) -> Iterator[Event]:
    for i in range(count):
        thread = Task(10_000, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, thread, DAEMON, leader=EVIL, creator=EVIL)
        yield Exit(BEGIN + 10 * i + 5, thread, leader=EVIL, group_exit=False)


def subreaper_flags(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Change(BEGIN + i, EVIL, {}, subreaper=i % 2 == 0)


def new_parents(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Change(BEGIN + i, EVIL, {}, parent=(INIT, DAEMON, SHELL)[i % 3])


def heirs(count: int) -> Iterator[Event]:
    """A chain of reapers, each of which dies and leaves an orphan to the next."""
    for i in range(count):
        start = BEGIN + 10 * i
        heir = Task(10_000 + 2 * i, start)
        yield Fork(start, heir, EVIL)
        yield Fork(start + 1, Task(10_001 + 2 * i, start + 1), heir)
        if i:
            last = Task(heir.tid - 2, start - 10)
            yield Exit(start + 2, last, group_exit=True, reaper=heir)


def no_heirs(count: int) -> Iterator[Event]:
    """Processes with a living child exit, and nobody says who takes over."""
    for i in range(count):
        start = BEGIN + 10 * i
        task = Task(10_000 + 2 * i, start)
        yield Fork(start, task, EVIL)
        yield Fork(start + 1, Task(10_001 + 2 * i, start + 1), task)
        yield Exit(start + 2, task, group_exit=True)


def strangers(count: int) -> Iterator[Event]:
    """Forks by parents and creators that never come, named in every way."""
    for i in range(count):
        start, ghost = BEGIN + 10 * i, 100_000 + i
        yield Fork(start, Task(10_000 + i, start), EVIL, creator=Task(ghost, start - 5))
        yield Fork(start + 1, Task(30_000 + i, start + 1), Task(ghost))
        yield Fork(start + 2, Task(50_000 + i, start + 2), Task(ghost, start - 6))


def one_stranger(count: int) -> Iterator[Event]:
    """Many name one pid as their parent, and that pid comes again and again."""
    for i in range(count):
        start = BEGIN + 10 * i
        yield Fork(start, Task(10_000 + i % 20_000, start), Task(9_999))
        yield Fork(start + 1, Task(9_999, start + 1), EVIL)


def rows_of_proc(count: int) -> Iterator[Event]:
    """Children of parents known by name only, and rows of /proc that may mean these parents."""
    for i in range(count):
        start = BEGIN + i * CLOCK_TICK_NS
        yield Fork(start + 99, Task(10_000 + i, start + 99), Task(100_000 + i, start + 50))
        row = Task(200_000 + i, start)
        yield Snapshot(start + 100, row, {"comm": "row"}, parent=EVIL, origin="procfs")
        yield Snapshot(start + 101, Task(row.tid, start + 5), {"comm": "row"}, parent=EVIL)


def losses(count: int) -> Iterator[Event]:
    for i in range(count):
        yield Loss(BEGIN + 10 * i + 5, BEGIN + 10 * i, 1)


def deep_chain(count: int) -> Iterator[Event]:
    """Each makes one child and lives on."""
    parent = EVIL
    for i in range(count):
        task = Task(10_000 + i, BEGIN + i)
        yield Fork(BEGIN + i, task, parent)
        parent = task


def daemons(count: int) -> Iterator[Event]:
    """Each makes one child and exits."""
    parent = EVIL
    for i in range(count):
        task = Task(10_000 + i, BEGIN + 10 * i)
        yield Fork(BEGIN + 10 * i, task, parent)
        if i:
            yield Exit(BEGIN + 10 * i + 5, parent, group_exit=True, reaper=INIT)
        parent = task


def late_changes(count: int) -> Iterator[Event]:
    """A parent of many, about whom everything arrives late."""
    for i in range(count):
        yield Fork(BEGIN + i, Task(10_000 + i, BEGIN + i), EVIL)
        yield Change(BEGIN + i // 2, EVIL, {"euid": i})


def namespaces(count: int) -> Iterator[Event]:
    """Inits of pid namespaces, each with a child that is orphaned."""
    for i in range(count):
        start = BEGIN + 10 * i
        context = Context(namespaces=Namespaces(pid=4_026_540_000 + i))
        first, second, third = (Task(10_000 + 3 * i + n, start + n) for n in range(3))
        yield Fork(start, first, EVIL, ns_pid=1, context=context)
        yield Fork(start + 1, second, first, ns_pid=2)
        yield Fork(start + 2, third, second, ns_pid=3)
        yield Exit(start + 3, second, group_exit=True)


def lies(count: int) -> Iterator[Event]:
    """Events about few tasks that contradict each other in every way."""
    random = Random(6)
    some = [Task(10_000 + i % 5, BEGIN + random.randrange(count)) for i in range(15)]
    values: list[dict[str, Any]] = [{"comm": "x"}, {"uid": 5}, {"cwd": "/"}, {"image": Image()}, {}]

    def at() -> int:
        return BEGIN + random.randrange(-10, count + 10)

    def one() -> Task:
        return random.choice([*some, EVIL])

    def maybe() -> Task | None:
        return random.choice([None, one(), Task(one().tid), Task(0, 0)])

    for _ in range(count):
        task, leader, flag = (
            one(),
            random.choice([None, None, one()]),
            random.choice([None, True, False]),
        )
        origin: Origin = random.choice(["event", "iterator", "procfs"])
        match random.randrange(6):
            case 0:
                start = task.start_time or 0
                yield Fork(start, task, maybe(), leader=leader, creator=maybe(), ns_pid=flag)
            case 1:
                yield Exec(at(), task, random.choice(values), parent=maybe())
            case 2:
                yield Exit(
                    at(), task, leader, maybe(), group_exit=flag, reaper=maybe(), origin=origin
                )
            case 3:
                yield Change(at(), task, random.choice(values), leader, maybe(), flag)
            case 4:
                given = random.choice(values)
                yield Snapshot(at(), task, given, leader, maybe(), subreaper=flag, origin=origin)
            case _:
                yield Loss(at(), at())


class Attack(NamedTuple):
    """A stream of events, how long it is in the benchmark, and how long in the tests."""

    stream: Callable[[int], Iterator[Event]]
    full: int
    short: int


ATTACKS: Final[dict[str, Attack]] = {
    attack.stream.__name__.replace("_", " "): attack
    for attack in (
        Attack(renames, 1_000_000, 1_000),
        Attack(execs, 10_000, 1_000),
        Attack(credentials, 1_000_000, 1_000),
        Attack(long_histories, 100_000, 3_000),
        Attack(short_children, 1_000_000, 2_000),
        Attack(living_children, 100_000, 4_000),
        Attack(fork_bomb, 100_000, 4_000),
        Attack(short_threads, 200_000, 4_000),
        Attack(living_threads, 100_000, 5_000),
        Attack(children_with_threads, 100_000, 2_000),
        Attack(threads_in_a_row, 200_000, 4_000),
        Attack(threads_that_execute, 20_000, 1_300),
        Attack(one_tid, 100_000, 2_000),
        Attack(one_tid_for_threads, 100_000, 3_000),
        Attack(subreaper_flags, 1_000_000, 500),
        Attack(new_parents, 100_000, 500),
        Attack(heirs, 10_000, 500),
        Attack(no_heirs, 10_000, 500),
        Attack(strangers, 20_000, 11_000),
        Attack(one_stranger, 20_000, 14_000),
        Attack(rows_of_proc, 20_000, 1_000),
        Attack(losses, 100_000, 9_000),
        Attack(deep_chain, 100_000, 4_000),
        Attack(daemons, 100_000, 2_000),
        Attack(late_changes, 20_000, 1_000),
        Attack(namespaces, 10_000, 1_600),
        Attack(lies, 100_000, 12_000),
    )
}


# ------------------------------------------------------------------------------- measurements


def measure() -> list[Figure]:
    """Every attack in full: what an event costs, what is held, and questions before and after."""
    return [figure for name, attack in ATTACKS.items() for figure in _figures(name, attack)]


def _figures(name: str, attack: Attack) -> list[Figure]:
    tree = ProcessTree()
    tree.apply_all(bystanders())
    ds = DataSource(tree)
    truth = ask(ds)
    settle_memory()
    before, _ = per_call_ns(lambda: ask(ds), 1)
    costs = [_spent(tree, batch) / len(batch) for batch in _batches(attack)]
    after, _ = per_call_ns(lambda: ask(ds), 1)
    tree._check()
    assert ask(ds) == truth, name
    events = sum(len(batch) for batch in _batches(attack))
    slowest = f"{events:,} events; {max(costs) * 1e6:.1f} in the slowest batch"
    return [
        Figure(f"{name}: an event", sum(costs) / len(costs) * 1e6, "us", slowest),
        Figure(f"{name}: memory held", _held(attack) / 2**20, "MiB"),
        Figure(f"{name}: questions about others", after / 1e3, "us", f"before {before / 1e3:.0f}"),
    ]


def _batches(attack: Attack) -> Iterator[list[Event]]:
    """The attack in batches of the size that a live source has."""
    stream = attack.stream(attack.full)
    while batch := list(islice(stream, 2_048)):
        yield batch


def _spent(tree: ProcessTree, batch: list[Event]) -> float:
    return cpu_seconds(lambda: tree.apply_all(batch))


def _held(attack: Attack) -> int:
    """How many bytes a tree has allocated after an attack."""
    tracemalloc.start()
    tree = ProcessTree()
    tree.apply_all(bystanders())
    for batch in _batches(attack):
        tree.apply_all(batch)
    del batch
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held
