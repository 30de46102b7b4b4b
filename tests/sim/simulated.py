"""A plain client of the simulated platform over in-memory streams: requests as bytes, and what came back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio.testing import memory_stream_pair

from batchrunner.simulator.ledger import Entry, MemoryLedger
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.server import serve_stream
from batchrunner.simulator.settings import TEST_KEY, Settings

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
#: kinds of fault whose answer has no end for a client that goes by content-length, as `Client.receive` does
WITHOUT_END = {
    "silent",
    "long_length",
    "short_length",
    "endless",
    "endless_length",
    "endless_drip",
    "oversize",
    "oversize_chunked",
    "garbage_headers",
    "stream_cut",
    "stream_stalls",
    "stream_error",
}


def body(dialect: str = CHAT, *, text: str = "How high is the moon?", cap: int = 50, model: str = "simulated-small") -> bytes:
    if dialect == RESPONSES:
        return msgspec.json.encode({"model": model, "input": text, "max_output_tokens": cap})
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": cap})


def tagged(tag: str) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(body()) | {"metadata": {"tag": tag}})


def request(path: str = CHAT, payload: bytes | None = None, *, method: str = "POST", **headers: str) -> bytes:
    """A request's bytes; `headers` with underscores for dashes, a bearer key where they name no other credentials."""
    payload = body(path) if payload is None and method == "POST" else payload or b""
    fields = {"authorization": f"Bearer {TEST_KEY}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"{method} {path} HTTP/1.1", "host: loopback", f"content-length: {len(payload)}"]
    head += [f"{name}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + payload


class Got(msgspec.Struct):
    """What came back: as much of it as did. `ended`: the server closed the connection."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    ended: bool

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Client:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> Got:
        await self.stream.send_all(data)
        return await self.receive()

    async def receive(self) -> Got:
        data = b""
        while True:
            head, found, rest = data.partition(b"\r\n\r\n")
            if found:
                first, *lines = head.decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                if len(rest) >= int(headers["content-length"]):
                    return Got(int(first.split()[1]), headers, rest, ended=False)
            more = await self.stream.receive_some(1 << 16)
            if not more:
                status = int(first.split()[1]) if found else None
                return Got(status, headers if found else {}, rest if found else data, ended=True)
            data += more

    async def read(self, data: bytes, *, at_most: int = 1 << 30, seconds: float = 3600) -> tuple[bytes, bool]:
        """What comes back for a request, as it comes, and whether the server ended it rather than we."""
        await self.stream.send_all(data)
        got = bytearray()
        with trio.move_on_after(seconds):
            while len(got) < at_most:
                more = await self.stream.receive_some(1 << 16)
                if not more:
                    return bytes(got), True
                got += more
        return bytes(got), False


@asynccontextmanager
async def connected(platform: Platform) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, platform, theirs)
        yield Client(ours)
        nursery.cancel_scope.cancel()


async def ask(platform: Platform, data: bytes) -> Got:
    """One request on a connection of its own."""
    async with connected(platform) as client:
        return await client.send(data)


async def entries_of(platform: Platform, count: int, data: bytes) -> list[Entry]:
    """What was billed after `count` requests, one after the other."""
    for _ in range(count):
        await ask(platform, data)
    assert isinstance(platform.ledger, MemoryLedger)
    return platform.ledger.entries


def platform_of(**settings: Any) -> Platform:
    return Platform(Settings(**settings))
