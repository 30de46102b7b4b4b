"""The engine over real loopback sockets: TLS, resets, large bodies, thousands at once, and no descriptor left open."""

from __future__ import annotations

import os
import resource
import socket
from datetime import UTC, datetime

import httpx
import pytest
import trio
import trustme

from batchrunner.exchange import FailureKind
from batchrunner.transport import Origin, Pool, Timeouts, TransportError
from batchrunner.transport.adapter import EngineTransport
from tests.e2e.sockets import (
    OK,
    echo,
    exchange,
    fail,
    pool_to,
    read_request,
    reset,
    serving,
    serving_tls,
    trusting,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


LARGE = os.urandom(1 << 20) * 8


@pytest.mark.parametrize("size", [0, 2, 100_000, 200_000, len(LARGE)])
async def test_bodies_of_any_size_go_both_ways(size: int) -> None:
    """Byte for byte, on one connection, whether one call sends it or many."""
    async with serving(echo) as port, pool_to(port) as pool:
        for _ in range(2):
            assert (await exchange(pool, LARGE[:size])).body == LARGE[:size]
        assert pool.statistics().opened == 1


@pytest.mark.parametrize("size", [0, 2, 100_000, 200_000, len(LARGE)])
async def test_bodies_of_any_size_go_both_ways_over_tls(authority: trustme.CA, size: int) -> None:
    """The same through TLS, with the handshake done once."""
    server = serving_tls(echo, authority, "localhost")
    async with server as port, pool_to(port, host="localhost", tls=trusting(authority)) as pool:
        for _ in range(2):
            assert (await exchange(pool, LARGE[:size])).body == LARGE[:size]
        assert pool.statistics().opened == 1


async def test_an_address_in_a_certificate_will_do(authority: trustme.CA) -> None:
    """A server may be named by its address."""
    async with serving_tls(echo, authority, "127.0.0.1") as port, pool_to(port, tls=trusting(authority)) as pool:
        assert (await exchange(pool)).status == 200


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    """Nothing is sent to a server that cannot prove who it is."""
    server = serving_tls(echo, trustme.CA(), "localhost")
    async with server as port, pool_to(port, host="localhost", tls=trusting(authority)) as pool:
        with pytest.raises(TransportError, match="certificate is refused") as caught:
            await pool.connect()
        assert (caught.value.failure.kind, caught.value.failure.sent) == (FailureKind.CONNECT, False)


async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA) -> None:
    """Nor to one that proves to be another."""
    server = serving_tls(echo, authority, "elsewhere.example")
    async with server as port, pool_to(port, host="localhost", tls=trusting(authority)) as pool:
        with pytest.raises(TransportError, match="certificate is refused"):
            await pool.connect()


async def test_N12_an_expired_certificate_is_refused(authority: trustme.CA) -> None:
    """Nor to one whose proof has run out."""
    server = serving_tls(echo, authority, "localhost", until=datetime(2002, 1, 1, tzinfo=UTC))
    async with server as port, pool_to(port, host="localhost", tls=trusting(authority)) as pool:
        with pytest.raises(TransportError, match="certificate is refused"):
            await pool.connect()


