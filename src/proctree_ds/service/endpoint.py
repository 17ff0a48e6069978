"""A small HTTP server for figures and health, which can neither stop nor delay the run.

It has threads of its own. A client that sends nothing, or bit by bit, is let go after some seconds,
or as soon as others want its place.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EMFILE, ENFILE
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final

from proctree_ds.errors import ConfigurationError, ServiceError

__all__ = ["CLIENTS_LIMIT", "CLIENT_SECONDS", "Endpoint", "Page", "parse_address"]

CLIENTS_LIMIT: Final = 16
"""Clients at a time; with another one, the one that has been there the longest is let go."""
CLIENT_SECONDS: Final = 5
"""How long a client may be silent."""

Page = Callable[[], tuple[int, str, bytes]]
"""Gives a status, a content type and a body. Called in any thread."""

_NO_DESCRIPTOR_SECONDS: Final = 0.1
_TEXT: Final = "text/plain; charset=utf-8"


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9464` or `[::1]:9464` in two parts. Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if is_bracketed else host)
        if is_bracketed != (address.version == 6):
            raise ValueError("brackets")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
            raise ValueError("port")
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no address to listen on: write an IP address and a port, such as"
            " 127.0.0.1:9464 or [::1]:9464"
        ) from None
    return str(address), int(port)


class Endpoint:
    """Listens at once, and answers from `start` until `close`.

    Raises `ServiceError` where the address cannot be had. Port 0 takes a free one.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server = _Server((host, port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {_url_host(host)}:{port}: {error.strerror or error};"
                " name another address or port with --metrics"
            ) from error
        self.url = f"http://{_url_host(host)}:{self._server.server_address[1]}"
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(self, pages: dict[str, Page]) -> None:
        """Answer with these pages, by path."""
        self._server.pages = pages
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of all clients. Twice is fine."""
        if self._thread is not None:
            self._is_closed = True
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for a client
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.let_go(0)

    def _serve(self) -> None:
        # Signals are the main thread's: another one could only delay them. Those that it starts
        # are made like it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._is_closed:
            self._server.handle_request()


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(ThreadingMixIn, TCPServer):
    # Not HTTPServer: that one asks the DNS for its own name before it listens.
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages: dict[str, Page] = {}
        self._clients: dict[int, socket.socket] = {}
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def get_request(self) -> Any:
        """As it is done there, but without a busy loop where no descriptor is left."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (EMFILE, ENFILE):
                time.sleep(_NO_DESCRIPTOR_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        self.let_go(CLIENTS_LIMIT - 1)
        with self._guard:
            self._clients[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._clients.pop(id(request), None)
        super().shutdown_request(request)

    def let_go(self, keep: int) -> None:
        """End the connections of all but the `keep` latest clients."""
        with self._guard:
            while len(self._clients) > keep:
                client = self._clients.pop(next(iter(self._clients)))
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's trouble."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    protocol_version = "HTTP/1.0"
    server_version = "proctree-detect"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(404, _TEXT, b"there are /metrics and /health\n")
            return
        self._answer(*page())

    do_HEAD = do_GET  # noqa: N815 - as http.server calls it

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Who asks is not told: it would be a way to fill a log."""
