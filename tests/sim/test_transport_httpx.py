"""The engine behind httpx, over an in-memory network in virtual time."""

from __future__ import annotations

import inspect

import httpx
import pytest
import trio
import trio.testing

from batchrunner.transport import (
    Connection,
    Origin,
    Pool,
    ReplyBudget,
    StreamDriver,
)
from batchrunner.transport.adapter import EngineTransport
from tests.sim.network import (
    OK,
    Network,
    Script,
    Stream,
    answers,
    read_only,
    read_request,
)


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
