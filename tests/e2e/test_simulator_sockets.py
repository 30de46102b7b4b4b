"""Faults that only a real socket shows: resets, orderly ends, and a server that does not hold what it sends."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from batchrunner.simulator.delivery import OVERSIZE_BYTES
from tests.e2e.raw_clients import REQUEST, read_to_end, simulator


def answer(client: socket.socket) -> bytes:
    """One whole answer, which is short enough to come at once."""
    client.sendall(REQUEST)
    data = client.recv(1 << 16)
    assert data.startswith(b"HTTP/1.1 200 OK")
    return data


def test_closed_before_is_an_orderly_end() -> None:
    """The request is read and the connection closed without a byte and without a reset."""
    with simulator("--script", "closed_before") as (_, address), socket.create_connection(address) as client:
        client.sendall(REQUEST)
        assert client.recv(1 << 16) == b""


def test_an_idle_connection_is_closed_in_order() -> None:
    """The end comes after the answer, unasked for."""
    with simulator("--script", "closes_idle") as (_, address), socket.create_connection(address) as client:
        assert b"connection: close" not in answer(client)
        client.settimeout(30)
        assert client.recv(1 << 16) == b""


def test_a_stale_connection_looks_alive_until_it_is_used() -> None:
    """Nothing is to be seen on it before the next request, which meets a reset."""
    with simulator("--script", "stale") as (_, address), socket.create_connection(address) as client:
        answer(client)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.setblocking(True)
        client.sendall(REQUEST)
        with pytest.raises(ConnectionResetError):
            read_to_end(client, bytearray())


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory from /proc")
def test_a_long_answer_is_not_held_in_memory() -> None:
    """64 MiB are sent to each of four clients that do not read at first, and the server does not grow by one of them."""
    with simulator("--faults", "oversize=1") as (process, address):
        before = resident_bytes(process.pid)
        clients = [socket.create_connection(address) for _ in range(4)]
        for client in clients:
            client.sendall(REQUEST)
            assert client.recv(12) == b"HTTP/1.1 200"
        assert resident_bytes(process.pid) < before + OVERSIZE_BYTES // 4
        for client in clients:
            taken = 0
            while taken < OVERSIZE_BYTES:
                taken += len(client.recv(1 << 20))
            client.close()
        assert resident_bytes(process.pid) < before + OVERSIZE_BYTES // 4


def test_one_client_without_end_does_not_keep_the_others_waiting() -> None:
    """An endless answer that is read as fast as it comes leaves the server time for everybody else."""
    with simulator("--script", "endless") as (_, address), socket.create_connection(address) as greedy:
        greedy.sendall(REQUEST)
        for _ in range(20):
            assert greedy.recv(1 << 20)
            with socket.create_connection(address) as other:
                answer(other)


def resident_bytes(pid: int) -> int:
    """The memory that a process has at this moment."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
