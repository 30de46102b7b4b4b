"""Exchanges over an in-memory network in virtual time: each phase, each way to fail, and nothing left behind."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
import trio.testing

from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.transport import (
    Connection,
    EngineTransport,
    LinkBroken,
    Origin,
    Pool,
    ReplyBudget,
    StreamDriver,
    Timeouts,
    TransportError,
    request_head,
)
from batchrunner.transport.drivers import StreamLink

ORIGIN = Origin.parse("http://localhost:8000")
BODY = b'{"model":"m"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEAD = request_head("POST", "/v1/chat/completions", ORIGIN.authority, [], len(BODY))
LIMITS = Timeouts(connect_seconds=1, write_seconds=2, first_byte_seconds=30, between_bytes_seconds=5, attempt_seconds=100)

Stream = trio.abc.Stream
Script = Callable[[Stream], Awaitable[None]]


class Network:
    """A server in memory: each connection is served by `script`, and is known to be open or not."""

    def __init__(self, nursery: trio.Nursery, script: Script, *, one_byte_at_a_time: bool = False) -> None:
        self.script = script
        self.connect_seconds = 0.0
        self.refuse = False
        self.open = 0
        self.opened: list[trio.abc.Stream] = []
        self.dead: set[trio.abc.Stream] = set()
        self._nursery = nursery
        self._lockstep = one_byte_at_a_time

    async def connect(self) -> trio.abc.Stream:
        await trio.sleep(self.connect_seconds)
        if self.refuse:
            raise OSError(111, "Connection refused")
        client: Stream
        server: Stream
        client, server = trio.testing.lockstep_stream_pair() if self._lockstep else trio.testing.memory_stream_pair()
        self.open += 1
        self.opened.append(client)
        self._nursery.start_soon(self._serve, client, server)
        return client

    async def _serve(self, client: trio.abc.Stream, server: Stream) -> None:
        try:
            await self.script(server)
        except trio.BrokenResourceError:
            pass
        finally:
            self.dead.add(client)
            await trio.aclose_forcefully(server)
            self.open -= 1

    def driver(self) -> StreamDriver:
        return StreamDriver(self.connect, is_alive=lambda stream: stream not in self.dead)


@asynccontextmanager
async def pool_over(script: Script, *, lockstep: bool = False, **options: object) -> AsyncIterator[tuple[Pool, Network]]:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, script, one_byte_at_a_time=lockstep)
        pool = Pool(ORIGIN, network.driver(), **options)  # type: ignore[arg-type]
        yield pool, network
        await pool.aclose()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        assert pool.statistics().active == pool.statistics().idle == pool.statistics().connecting == 0
        assert pool.statistics().closed == pool.statistics().opened


async def read_request(server: Stream) -> bytes:
    """One request, head and body; raises BrokenResourceError where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await server.receive_some()
        if not piece:
            raise trio.BrokenResourceError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]) if b"Content-Length" in head else 0
    while len(rest) < length:
        piece = await server.receive_some()
        if not piece:
            raise trio.BrokenResourceError
        rest += piece
    return head + b"\r\n\r\n" + rest


def answers(*pieces: bytes | float, then_close: bool = False) -> Script:
    """Answer each request with these pieces, sleeping for the numbers."""

    async def script(server: Stream) -> None:
        while True:
            await read_request(server)
            for piece in pieces:
                if isinstance(piece, bytes):
                    await server.send_all(piece)
                else:
                    await trio.sleep(piece)
            if then_close:
                return

    return script


async def exchange(pool: Pool, timeouts: Timeouts = LIMITS, body: bytes = BODY, *, fresh: bool = False) -> Reply:
    connection = await pool.connect(timeouts, fresh=fresh)
    head = request_head("POST", "/v1/chat/completions", ORIGIN.authority, [], len(body))
    return await connection.exchange(head, body, timeouts)


