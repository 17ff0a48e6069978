"""The load of the stream benchmarks: children of 64 long-lived parents, each forked, executed
and gone, as events or as the bytes that the kernel programs write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proctree_ds import wire_layout as wire
from proctree_ds.model import (
    Capabilities,
    Context,
    Event,
    Exec,
    Exit,
    FileInfo,
    Fork,
    Image,
    Namespaces,
    Snapshot,
    State,
    Task,
)

PARENTS: Final = 64
BATCH_LIVES: Final = 682
"""Lives in a batch: the 2,046 events that fit into one batch of the live source."""

START: Final = 10**12
STEP: Final = 50_000
"""Boot-clock ns from one birth to the next."""

CAPABILITIES: Final = Capabilities(0, 0, 0, (1 << 41) - 1, 0)
NAMESPACES: Final = Namespaces(*range(4026531834, 4026531842))
CONTEXT: Final = Context(
    1000,
    1000,
    1000,
    1000,
    1000,
    1000,
    CAPABILITIES,
    100,
    100,
    None,
    1000,
    "/user.slice",
    77,
    None,
    NAMESPACES,
)
LOADER: Final = FileInfo("/lib64/ld-linux-x86-64.so.2", False, 65024, 99, 0o100755, 0, 210_000)
EXECUTABLES: Final = [
    FileInfo(f"/usr/bin/tool{i}", False, 65024, 1000 + i, 0o100755, 0, 50_000) for i in range(50)
]
SHELL: Final = FileInfo("/usr/bin/bash", False, 65024, 5, 0o100755, 0, 1_200_000)
INIT: Final = Task(1, 1_000_000)


def parents() -> list[Task]:
    return [Task(100 + i, 10**9 + i) for i in range(PARENTS)]


def beginning() -> list[Event]:
    """Init and the parents, as the first picture shows them."""
    shell = {"comm": "bash", "executable": SHELL, "cwd": "/home/u", "root": "/", "context": CONTEXT}
    init = Snapshot(START - 2, INIT, {"comm": "init", "context": CONTEXT}, parent=Task(0, 0))
    return [init, *(Snapshot(START - 1, task, shell, parent=INIT) for task in parents())]


def batches(lives: int) -> Iterator[list[Event]]:
    """Fork, exec and exit of `lives` children, a batch at a time."""
    makers = parents()
    for first in range(0, lives, BATCH_LIVES):
        batch: list[Event] = []
        for i in range(first, min(first + BATCH_LIVES, lives)):
            start = START + i * STEP
            task = Task(1_000 + i % 31_000, start)
            parent = makers[i % PARENTS]
            executable = EXECUTABLES[i % len(EXECUTABLES)]
            batch.append(
                Fork(start + 40_000, task, parent, None, None, task.tid, task.tid, "bash", CONTEXT)
            )
            image = Image(
                executable,
                LOADER,
                None,
                (f"tool{i % 50}", "--input", str(i)),
                False,
                {},
                False,
                start + 41_000,
            )
            state = State(f"tool{i % 50}", image, "/home/u", "/", CONTEXT)
            batch.append(Exec(start + 41_000, task, state, parent, None, task.tid, task.tid))
            batch.append(Exit(start + 45_000, task, None, parent, 0, None, False, True, INIT))
        yield batch


def raw_batches(lives: int) -> Iterator[list[bytes]]:
    """The same as the records that the kernel programs write, a batch at a time."""
    context = wire.CONTEXT.pack(
        *(1000,) * 6,
        0,
        0,
        0,
        (1 << 41) - 1,
        0,
        100,
        100,
        0,
        0,
        77,
        *range(4026531834, 4026531842),
    )
    comms = [b"tool%d" % i for i in range(len(EXECUTABLES))]
    places = [_places(executable) for executable in EXECUTABLES]
    init = _task(INIT)
    makers = [_task(task) for task in parents()]
    fork_word = wire.first_word(wire.FORK)
    exec_word = wire.first_word(wire.EXEC)
    exit_word = wire.first_word(wire.EXIT)
    for first in range(0, lives, BATCH_LIVES):
        batch: list[bytes] = []
        for i in range(first, min(first + BATCH_LIVES, lives)):
            start = START + i * STEP
            tid = 1_000 + i % 31_000
            task = _task(Task(tid, start))
            parent = makers[i % PARENTS]
            kind = i % len(EXECUTABLES)
            identity = (task, task, parent, tid, tid)
            argv = b"%s\0--input\0%d\0" % (comms[kind], i)
            paths, fixed = places[kind]
            batch.append(
                wire.FORK_RECORD.pack(
                    fork_word & 0xFFFF,
                    fork_word >> 16,
                    0,
                    start + 40_000,
                    *identity,
                    parent,
                    b"bash",
                    context,
                )
            )
            batch.append(
                wire.EXEC_RECORD.pack(
                    exec_word & 0xFFFF,
                    exec_word >> 16,
                    wire.HAS_ARGV | wire.HAS_ENV,
                    start + 41_000,
                    *identity,
                    comms[kind],
                    context,
                    tid,
                    len(paths),
                    0,
                    0,
                    len(argv),
                    0,
                    fixed,
                )
                + paths
                + argv
            )
            batch.append(
                wire.EXIT_RECORD.pack(
                    exit_word & 0xFFFF,
                    exit_word >> 16,
                    wire.GROUP_EXIT,
                    start + 45_000,
                    *identity,
                    init,
                    0,
                    0,
                )
            )
        yield batch


def _places(executable: FileInfo) -> tuple[bytes, bytes]:
    """The paths of one exec, leaf first, and the fixed-size part that says how long they are."""
    paths = [_leaf_first(path) for path in (executable.path, LOADER.path, "/home/u", "")]
    files = (
        _file(file, len(path)) for file, path in zip((executable, LOADER), paths, strict=False)
    )
    known = wire.DIRECTORIES.pack(len(paths[2]), len(paths[3]), wire.DIRECTORIES_KNOWN, 0)
    return b"".join(paths), wire.PLACES.pack(*files, known)


def _leaf_first(path: str | None) -> bytes:
    assert path is not None
    return b"".join(part.encode() + b"\0" for part in reversed(path.split("/")) if part)


def _file(file: FileInfo, path_length: int) -> bytes:
    device = 254 << 20
    return wire.FILE.pack(
        file.inode,
        file.size,
        0,
        0,
        device,
        file.mode,
        file.owner,
        1,
        wire.FILE_PRESENT,
        path_length,
    )


def _task(task: Task) -> bytes:
    assert task.start_time is not None
    return wire.TASK.pack(task.start_time, task.tid, 0)
