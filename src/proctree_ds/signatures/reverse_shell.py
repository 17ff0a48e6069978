"""A command line that opens a shell over the network: the one-liners of every cheat sheet.

Fires on what the arguments say: `bash -i >& /dev/tcp/...`, `nc -e`, a pipe through `mkfifo` and
`nc`, `socat exec:`, and code given to Python, Perl, Ruby, PHP, awk, Lua or Node.js on the command
line that both opens a socket and starts a shell or hands its descriptors over. Quotes, backslashes
and `${IFS}` are taken out first, so that spacing and quoting do not matter. Shells that listen
(bind shells) count as well.

Known false positives: administrators' own tunnels and consoles with `socat` or `nc -e`, training
machines. Waiting for a port with /dev/tcp, as health checks do, does not fire. Not seen: what is
typed into a shell that runs already, scripts in files, code that is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from proctree_ds.signature import EventSelector, Finding, Signature, SignatureMetadata
from proctree_ds.signature_event import ExecEvent
from proctree_ds.signatures._programs import SHELLS, family

__all__ = ["ReverseShell"]

_TEXT_LIMIT: Final = 16_384
_PLAIN: Final = str.maketrans("", "", "\"'\\^")
_IFS: Final = re.compile(r"\$\{?IFS\}?")
_SPACE: Final = re.compile(r"\s+")

_SHELL: Final = r"(?:/[\w./-]*/)?\b(?:ba|da|z|k|a|c|tc|mk|fi)?sh\b"
_RELAY: Final = r"\b(?:nc|ncat|netcat|telnet|socat|openssl s_client)\b"
_DEVICE: Final = r"/dev/(?:tcp|udp)/"

_WITH_DEVICE: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_SHELL} -\w*i\b.*{_DEVICE}",
        rf"{_SHELL}(?! -\w*c\b)[^;|]*[<>]&? ?{_DEVICE}\S+.*[<>]& ?\d",
        rf"[<>] ?{_DEVICE}.*{_SHELL}[^;|]*<& ?\d",
        rf"{_SHELL}[^;|]*<& ?\d.*{_DEVICE}",
        rf"<> ?{_DEVICE}.*while read (?:-\w+ )*(\w+) ?; ?do (?:eval )?\$\{{?\1\b",
    )
)
_WITH_PIPE: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"mk(?:fifo|nod)\b.*{_SHELL}.*{_RELAY}",
        rf"mk(?:fifo|nod)\b.*{_RELAY}.*\| ?{_SHELL}",
        rf"{_RELAY}[^|;]*\| ?{_SHELL}[^|;]*\| ?{_RELAY}",
    )
)
_NC_EXEC: Final = re.compile(r"(?:^| )(?:-\w*e ?\S+|--(?:sh-|lua-)?exec[ =]\S+)")
_NC_SHELL: Final = re.compile(rf"(?:^| )-\w*c ?{_SHELL}")
_SOCAT_EXEC: Final = re.compile(r"(?i)(?:^| )(?:exec|system|shell):")
_SOCAT_NET: Final = re.compile(r"(?i)(?:^| )(?:tcp|udp|sctp|openssl|ssl|vsock|dccp)[\w-]*:")
_SPAWNS: Final = re.compile(
    r"dup2|pty ?\. ?spawn|from pty import|import pty|(?:subprocess|popen|system|spawn).*"
    rf"(?:{_SHELL}|/bin/)"
)
_AWK_RUNS: Final = re.compile(r"getline (\w+).*(?:\b\1 ?\|&? ?getline|system ?\( ?\1)")


def _normal(text: str) -> str:
    """The text without quotes, and with single spaces."""
    if "IFS" in text:
        text = _IFS.sub(" ", text)
    return _SPACE.sub(" ", text)


def _shell(text: str) -> bool:
    text = text.translate(_PLAIN)
    if "/dev/tcp/" in text or "/dev/udp/" in text:
        text = _normal(text)
        if any(pattern.search(text) for pattern in _WITH_DEVICE):
            return True
    if "|" not in text:
        return False
    text = _normal(text)
    return any(pattern.search(text) for pattern in _WITH_PIPE)


def _netcat(text: str) -> bool:
    return bool(_NC_EXEC.search(text) or _NC_SHELL.search(text))


def _socat(text: str) -> bool:
    text = _normal(text.translate(_PLAIN))
    return bool(_SOCAT_EXEC.search(text) and _SOCAT_NET.search(text))


def _python(text: str) -> bool:
    return "socket" in text and _SPAWNS.search(text) is not None


def _perl(text: str) -> bool:
    return "ocket" in text and any(
        word in text for word in ("exec", "system", "fdopen", ">&", "qx", "`")
    )


def _ruby(text: str) -> bool:
    return ("TCPSocket" in text or "socket" in text) and any(
        word in text for word in ("exec", "spawn", "popen", "system", "reopen", "/bin/sh")
    )


def _php(text: str) -> bool:
    return any(w in text for w in ("fsockopen", "stream_socket_client", "socket_create")) and any(
        word in text for word in ("exec", "system", "passthru", "popen", "proc_open", "`")
    )


def _awk(text: str) -> bool:
    return "/inet" in text and _AWK_RUNS.search(_normal(text)) is not None


def _lua(text: str) -> bool:
    return "socket" in text and ("os.execute" in text or "io.popen" in text)


def _node(text: str) -> bool:
    return "child_process" in text and ("net" in text or "Socket" in text)


_JUDGES: Final[dict[str, Callable[[str], bool]]] = {
    **dict.fromkeys(SHELLS, _shell),
    **dict.fromkeys(("nc", "ncat", "netcat"), _netcat),
    **dict.fromkeys(("python", "pypy"), _python),
    **dict.fromkeys(("awk", "gawk", "mawk"), _awk),
    **dict.fromkeys(("lua", "luajit"), _lua),
    **dict.fromkeys(("node", "nodejs"), _node),
    "socat": _socat,
    "perl": _perl,
    "ruby": _ruby,
    "php": _php,
}


@lru_cache(maxsize=1_024)
def _judge_of(name: str) -> Callable[[str], bool] | None:
    return _JUDGES.get(name) or _JUDGES.get(family(name))


_MULTICALL: Final = frozenset({"busybox", "toybox"})


class ReverseShell(Signature):
    """An interpreter or a relay is told, on its command line, to give a shell to the network."""

    metadata = SignatureMetadata(
        id="PT-REVERSE-SHELL",
        version="1",
        name="Reverse shell on a command line",
        description="The arguments of an interpreter, a shell or a relay connect a shell to a "
        "network peer.",
        severity="critical",
        techniques=("T1059.004", "T1059.006", "T1095"),
        tags=("execution", "command-and-control"),
    )
    selectors = (EventSelector(event="exec"),)

    def on_event(self, event: ExecEvent) -> Finding | None:
        argv = event.argv
        if argv is None or len(argv) < 2:
            return None
        name = event.program or event.comm
        if name is None:
            return None
        judge = _judge_of(name)
        words = argv[1:]
        if judge is None:
            if name not in _MULTICALL:
                return None
            applet = argv[0].rpartition("/")[2]
            if applet in _MULTICALL:
                applet, words = argv[1], argv[2:]
            judge = _JUDGES.get(applet)
            if judge is None:
                return None
        text = " ".join(words)[:_TEXT_LIMIT]
        if judge(text):
            return Finding(data={"program": name, "command": argv})
        return None
