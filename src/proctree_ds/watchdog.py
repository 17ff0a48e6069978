"""Interrupts a signature that does not return, and nothing but a signature.

What it costs per call is one attribute store (`running`). A timer of its own sends the main thread
a signal four times per limit, and only while an engine is at work; when the handler has found the
same call of the same signature for a whole limit, it raises `SignatureTimeout` there. A signal,
because it also ends a sleep, a blocking read and a runaway regular expression. A timer of the
kernel, because such an expression keeps the interpreter lock, and no thread could step in.

It cannot hit the wrong code, because the handler runs in the thread that it interrupts and looks
before it raises. It raises only if
- the engine still is inside the very call that was found overdue, and
- the code interrupted is the signature's (or what the signature called outside of this library):
  not the engine between two calls, not the tree while it answers and keeps its books.
Otherwise it looks again a moment later, as long as that call goes on. So even a signature that
swallows the exception is hit again and again.

The signal is SIGURG: its default is to be ignored, so that a stray one can do no harm. Handlers of
signals run in the main thread: an engine in another one cannot interrupt its signatures.
"""

from __future__ import annotations

import ctypes
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

    The engine keeps `is_at_work` true while it may call one, `running` at the signature that it
    calls (None between calls), and `subject` at what it calls it with, a new object for every
    call. `callers` are the code objects of the functions that call signatures; `collectors` those
    of the library's own that run a signature's code piecemeal, and may be interrupted as well.
    """

    __slots__ = (
        "_callers",
        "_collectors",
        "_looks",
        "_previous",
        "_seen",
        "_timer",
        "is_at_work",
        "is_ticking",
        "limit_seconds",
        "running",
        "subject",
    )

    def __init__(
        self, limit_seconds: float, callers: frozenset[CodeType], collectors: frozenset[CodeType]
    ) -> None:
        self.limit_seconds = limit_seconds
        self.is_at_work = False
        self.is_ticking = False
        self.running: object | None = None
        self.subject: object | None = None
        self._callers = callers
        self._collectors = collectors
        self._seen: tuple[object, object] | None = None
        self._looks = 0
        self._previous: Any = None
        self._timer: _Timer | None = None

    def start(self) -> bool:
        """Begin to watch. False, and nothing is watched, outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._previous = signal.signal(_SIGNAL, self._look)
        self._timer = _Timer(_SIGNAL)
        return True

    def stop(self) -> None:
        """End watching and give the signal back to whoever had it. Twice is fine."""
        if self._timer is not None:
            self._timer.delete()
            self._timer = None
            signal.signal(_SIGNAL, signal.SIG_DFL if self._previous is None else self._previous)

    def set_limit(self, seconds: float) -> None:
        """How long a call may take, from the next `enter` on."""
        self.limit_seconds = seconds
        self.is_ticking = False

    def enter(self) -> None:
        """The engine begins to work: from now on, look."""
        self.is_at_work = True
        if not self.is_ticking and self._timer is not None:
            self._seen = None
            self.is_ticking = True
            self._timer.set(self.limit_seconds / _LOOKS_PER_LIMIT)

    def _look(self, number: int, frame: FrameType | None) -> None:
        timer = self._timer
        if timer is None or not self.is_at_work:
            self.is_ticking = False
            return
        # Looks are counted, not time: a program that was stopped for a while is not overdue.
        running, subject, seen = self.running, self.subject, self._seen
        if running is None:
            self._seen = None
        elif seen is None or seen[0] is not running or seen[1] is not subject:
            self._seen = (running, subject)
            self._looks = 0
        else:
            self._looks += 1
            if self._looks >= _LOOKS_PER_LIMIT:
                timer.set(_RETRY_SECONDS)
                if self._is_in_signature(frame):
                    raise SignatureTimeout
                return
        timer.set(self.limit_seconds / _LOOKS_PER_LIMIT)

    def _is_in_signature(self, frame: FrameType | None) -> bool:
        """Whether `frame`, the code interrupted, belongs to the signature being called."""
        is_innermost = True
        while frame is not None:
            code = frame.f_code
            if code in self._callers:
                return not is_innermost
            path = code.co_filename
            is_ours = path.startswith(_LIBRARY) and not path.startswith(_SIGNATURES)
            if is_ours and code not in self._collectors:
                return False
            is_innermost = False
            frame = frame.f_back
        return False


# ------------------------------------------------------------------------------------- the timer

_SIGEV_THREAD_ID: Final = 4
_CLOCK_MONOTONIC: Final = 1


class _Event(ctypes.Structure):
    """struct sigevent, as far as a signal to one thread needs it (timer_create(2))."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread_id", ctypes.c_int),
        ("padding", ctypes.c_char * 44),
    )


class _Schedule(ctypes.Structure):
    """struct itimerspec: how often, and when first."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class _Timer:
    """A timer that sends the main thread a signal, once each time that it is set.

    Not `signal.setitimer`: there is one of those per program, and it may be in use.
    """

    __slots__ = ("_id", "_libc")

    def __init__(self, number: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._id = ctypes.c_void_p()
        event = _Event(
            signal=number,
            notify=_SIGEV_THREAD_ID,
            thread_id=threading.main_thread().native_id,
        )
        if self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)):
            raise OSError(ctypes.get_errno(), "timer_create failed")

    def set(self, seconds: float) -> None:
        whole, rest = divmod(seconds, 1.0)
        schedule = _Schedule(first_s=int(whole), first_ns=max(1, int(rest * 1e9)))
        self._libc.timer_settime(self._id, 0, ctypes.byref(schedule), None)

    def delete(self) -> None:
        self._libc.timer_delete(self._id)
