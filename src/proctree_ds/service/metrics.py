"""The figures of a run in Prometheus' text format, taken from its counters when they are asked for.

Nothing is counted here. Label values are names from this library's code, and ids of signatures:
there are never more of them than what is loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, Final, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from proctree_ds.faults import FAULTS
from proctree_ds.pipeline import Pipeline
from proctree_ds.service.endpoint import Page
from proctree_ds.service.health import Health
from proctree_ds.sinks.escape import visible

__all__ = ["FIGURES", "Figure", "RunFigures", "health_page", "metrics_page"]

_NANOSECONDS: Final = 1e9
_ATTEMPTS: Final = 100
_PARTS: Final = ("log", "recording", "sink")

T = TypeVar("T")
Samples = Iterable[tuple[tuple[str, ...], float]]
"""Label values, and the value."""


class Figure(msgspec.Struct, frozen=True):
    """One metric: a counter if its name ends in `_total`, else a gauge."""

    name: str
    labels: tuple[str, ...]
    about: str

    @property
    def kind(self) -> str:
        """`counter` or `gauge`."""
        return "counter" if self.name.endswith("_total") else "gauge"


FIGURES: Final = (
    Figure(
        "proctree_build_info",
        ("version", "python"),
        "Always 1: the version of this program, and of Python.",
    ),
    Figure(
        "proctree_healthy",
        (),
        "1 while /health gives 200, else 0.",
    ),
    Figure(
        "proctree_last_batch_age_seconds",
        (),
        "Seconds since the reader last took something, be it nothing; a source that is "
        "quiet is asked about once a second.",
    ),
    Figure(
        "proctree_events_total",
        ("kind",),
        "Events that went through the tree.",
    ),
    Figure(
        "proctree_lost_total",
        (),
        "Events that never arrived, as far as anybody counted them.",
    ),
    Figure(
        "proctree_loss_windows_total",
        (),
        "How often events were lost.",
    ),
    Figure(
        "proctree_source_total",
        ("counter",),
        "What the source counts: what was lost, by kind and cause; what was cut or "
        "malformed; repairs after a loss.",
    ),
    Figure(
        "proctree_processes",
        (),
        "Processes in memory.",
    ),
    Figure(
        "proctree_threads",
        (),
        "Tasks in memory, leaders included.",
    ),
    Figure(
        "proctree_processes_limit",
        (),
        "Processes that have room: process-cache.",
    ),
    Figure(
        "proctree_threads_limit",
        (),
        "Tasks that have room: thread-cache.",
    ),
    Figure(
        "proctree_evicted_total",
        ("what",),
        "What had to leave memory, `living_processes` and `living_threads` among it.",
    ),
    Figure(
        "proctree_dropped_total",
        ("what",),
        "History that was dropped because of a limit.",
    ),
    Figure(
        "proctree_tree_total",
        ("counter",),
        "What else the tree counts.",
    ),
    Figure(
        "proctree_faults_total",
        ("kind",),
        "Input that could not be true.",
    ),
    Figure(
        "proctree_horizon_timestamp_seconds",
        (),
        "Since when the history of all processes is whole, in seconds since the epoch; 0 "
        "while nothing was dropped.",
    ),
    Figure(
        "proctree_findings_total",
        (),
        "Findings of all signatures.",
    ),
    Figure(
        "proctree_signatures",
        (),
        "Signatures that are on.",
    ),
    Figure(
        "proctree_signature_enabled",
        ("signature",),
        "1 while the signature is on, 0 once it is switched off.",
    ),
    Figure(
        "proctree_signature_events_total",
        ("signature",),
        "Events that the signature was called with. These counters begin at 0 again when "
        "SIGHUP loads another version of it.",
    ),
    Figure(
        "proctree_signature_findings_total",
        ("signature",),
        "Its findings.",
    ),
    Figure(
        "proctree_signature_errors_total",
        ("signature",),
        "Calls that raised, or gave something else than findings.",
    ),
    Figure(
        "proctree_signature_timeouts_total",
        ("signature",),
        "Calls that had to be interrupted.",
    ),
    Figure(
        "proctree_signature_slow_calls_total",
        ("signature",),
        "Calls that were slow.",
    ),
    Figure(
        "proctree_signature_seconds_total",
        ("signature",),
        "Seconds spent in it, estimated from the calls that were timed.",
    ),
    Figure(
        "proctree_reloads_total",
        (),
        "How often SIGHUP had the signatures read again.",
    ),
    Figure(
        "proctree_load_failures",
        (),
        "What could not be loaded when signatures were read last.",
    ),
    Figure(
        "proctree_troubles_total",
        ("part",),
        "Outputs that were given up: the event log (`log`), the place of findings (`sink`).",
    ),
    Figure(
        "proctree_messages_dropped_total",
        (),
        "Messages that were left out on standard error: too many, or no room.",
    ),
)
"""Every metric of its own that the endpoint gives, in that order."""


class RunFigures(msgspec.Struct):
    """What is counted outside of the pipeline. Written by the thread that runs it."""

    reloads: int = 0
    load_failures: int = 0
    messages_dropped: Callable[[], int] = lambda: 0
    troubles: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(_PARTS, 0))


def metrics_page(pipeline: Pipeline, health: Health, run: RunFigures) -> Page:
    """A page that has all `FIGURES` as of when it is asked for, and `process_*` of this process."""
    registry = CollectorRegistry()
    registry.register(_Figures(pipeline, health, run))
    ProcessCollector(registry=registry)
    return lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry))


def health_page(health: Health) -> Page:
    """A page that says `ok` with status 200, or with 503 what is wrong."""

    def page() -> tuple[int, str, bytes]:
        problem = health.problem()
        text = "ok" if problem is None else problem
        return (200 if problem is None else 503), "text/plain; charset=utf-8", text.encode() + b"\n"

    return page


class _Figures(Collector):
    def __init__(self, pipeline: Pipeline, health: Health, run: RunFigures) -> None:
        self._pipeline = pipeline
        self._health = health
        self._run = run
        try:
            self._version = metadata.version("proctree-ds")
        except metadata.PackageNotFoundError:  # run from a checkout
            self._version = "unknown"

    def describe(self) -> Iterable[Metric]:
        """The names, without asking a pipeline that may not have begun."""
        return [_family(figure) for figure in FIGURES]

    def collect(self) -> Iterator[Metric]:
        """All figures as of now."""
        values = self._values()
        for figure in FIGURES:
            family = _family(figure)
            for labels, value in values[figure.name]:
                family.add_metric(labels, value)
            yield family

    def _values(self) -> Mapping[str, Samples]:
        health, run = self._health, self._run
        values: dict[str, Samples] = {
            "proctree_build_info": [((self._version, platform.python_version()), 1)],
            "proctree_healthy": [((), float(health.problem() is None))],
            "proctree_reloads_total": [((), run.reloads)],
            "proctree_load_failures": [((), run.load_failures)],
            "proctree_messages_dropped_total": [((), run.messages_dropped())],
            "proctree_troubles_total": [((part,), run.troubles[part]) for part in _PARTS],
        }
        silence = health.silence
        values["proctree_last_batch_age_seconds"] = [] if silence is None else [((), silence)]
        return values | self._of_pipeline()

    def _of_pipeline(self) -> dict[str, Samples]:
        summary = _steady(self._pipeline.summary)
        tree = dict(summary.tree)
        census = self._pipeline.tree.census
        dropped_until = census.horizon
        horizon = self._pipeline.tree.boot_time + dropped_until if dropped_until > 0 else 0
        faults = dict.fromkeys(FAULTS, 0) | _cut(tree, "fault_")
        signatures = [(visible(name), s) for name, s in summary.signatures.items()]

        def of_each(name: str) -> Samples:
            return [((signature,), getattr(s, name)) for signature, s in signatures]

        values: dict[str, Samples] = {
            "proctree_events_total": _labelled(
                {kind: count for kind, count in summary.events.items() if kind != "loss"}
            ),
            "proctree_lost_total": [((), summary.lost)],
            "proctree_loss_windows_total": [((), summary.loss_windows)],
            "proctree_source_total": _labelled(summary.source),
            "proctree_processes": [((), tree.pop("processes"))],
            "proctree_threads": [((), tree.pop("threads"))],
            "proctree_processes_limit": [((), census.process_cache)],
            "proctree_threads_limit": [((), census.thread_cache)],
            "proctree_evicted_total": _labelled(_cut(tree, "evicted_")),
            "proctree_dropped_total": _labelled(_cut(tree, "dropped_")),
            "proctree_faults_total": _labelled(faults),
            "proctree_horizon_timestamp_seconds": [((), horizon / _NANOSECONDS)],
            "proctree_findings_total": [((), summary.findings)],
            "proctree_signatures": [((), sum(s.is_enabled for _, s in signatures))],
            "proctree_signature_enabled": of_each("is_enabled"),
            "proctree_signature_seconds_total": [
                ((name,), s.nanoseconds / _NANOSECONDS) for name, s in signatures
            ],
        }
        for name in ("events", "findings", "errors", "timeouts", "slow_calls"):
            values[f"proctree_signature_{name}_total"] = of_each(name)
        tree.pop("loss_windows")
        values["proctree_tree_total"] = _labelled(tree)
        return values


def _family(figure: Figure) -> Any:
    family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    return family(figure.name, figure.about, labels=figure.labels)


def _labelled(counts: Mapping[str, int]) -> Samples:
    return [((name,), count) for name, count in counts.items()]


def _cut(counters: dict[str, int], prefix: str) -> dict[str, int]:
    """The counters that begin so, without the prefix. They are taken out."""
    names = [name for name in counters if name.startswith(prefix)]
    return {name.removeprefix(prefix): counters.pop(name) for name in names}


def _steady(read: Callable[[], T]) -> T:
    """What `read` gives while another thread goes on writing what it reads.

    A dict that grows or a map that is closed meanwhile makes it fail; a moment later it does not.
    """
    for _ in range(_ATTEMPTS):
        try:
            return read()
        except (RuntimeError, ValueError):
            continue
    return read()
