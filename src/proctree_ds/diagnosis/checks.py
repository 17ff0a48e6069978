"""What a diagnosis is made of: checks, each with a verdict, and where on this machine they look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Check", "Diagnosis", "Places", "Verdict"]

Verdict = Literal["ok", "degraded", "missing"]
"""As it should be; there, but not all that it could be; not there."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    `found` is what was found, `cost` what is lost by it and `remedy` what to do about it; both are
    None where all is well. Without a check that `is_required`, nothing can be captured live.
    """

    name: str
    verdict: Verdict
    found: str
    cost: str | None = None
    remedy: str | None = None
    is_required: bool = False


class Diagnosis(msgspec.Struct, frozen=True):
    """All checks, in the order in which one rests on the other."""

    checks: tuple[Check, ...]

    @property
    def can_capture(self) -> bool:
        """Whether a live capture can run here, now, by this user."""
        return self._first_obstacle is None

    @property
    def shortest_way(self) -> str | None:
        """What to do first so that a live capture can run; None where it can."""
        obstacle = self._first_obstacle
        return None if obstacle is None else obstacle.remedy

    @property
    def _first_obstacle(self) -> Check | None:
        return next((c for c in self.checks if c.is_required and c.verdict == "missing"), None)


class Places(msgspec.Struct, frozen=True):
    """Where on this machine a diagnosis looks. Only tests have a reason to look elsewhere."""

    proc: Path = Path("/proc")
    kernel_types: Path = Path("/sys/kernel/btf/vmlinux")
    lockdown: Path = Path("/sys/kernel/security/lockdown")
    tracing: Path = Path("/sys/kernel/tracing/events")
    bpf_mount: Path = Path("/sys/fs/bpf")
    system_packages: Path = Path("/usr/lib/python3/dist-packages")
    """Where the distribution puts Python packages: iovisor's BCC comes from there."""
