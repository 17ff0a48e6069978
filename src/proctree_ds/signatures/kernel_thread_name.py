"""A program that calls itself like a kernel thread, so that people look past it.

Fires when a process of user space takes such a name: as its first argument ("[kworker/0:1]", which
is how ps shows kernel threads), as the name of the file that it executes ("kthreadd"), or by
renaming itself (prctl) later on. The kernel's own threads execute no file and have kthreadd, pid 2,
as parent; they are left alone.

Known false positives: none by design; test programs that rename themselves on purpose.
"""

from __future__ import annotations

import re
from typing import Final

from proctree_ds.signature import EventSelector, Finding, Signature, SignatureMetadata
from proctree_ds.signature_event import ChangeEvent, ExecEvent
from proctree_ds.signatures._programs import words

__all__ = ["KernelThreadName"]

_KTHREADD: Final = 2

_WHOLE_NAMES: Final = words(
    "kthreadd kworker ksoftirqd kdevtmpfs kauditd khungtaskd oom_reaper kcompactd0 khugepaged "
    "ksmd kintegrityd kblockd kswapd0 kthrotld rcu_gp rcu_par_gp rcu_sched rcu_bh rcu_preempt "
    "mm_percpu_wq"
)
# Names that programs bear as well, such as watchdog, are the kernel's only with a number.
_NUMBERED: Final = re.compile(
    r"(kworker|ksoftirqd|migration|cpuhp|watchdog|rcuo[psg]|rcuc|rcub|irq|idle_inject|jbd2)/.*"
    r"|(kswapd|kcompactd|scsi_eh_|scsi_tmf_)\d+"
)
_BEGINNINGS: Final = words(
    "kwo kso kth ksw kco kde kau khu kbl ksm kin mig cpu wat rcu irq idl jbd scs oom mm_"
)
"""The first three letters of all of them: most programs are let pass by these alone."""


class KernelThreadName(Signature):
    """A user space process has the name of a kernel thread."""

    metadata = SignatureMetadata(
        id="PT-KERNEL-THREAD-NAME",
        version="1",
        name="Process named like a kernel thread",
        description="A process of user space took the name of a kernel thread.",
        severity="high",
        techniques=("T1036.004", "T1036.005"),
        tags=("defense-evasion",),
    )
    selectors = (EventSelector(event="exec"), EventSelector(event="change"))

    def on_event(self, event: ExecEvent | ChangeEvent) -> Finding | None:
        if type(event) is ChangeEvent:
            return self._renamed(event)
        comm = event.comm
        if comm in _WHOLE_NAMES:
            return Finding(data={"name": comm, "how": "file name", "path": _path(event)})
        argv = event.argv
        if not argv:
            return None
        beginning = argv[0][:3]
        if beginning[:1] != "[" and beginning not in _BEGINNINGS:
            return None
        first = argv[0].rstrip()
        if first[0] == "[":
            # The program `[` is not meant, which is called so to test a condition.
            is_kernel_like = first[-1] == "]" and len(first) > 2
        else:
            is_kernel_like = _is_kernel_name(first.partition(" ")[0])
        if is_kernel_like:
            return Finding(data={"name": first, "how": "first argument", "path": _path(event)})
        return None

    def _renamed(self, event: ChangeEvent) -> Finding | None:
        name = event.changed.get("comm")
        if name is None or not _is_kernel_name(name.strip("[]")):
            return None
        if event.executable is None and (
            event.pid == _KTHREADD or event.ppid in (None, 0, _KTHREADD)
        ):
            return None
        return Finding(data={"name": name, "how": "renamed itself", "path": _path(event)})


def _is_kernel_name(name: str) -> bool:
    return name in _WHOLE_NAMES or _NUMBERED.fullmatch(name) is not None


def _path(event: ExecEvent | ChangeEvent) -> str | None:
    file = event.executable
    return None if file is None else file.path
