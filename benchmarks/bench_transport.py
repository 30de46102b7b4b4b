"""What a request costs the client: a bare loop, this engine, httpx over this engine, and httpx as it comes.

All of them post 2 KiB to the same server, a process of its own on loopback, and read a reply of 2 KiB, as often as they
can, with N requests in flight. The figure is the client's CPU time (user and system) for each request: the server's speed
does not enter. The yardstick is the bare loop: the same sockets and waits, without parsing, pool, timeouts or cancel
safety. Rounds are interleaved and the median is shown; ratios carry over to other machines, times do not.

httpx as it comes runs at 50 in flight only: its pool looks at every connection for each request.

    python -m benchmarks.bench_transport
"""

from __future__ import annotations

import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import httpx
import trio

from batchrunner.transport import Head, Origin, Pool
from batchrunner.transport.adapter import EngineTransport

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 1990)
REPLY_BODY = b'{"choices":[{"message":{"content":"%b"}}]}' % (b"y" * 2000)
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"%b\r\n" % (len(REPLY_BODY), b"".join(b"X-Header-%d: some value or other\r\n" % number for number in range(10)))
) + REPLY_BODY

HEADERS = [("Authorization", "Bearer sk-empiriolabs-test-1"), ("Content-Type", "application/json")]
ROUNDS = 3
SECONDS = 0.6
WARM_UP_SECONDS = 0.2

Send = Callable[[], Awaitable[None]]
OpenClient = Callable[[int, int, AsyncExitStack], Awaitable[Send]]


async def serve() -> None:
    """Answer at once whatever ends like the one body that is posted here."""
    tail = BODY[-32:]

    async def handle(stream: trio.SocketStream) -> None:
        connection = stream.socket
        data = b""
        with suppress(OSError):  # clients end in the middle of their requests
            while piece := await connection.recv(65536):
                data = data[-32:] + piece
                if data.endswith(tail):
                    await connection.send(REPLY)

    async def serve_listeners() -> None:
        await trio.serve_listeners(handle, listeners)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    print(listeners[0].socket.getsockname()[1], flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_listeners)
        await trio.to_thread.run_sync(sys.stdin.read)  # until the parent ends
        nursery.cancel_scope.cancel()


async def open_bare(port: int, in_flight: int, stack: AsyncExitStack) -> Send:
    """The yardstick: send, wait, receive as many bytes as the reply is known to have."""
    request = Head("POST", "/v1/chat/completions", f"127.0.0.1:{port}", HEADERS).encode(len(BODY)) + BODY
    idle: list[socket.socket] = []
    for _ in range(in_flight):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        idle.append(connection)

    async def send() -> None:
        connection = idle.pop()
        connection.send(request)
        got = 0
        while got < len(REPLY):
            await trio.lowlevel.wait_readable(connection)
            got += len(connection.recv(65536))
        idle.append(connection)

    return send


async def open_engine(port: int, in_flight: int, stack: AsyncExitStack) -> Send:  # noqa: ARG001 - one shape for all
    """What jobs go through: pool and connection, with all timeouts."""
    pool = Pool(Origin.parse(f"http://127.0.0.1:{port}"))
    stack.push_async_callback(pool.aclose)
    head = Head("POST", "/v1/chat/completions", pool.origin.authority, HEADERS)

    async def send() -> None:
        connection = await pool.connect()
        reply = await connection.exchange(head.encode(len(BODY)), BODY)
        assert len(reply.body) == len(REPLY_BODY)

    return send


async def open_httpx(port: int, in_flight: int, stack: AsyncExitStack, *, own: bool) -> Send:
    """A client of httpx: over this engine, or over its own transport with room for all."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    transport = EngineTransport() if own else httpx.AsyncHTTPTransport(limits=limits)
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, headers=HEADERS, timeout=60))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def send() -> None:
        response = await client.post(url, content=BODY)
        assert len(response.content) == len(REPLY_BODY)

    return send


async def measure(open_client: OpenClient, port: int, in_flight: int) -> float:
    """CPU microseconds of this process for each request, in one window after a warm-up."""
    requests = 0
    all_open = trio.Event()  # as near as can be seen from here

    async def work(send: Send) -> None:
        nonlocal requests
        while True:
            await send()
            requests += 1
            if requests == in_flight:
                all_open.set()

    async with AsyncExitStack() as stack:
        send = await open_client(port, in_flight, stack)
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(work, send)
            await all_open.wait()
            await trio.sleep(WARM_UP_SECONDS)
            requests, cpu = 0, time.process_time()
            await trio.sleep(SECONDS)
            microseconds = (time.process_time() - cpu) / requests * 1e6
            nursery.cancel_scope.cancel()
    return microseconds


BARE, ENGINE, OVER_ENGINE, AS_IT_COMES = "bare loop", "engine", "httpx over the engine", "httpx as it comes"

CASES: list[tuple[str, OpenClient, int]] = [
    (BARE, open_bare, 50),
    (ENGINE, open_engine, 50),
    (OVER_ENGINE, partial(open_httpx, own=True), 50),
    (AS_IT_COMES, partial(open_httpx, own=False), 50),
    (BARE, open_bare, 500),
    (ENGINE, open_engine, 500),
    (OVER_ENGINE, partial(open_httpx, own=True), 500),
]


def main() -> None:
    command = [sys.executable, "-m", "benchmarks.bench_transport", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        figures: dict[tuple[str, int], list[float]] = {(name, in_flight): [] for name, _, in_flight in CASES}
        for _ in range(ROUNDS):
            for name, open_client, in_flight in CASES:
                figures[name, in_flight].append(trio.run(measure, open_client, port, in_flight))
        server.stdin.close()
    versions = f"Python {platform.python_version()}, trio {trio.__version__}, httpx {httpx.__version__}"
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {versions}")
    print(f"{'':24}{'in flight':>10}{'CPU us/request':>16}{'x bare loop':>13}{'x engine':>10}{'rounds':>30}")
    for (name, in_flight), values in figures.items():
        middle = statistics.median(values)
        bare, engine = (statistics.median(figures[base, in_flight]) for base in (BARE, ENGINE))
        rounds = " ".join(f"{value:.0f}" for value in values)
        print(f"{name:24}{in_flight:10}{middle:16.1f}{middle / bare:13.2f}{middle / engine:10.2f}{rounds:>30}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        trio.run(serve)
    else:
        main()
