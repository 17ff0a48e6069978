"""What the engine keeps of a signature that it runs, and whom each kind of event goes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from proctree_ds.detection import SignatureIdentity
from proctree_ds.report import SignatureStatistics
from proctree_ds.signature import Signature
from proctree_ds.signature_event import EventView, TaskEvent

__all__ = ["Plan", "Runner"]


class Runner:
    """One signature in the engine's care: its counters, and whether it still runs."""

    __slots__ = (
        "errors",
        "events",
        "findings",
        "identity",
        "is_open",
        "off_because",
        "on_event",
        "signature",
        "slow_calls",
        "timed_calls",
        "timed_ns",
        "timeouts",
    )

    def __init__(self, signature: Signature) -> None:
        about = signature.metadata
        self.signature = signature
        self.on_event = signature.on_event
        self.identity = SignatureIdentity(
            about.id, about.version, about.name, about.severity, about.techniques, about.tags
        )
        self.events = self.findings = self.errors = self.timeouts = 0
        self.slow_calls = self.timed_calls = self.timed_ns = 0
        self.is_open = False
        self.off_because: str | None = "not started"

    def wants(self, name: str, origin: str) -> bool:
        return self.off_because is None and any(
            name in selector.events and selector.origin in ("*", origin)
            for selector in self.signature.selectors
        )

    def statistics(self, waiting: int) -> SignatureStatistics:
        """What it did so far; `waiting` more events than it knows of were counted elsewhere."""
        events = self.events + waiting
        spent = self.timed_ns * events // self.timed_calls if self.timed_calls else 0
        return SignatureStatistics(
            events=events,
            findings=self.findings,
            errors=self.errors,
            timeouts=self.timeouts,
            slow_calls=self.slow_calls,
            nanoseconds=spent,
            is_enabled=self.off_because is None,
            off_because=self.off_because,
        )


Pairs = tuple[tuple[Callable[[Any], Any], Runner], ...]


class Plan:
    """Whom one kind of event goes to, by origin, and how many of it went there.

    Events are counted here, once each, and not at every signature.
    """

    __slots__ = ("container", "container_events", "host", "host_events", "is_split", "make")

    def __init__(
        self, make: Callable[[Any, EventView], TaskEvent] | None, host: Pairs, container: Pairs
    ) -> None:
        self.make = make
        self.host = host
        self.container = container
        self.is_split = host != container
        self.host_events = self.container_events = 0

    def add_to(self, counts: Counter[Runner]) -> None:
        """Add the events counted here to those of whom they went to."""
        for _, runner in self.host:
            counts[runner] += self.host_events
        for _, runner in self.container:
            counts[runner] += self.container_events