async def fail(pool: Pool, timeouts: Timeouts = LIMITS, body: bytes = BODY) -> Failure:
    with pytest.raises(TransportError) as caught:
        await exchange(pool, timeouts, body)
    assert str(caught.value) == caught.value.failure.message
    return caught.value.failure


# --- what a clean exchange is


async def test_the_server_gets_the_very_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """Head and body arrive as they were given; the reply comes back whole."""
    seen = []

    async def script(server: Stream) -> None:
        seen.append(await read_request(server))
        await server.send_all(OK)

    async with pool_over(script) as (pool, _):
        assert await exchange(pool) == Reply(200, (("content-length", "2"),), b"{}")
    assert seen == [HEAD + BODY]


async def test_connections_are_used_again_last_first(autojump_clock: trio.testing.MockClock) -> None:
    """Of two idle connections the one used last is taken, so that the other may grow old."""
    async with pool_over(answers(OK)) as (pool, network):
        first, second = await pool.connect(), await pool.connect()
        await first.exchange(HEAD, BODY)
        await second.exchange(HEAD, BODY)
        for _ in range(3):
            third = await pool.connect()
            assert third._link._stream is network.opened[1]  # type: ignore[attr-defined]
            assert third.reused
            await third.exchange(HEAD, BODY)
        statistics = pool.statistics()
        assert (statistics.opened, statistics.reused, statistics.idle, statistics.active) == (2, 3, 2, 0)


async def test_a_fresh_connection_is_a_new_one(autojump_clock: trio.testing.MockClock) -> None:
    """For a request that an old connection has failed, idle ones are left alone."""
    async with pool_over(answers(OK)) as (pool, _):
        await exchange(pool)
        connection = await pool.connect(fresh=True)
        assert not connection.reused
        connection.release()
        assert pool.statistics().idle == 2


async def test_an_unused_connection_can_be_given_back_once(autojump_clock: trio.testing.MockClock) -> None:
    """release() returns it; a second release, or a use after it, cannot disturb whoever has it next."""
    async with pool_over(answers(OK)) as (pool, _):
        connection = await pool.connect()
        assert connection.alive()
        connection.release()
        connection.release()
        connection.close()
        assert pool.statistics().idle == 1
        assert not connection.started
        assert not connection.alive()
        with pytest.raises(RuntimeError, match="one exchange"):
            await connection.exchange(HEAD, BODY)


async def test_a_connection_can_be_closed_unused(autojump_clock: trio.testing.MockClock) -> None:
    """close() does not give it back."""
    async with pool_over(answers(OK)) as (pool, _):
        connection = await pool.connect()
        connection.close()
        assert pool.statistics().idle == 0
        assert pool.statistics().closed == 1


