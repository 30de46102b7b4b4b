"""Exchanges in virtual time: each way in which a connection breaks, and the memory of replies."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport import (
    LinkBroken,
    Pool,
    ReplyBudget,
    StreamDriver,
    Timeouts,
    TransportError,
)
from batchrunner.transport.drivers import StreamLink
from tests.sim.network import (
    BODY,
    HEAD,
    OK,
    ORIGIN,
    Network,
    Stream,
    answers,
    exchange,
    fail,
    pool_over,
    read_request,
)

# --- a connection that breaks


async def test_a_connection_closed_without_an_answer_is_a_read_failure(autojump_clock: trio.testing.MockClock) -> None:
    """On a new connection nothing excuses it."""
    async with pool_over(answers(then_close=True)) as (pool, _):
        failure = await fail(pool)
        assert (failure.kind, failure.sent) == (FailureKind.READ, True)


async def test_a_reused_connection_closed_without_an_answer_is_stale(autojump_clock: trio.testing.MockClock) -> None:
    """The server may have closed it before it saw the request; a fresh one then tells."""

    async def script(server: Stream) -> None:
        await read_request(server)
        await server.send_all(OK)
        await read_request(server)

    async with pool_over(script) as (pool, _):
        await exchange(pool)
        failure = await fail(pool)
        assert (failure.kind, failure.sent) == (FailureKind.STALE, True)
        assert (await exchange(pool, fresh=True)).status == 200


class SeveringDriver(StreamDriver):
    """Links whose second request finds the connection broken as soon as it is written to."""

    async def open(self) -> StreamLink:
        link = await super().open()
        return SeveringLink(link._stream, link._is_alive)


class SeveringLink(StreamLink):
    requests = 0

    def send_now(self, data: bytes | memoryview) -> int:
        self.requests += 1
        if self.requests == 2:
            raise LinkBroken("broken pipe")
        return super().send_now(data)


async def test_a_stale_connection_that_took_no_byte_has_sent_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Found closed before the first byte was written: it costs nothing, and the failure says so."""

    async def script(server: Stream) -> None:
        await read_request(server)
        await server.send_all(OK)

    async with trio.open_nursery() as nursery:
        pool = Pool(ORIGIN, SeveringDriver(Network(nursery, script).connect))
        first = await pool.connect()
        await first.exchange(HEAD, BODY)
        assert first.started
        second = await pool.connect()
        with pytest.raises(TransportError) as caught:
            await second.exchange(HEAD, BODY)
        assert (caught.value.failure.kind, caught.value.failure.sent) == (FailureKind.STALE, False)
        assert not second.started
        await pool.aclose()


async def test_one_byte_of_an_answer_is_not_stale(autojump_clock: trio.testing.MockClock) -> None:
    """Once the server has begun to answer, it has read the request."""

    async def script(server: Stream) -> None:
        await read_request(server)
        await server.send_all(OK)
        await read_request(server)
        await server.send_all(b"H")

    async with pool_over(script) as (pool, _):
        await exchange(pool)
        assert (await fail(pool)).kind is FailureKind.TRUNCATED


async def test_a_close_in_the_body_is_a_truncation_with_its_status(autojump_clock: trio.testing.MockClock) -> None:
    """What arrived is not passed off as the reply."""
    async with pool_over(answers(OK[:-1], then_close=True)) as (pool, _):
        failure = await fail(pool)
        assert (failure.kind, failure.sent, failure.status) == (FailureKind.TRUNCATED, True, 200)


async def test_nonsense_and_oversize_are_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    """PROTOCOL and TOO_LARGE come through, and the connection is closed."""
    async with pool_over(answers(b"220 smtp ready\r\n")) as (pool, _):
        assert (await fail(pool)).kind is FailureKind.PROTOCOL
    async with pool_over(answers(OK)) as (pool, network):
        connection = await pool.connect()
        with pytest.raises(TransportError) as caught:
            await connection.exchange(HEAD, BODY, max_body_bytes=1)
        assert caught.value.failure.kind is FailureKind.TOO_LARGE
        await trio.testing.wait_all_tasks_blocked()
        assert network.open == 0


REFUSAL = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def refuse_early(server: Stream) -> None:
    await server.receive_some(16)
    await server.send_all(REFUSAL)


async def test_an_answer_before_the_request_was_whole_is_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    """A 413 and a close in the middle of a large body give the 413, not a broken pipe."""

    async def script(server: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse_early, server)
            await trio.sleep(1)
        assert isinstance(server, trio.StapledStream)
        await trio.aclose_forcefully(server.receive_stream)
        await trio.sleep(1)

    async with pool_over(script, lockstep=True) as (pool, _):
        reply = await exchange(pool, body=b"x" * 1_000_000)
        assert reply.status == 413
        assert pool.statistics().idle == 0


async def test_an_answer_of_a_server_that_stops_reading_is_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    """Even where it leaves the connection open: the write timeout ends the wait, and the connection is not used again."""

    async def script(server: Stream) -> None:
        await server.receive_some(16)
        await server.send_all(REFUSAL.replace(b"Connection: close\r\n", b""))
        await trio.sleep_forever()

    async with pool_over(script, lockstep=True) as (pool, _):
        assert (await exchange(pool, body=b"x" * 1_000_000)).status == 413
        assert pool.statistics().idle == 0


async def test_a_break_in_writing_without_an_answer_is_a_write_failure(autojump_clock: trio.testing.MockClock) -> None:
    """WRITE on a new connection."""

    async def script(server: Stream) -> None:
        await server.receive_some(16)

    async with pool_over(script, lockstep=True) as (pool, _):
        failure = await fail(pool, body=b"x" * 1_000_000)
        assert (failure.kind, failure.sent) == (FailureKind.WRITE, True)


# --- memory of replies


async def test_replies_together_stay_within_the_budget(autojump_clock: trio.testing.MockClock) -> None:
    """Past the budget one exchange at a time goes on; all end, and nothing stays held."""
    size = 100_000
    piece = b"x" * 10_000
    most = 0
    budget = ReplyBudget(150_000)

    async def script(server: Stream) -> None:
        nonlocal most
        await read_request(server)
        await server.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await server.send_all(piece)
            await trio.sleep(0.1)
            most = max(most, budget.statistics().held_bytes)

    async with pool_over(script, lockstep=True, reply_budget=budget) as (pool, _):
        replies: list[Reply] = []

        async def one() -> None:
            replies.append(await exchange(pool))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert [len(reply.body) for reply in replies] == [size] * 20
    assert 150_000 <= most <= 150_000 + size + 20 * len(piece)
    assert budget.statistics().held_bytes == budget.statistics().waiting == 0


async def test_waiting_for_memory_counts_toward_the_attempt_alone(autojump_clock: trio.testing.MockClock) -> None:
    """The pause is ours, so the limit between bytes does not run; the attempt's does."""
    slow = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[", 4.0, b"1", 4.0, b"]")
    async with pool_over(slow, reply_budget=ReplyBudget(1)) as (pool, _):
        ended: list[tuple[str, float]] = []

        async def one(name: str, attempt_seconds: float) -> None:
            try:
                await exchange(pool, Timeouts(between_bytes_seconds=5, attempt_seconds=attempt_seconds))
                ended.append((name, trio.current_time() - start))
            except TransportError as error:
                ended.append((error.failure.kind, trio.current_time() - start))

        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            nursery.start_soon(one, "leader", 100)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, "patient", 100)
            nursery.start_soon(one, "hurried", 7)
    assert [name for name, _ in ended] == ["attempt_timeout", "leader", "patient"]
    assert [seconds for _, seconds in ended] == pytest.approx([7, 8, 8])
