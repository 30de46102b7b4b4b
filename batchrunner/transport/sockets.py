"""The driver for real networks: non-blocking sockets, with TLS directly on the descriptor.

trio's own streams would do, at about twice the cost of a request: an SSLStream copies through memory buffers, and a
SocketStream takes locks that a connection with one user has no need of.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import sys
from typing import Any

import trio

from batchrunner.transport.drivers import LinkBroken
from batchrunner.transport.origin import Origin

RECEIVE_BYTES = 64 << 10
#: a TLS record holds no more, and one call returns one record
TLS_RECEIVE_BYTES = 16 << 10
#: at most this much goes to one call, so that a slow peer's large body shows progress
SEND_BYTES = 64 << 10

#: how long the addresses of a name are used again: thousands of connections ask the resolver once, a moved server is found soon
ADDRESSES_FRESH_SECONDS = 15.0

KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_PROBES = 3

Address = tuple[int, Any]


class SocketDriver:
    """Opens TCP connections to an origin, each through TLS where the scheme is https.

    All addresses of a name are tried in turn, the one that worked last first; those before the last get an equal share
    of the time left, so that one dead address does not use up the whole connect timeout.
    """

    def __init__(self, origin: Origin, ssl_context: ssl.SSLContext | None = None) -> None:
        self._origin = origin
        self._context = (ssl_context or default_ssl_context()) if origin.is_tls else None
        self._addresses: list[Address] = []
        self._resolved_at = -math.inf
        self._resolving = trio.Lock()

    async def open(self) -> SocketLink | TlsLink:
        addresses = await self._resolve()
        broken: LinkBroken | None = None
        for number, address in enumerate(addresses):
            with trio.move_on_after(_share_of_time(len(addresses) - number)):
                try:
                    link = await self._open_at(address)
                except LinkBroken as cause:
                    broken = cause
                else:
                    if number:
                        self._prefer(address)
                    return link
        self._resolved_at = -math.inf  # perhaps the name leads elsewhere by now
        raise broken or LinkBroken("no address of the name answered")

    async def _resolve(self) -> list[Address]:
        """The addresses of the host; asked for once however many connections want them."""
        if self._is_fresh():
            return self._addresses
        async with self._resolving:
            if not self._is_fresh():  # else another connection has asked in the meantime
                try:
                    found = await trio.socket.getaddrinfo(self._origin.host, self._origin.port, type=socket.SOCK_STREAM)
                except OSError as cause:
                    raise LinkBroken(f"the name cannot be resolved: {_reason(cause)}") from cause
                self._addresses = [(family, address) for family, _, _, _, address in found]
                self._resolved_at = trio.current_time()
            return self._addresses

    def _is_fresh(self) -> bool:
        return trio.current_time() - self._resolved_at <= ADDRESSES_FRESH_SECONDS

    def _prefer(self, address: Address) -> None:
        if address in self._addresses:
            self._addresses = [address, *(other for other in self._addresses if other != address)]

    async def _open_at(self, address: Address) -> SocketLink | TlsLink:
        family, where = address
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as cause:
            raise LinkBroken(_reason(cause)) from cause
        try:
            connection.setblocking(False)
            _set_options(connection)
            await _connect(connection, where)
            if self._context is None:
                return SocketLink(connection)
            # A close without TLS's own goodbye counts as a close: many servers do no better, and what it could hide, a
            # body cut short that only the close delimits, does not survive the parsing of its JSON.
            connection = self._context.wrap_socket(
                connection, server_hostname=self._origin.host, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            await _shake_hands(connection)
            return TlsLink(connection)
        except OSError as cause:
            connection.close()
            raise LinkBroken(_reason(cause)) from cause
        except BaseException:
            connection.close()
            raise


class SocketLink:
    """A link over a connected, non-blocking TCP socket."""

    __slots__ = ("_fd", "_socket", "sent")

    def __init__(self, connection: socket.socket) -> None:
        self.sent = False
        self._socket = connection
        self._fd = connection.fileno()

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            count = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as cause:
            raise LinkBroken(_reason(cause)) from cause
        self.sent = True
        return count

    async def send_all(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            count = self.send_now(rest[:SEND_BYTES])
            if count:
                rest = rest[count:]
            else:
                await _wait(trio.lowlevel.wait_writable, self._fd)

    async def receive_some(self) -> bytes:
        # Waiting first is right almost always: an answer is not there yet, and one read takes what is there of most. It also
        # makes each read a checkpoint, so that no flood from a server can hold up the other exchanges.
        while True:
            await _wait(trio.lowlevel.wait_readable, self._fd)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as cause:
                raise LinkBroken(_reason(cause)) from cause

    def alive(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False  # closed by the server, or it said something that nobody asked for

    def close(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._fd = -1
            self._socket.close()


class TlsLink:
    """A link over TLS on a connected, non-blocking socket."""

    __slots__ = ("_fd", "_socket", "sent")

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.sent = False
        self._socket = connection
        self._fd = connection.fileno()

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            count = self._socket.send(data[:SEND_BYTES])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            # OpenSSL may have passed on the beginning of a record. It wants the same bytes again, which `send_all` gives it.
            self.sent = True
            return 0
        except OSError as cause:
            raise LinkBroken(_reason(cause)) from cause
        self.sent = True
        return count

    async def send_all(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        self.sent = True
        while rest:
            try:
                rest = rest[self._socket.send(rest[:SEND_BYTES]) :]
            except ssl.SSLWantWriteError:
                await _wait(trio.lowlevel.wait_writable, self._fd)
            except ssl.SSLWantReadError:
                await _wait(trio.lowlevel.wait_readable, self._fd)
            except OSError as cause:
                raise LinkBroken(_reason(cause)) from cause

    async def receive_some(self) -> bytes:
        # Nothing readable is ever left inside OpenSSL: it takes one record at a time from the kernel, and one read all of it.
        until_ready = trio.lowlevel.wait_readable
        while True:
            await _wait(until_ready, self._fd)
            try:
                return self._socket.recv(TLS_RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                until_ready = trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                until_ready = trio.lowlevel.wait_writable
            except OSError as cause:
                raise LinkBroken(_reason(cause)) from cause

    def alive(self) -> bool:
        # TLS cannot peek, and session tickets make a healthy socket readable: so read; a byte of data condemns the link anyway.
        try:
            self._socket.recv(1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._fd = -1
            self._socket.close()


def default_ssl_context() -> ssl.SSLContext:
    """Certificates and host names checked against the machine's store, or certifi's where the machine has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        context = ssl.create_default_context()
    else:
        import certifi  # noqa: PLC0415 - comes with httpx; read only on the few machines that need it

        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect(connection: socket.socket, where: Any) -> None:
    try:
        connection.connect(where)
    except (BlockingIOError, InterruptedError):
        await trio.lowlevel.wait_writable(connection)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None


async def _shake_hands(connection: ssl.SSLSocket) -> None:
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(connection)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(connection)
        else:
            return


async def _wait(until_ready: Any, fd: int) -> None:
    if fd < 0:
        raise LinkBroken("closed by this program")
    try:
        await until_ready(fd)
    except trio.ClosedResourceError as cause:
        raise LinkBroken("closed by this program") from cause


def _set_options(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, KEEPALIVE_IDLE_SECONDS)
    else:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _share_of_time(addresses_left: int) -> float:
    """Seconds for the next address, out of what the caller's deadline leaves."""
    if addresses_left == 1:
        return math.inf  # the caller's own deadline ends this one, and is then seen to have been the cause
    return max(0.0, (trio.current_effective_deadline() - trio.current_time()) / addresses_left)


def _reason(cause: OSError) -> str:
    """Why, in a few words."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause.strerror or type(cause).__name__}"
    if cause.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files: raise the limit (ulimit -n) or lower --max-in-flight"
    return (cause.strerror or str(cause) or type(cause).__name__).lower()
