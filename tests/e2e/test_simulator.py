"""The simulated platform as a process of its own, over real sockets."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from batchrunner.simulator.settings import TEST_KEY
from tests.e2e.raw_clients import REQUEST, read_to_end, simulator


def ending(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Exit code and stderr of a process that is about to end."""
    code = process.wait(timeout=30)
    assert process.stderr is not None
    return code, process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """It ends with 0 and without a word, though a request is never answered."""
    with simulator("--script", "silent") as (process, address), socket.create_connection(address) as client:
        client.sendall(REQUEST)
        process.send_signal(number)
        assert ending(process) == (0, b"")


def test_it_ends_with_its_stdin_and_not_with_ctrl_c() -> None:
    """A parent's child survives the terminal's SIGINT and ends when the parent closes the pipe."""
    with simulator("--exit-with-stdin") as (process, address), socket.create_connection(address) as client:
        process.send_signal(signal.SIGINT)
        client.sendall(REQUEST)
        assert client.recv(12) == b"HTTP/1.1 200"
        assert process.stdin is not None
        process.stdin.close()
        assert ending(process) == (0, b"")


@pytest.mark.parametrize(
    ("kind", "first"), [("reset_before", b""), ("reset_headers", b"HTTP/1.1 200"), ("reset_body", b"HTTP/1.1 200")]
)
def test_a_reset_is_a_reset(kind: str, first: bytes) -> None:
    """Over TCP the connection does not end in order: the client's read fails."""
    with simulator("--script", kind) as (_, address), socket.create_connection(address) as client:
        client.sendall(REQUEST)
        data = bytearray()
        with pytest.raises(ConnectionResetError):
            read_to_end(client, data)
        assert data[:12] == first


def test_the_ledger_survives_a_kill(tmp_path: Path) -> None:
    """What was answered is in the file, whole lines only, after kill -9."""
    path = tmp_path / "ledger.jsonl"
    with simulator("--ledger", str(path)) as (process, address), socket.create_connection(address) as client:
        for _ in range(3):
            client.sendall(REQUEST)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        process.kill()
        process.wait(timeout=30)
    assert [msgspec.json.decode(line)["seq"] for line in path.read_bytes().splitlines()] == [1, 2, 3]


def test_accounts_come_from_a_file(tmp_path: Path) -> None:
    """Each account of the file has its own limit: the second request with one key is rejected, as its provider does it."""
    path = tmp_path / "accounts.toml"
    path.write_text(f'[[accounts]]\nname = "night"\nkeys = ["{TEST_KEY}"]\nrpm = 1\n')
    options = ("--accounts", str(path), "--window", "anchored", "--rate-headers", "openai", "--idempotency")
    with simulator(*options) as (_, address), socket.create_connection(address) as client:
        client.sendall(REQUEST)
        assert b"\r\nx-ratelimit-remaining-requests: 0\r\n" in client.recv(1 << 16)
        client.sendall(REQUEST)
        answer = client.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"\r\nretry-after: 60\r\n" in answer


def test_options_that_make_no_sense_are_named() -> None:
    """A kind of fault that does not exist ends it at once, with the kinds that do."""
    command = [sys.executable, "-m", "batchrunner.simulator", "--faults", "gremlins=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "gremlins" in done.stderr
    assert "reset_before" in done.stderr


def test_a_port_that_is_taken_is_named() -> None:
    """It says so in one line and ends with 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "batchrunner.simulator", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_ledger_that_cannot_be_written_stops_it() -> None:
    """Nothing is answered that is not in the ledger: a full disk ends it with 74."""
    with simulator("--ledger", "/dev/full") as (process, address), socket.create_connection(address) as client:
        client.sendall(REQUEST)
        code, said = ending(process)
        assert code == 74
        assert len(said.splitlines()) == 1
        assert not client.recv(1)
