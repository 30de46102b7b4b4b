"""A control plane whose server is a function of what it is asked, over in-memory streams in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from batchrunner.heads import Heads
from batchrunner.platform.control import ControlPlane
from batchrunner.secret import Secret
from tests.sim.network import ORIGIN, Stream, pool_over, read_request

KEY = "sk-empiriolabs-test-control"


class Question(msgspec.Struct, frozen=True):
    path: str
    query: dict[str, str]
    key: str


#: a status, a body (JSON unless it is bytes), and further head lines
Answer = tuple[int, Any] | tuple[int, Any, bytes]


class Asked:
    """A control plane, what its server was asked and what its user was told."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.said: list[str] = []
        self.control: ControlPlane

    @property
    def queries(self) -> list[dict[str, str]]:
        return [question.query for question in self.questions]


@asynccontextmanager
async def control_over(server: Callable[[Question], Answer], keys: tuple[str, ...] = (KEY,)) -> AsyncIterator[Asked]:
    asked = Asked()

    async def script(stream: Stream) -> None:
        while True:
            head = (await read_request(stream)).decode()
            path, _, query = head.split(" ")[1].partition("?")
            key = head.partition("Bearer ")[2].partition("\r\n")[0]
            asked.questions.append(Question(path, dict(parse_qsl(query, keep_blank_values=True)), key))
            status, said, more = (*server(asked.questions[-1]), b"")[:3]
            body = said if isinstance(said, bytes) else msgspec.json.encode(said)
            await stream.send_all(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), more, body))

    async with pool_over(script) as (pool, _):
        asked.control = ControlPlane(pool, Heads(ORIGIN, [Secret(key) for key in keys]), asked.said.append)
        yield asked
