"""Every case has its tests: 48 things that must be true, each by its number.

A test is of a case if its name says so, `test_case_17_...`. What histories that are told can
express is in `tests/scenarios/`; `tests/live/` has the same of real processes. What the numbers
stand for is what the tests of that number say.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CASES = set(range(1, 49))

ONLY_THE_KERNEL_CAN = {
    14,  # failed execs and clones: there is nothing to tell of them
    29,  # a tracer: no event names it, so what must not happen can only be tried
}
"""Cases that no told history can express."""

NOT_LIVE = {
    7,  # the kernel names every parent with its start
    16,  # no two events can be made to have the same time
    37,  # the kernel makes no cycles
}
"""Cases that the kernel cannot be made to show."""

NAME = re.compile(r"test_case_(\d\d)_[a-z]")


def numbers_in(folder: str) -> set[int]:
    return {
        int(match[1]) for name in names_of_tests(folder) if (match := NAME.match(name)) is not None
    }


def names_of_tests(folder: str) -> Iterator[str]:
    for path in sorted((Path(__file__).parent / folder).rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name


def test_every_case_is_told_or_only_the_kernel_can() -> None:
    assert numbers_in("scenarios") == CASES - ONLY_THE_KERNEL_CAN


def test_every_case_is_live_where_the_kernel_can_show_it() -> None:
    assert numbers_in("live") == CASES - NOT_LIVE


def test_a_number_in_a_name_is_written_as_all_are() -> None:
    for folder in ("scenarios", "live"):
        for name in names_of_tests(folder):
            assert not name.startswith("test_case_") or NAME.match(name), name
