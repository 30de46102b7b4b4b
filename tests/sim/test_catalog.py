"""The catalog is fetched, or said to be missing: from a server that is late, busy, odd or away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from batchrunner.errors import AccountError
from batchrunner.heads import Heads
from batchrunner.platform.catalog import fetch_prices
from batchrunner.platform.control import PAUSES_SECONDS
from batchrunner.pricing import PriceTable
from batchrunner.secret import Secret
from batchrunner.transport import Origin, Pool, StreamDriver

ORIGIN = Origin.parse("http://localhost:8000")
GOOD = b'{"data":[{"id":"m","pricing":{"prompt":"0.1","completion":"0.2"}}]}'
#: a status and a body, or None for a refused connection
Step = tuple[int, bytes] | None


async def fetch(
    nursery: trio.Nursery, *steps: Step, header: bytes = b"connection: close"
) -> tuple[PriceTable | AccountError, list[bytes]]:
    """What comes of fetching from a server that does this, one step a connection; and what it was asked."""
    todo = list(steps)
    asked: list[bytes] = []

    async def serve(stream: trio.abc.Stream, status: int, body: bytes) -> None:
        asked.append(bytes(await stream.receive_some(65_536)))
        await stream.send_all(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n\r\n%b" % (status, len(body), header, body))

    async def connect() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        step = todo.pop(0) if len(todo) > 1 else todo[0]
        if step is None:
            asked.append(b"")
            raise OSError(111, "Connection refused")
        client, server = memory_stream_pair()
        nursery.start_soon(serve, server, *step)
        return client

    said: list[str] = []
    pool = Pool(ORIGIN, StreamDriver(connect))
    heads = Heads(ORIGIN, [Secret("sk-empiriolabs-test-fetch")])
    try:
        return await fetch_prices(pool, heads, fetched_at="2026-01-01T00:00:00Z", say=said.append), asked
    except AccountError as error:
        return error, asked
    finally:
        await pool.aclose()
        # Who waits is told why, once.
        assert len(said) == (len(asked) > 1)


async def test_the_catalog(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One question, with the key for servers that want it; the models come with their prices and the date."""
    prices, asked = await fetch(nursery, (200, GOOD))
    assert isinstance(prices, PriceTable)
    assert list(prices.prices) == ["m"]
    assert prices.fetched_at == "2026-01-01T00:00:00Z"
    assert len(asked) == 1
    assert asked[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"Bearer sk-empiriolabs-test-fetch" in asked[0]


@pytest.mark.parametrize("trouble", [None, (429, b"{}"), (503, b"<html>"), (408, b"")])
async def test_a_late_or_busy_server_is_asked_again(autojump_clock: MockClock, nursery: trio.Nursery, trouble: Step) -> None:
    """A server that is just coming up, or an account that others use, does not leave a night without prices."""
    prices, asked = await fetch(nursery, trouble, trouble, trouble, (200, GOOD))
    assert isinstance(prices, PriceTable)
    assert len(asked) == 4
    assert trio.current_time() >= sum(PAUSES_SECONDS[:3])


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(404, b"", "status 404"), (401, b"{}", "status 401"), (200, b"[]", "names no model"), (200, b"hello", "catalog")],
)
async def test_a_server_without_a_catalog_is_not_asked_again(
    autojump_clock: MockClock, nursery: trio.Nursery, status: int, body: bytes, words: str
) -> None:
    """Many servers have none: that is said at once, and an empty one is none."""
    error, asked = await fetch(nursery, (status, body))
    assert isinstance(error, AccountError)
    assert words in str(error)
    assert len(asked) == 1


@pytest.mark.parametrize("trouble", [None, (429, b"{}")])
async def test_it_is_given_up_in_the_end(autojump_clock: MockClock, nursery: trio.Nursery, trouble: Step) -> None:
    """A run does not wait for prices for ever."""
    error, asked = await fetch(nursery, trouble)
    assert isinstance(error, AccountError)
    assert len(asked) == len(PAUSES_SECONDS) + 1


async def test_what_will_not_change_is_not_asked_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whoever compresses what was asked for plain does so always: said at once."""
    error, asked = await fetch(nursery, (200, GOOD), header=b"content-encoding: gzip")
    assert isinstance(error, AccountError)
    assert "gzip" in str(error)
    assert len(asked) == 1
