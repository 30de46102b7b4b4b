"""Exchanges in virtual time whose answers come as streams of events: who takes them, when they end, what bounds them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport import Pool, TransportError
from batchrunner.transport.connection import LINGER_SECONDS
from tests.sim.network import BODY, HEAD, LIMITS, OK, answers, pool_over

START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Taker:
    """Keeps all; has enough once `enough` has come."""

    def __init__(self, enough: bytes = b"[DONE]") -> None:
        self.taken = b""
        self._enough = enough

    @property
    def held_bytes(self) -> int:
        return len(self.taken)

    @property
    def began(self) -> bool:
        return bool(self.taken)

    @property
    def complete(self) -> bool:
        return self.taken.endswith(self._enough)

    def feed(self, piece: bytes) -> None:
        self.taken += piece


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def stream(pool: Pool, taker: Taker, **limits: Any) -> Reply:
    connection = await pool.connect(LIMITS)
    return await connection.exchange(HEAD, BODY, LIMITS, stream=lambda: taker, **limits)


async def fail(pool: Pool, taker: Taker, **limits: Any) -> FailureKind:
    with pytest.raises(TransportError) as caught:
        await stream(pool, taker, **limits)
    assert caught.value.failure.sent
    return caught.value.failure.kind


async def test_a_stream_is_taken_as_it_comes(autojump_clock: trio.testing.MockClock) -> None:
    """The reply has its head and no body; the connection is kept, as after any whole reply."""
    taker = Taker()
    async with pool_over(answers(START, chunk(b"a"), 1.0, chunk(b"b"), chunk(b"[DONE]"), END)) as (pool, _):
        reply = await stream(pool, taker)
        assert (reply.status, reply.body, taker.taken) == (200, b"", b"ab[DONE]")
        assert pool.statistics().idle == 1


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        START.replace(b"200 OK", b"429 Slow down").replace(b"Transfer-Encoding: chunked", b"Content-Length: 2") + b"{}",
        OK.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain\r\n\r\n"),
    ],
)
async def test_what_is_no_stream_or_no_success_is_read_as_ever(autojump_clock: trio.testing.MockClock, reply: bytes) -> None:
    """Nothing is taken: the reply has its body."""
    taker = Taker()
    async with pool_over(answers(reply)) as (pool, _):
        assert (await stream(pool, taker)).body == b"{}"
    assert taker.taken == b""


@pytest.mark.parametrize("then_close", [False, True])
async def test_a_stream_that_has_said_all_is_not_waited_for(autojump_clock: trio.testing.MockClock, then_close: bool) -> None:
    """A moment for its end; where that does not come, in silence or broken off, the answer is whole and the connection closed."""
    taker = Taker()
    async with pool_over(answers(START, chunk(b"[DONE]"), 0.5, then_close=then_close)) as (pool, network):
        began = trio.current_time()
        assert (await stream(pool, taker)).status == 200
        assert trio.current_time() - began == (0.5 if then_close else LINGER_SECONDS)
        assert pool.statistics().idle == 0
        await trio.testing.wait_all_tasks_blocked()
        assert len(network.opened) == 1


async def test_what_follows_the_last_words_is_not_listened_to_for_long(autojump_clock: trio.testing.MockClock) -> None:
    """A moment in all, however much still comes."""

    class Done(Taker):
        complete = True

    async with pool_over(answers(START, chunk(b"[DONE]"), *[part for _ in range(100) for part in (0.75, chunk(b":"))])) as (
        pool,
        _,
    ):
        began = trio.current_time()
        assert (await stream(pool, Done())).status == 200
        assert trio.current_time() - began == LINGER_SECONDS


async def test_nonsense_behind_the_last_words_spoils_only_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The answer was whole by then."""
    taker = Taker()
    async with pool_over(answers(START, chunk(b"[DONE]"), 0.1, b"no chunk\r\n")) as (pool, _):
        assert (await stream(pool, taker)).status == 200
        assert pool.statistics().idle == 0


async def test_silence_between_two_bytes_ends_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    """Each piece gives it as long again, and no longer than the attempt."""
    async with pool_over(answers(START, chunk(b"a"), 4.0, chunk(b"b"), 4.0, chunk(b"c"), 1000.0)) as (pool, _):
        began = trio.current_time()
        assert await fail(pool, Taker()) is FailureKind.BETWEEN_BYTES_TIMEOUT
        assert trio.current_time() - began == 13
    async with pool_over(answers(START, *[part for _ in range(100) for part in (chunk(b"a"), 4.0)])) as (pool, _):
        began = trio.current_time()
        assert await fail(pool, Taker()) is FailureKind.ATTEMPT_TIMEOUT
        assert trio.current_time() - began == 100


async def test_a_model_may_think_before_its_first_words(autojump_clock: trio.testing.MockClock) -> None:
    """The head comes at once: what follows it has as long as a first byte has, and not what lies between two words."""
    async with pool_over(answers(START, 25.0, chunk(b"a"), 1.0, chunk(b"[DONE]"), END)) as (pool, _):
        assert (await stream(pool, Taker())).status == 200
    async with pool_over(answers(START, 1000.0)) as (pool, _):
        began = trio.current_time()
        assert await fail(pool, Taker()) is FailureKind.FIRST_BYTE_TIMEOUT
        assert trio.current_time() - began == LIMITS.first_byte_seconds


async def test_a_stream_that_is_broken_off_is_truncated(autojump_clock: trio.testing.MockClock) -> None:
    """As any reply that the framing promised more of."""
    async with pool_over(answers(START, chunk(b"a"), then_close=True)) as (pool, _):
        assert await fail(pool, Taker()) is FailureKind.TRUNCATED


@pytest.mark.parametrize("framed", [b"Transfer-Encoding: chunked", b"Content-Length: 1000"])
async def test_what_is_taken_of_an_answer_is_bounded(autojump_clock: trio.testing.MockClock, framed: bytes) -> None:
    """Whether it says how long it is or not; and what is taken is not bounded by what may be kept."""
    start = START.replace(b"Transfer-Encoding: chunked", framed)
    body = [chunk(b"a" * 100)] * 10 + [END] if b"chunked" in framed else [b"a" * 1000]
    async with pool_over(answers(start, *body)) as (pool, _):
        assert await fail(pool, Taker(), max_stream_bytes=999) is FailureKind.TOO_LARGE

        class Forgetful(Taker):
            held_bytes = 0

        taker = Forgetful()
        assert (await stream(pool, taker, max_body_bytes=10, max_stream_bytes=1000)).status == 200
        assert len(taker.taken) == 1000


async def test_what_is_kept_of_a_stream_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """By what its taker holds, not by what has gone through."""
    async with pool_over(answers(START, *[chunk(b"a" * 100)] * 10, chunk(b"[DONE]"), END)) as (pool, _):
        assert await fail(pool, Taker(), max_body_bytes=500) is FailureKind.TOO_LARGE

        class Forgetful(Taker):
            def feed(self, piece: bytes) -> None:
                self.taken = (self.taken + piece)[-200:]

        assert (await stream(pool, Forgetful(), max_body_bytes=500)).status == 200
