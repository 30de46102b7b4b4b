"""The way between client and platform: each connection may meet one of Toxiproxy's eight toxics, in one direction.

Requests are counted and numbered as they leave the client: the number goes along in a header, so that what the server bills
can be told to belong to an attempt, whatever the way made of it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Literal

import msgspec
import trio

from batchrunner.simulator.server import serve_stream
from tests.sim.nights import Server, WatchedPlatform
from tests.sim.streams import MemoryStream, paired, stream_pair

Kind = Literal["latency", "down", "bandwidth", "slow close", "timeout", "reset", "slicer", "limit data"]
KINDS: tuple[Kind, ...] = ("latency", "down", "bandwidth", "slow close", "timeout", "reset", "slicer", "limit data")
Direction = Literal["up", "down"]
SEND_HEADER = "x-night-send"


class Toxic(msgspec.Struct, frozen=True):
    """What is wrong with one direction of a connection, once so many messages have passed unharmed."""

    kind: Kind
    direction: Direction
    spared: int
    #: of the message that is torn, whether it is its head
    in_head: bool
    #: seconds, bytes a second or bytes, by kind
    amount: float


def draw_toxic(chance: random.Random, kinds: tuple[Kind, ...] = KINDS) -> Toxic:
    kind = chance.choice(kinds)
    amount = {
        "latency": chance.uniform(0.05, 20),
        "down": 0,
        "bandwidth": chance.choice((20, 200, 2_000)),
        "slow close": chance.uniform(1, 90),
        "timeout": chance.choice((5, 200, 10_000)),
        "reset": 0,
        "slicer": chance.uniform(0.001, 0.2),
        "limit data": chance.randint(1, 3_000),
    }[kind]
    direction: Direction = "up" if chance.random() < 0.3 else "down"
    return Toxic(kind, direction, chance.choice((0, 0, 1, 3)), chance.random() < 0.5, amount)


class ClientEnd(MemoryStream):
    """The client's end, whose requests are shown to somebody as they leave, who may add to them."""

    __slots__ = ("on_request", "toxic")

    def __init__(self, on_request: Callable[[bytes, ClientEnd], bytes], toxic: Toxic | None) -> None:
        super().__init__()
        self.on_request = on_request
        self.toxic = toxic

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(self.on_request(bytes(data), self))


class ToxicServer(Server):
    """A server behind such a network. `fired` is told of each toxic that did something."""

    def __init__(
        self,
        nursery: trio.Nursery,
        platform: WatchedPlatform,
        *,
        share: float,
        chance: random.Random,
        on_request: Callable[[bytes, ClientEnd], bytes],
        fired: Callable[[str], None],
    ) -> None:
        super().__init__(nursery, platform)
        #: of the connections, how many are toxic
        self.share = share
        self._chance = chance
        self._on_request = on_request
        self._fired = fired

    def cut_clients(self) -> None:
        """The client's process is gone, and the system has closed what it held. The server goes on with what it has begun."""
        for client in self._open:
            client.close()

    async def _connect(self) -> trio.abc.Stream:
        stream = await super()._connect()
        assert isinstance(stream, ClientEnd)
        if stream.toxic is not None and stream.toxic.kind == "down" and stream.toxic.direction == "up":
            stream.close()
            self._fired("toxic: down")
            raise OSError(111, "Connection refused")
        return stream

    def _pair(self) -> tuple[MemoryStream, MemoryStream]:
        toxic = draw_toxic(self._chance) if self._chance.random() < self.share else None
        return paired(ClientEnd(self._on_request, toxic), MemoryStream())

    async def _carry(self, server: MemoryStream) -> None:
        client = server.peer
        assert isinstance(client, ClientEnd)
        if client.toxic is None:
            await serve_stream(self.platform, server)
            return
        near, (far, server) = server, stream_pair()
        try:
            async with trio.open_nursery() as nursery:
                for direction, source, sink in (("up", near, far), ("down", far, near)):
                    toxic = client.toxic if client.toxic.direction == direction else None
                    nursery.start_soon(self._pipe, toxic, source, sink)
                await serve_stream(self.platform, server)
        finally:
            near.close()
            far.close()

    async def _pipe(self, toxic: Toxic | None, source: MemoryStream, sink: MemoryStream) -> None:
        """Pass bytes on until one side is closed; then close the other."""
        try:
            async with contextlib.aclosing(self._pieces(toxic, source, sink)) as pieces:
                async for piece in pieces:
                    await sink.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if toxic is not None and toxic.kind == "slow close":
            self._fired("toxic: slow close")
            await trio.sleep(toxic.amount)
        sink.close()
        source.close()

    async def _pieces(self, toxic: Toxic | None, source: MemoryStream, sink: MemoryStream) -> AsyncGenerator[bytes, None]:
        """What comes out at the other end, when it comes."""
        passed = 0
        for message in itertools.count():
            data = await source.receive_some()
            if not data:
                return
            if toxic is None or message < toxic.spared or toxic.kind == "slow close":
                yield data
                continue
            if toxic.kind not in ("limit data", "reset"):
                self._fired(f"toxic: {toxic.kind}")
            match toxic.kind:
                case "latency":
                    await trio.sleep(toxic.amount)
                    yield data
                case "bandwidth":
                    for piece in _cut(data, max(1, len(data) // 8)):
                        await trio.sleep(len(piece) / toxic.amount)
                        yield piece
                case "slicer":
                    for piece in _cut(data, self._chance.randint(1, 40)):
                        await trio.sleep(toxic.amount)
                        yield piece
                case "timeout":
                    await trio.sleep(toxic.amount)
                    return
                case "down":
                    return
                case "reset":
                    yield data[: self._torn_at(data, in_head=toxic.in_head)]
                    await trio.sleep(0.001)  # what came before has been read
                    self._fired("toxic: reset in the head" if toxic.in_head else "toxic: reset in the body")
                    source.reset()
                    sink.reset()
                    return
                case "limit data":
                    yield data[: max(0, int(toxic.amount) - passed)]
                    passed += len(data)
                    if passed >= toxic.amount:
                        self._fired("toxic: limit data")
                        return

    def _torn_at(self, data: bytes, *, in_head: bool) -> int:
        head = data.find(b"\r\n\r\n") + 4
        return self._chance.randrange(1, head) if in_head else self._chance.randrange(head, max(head + 1, len(data)))


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def with_number(request: bytes, number: int) -> bytes:
    """A request with its number in a header."""
    line, _, rest = request.partition(b"\r\n")
    return b"%b\r\n%b: %d\r\n%b" % (line, SEND_HEADER.encode(), number, rest)
