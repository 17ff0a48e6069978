"""What `proctree-detect` does beside the run itself: figures, health, few rights, reloading.

All of it happens in the thread of the run, between two batches; only the endpoint has threads of
its own.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from proctree_ds.cli.console import Console, number

if TYPE_CHECKING:
    from proctree_ds.pipeline import Pipeline
    from proctree_ds.registry import Registry
    from proctree_ds.service.endpoint import Endpoint
    from proctree_ds.service.metrics import RunFigures

__all__ = ["LOSS_NEWS_SECONDS", "Service", "ServiceOptions"]

LOSS_NEWS_SECONDS: Final = 60.0
"""The shortest time between two warnings that events were lost."""
_LIBRARY: Final = Path(__file__).parent.parent


class ServiceOptions(msgspec.Struct, frozen=True):
    """`metrics` is the address to listen on, `user` whom to become once the source is open."""

    metrics: tuple[str, int] | None = None
    user: str | None = None
    keep_privileges: bool = False


class Service:
    """Attends to a run: `prepare` once the source is open, `attend` before it, `batch` in it."""

    def __init__(
        self, options: ServiceOptions, console: Console, registry: Registry, is_live: bool
    ) -> None:
        from proctree_ds.service.health import Health
        from proctree_ds.service.notify import Notifier

        self._options = options
        self._console = console
        self._registry = registry
        self._tells_loss = is_live  # of a replay the summary does
        self._health = Health()
        self._notifier = Notifier()
        self._terminals = [n for n in (0, 1, 2) if _is_terminal(n)]
        self._endpoint: Endpoint | None = None
        self._pipeline: Pipeline | None = None
        self._figures: RunFigures | None = None
        self._is_ready = False
        self._reload_wanted = False
        self._reloads = 0
        self._loss_told = 0
        self._tell_loss_at = 0.0

    def prepare(self, keep: set[str] | None, readable: Sequence[str]) -> None:
        """Take the port, and give up all capabilities but `keep`; with None all stay.

        What `readable` names will be read later. Raises `ServiceError`.
        """
        if self._options.metrics is not None:
            from proctree_ds.service.endpoint import Endpoint
            from proctree_ds.service.metrics import RunFigures

            self._figures = RunFigures(messages_dropped=lambda: self._console.dropped)
            self._endpoint = Endpoint(*self._options.metrics)
        if keep is None or self._options.keep_privileges:
            return
        from proctree_ds.service.privileges import drop_privileges, has_any

        if has_any() or self._options.user is not None:
            files = (str(file) for place in readable for file in Path(place).glob("*.py"))
            places = [str(_LIBRARY), *filter(os.path.isdir, sys.path), *readable, *files]
            kept = drop_privileges(keep, self._options.user, places)
            self._console.say(str(kept), capabilities=list(kept.capabilities), user=kept.user)

    def attend(self, pipeline: Pipeline) -> None:
        """From here on figures are given. Called once, before the run."""
        self._pipeline = pipeline
        if self._endpoint is None or self._figures is None:
            return
        from proctree_ds.service.metrics import health_page, metrics_page

        self._figures.load_failures = len(self._registry.failures)
        self._endpoint.start(
            {
                "/metrics": metrics_page(pipeline, self._health, self._figures),
                "/health": health_page(self._health),
            }
        )
        self._console.say(f"figures at {self._endpoint.url}/metrics", url=self._endpoint.url)

    def batch(self) -> None:
        """To be called after every batch."""
        pipeline = self._pipeline
        assert pipeline is not None
        self._health.beat(pipeline.loss_windows)
        self._notifier.beat()
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready(self._status())
        if self._tells_loss and pipeline.loss_windows != self._loss_told:
            self._tell_loss(pipeline)
        if self._reload_wanted:
            self._reload_wanted = False
            self._reload(pipeline)

    def hang_up(self) -> bool:
        """SIGHUP has come. True if the run is to end: its terminal has gone. Safe in a handler."""
        if any(not _is_terminal(n) for n in self._terminals):
            return True
        self._reload_wanted = True
        return False

    def trouble(self, part: str) -> None:
        """A part of the output was given up."""
        if self._figures is not None:
            self._figures.troubles[part] += 1

    def end(self) -> None:
        """The run has ended, or never began. Twice is fine."""
        self._health.end("the source has ended")
        self._notifier.close()
        if self._endpoint is not None:
            self._endpoint.close()

    def stopping(self) -> None:
        """The run is about to end. Safe in a signal handler."""
        self._health.end("the run is about to end")
        self._notifier.stopping()

    def _reload(self, pipeline: Pipeline) -> None:
        self._notifier.reloading()
        before = pipeline.running_signatures
        fresh = self._registry = self._registry.reload(before)
        for failure in fresh.failures:
            self._console.has_failed = True
            self._console.warn(f"not loaded: {failure}", path=failure.path, line=failure.line)
        pipeline.replace_signatures(fresh.signatures)
        now = pipeline.running_signatures
        same = sum(any(new is old for old in before) for new in now)
        if self._figures is not None:
            self._figures.reloads += 1
            self._figures.load_failures = len(fresh.failures)
        self._console.say(
            f"signatures read again: {number(len(now), 'signature')} on, {same} as before,"
            f" {len(now) - same} anew",
            signatures=len(now),
            unchanged=same,
            failures=len(fresh.failures),
        )
        self._notifier.ready(self._status())

    def _status(self) -> str:
        assert self._pipeline is not None
        return f"watching with {number(len(self._pipeline.running_signatures), 'signature')}"

    def _tell_loss(self, pipeline: Pipeline) -> None:
        now = monotonic()
        if now < self._tell_loss_at:
            return
        self._tell_loss_at = now + LOSS_NEWS_SECONDS
        self._loss_told = pipeline.loss_windows
        lost = f"{pipeline.lost:,}" if pipeline.lost else "an unknown number"
        self._console.warn(
            f"events were lost: {lost} in {number(pipeline.loss_windows, 'loss window')} so far",
            lost=pipeline.lost,
            loss_windows=pipeline.loss_windows,
        )


def _is_terminal(descriptor: int) -> bool:
    """Whether it is a terminal that is still there: of one that was hung up this is an error."""
    try:
        termios.tcgetattr(descriptor)
    except (termios.error, OSError):
        return False
    return True
