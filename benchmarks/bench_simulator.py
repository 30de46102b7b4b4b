"""How many requests a second the embedded platform answers on one core.

    python -m benchmarks.bench_simulator [--seconds N] [--rounds N]

50 connections post a chat completion of about 300 bytes, each as soon as its answer is there; no latency, no limits. The
server has one core to itself, the load another one (where the system can pin them). The load is wrk where that is installed,
else a loop of our own over plain sockets. The yardstick is the least that such a server could be: trio's SocketStream and
httptools, with a constant reply of the same size. Rounds alternate, medians are shown; on a machine that does other things
too, the figure to read is requests for each second of the server's CPU time.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import httptools
import msgspec
import trio

CONNECTIONS = 50
KEY = "sk-empiriolabs-test-simulated"
BODY = msgspec.json.encode(
    {
        "model": "simulated-small",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How high is the moon, seen from the house by the lake, in winter and before midnight?"},
        ],
        "max_tokens": 16,
        "temperature": 0.2,
        "metadata": {"custom_id": "job-000123"},
    }
)
PATH = "/v1/chat/completions"
REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (PATH.encode(), KEY.encode(), len(BODY), BODY)
#: as long as the platform's own answer, head included, within a few bytes
REPLY_BODY = b'{"choices":[{"message":{"content":"%b"}}]}' % (b"y" * 440)
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(REPLY_BODY), REPLY_BODY)

PLATFORM, BARE = "batchrun simulate", "bare trio + httptools"
COMMANDS = {
    PLATFORM: [sys.executable, "-m", "batchrunner.simulator", "--latency", "0", "--exit-with-stdin"],
    BARE: [sys.executable, "-m", "benchmarks.bench_simulator", "--bare"],
}


class Figure(NamedTuple):
    """One round of one server, per second of the clock and of its own CPU time (0 where the system does not tell)."""

    per_second: float
    per_cpu_second: float


class _Reader:
    """Counts the requests that end."""

    whole = 0

    def on_message_complete(self) -> None:
        self.whole += 1


async def serve_bare() -> None:
    """The yardstick: parse each request, and answer all alike."""

    async def handle(stream: trio.SocketStream) -> None:
        reader = _Reader()
        parser = httptools.HttpRequestParser(reader)
        with suppress(trio.BrokenResourceError):  # clients end in the middle of their requests
            while data := await stream.receive_some(65536):
                parser.feed_data(data)
                if reader.whole:
                    await stream.send_all(REPLY * reader.whole)
                    reader.whole = 0

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    address = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    print(msgspec.json.encode({"url": address}).decode(), flush=True)
    await trio.serve_listeners(handle, listeners)


def load(port: int, seconds: float) -> float:
    """A loop over plain sockets instead of wrk: requests a second. Replies are told apart by their size alone."""
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(REQUEST)
        answered = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for key, _ in selector.select(1.0):
                data = key.data.recv(65536)
                assert data.startswith(b"HTTP/1.1 200 OK"), data[:100]
                answered += 1
                key.data.sendall(REQUEST)
        rate = answered / (time.perf_counter() - began)
        for open_one in list(selector.get_map().values()):
            open_one.data.close()
    return rate


def by_wrk(url: str, seconds: float) -> float:
    """Requests a second by wrk. Fails where any was answered with an error."""
    headers = f'wrk.headers["Authorization"] = "Bearer {KEY}"\nwrk.headers["Content-Type"] = "application/json"\n'
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = [==[{BODY.decode()}]==]\n{headers}')
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "-s", script.name, url + PATH]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


def pin(pid: int, place: int) -> None:
    """Bind a process (0: this one, and its children to come) to one of the cores that we may use, counted from 0 or from -1."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {CORES[place]})


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a running process; 0 where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(command: list[str]) -> Iterator[tuple[int, str]]:
    """A server on the first core: pid and url."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pin(process.pid, 0)
        try:
            assert process.stdout is not None
            yield process.pid, msgspec.json.decode(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGKILL)


def measure(pid: int, url: str, seconds: float) -> Figure:
    before = cpu_seconds(pid)
    began = time.perf_counter()
    rate = by_wrk(url, seconds) if WRK else load(int(url.rpartition(":")[2]), seconds)
    answered = rate * (time.perf_counter() - began)
    spent = cpu_seconds(pid) - before
    return Figure(rate, answered / spent if spent else 0.0)


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
WRK = shutil.which("wrk")


def main() -> None:
    of = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    of.add_argument("--seconds", type=float, default=3.0)
    of.add_argument("--rounds", type=int, default=3)
    options = of.parse_args()
    pinned = len(CORES) > 1
    if pinned:
        pin(0, -1)
    figures: dict[str, list[Figure]] = {PLATFORM: [], BARE: []}
    with server(COMMANDS[PLATFORM]) as ours, server(COMMANDS[BARE]) as bare:
        for _ in range(options.rounds):
            for name, (pid, url) in ((BARE, bare), (PLATFORM, ours)):
                figures[name].append(measure(pid, url, options.seconds))
    where = "server and load pinned to a core each" if pinned else "not pinned"
    print(f"{platform.system()} {platform.machine()}, {len(CORES) or os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load: {'wrk' if WRK else 'own loop'}, {CONNECTIONS} connections, {where}; {len(BODY)} bytes a request")
    print(f"{'':24}{'requests/s':>12}{'per CPU second':>16}   rounds")
    medians = {}
    for name, rounds in figures.items():
        medians[name] = Figure(*(statistics.median(column) for column in zip(*rounds, strict=True)))
        shown = " ".join(f"{figure.per_second:,.0f}" for figure in rounds)
        print(f"{name:24}{medians[name].per_second:>12,.0f}{medians[name].per_cpu_second:>16,.0f}   {shown}")
    whole, least = medians[PLATFORM], medians[BARE]
    ratio = whole.per_cpu_second / least.per_cpu_second if least.per_cpu_second else whole.per_second / least.per_second
    print(f"the platform answers {ratio:.0%} of what the bare server does in the same time (floor: 5,000 requests/s on one core)")


if __name__ == "__main__":
    if sys.argv[1:] == ["--bare"]:
        trio.run(serve_bare)
    else:
        main()
