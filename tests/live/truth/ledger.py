"""What was compared, what differed and why; nothing is excused without a line here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

DIFFERENCES_LIMIT: Final = 100
"""Unexplained differences kept; all are counted."""

DIFFERENCE_LETTERS: Final = 2_000
"""How much is kept of each."""

EXPLANATIONS: Final = {
    "zombie": "it had ended, and nobody had waited for it yet",
    "dying": "it was on its way out: PF_EXITING in /proc, what do_exit() had freed is unreadable",
    "forgotten": "more ended threads or versions than are kept of one process: BeyondHorizon",
    "forbidden": "the kernel refuses to show it, even to root: a guarded process",
    "too long": "a path of more than a page cannot be read from /proc",
    "gone": "it ended between two of the reads of its row",
    "zombie before": "it had ended before the capture began, and so is in no picture",
    "being born": "it was made, and the kernel had not come to sched_process_fork yet",
    "exec under way": "the kernel had put in the new image, and came to sched_process_exec later",
    "handing over": "its parent had exited, and had not come to exit_notify() yet",
    "handed over early": "the last threads of its parent were all exiting: find_alive_thread()",
    "handed over dead": "its parent ended after it had itself, and left it to somebody else",
    "rename under way": "task_rename fires just before the new name is put in",
    "decorated name": "/proc adds to a kernel thread's comm what it works at, or its full name",
    "list torn": "a thread ended while task/ was listed: the kernel then stops or skips",
    "file moved": "the same device and inode under another path than at the exec",
    "place moved": "the directory was renamed or removed under the process",
    "argv rewritten": "the process wrote over its own arguments: same file, same exec",
    "argv cut": "the tree says that it keeps no more, and has the beginning",
    "not followed": "not followed live, and the answer says so",
    "paced": "more renames than are told of one task, and the answer says so",
}


@dataclass(slots=True)
class Explained:
    """One kind of explanation of one attribute: how often, for how long at most, an example."""

    count: int = 0
    longest_ns: int = 0
    example: str = ""


@dataclass(slots=True)
class Ledger:
    """The result of a run."""

    sweeps: int = 0
    rows: int = 0
    thread_rows: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    """Values compared, by attribute."""
    witnessed: Counter[str] = field(default_factory=Counter)
    """Notices of the connector that were checked, by kind."""
    explained: dict[tuple[str, str], Explained] = field(default_factory=dict)
    """By kind and attribute."""
    asked_again: int = 0
    """Differences that were gone once the tree had learned what came later."""
    unexplained: int = 0
    differences: list[str] = field(default_factory=list)

    def explain(self, kind: str, name: str, example: str, lasted_ns: int = 0) -> None:
        """Count one explained difference of the attribute `name`."""
        assert kind in EXPLANATIONS, kind
        entry = self.explained.setdefault((kind, name), Explained())
        entry.count += 1
        if not entry.example or lasted_ns > entry.longest_ns:
            entry.longest_ns = lasted_ns
            entry.example = example

    def explained_by(self, kind: str) -> int:
        """How many differences one kind of explanation explains."""
        return sum(entry.count for (of, _), entry in self.explained.items() if of == kind)

    def fail(self, text: str, story: Callable[[], str] = str) -> None:
        """Keep one difference that nothing explains; the story is told only of those kept."""
        self.unexplained += 1
        if len(self.differences) < DIFFERENCES_LIMIT:
            self.differences.append(f"{text}; {story()}"[:DIFFERENCE_LETTERS])
