"""Metrics over HTTP: an address, a thread for each scrape, and who looks how often."""

from __future__ import annotations

import io
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from batchrunner.clock import NS_PER_SECOND
from batchrunner.errors import UsageError

LOOPBACK: Final = "127.0.0.1"
#: connections at once; whoever comes beyond is hung up on: descriptors are the run's
ANSWERS_MAX: Final = 16
#: how long the end waits for answers that are being given
LAST_ANSWERS_SECONDS: Final = 1.0
#: whoever comes more rarely is no scraper but somebody with a browser; Prometheus' own default is a minute
LONGEST_INTERVAL_NS: Final = 120 * NS_PER_SECOND

Answer = Callable[[dict[str, Any], Any], Any]


class Server:
    """Answers scrapes on one address from threads of its own, until `close()`.

    `answer` is a WSGI application, and is called from several threads at once. Port 0 takes a free one.
    Raises: UsageError where the address cannot be bound.
    """

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._listening = _Listening(family, address)
        except OSError as cause:
            raise UsageError(
                f"metrics: cannot listen on {_spell(host, port)}: {cause.strerror or cause}. Choose another address with "
                "--metrics HOST:PORT, a free port with --metrics 0, or leave the option out."
            ) from cause
        self.port: int = self._listening.server_port
        self._listening.set_app(answer)
        self._thread = threading.Thread(target=self._listening.serve_forever, args=(0.1,), name="batchrun-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, free the port, and let answers that are being given come to their end, if that is soon."""
        self._listening.shutdown()
        self._thread.join()
        self._listening.server_close()
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        for answering in self._listening.answering():
            answering.join(max(0.0, until - time.monotonic()))


class Scrapes:
    """When the newest scrapes began, and so whether somebody watches and when they will look again.

    Written by the server's threads, read by the loop. Times are monotonic nanoseconds.
    """

    def __init__(self) -> None:
        # Four: of two scrapers that come in turn, the longest gap is still the interval of one of them, or nearly.
        self._began: deque[int] = deque(maxlen=4)

    def note(self, now_ns: int) -> None:
        self._began.append(now_ns)

    def since(self, ns: int) -> bool:
        """Whether a scrape has begun since then."""
        began = tuple(self._began)
        return bool(began) and began[-1] >= ns

    def next_by_ns(self, now_ns: int) -> int | None:
        """When the next one should have come, and half an interval more; None where none is to be expected."""
        began = tuple(self._began)
        interval_ns = max((later - earlier for earlier, later in pairwise(began)), default=0)
        if not 0 < interval_ns <= LONGEST_INTERVAL_NS:
            return None
        by_ns = began[-1] + interval_ns * 3 // 2
        return by_ns if by_ns > now_ns else None


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[V6]:PORT`, or a bare port, which means loopback.

    Raises: UsageError. An empty host is refused: whoever wants every interface says 0.0.0.0.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    good_host = host == "" if not colon else host != "" and (bracketed or ":" not in host)
    if not good_host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(
            f"--metrics {text!r}: give HOST:PORT with a port of 0 to 65535 ([...] around an IPv6 host), or a bare PORT for "
            f"{LOOPBACK}; port 0 takes a free one."
        )
    return host or LOOPBACK, int(port)


def url(host: str, port: int) -> str:
    """Where people and scrapers find it."""
    return f"http://{_spell(host, port)}/metrics"


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Handler(WSGIRequestHandler):
    """One scrape. Nothing is logged: stderr belongs to the progress display."""

    timeout = 10  # seconds that a silent client may hold its thread

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def get_stderr(self) -> io.StringIO:
        return io.StringIO()


class _Listening(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a scrape, on one address. (`start_http_server` would bind every interface and print tracebacks.)"""

    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.address_family = family
        self._answering: list[threading.Thread] = []
        super().__init__(address, _Handler)

    def answering(self) -> tuple[threading.Thread, ...]:
        """Threads that may not have ended their answer. Complete once nothing more is accepted."""
        return tuple(self._answering)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the host's name, which can hang for seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the base class does, but knowing its threads (a daemon's are nobody's there), and not without end."""
        self._answering = [thread for thread in self._answering if thread.is_alive()]
        if len(self._answering) >= ANSWERS_MAX:
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        thread.start()
        self._answering.append(thread)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is no news."""