@pytest.mark.parametrize(
    "reply",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK + b"surplus",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(autojump_clock: trio.testing.MockClock, reply: bytes) -> None:
    """Close announced, bytes after the end, HTTP/1.0: the reply is good, the connection is not."""
    async with pool_over(answers(reply)) as (pool, _):
        assert (await exchange(pool)).body == b"{}"
        assert pool.statistics().idle == 0
        await exchange(pool)
        assert pool.statistics().opened == 2


async def test_a_reply_may_end_with_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """Without length or chunks the close is the end."""
    async with pool_over(answers(b"HTTP/1.1 200 OK\r\n\r\nall", 1.0, b" of it", then_close=True)) as (pool, _):
        assert (await exchange(pool)).body == b"all of it"


# --- timeouts, one by one


async def test_connecting_takes_no_longer_than_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing was sent: the server cannot have billed it."""
    async with pool_over(answers(OK)) as (pool, network):
        network.connect_seconds = 1.5
        start = trio.current_time()
        failure = await fail(pool)
        assert trio.current_time() - start == pytest.approx(1)
        assert (failure.kind, failure.sent) == (FailureKind.CONNECT_TIMEOUT, False)
        assert "http://localhost:8000" in failure.message
        assert pool.statistics().refused == 1


async def test_a_refused_connection_is_named(autojump_clock: trio.testing.MockClock) -> None:
    """CONNECT, with the system's own reason."""
    async with pool_over(answers(OK)) as (pool, network):
        network.refuse = True
        failure = await fail(pool)
        assert (failure.kind, failure.sent) == (FailureKind.CONNECT, False)
        assert "refused" in failure.message


async def test_writing_takes_no_longer_than_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    """A server that does not read is given up, after a short look for an answer."""

    async def never_read(_server: Stream) -> None:
        await trio.sleep_forever()

    async with pool_over(never_read, lockstep=True) as (pool, _):
        start = trio.current_time()
        failure = await fail(pool)
        assert failure.kind is FailureKind.WRITE_TIMEOUT
        assert failure.sent
        assert trio.current_time() - start == pytest.approx(4)  # 2 for writing, 2 for the late answer


async def read_only(server: Stream) -> None:
    await read_request(server)
    await trio.sleep_forever()


async def test_the_first_byte_has_its_own_limit(autojump_clock: trio.testing.MockClock) -> None:
    """It counts from the end of writing."""
    async with pool_over(read_only) as (pool, _):
        start = trio.current_time()
        failure = await fail(pool)
        assert (failure.kind, failure.sent, failure.status) == (FailureKind.FIRST_BYTE_TIMEOUT, True, None)
        assert trio.current_time() - start == pytest.approx(30)


async def test_without_its_own_limit_the_first_byte_has_the_attempts(autojump_clock: trio.testing.MockClock) -> None:
    """By default a model may think for the whole attempt: 960 s."""
    async with pool_over(read_only) as (pool, _):
        start = trio.current_time()
        assert (await fail(pool, Timeouts())).kind is FailureKind.ATTEMPT_TIMEOUT
        assert trio.current_time() - start == pytest.approx(960)


async def test_a_pause_in_the_answer_has_its_own_limit(autojump_clock: trio.testing.MockClock) -> None:
    """It counts from the last bytes; the status is known by then."""
    async with pool_over(answers(OK[:-2], 4.0, b"{", 6.0, b"}")) as (pool, _):
        start = trio.current_time()
        failure = await fail(pool)
        assert (failure.kind, failure.status) == (FailureKind.BETWEEN_BYTES_TIMEOUT, 200)
        assert trio.current_time() - start == pytest.approx(9)


async def test_an_answer_that_never_ends_meets_the_attempts_limit(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes that keep coming do not prolong the attempt."""
    drip: list[bytes | float] = [4.0, b"x"]
    async with pool_over(answers(b"HTTP/1.1 200 OK\r\n\r\n", *drip * 100)) as (pool, _):
        start = trio.current_time()
        assert (await fail(pool)).kind is FailureKind.ATTEMPT_TIMEOUT
        assert trio.current_time() - start == pytest.approx(100)


async def test_slow_but_steady_is_fine(autojump_clock: trio.testing.MockClock) -> None:
    """Each phase just within its limit: the reply comes."""
    async with pool_over(answers(29.0, *[part for i in range(len(OK)) for part in (OK[i : i + 1], 1.0)])) as (pool, network):
        network.connect_seconds = 0.9
        assert (await exchange(pool)).body == b"{}"


async def test_no_limit_is_a_limit_too(autojump_clock: trio.testing.MockClock) -> None:
    """math.inf turns each timeout off."""
    never = Timeouts(math.inf, math.inf, math.inf, math.inf, math.inf)
    async with pool_over(answers(1e6, OK)) as (pool, _):
        assert (await exchange(pool, never)).status == 200


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


# --- idle connections


async def test_idle_connections_that_died_are_passed_over(autojump_clock: trio.testing.MockClock) -> None:
    """What the server closed is noticed when it is met, counted, and costs no attempt."""
    async with pool_over(answers(OK)) as (pool, network):
        connections = [await pool.connect() for _ in range(3)]
        for connection in connections:
            await connection.exchange(HEAD, BODY)
        network.dead.update(network.opened[1:])
        assert (await exchange(pool)).status == 200
        statistics = pool.statistics()
        assert (statistics.stale_found, statistics.idle, statistics.opened) == (2, 1, 3)


async def test_idle_connections_grow_old(autojump_clock: trio.testing.MockClock) -> None:
    """After 55 s an idle connection is closed instead of used."""
    async with pool_over(answers(OK)) as (pool, _):
        await exchange(pool)
        await trio.sleep(54)
        await exchange(pool)
        assert pool.statistics().reused == 1
        await trio.sleep(56)
        await exchange(pool)
        assert pool.statistics().reused == 1
        assert pool.statistics().opened == 2


async def test_none_of_many_old_connections_is_used(autojump_clock: trio.testing.MockClock) -> None:
    """However many grew old together, a request never goes out on one of them."""
    async with pool_over(answers(OK)) as (pool, _):
        connections = [await pool.connect() for _ in range(10)]
        for connection in connections:
            await connection.exchange(HEAD, BODY)
        await trio.sleep(56)
        await exchange(pool)
        assert (pool.statistics().reused, pool.statistics().opened, pool.statistics().idle) == (0, 11, 1)


async def test_a_surplus_is_closed_while_a_few_stay_in_use(autojump_clock: trio.testing.MockClock) -> None:
    """The bottom of the stack ages and is trimmed, a constant number at each operation."""
    async with pool_over(answers(OK)) as (pool, network):
        connections = [await pool.connect() for _ in range(40)]
        for connection in connections:
            await connection.exchange(HEAD, BODY)
        for _ in range(30):
            await trio.sleep(10)
            await exchange(pool)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().idle == network.open == 1
        assert pool.statistics().opened == 40


# --- ends


async def test_closing_the_pool_ends_what_is_under_way(autojump_clock: trio.testing.MockClock) -> None:
    """Exchanges fail, nothing opens any more, and every connection is closed."""
    async with pool_over(read_only) as (pool, network):
        failures: list[Failure] = []

        async def one() -> None:
            failures.append(await fail(pool))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            await pool.aclose()
        assert failures[0].kind is FailureKind.READ
        with pytest.raises(trio.ClosedResourceError):
            await pool.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert network.open == 1  # the script sleeps on; its client's end is closed
        assert pool.statistics().closed == 1


async def test_a_connection_that_opens_after_the_pool_closed_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing slips through a close that comes while connecting."""
    async with pool_over(answers(OK)) as (pool, network):
        network.connect_seconds = 0.5
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await pool.connect()

            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            await pool.aclose()
        assert pool.statistics().closed == pool.statistics().opened == 1


async def test_a_task_that_is_cancelled_already_sends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """No request goes out for an answer that nobody waits for."""
    async with pool_over(read_only) as (pool, _):
        connection = await pool.connect()
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.exchange(HEAD, BODY)
        assert scope.cancelled_caught
        assert not connection.started


class Cut(trio.abc.Instrument):
    """Cancels a scope the nth time that a task is about to run."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.scope.cancel()


@pytest.mark.parametrize("lockstep", [False, True])
async def test_cancelling_at_any_step_leaves_nothing(autojump_clock: trio.testing.MockClock, lockstep: bool) -> None:
    """Cut off before each step of connecting, writing and reading in turn: no connection stays open or counted."""
    pieces: list[bytes | float] = [1.0, OK[:10], 1.0, OK[10:-1], 1.0, OK[-1:]]
    budget = ReplyBudget(1)
    outcomes = []
    for steps in range(1, 200):
        async with pool_over(answers(*pieces), lockstep=lockstep, reply_budget=budget) as (pool, network):
            network.connect_seconds = 0.5
            with trio.CancelScope() as scope:
                cut = Cut(scope, steps)
                trio.lowlevel.add_instrument(cut)
                try:
                    await exchange(pool)
                finally:
                    trio.lowlevel.remove_instrument(cut)
            statistics = pool.statistics()
            assert statistics.active == statistics.connecting == 0
            assert statistics.idle == (0 if scope.cancelled_caught else 1)
            assert budget.statistics().held_bytes == 0
        outcomes.append(scope.cancelled_caught)
        if outcomes[-2:] == [False, False]:
            break
    assert sum(outcomes) > 10
    assert outcomes[-1] is False


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


# --- behind httpx


def client_over(network: Network) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=EngineTransport(lambda origin: Pool(origin, network.driver())))


async def test_httpx_sees_an_ordinary_response(autojump_clock: trio.testing.MockClock) -> None:
    """Status, headers, body and JSON; no redirect is followed."""
    seen: list[bytes] = []

    async def script(server: Stream) -> None:
        while True:
            seen.append(await read_request(server))
            await server.send_all(b"HTTP/1.1 307 Go\r\nLocation: /x\r\nX-A: \xe4\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}')

    async with trio.open_nursery() as nursery:
        async with client_over(Network(nursery, script)) as client:
            response = await client.post("http://localhost:8000/v1/models?limit=1", json={"b": 2}, headers={"x-k": "v"})
            assert (response.status_code, response.json(), response.headers["x-a"]) == (307, {"a": 1}, "ä")
            await client.get("http://localhost:8000/v1/models")
        nursery.cancel_scope.cancel()
    assert seen[0].startswith(b"POST /v1/models?limit=1 HTTP/1.1\r\nHost: localhost:8000\r\nAccept-Encoding: identity\r\n")
    assert seen[0].endswith(b'{"b":2}')
    assert b"\r\nx-k: v\r\n" in seen[0]
    assert b"Content-Length" not in seen[1]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (read_only, httpx.ReadTimeout),
        (answers(then_close=True), httpx.ReadError),
        (answers(OK[:-1], then_close=True), httpx.RemoteProtocolError),
        (answers(OK[:-1], 9.0, b"x"), httpx.ReadTimeout),
    ],
)
async def test_httpx_sees_its_own_exceptions(
    autojump_clock: trio.testing.MockClock, script: Script, expected: type[Exception]
) -> None:
    """Each failure has its httpx name and carries the request."""
    async with trio.open_nursery() as nursery:
        async with client_over(Network(nursery, script)) as client:
            with pytest.raises(expected) as caught:
                await client.get("http://localhost:8000/")
            assert isinstance(caught.value, httpx.RequestError)
            assert caught.value.request.method == "GET"
        nursery.cancel_scope.cancel()


async def test_httpx_connect_failures(autojump_clock: trio.testing.MockClock) -> None:
    """Refused and too slow are told apart."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, read_only)
        async with client_over(network) as client:
            network.refuse = True
            with pytest.raises(httpx.ConnectError):
                await client.get("http://localhost:8000/")
            network.connect_seconds = 60
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("http://localhost:8000/")


@pytest.mark.parametrize("url", ["http://api.example.com/", "ftp://localhost/"])
async def test_httpx_cannot_send_in_clear(url: str) -> None:
    """Plain http to another machine is refused before anything is opened."""
    async with httpx.AsyncClient(transport=EngineTransport()) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get(url)


async def test_httpx_requests_that_may_be_repeated_survive_a_stale_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A GET goes again on a fresh connection, once; a POST that may have been read does not."""

    async def script(server: Stream) -> None:
        await read_request(server)
        await server.send_all(OK)
        await read_request(server)

    async with trio.open_nursery() as nursery:
        network = Network(nursery, script)
        async with client_over(network) as client:
            await client.get("http://localhost:8000/")
            assert (await client.get("http://localhost:8000/")).status_code == 200
            assert len(network.opened) == 2
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("http://localhost:8000/", json={})
        nursery.cancel_scope.cancel()


def test_httpx_stays_behind_the_adapter() -> None:
    """No other module of the transport imports httpx."""
    for module in (Connection, Pool, Origin, StreamDriver, ReplyBudget):
        assert "import httpx" not in inspect.getsource(inspect.getmodule(module))  # type: ignore[arg-type]