async def hang(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_a_handshake_that_hangs_is_a_connect_timeout(authority: trustme.CA) -> None:
    """TLS belongs to connecting."""
    async with serving(hang) as port, pool_to(port, tls=trusting(authority)) as pool:
        assert await fail(pool, timeouts=Timeouts(connect_seconds=0.2)) == (FailureKind.CONNECT_TIMEOUT, False, None)


async def test_a_server_that_speaks_no_tls_is_refused(authority: trustme.CA) -> None:
    """Plain HTTP on a TLS port is a failure to connect, not an answer."""

    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(OK)

    async with serving(plain) as port, pool_to(port, tls=trusting(authority)) as pool:
        assert await fail(pool) == (FailureKind.CONNECT, False, None)


async def test_a_closed_port_is_refused() -> None:
    """CONNECT at once, with the address and the reason."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with pool_to(port) as pool:
            with pytest.raises(TransportError, match=f"127.0.0.1:{port}: connection refused"):
                await pool.connect()


async def test_every_address_of_a_name_is_tried() -> None:
    """localhost listens on one family only: whichever comes first, the other is found, and remembered."""
    async with serving(echo, host="127.0.0.1") as port:
        found = await trio.socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
        families = [(family, address) for family, _, _, _, address in found if family == socket.AF_INET]
        pool = Pool(Origin.parse(f"http://localhost:{port}"))
        driver = pool._driver
        driver._addresses = [(socket.AF_INET6, ("::1", port, 0, 0)), *families]  # type: ignore[attr-defined]
        driver._resolved_at = trio.current_time()  # type: ignore[attr-defined]
        assert (await exchange(pool)).status == 200
        assert driver._addresses[0][0] == socket.AF_INET  # type: ignore[attr-defined]
        await pool.aclose()


async def test_a_name_that_does_not_exist_cannot_be_connected_to() -> None:
    """CONNECT: nothing was sent."""
    pool = Pool(Origin.parse("https://no-such-host.invalid"))
    assert await fail(pool) == (FailureKind.CONNECT, False, None)
    assert pool.statistics().refused == 1


async def test_ipv6_loopback() -> None:
    """An IPv6 address in brackets is connected to."""
    try:
        async with serving(echo, host="::1") as port, pool_to(port, host="[::1]") as pool:
            assert (await exchange(pool)).status == 200
    except* OSError:
        pytest.skip("this machine has no IPv6 loopback")


@pytest.mark.parametrize("reused", [False, True])
async def test_a_reset_in_the_body_is_a_read_failure(reused: bool) -> None:
    """The status that arrived is kept, the body is not; a server that has begun to answer has read the request."""

    async def script(stream: trio.SocketStream) -> None:
        if reused:
            await read_request(stream)
            await stream.send_all(OK)
        await read_request(stream)
        await stream.send_all(OK[:-1])
        await trio.sleep(0.05)
        reset(stream)

    async with serving(script) as port, pool_to(port) as pool:
        if reused:
            await exchange(pool)
        assert await fail(pool) == (FailureKind.READ, True, 200)
        assert pool.statistics().reused == reused


async def test_a_reset_before_the_answer_is_a_read_failure_or_stale() -> None:
    """On a new connection it is a failure; on a reused one the server may never have seen the request."""

    async def script(stream: trio.SocketStream) -> None:
        await read_request(stream)
        if not served:
            served.append(stream)
            await stream.send_all(OK)
            await read_request(stream)
        reset(stream)

    served: list[trio.SocketStream] = []
    async with serving(script) as port, pool_to(port) as pool:
        await exchange(pool)
        assert await fail(pool) == (FailureKind.STALE, True, None)
        assert await fail(pool) == (FailureKind.READ, True, None)


@pytest.mark.parametrize("abrupt", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_an_idle_connection_that_the_server_closed_is_passed_over(authority: trustme.CA, tls: bool, abrupt: bool) -> None:
    """It is noticed before anything is sent, whichever way it was closed."""
    closed = trio.Event()

    async def script(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        inner = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        if abrupt:
            reset(inner)
        else:
            await stream.aclose()
        closed.set()

    server = serving_tls(script, authority, "127.0.0.1") if tls else serving(script)
    async with server as port, pool_to(port, tls=trusting(authority) if tls else None) as pool:
        for stale_found in range(3):
            closed = trio.Event()
            assert (await exchange(pool)).status == 200
            assert pool.statistics().stale_found == stale_found
            await closed.wait()
        held = await pool.connect()
        assert held.alive()
        held.close()


async def test_a_connection_held_unused_stays_alive_over_tls(authority: trustme.CA) -> None:
    """Session tickets that a server sends after the handshake are no reason to drop a connection opened ahead."""
    async with serving_tls(echo, authority, "127.0.0.1") as port, pool_to(port, tls=trusting(authority)) as pool:
        held = await pool.connect()
        await trio.sleep(0.05)
        assert held.alive()
        held.release()
        assert (await exchange(pool)).status == 200
        assert pool.statistics().opened == 1


async def test_an_early_refusal_of_a_large_body_is_the_answer() -> None:
    """A server that answers 413 and closes, with most of the body unread, is understood."""

    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    async with serving(script) as port, pool_to(port) as pool:
        for _ in range(5):
            assert (await exchange(pool, LARGE)).status == 413


@pytest.mark.parametrize("tls", [False, True])
async def test_cancelling_leaves_no_descriptor(authority: trustme.CA, tls: bool) -> None:
    """Cut off while writing a large body and while waiting for an answer, the socket is closed at once."""

    async def script(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1)
        await trio.sleep_forever()

    server = serving_tls(script, authority, "127.0.0.1") if tls else serving(script)
    async with server as port, pool_to(port, tls=trusting(authority) if tls else None) as pool:
        for body in (LARGE, b"{}"):
            with trio.move_on_after(0.1) as scope:
                await exchange(pool, body)
            assert scope.cancelled_caught
            assert pool.statistics().active == pool.statistics().idle == 0
        assert pool.statistics().closed == 2


async def test_closing_the_pool_wakes_who_waits() -> None:
    """An exchange under way on a real socket ends with READ."""
    async with serving(hang) as port:
        pool = Pool(Origin.parse(f"http://127.0.0.1:{port}"))
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                assert (await fail(pool))[0] is FailureKind.READ

            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await pool.aclose()
        assert pool.statistics().closed == 1


async def test_two_thousand_at_once() -> None:
    """All are in flight together, all are answered, on two thousand connections that are then used again."""
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * count:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * count), hard))
    everyone = trio.Event()
    in_flight = 0

    async def script(stream: trio.SocketStream) -> None:
        nonlocal in_flight
        while True:
            body = await read_request(stream)
            in_flight += 1
            if in_flight == count:
                everyone.set()
            await everyone.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    try:
        async with serving(script) as port, pool_to(port) as pool:
            for _ in range(2):
                everyone, in_flight = trio.Event(), 0
                replies: list[bytes] = []

                async def one(number: int, replies: list[bytes]) -> None:
                    replies.append((await exchange(pool, b"%d" % number)).body)

                async with trio.open_nursery() as nursery:
                    for number in range(count):
                        nursery.start_soon(one, number, replies)
                assert sorted(map(int, replies)) == list(range(count))
            statistics = pool.statistics()
            assert (statistics.opened, statistics.reused, statistics.idle) == (count, count, count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_httpx_over_tls(authority: trustme.CA) -> None:
    """An AsyncClient over this engine talks to a TLS server."""
    async with serving_tls(echo, authority, "localhost") as port:
        context = trusting(authority)
        transport = EngineTransport(lambda origin: Pool(origin, ssl_context=context))
        async with httpx.AsyncClient(transport=transport, base_url=f"https://localhost:{port}") as client:
            for number in range(3):
                assert (await client.post("/v1/x", json=[number])).json() == [number]
