"""What differs is asked about again until the tree has learned more, or it is final.

An exec that is under way shows in /proc before it is told; a fork shows in the connector first.
As-of answers about the same instants settle it later, one way or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proctree_ds import DataNotFound

from .ledger import Ledger
from .rows import boot_clock

PATIENCE_NS: Final = 4_000_000_000
"""A difference that is older is final."""

Ask = Callable[[bool], bool]
"""Whether a question is settled by now; asked with True for the last time."""


@dataclass(slots=True)
class _Question:
    text: str
    ask: Ask
    since: int


class Questions:
    """Those that are open."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: list[_Question] = []

    def insist(self, text: str, ask: Ask) -> None:
        """Ask now, and if that does not settle it, after each of the coming sweeps."""
        question = _Question(text, ask, boot_clock())
        if not self._is_settled(question, last=False):
            self._open.append(question)

    def ask_again(self, *, last: bool = False) -> None:
        """Ask what is open once more; what has been open for too long is a failure."""
        still = []
        now = boot_clock()
        for question in self._open:
            final = last or now - question.since > PATIENCE_NS
            if self._is_settled(question, last=final):
                self._ledger.asked_again += 1
            elif final:
                self._ledger.fail(question.text)
            else:
                still.append(question)
        self._open = still

    def _is_settled(self, question: _Question, *, last: bool) -> bool:
        try:
            return question.ask(last)
        except DataNotFound as error:
            if last:
                question.text += f"; {error}"
            return False
