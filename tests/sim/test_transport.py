"""Exchanges in virtual time: what a clean one is, each timeout, idle connections, ends."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.transport import (
    ReplyBudget,
    Timeouts,
)
from tests.sim.network import (
    BODY,
    HEAD,
    OK,
    Stream,
    answers,
    exchange,
    fail,
    pool_over,
    read_only,
    read_request,
)

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
