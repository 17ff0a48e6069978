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

_TEXT_LIMIT: Final = 131_072
_PLAIN: Final = str.maketrans("", "", "\"'\\^")
_IFS: Final = re.compile(r"\$\{?IFS\}?")
_SPACE: Final = re.compile(r"\s+")

# Arguments are hostile: each pattern finds one thing, in linear time, and what must come one after
# the other is searched for one after the other. A regular expression with several `.*` would take
# minutes over a text that is made for it, and the signature would be switched off.
_SHELL_NAME: Final = r"(?<![\w.-])(?:ba|da|z|k|a|c|tc|mk|fi)?sh(?![\w.-])"
_SHELL: Final = re.compile(_SHELL_NAME)
_SHELL_DIRECTLY: Final = re.compile(rf"{_SHELL_NAME}(?! -\w{{0,8}}c\b)")
_SHELL_INTERACTIVE: Final = re.compile(rf"{_SHELL_NAME} -\w{{0,8}}i\b")
_RELAY: Final = re.compile(r"\b(?:nc|ncat|netcat|telnet|socat|openssl s_client)\b")
_PIPE: Final = re.compile(r"\bmk(?:fifo|nod)\b")
_DEVICE: Final = re.compile(r"/dev/(?:tcp|udp)/")
_TO_DEVICE: Final = re.compile(r"[<>]&? ?/dev/(?:tcp|udp)/")
_BOTH_WAYS: Final = re.compile(r"<> ?/dev/(?:tcp|udp)/")
_FROM_DESCRIPTOR: Final = re.compile(r"<& ?\d")
_DUPLICATE: Final = re.compile(r"[<>]& ?\d")
_READ_AND_RUN: Final = re.compile(
    r"while read (?:-\w+ )?(?:-\w+ )?(\w{1,32}) ?; ?do (?:eval )?\$\{?\1\b"
)
_COMMANDS: Final = re.compile(r"[;|]")
_NC_EXEC: Final = re.compile(r"(?:^| )(?:-\w*e ?\S|--(?:sh-|lua-)?exec[ =]\S)")
_NC_SHELL: Final = re.compile(r"(?:^| )-\w*c (?:/[\w./-]{1,64}/)?(?:ba|da|z|k|a)?sh\b")
_SOCAT_EXEC: Final = re.compile(r"(?i)(?:^| )(?:exec|system|shell):")
_SOCAT_NET: Final = re.compile(r"(?i)(?:^| )(?:tcp|udp|sctp|openssl|ssl|vsock|dccp)[\w-]*:")
_HANDS_OVER: Final = re.compile(r"dup2|pty ?\. ?spawn|from pty import|import pty")
_STARTS: Final = re.compile(r"subprocess|popen|system|spawn")
_A_SHELL: Final = re.compile(rf"{_SHELL_NAME}|/bin/")
_AWK_RUNS: Final = re.compile(r"getline (\w{1,32}).*(?:\b\1 ?\|&? ?getline|system ?\( ?\1)")
_AWK_LIMIT: Final = 2_048


def _in_order(text: str, *patterns: re.Pattern[str]) -> bool:
    """Whether the patterns occur one after the other."""
    position = 0
    for pattern in patterns:
        match = pattern.search(text, position)
        if match is None:
            return False
        position = match.end()
    return True


def _normal(text: str) -> str:
    """The text with single spaces."""
    if "IFS" in text:
        text = _IFS.sub(" ", text)
    return _SPACE.sub(" ", text)


def _shell(text: str) -> bool:
    text = text.translate(_PLAIN)
    if "/dev/tcp/" in text or "/dev/udp/" in text:
        return _shell_on_device(_normal(text))
    return "|" in text and _shell_in_pipe(_normal(text))


def _shell_on_device(text: str) -> bool:
    if _in_order(text, _SHELL_INTERACTIVE, _DEVICE):
        return True
    if _in_order(text, _BOTH_WAYS, _READ_AND_RUN):
        return True
    return any(
        _in_order(command, _SHELL_DIRECTLY, _TO_DEVICE, _DUPLICATE)
        or _in_order(command, _SHELL_DIRECTLY, _FROM_DESCRIPTOR)
        for command in _COMMANDS.split(text)
    )


def _shell_in_pipe(text: str) -> bool:
    if _in_order(text, _PIPE, _SHELL, _RELAY):
        return True
    for line in text.split(";"):
        stages = line.split("|")
        for at in range(1, len(stages)):
            if _SHELL.search(stages[at]) and _RELAY.search(stages[at - 1]):
                after = stages[at + 1] if at + 1 < len(stages) else ""
                if _RELAY.search(after) or _PIPE.search(text):
                    return True
    return False


def _netcat(text: str) -> bool:
    return bool(_NC_EXEC.search(text) or _NC_SHELL.search(text))


def _socat(text: str) -> bool:
    text = _normal(text.translate(_PLAIN))
    return bool(_SOCAT_EXEC.search(text) and _SOCAT_NET.search(text))


def _python(text: str) -> bool:
    if "socket" not in text:
        return False
    return _HANDS_OVER.search(text) is not None or _in_order(text, _STARTS, _A_SHELL)


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
    return "/inet" in text and _AWK_RUNS.search(_normal(text[:_AWK_LIMIT])) is not None


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
