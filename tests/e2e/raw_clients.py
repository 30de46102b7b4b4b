"""The simulated platform as a process, and a request to it as bytes for a plain socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from batchrunner.simulator.settings import TEST_KEY
from tests.e2e.harness import end_in_order

PAYLOAD = b'{"model":"simulated-small","messages":[{"role":"user","content":"How high is the moon?"}]}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: loopback\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
    TEST_KEY.encode(),
    len(PAYLOAD),
    PAYLOAD,
)


@contextmanager
def simulator(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """The process and its address, once it says that it is ready."""
    command = [sys.executable, "-m", "batchrunner.simulator", "--latency", "0", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready = msgspec.json.decode(process.stdout.readline())
            assert ready["pid"] == process.pid
            host, _, port = ready["url"].removeprefix("http://").partition(":")
            yield process, (host, int(port))
        finally:
            end_in_order(process)


def read_to_end(client: socket.socket, data: bytearray) -> None:
    while more := client.recv(1 << 16):
        data += more
