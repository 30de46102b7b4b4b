"""A TLS link when OpenSSL wants to read before it writes, or to write before it reads; and when it fails."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from batchrunner.transport import sockets
from batchrunner.transport.drivers import LinkBroken
from batchrunner.transport.origin import Origin
from batchrunner.transport.sockets import SocketDriver, TlsLink, default_ssl_context

WANT_READ, WANT_WRITE = ssl.SSLWantReadError(), ssl.SSLWantWriteError()
BROKEN = ssl.SSLError(1, "bad record")
BROKEN.reason = "BAD_RECORD"


class Scripted:
    """A TLS connection over a real socket pair that is always ready, whose every answer is given."""

    def __init__(self, *answers: object) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.send(b"x")
        self.answers: Iterator[object] = iter(answers)
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def send(self, data: bytes | memoryview) -> Any:
        self.sent.append(bytes(data))
        return self._answer()

    def recv(self, _: int) -> Any:
        return self._answer()

    def do_handshake(self) -> Any:
        return self._answer()

    def _answer(self) -> Any:
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def link(*answers: object) -> tuple[TlsLink, Scripted]:
    connection = Scripted(*answers)
    return TlsLink(connection), connection  # type: ignore[arg-type]


async def test_a_write_goes_on_once_openssl_has_what_it_wants() -> None:
    """From the same byte on: it may have passed on the beginning of a record."""
    tls, connection = link(2, WANT_WRITE, WANT_READ, 3)
    await tls.send_all(b"hello")
    assert connection.sent == [b"hello", b"llo", b"llo", b"llo"]
    assert tls.sent
    tls.close()


@pytest.mark.parametrize("wanted", [WANT_READ, WANT_WRITE])
async def test_a_write_that_cannot_be_done_at_once_may_have_begun(wanted: Exception) -> None:
    tls, _ = link(wanted, 3)
    assert tls.send_now(b"hello") == 0
    assert tls.sent
    assert tls.send_now(b"hello") == 3
    tls.close()


async def test_a_read_goes_on_once_openssl_has_what_it_wants() -> None:
    tls, _ = link(WANT_READ, WANT_WRITE, WANT_READ, b"hello")
    assert await tls.receive_some() == b"hello"
    tls.close()


async def test_a_broken_link_says_so_wherever_it_breaks() -> None:
    """TLS failed, in OpenSSL's own words."""
    for use in ("send_all", "receive_some"):
        tls, _ = link(BROKEN)
        with pytest.raises(LinkBroken, match="TLS failed: BAD_RECORD"):
            await (tls.send_all(b"hello") if use == "send_all" else tls.receive_some())
        tls.close()
    tls, _ = link(BROKEN)
    with pytest.raises(LinkBroken, match="TLS failed: BAD_RECORD"):
        tls.send_now(b"hello")
    assert not tls.sent
    tls.close()


@pytest.mark.parametrize(
    ("answer", "alive"), [(WANT_READ, True), (WANT_WRITE, True), (BROKEN, False), (b"x", False), (b"", False)]
)
async def test_an_idle_link_is_alive_while_nothing_comes(answer: object, alive: bool) -> None:
    """A byte that nobody asked for condemns it, as an end or an error does."""
    tls, _ = link(answer)
    assert tls.alive() is alive
    tls.close()


async def test_a_handshake_waits_for_what_openssl_wants() -> None:
    connection = Scripted(WANT_READ, WANT_WRITE, None)
    await sockets._shake_hands(connection)  # type: ignore[arg-type]
    assert next(connection.answers, "done") == "done"
    connection.close()


async def test_a_link_that_was_closed_by_us_is_broken_for_whoever_still_uses_it() -> None:
    """Before the wait, and in the middle of it."""
    tls, connection = link()
    connection.ours.recv(1)
    with pytest.RaisesGroup(pytest.RaisesExc(LinkBroken, match="closed by this program")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            tls.close()
    tls.close()
    with pytest.raises(LinkBroken, match="closed by this program"):
        await tls.receive_some()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EMFILE, "too many open files: raise the limit"), (errno.EACCES, "permission denied")]
)
async def test_a_socket_that_cannot_be_had_is_a_connection_that_cannot(
    number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = SocketDriver(Origin.parse("http://127.0.0.1:1"))

    def refuse(*_: object) -> socket.socket:
        raise OSError(number, "Permission denied")

    monkeypatch.setattr("batchrunner.transport.sockets.socket.socket", refuse)
    with pytest.raises(LinkBroken, match=words):
        await opener.open()


def test_where_the_machine_has_no_store_of_certificates_certifis_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = ssl.DefaultVerifyPaths(None, None, "", "", "", "")  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    context = default_ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.get_ca_certs()
