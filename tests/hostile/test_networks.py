"""N-rows: the eight toxics of networks, each while connecting, in the headers and in the body; in virtual time, over memory.

Each ends as one reply or one named failure, in bounded time, and leaves neither task nor connection: `pool_over` counts them.
What is proved elsewhere stands in README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from batchrunner.exchange import FailureKind
from batchrunner.simulator.answers import Answer
from batchrunner.transport import Timeouts
from tests.sim.network import LIMITS, Script, Stream, answers, exchange, fail, pool_over, read_only, read_request
from tests.sim.nights import MakeNight, assert_whole, jobs
from tests.sim.scripts import night, only

BODY = b'{"choices":[],"filler":"' + b"x" * 3000 + b'"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
REPLY = HEAD + BODY
#: where a toxic sets in: before a byte of the answer, in its headers, in its body
PLACES = {"connect": 0, "headers": 10, "body": len(HEAD) + 1500}


def reply_in(step: int, seconds: float, start: int) -> Script:
    """The reply, whole up to `start`, and then in pieces of `step` bytes with a pause before each."""
    pieces: list[bytes | float] = [REPLY[:start]] if start else []
    for at in range(start, len(REPLY), step):
        pieces += [seconds, REPLY[at : at + step]]
    return answers(*pieces)


@pytest.mark.parametrize("place", PLACES)
async def test_N01_latency(autojump_clock: MockClock, place: str) -> None:
    """Slow is not broken: within the limits of its phase an answer is an answer."""
    async with pool_over(reply_in(len(REPLY), 4.9, PLACES[place])) as (pool, network):
        network.connect_seconds = 0.9 if place == "connect" else 0.0
        assert (await exchange(pool)).body == BODY


async def closes(server: Stream) -> None:
    await read_request(server)


@pytest.mark.parametrize(("place", "kind"), [("request", "read"), ("headers", "truncated"), ("body", "truncated")])
async def test_N02_down(autojump_clock: MockClock, place: str, kind: str) -> None:
    """One who hangs up may have worked, and no part of an answer passes for the whole."""
    script = closes if place == "request" else answers(REPLY[: PLACES[place]], then_close=True)
    async with pool_over(script) as (pool, _):
        failure = await fail(pool)
        assert (failure.kind, failure.sent) == (kind, True)


async def test_N02_down_before_anything_was_sent(autojump_clock: MockClock) -> None:
    """Where nobody is there, nothing was sent, and nothing can have been billed."""
    async with pool_over(closes) as (pool, network):
        network.refuse = True
        failure = await fail(pool)
        assert (failure.kind, failure.sent) == (FailureKind.CONNECT, False)


@pytest.mark.parametrize("place", PLACES)
async def test_N03_bandwidth_of_a_kilobyte_a_second(autojump_clock: MockClock, place: str) -> None:
    """Three seconds' worth of reply come; a whole attempt has a limit all the same."""
    script = reply_in(100, 0.1, PLACES[place])
    async with pool_over(script) as (pool, _):
        assert (await exchange(pool)).body == BODY
    async with pool_over(script) as (pool, _):
        began = trio.current_time()
        assert (await fail(pool, Timeouts(attempt_seconds=1.0))).kind is FailureKind.ATTEMPT_TIMEOUT
        assert trio.current_time() - began == pytest.approx(1.0)


@pytest.mark.parametrize("framed", [True, False], ids=["length", "close"])
async def test_N04_slow_close(autojump_clock: MockClock, framed: bool) -> None:
    """A reply that says its length is whole at its last byte; only one that the close delimits waits for it."""
    data = REPLY if framed else b"HTTP/1.1 200 OK\r\n\r\n" + BODY
    async with pool_over(answers(data, 4.0, then_close=True)) as (pool, _):
        began = trio.current_time()
        assert (await exchange(pool)).body == BODY
        assert trio.current_time() - began == pytest.approx(0.0 if framed else 4.0)


SILENT = {
    "connect": FailureKind.CONNECT_TIMEOUT,
    "request": FailureKind.FIRST_BYTE_TIMEOUT,
    "headers": FailureKind.BETWEEN_BYTES_TIMEOUT,
    "body": FailureKind.BETWEEN_BYTES_TIMEOUT,
}


