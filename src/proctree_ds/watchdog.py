"""Interrupts a signature that does not return, and nothing but a signature.

What it costs per call is one attribute store (`running`). A thread looks four times per limit;
when it sees the same call of the same signature for longer than the limit, it sends the main
thread a signal, whose handler raises `SignatureTimeout` there. A signal, because it also ends a
sleep, a blocking read and a runaway regular expression, which asynchronous exceptions do not.

It cannot hit the wrong code, because the handler runs in the thread that it interrupts and looks
before it raises. It raises only if
- the engine still says that it is inside the very call that was found overdue, and
- the code interrupted is the signature's (or what the signature called outside of this library):
  not the engine between two calls, not the tree while it answers and keeps its books.
Otherwise it returns, and the thread tries again a moment later, as long as that call goes on. So
even a signature that swallows the exception is hit again and again.

The signal is SIGURG: its default is to be ignored, so that a stray one can do no harm. Signals
reach only the main thread: an engine that runs in another one cannot interrupt its signatures.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["SignatureTimeout", "Watchdog"]

_SIGNAL: Final = signal.SIGURG
_LOOKS_PER_LIMIT: Final = 4
_RETRY_SECONDS: Final = 0.005
_LIBRARY: Final = str(Path(__file__).parent) + "/"
_SIGNATURES: Final = _LIBRARY + "signatures/"


class SignatureTimeout(BaseException):
    """Raised inside of a signature that did not return. No Exception: it is not theirs to catch."""


class Watchdog:
    """Watches the calls that an engine makes into signatures.

    The engine keeps `running` at the signature being called (None between calls), and `subject`
    at what it is called with, a new object for every event. `callers` are the code objects of the
    functions that call signatures; `collectors` those of the library's own functions that run a
    signature's code piecemeal, and may be interrupted as well.
    """

    __slots__ = (
        "_callers",
        "_collectors",
        "_overdue",
        "_previous",
        "_stop",
        "_thread",
        "limit_seconds",
        "running",
        "subject",
    )

    def __init__(
        self, limit_seconds: float, callers: frozenset[CodeType], collectors: frozenset[CodeType]
    ) -> None:
        self.limit_seconds = limit_seconds
        self.running: object | None = None
        self.subject: object | None = None
        self._callers = callers
        self._collectors = collectors
        self._overdue: tuple[object, object] | None = None
        self._previous: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_armed(self) -> bool:
        """Whether overdue calls are interrupted at all."""
        return self._thread is not None

    def start(self) -> bool:
        """Begin to watch. False, and nothing is watched, outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._stop.clear()
        self._previous = signal.signal(_SIGNAL, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="proctree-watchdog", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """End watching and give the signal back to whoever had it. Twice is fine."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        signal.signal(_SIGNAL, signal.SIG_DFL if self._previous is None else self._previous)

    def _watch(self) -> None:
        # Looks are counted, not time: a program that was stopped for a while is not overdue.
        main = threading.main_thread().ident
        assert main is not None
        call: tuple[object, object] | None = None
        looks = 0
        pause = self.limit_seconds / _LOOKS_PER_LIMIT
        while not self._stop.wait(pause):
            pause = self.limit_seconds / _LOOKS_PER_LIMIT
            running, subject = self.running, self.subject
            if running is None:
                call = self._overdue = None
            elif call is None or call[0] is not running or call[1] is not subject:
                call, looks = (running, subject), 0
                self._overdue = None
            elif (looks := looks + 1) >= _LOOKS_PER_LIMIT:
                self._overdue = call
                signal.pthread_kill(main, _SIGNAL)
                pause = _RETRY_SECONDS

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        overdue = self._overdue
        if (
            overdue is not None
            and overdue[0] is self.running
            and overdue[1] is self.subject
            and self._is_in_signature(frame)
        ):
            raise SignatureTimeout

    def _is_in_signature(self, frame: FrameType | None) -> bool:
        """Whether `frame`, the code interrupted, belongs to the signature being called."""
        innermost = True
        while frame is not None:
            code = frame.f_code
            if code in self._callers:
                return not innermost
            path = code.co_filename
            is_ours = path.startswith(_LIBRARY) and not path.startswith(_SIGNATURES)
            if is_ours and code not in self._collectors:
                return False
            innermost = False
            frame = frame.f_back
        return False
