"""Whether, and how well, processes can be watched on this machine by this user, and why not.

Every check tries or reads what it tells of, needs no rights itself, and changes nothing that lasts.
"""

from __future__ import annotations

import platform
from pathlib import Path

from proctree_ds.diagnosis import bcc, connector, loading, machine, rights
from proctree_ds.diagnosis.checks import Check, Diagnosis, Places, Verdict
from proctree_ds.diagnosis.pins import PINS, Pin, find_pins, pins, remove_pins

__all__ = [
    "PINS",
    "Check",
    "Diagnosis",
    "Pin",
    "Places",
    "Verdict",
    "diagnose",
    "find_pins",
    "remove_pins",
]


def diagnose(places: Places | None = None, *, pin_directory: Path = PINS) -> Diagnosis:
    """Look at everything that a live capture needs, or is better with. Takes about a second.

    Never raises for what is missing: that is what a check tells.
    """
    places = places or Places()
    release = platform.release()
    unrelated = bcc.unrelated_bcc()
    return Diagnosis(
        (
            machine.kernel(release),
            machine.architecture(),
            machine.kernel_types(places),
            machine.lockdown(places),
            *rights.capabilities(places, release),
            rights.system_call_filter(places),
            loading.compiled_object(),
            loading.libbpf(),
            bcc.bcc(places),
            *([] if unrelated is None else [unrelated]),
            loading.ring(),
            *loading.hooks(places),
            loading.capture(),
            connector.process_events(),
            machine.tracing(places),
            machine.bpf_file_system(places),
            machine.cgroups(places),
            machine.pid_namespace(places),
            machine.boot_clock(places),
            machine.wall_clock(),
            rights.code(),
            pins(places, pin_directory),
        )
    )