@pytest.mark.parametrize("place", SILENT)
async def test_N05_silence(autojump_clock: MockClock, place: str) -> None:
    """Whatever stops to answer is given up after its phase's own time, under its phase's own name."""
    start = PLACES.get(place, 0)
    async with pool_over(answers(REPLY[:start], 1e6) if start else read_only) as (pool, network):
        network.connect_seconds = 1e6 if place == "connect" else 0.0
        began = trio.current_time()
        failure = await fail(pool)
        assert failure.kind is SILENT[place]
        assert failure.sent is (place != "connect")
        limits = {"connect": LIMITS.connect_seconds, "request": LIMITS.first_byte_seconds}
        assert trio.current_time() - began == pytest.approx(limits.get(place, LIMITS.between_bytes_seconds))


@pytest.mark.parametrize("place", PLACES)
async def test_N07_slicer(autojump_clock: MockClock, place: str) -> None:
    """A byte at a time is the same reply."""
    async with pool_over(reply_in(1, 0.001, PLACES[place])) as (pool, _):
        assert (await exchange(pool)).body == BODY


async def test_N08_limit_data(autojump_clock: MockClock) -> None:
    """Cut off after any number of bytes, it is never an answer: no connection answers nothing, and no part is the whole."""
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    for limit in range(len(reply)):
        async with pool_over(answers(reply[:limit], then_close=True) if limit else closes) as (pool, _):
            failure = await fail(pool)
            assert failure.kind is (FailureKind.TRUNCATED if limit else FailureKind.READ), limit
            assert failure.sent


@pytest.mark.parametrize("place", ["headers", "body"])
async def test_N09_slowloris(autojump_clock: MockClock, place: str) -> None:
    """A byte in four seconds keeps the connection busy and no job for ever: an attempt has its end."""
    async with pool_over(reply_in(1, 4.0, PLACES[place])) as (pool, _):
        began = trio.current_time()
        assert (await fail(pool)).kind is FailureKind.ATTEMPT_TIMEOUT
        assert trio.current_time() - began == pytest.approx(LIMITS.attempt_seconds)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"deflate", b"gzip, gzip, gzip", b"x-unheard-of"])
async def test_N11_nothing_is_unpacked(autojump_clock: MockClock, encoding: bytes) -> None:
    """No bomb goes off where nothing is unpacked: a reply in any coding is refused at its headers, bodies unread."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % encoding
    async with pool_over(answers(head, 50.0, REPLY)) as (pool, _):
        began = trio.current_time()
        assert (await fail(pool)).kind is FailureKind.COMPRESSED
        assert trio.current_time() == began


@pytest.mark.parametrize("hint", ["-5", "NaN", "Infinity", "1e12", "soon", "", "Sun, 99 Foo 2026 25:61:61 GMT", "9" * 400])
async def test_N13_a_hint_of_nonsense_is_no_hint(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, hint: str
) -> None:
    """Whatever a 429 says about when to come again: the job keeps its place and is done within a minute or so."""
    refusal = Answer(429, b'{"error":{"code":"rate_limit_exceeded"}}', "r", headers=(("retry-after", hint),))
    made = night(tmp_path, nursery, jobs(3), only("job-1", refusal, times=1))
    began = trio.current_time()
    status = await made.run()
    assert_whole(made, status)
    assert (status.completed, status.rate_limited, status.attempts) == (3, 1, 4)
    assert trio.current_time() - began < 120


async def test_N13_a_hint_of_thirty_years_is_asked_again(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A lower bound, up to a quarter of an hour: what is longer is a mistake more often than a wish."""
    refusal = Answer(429, b"{}", "r", headers=(("retry-after", "1000000000"),))
    made = night(tmp_path, nursery, jobs(3), only("job-1", refusal, times=1))
    began = trio.current_time()
    assert_whole(made, await made.run())
    assert 600 < trio.current_time() - began < 3600


async def test_N15_connections_that_close_as_they_are_used(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Two hundred times, one of two requests meets a connection that the server has just closed: no job fails for it."""
    night = make_night(jobs(200), script=("stale", "ok") * 200)
    status = await night.run(max_in_flight=1, max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.failed) == (200, 0)
    assert len(night.platform.billed) == 200
