"""Where a live run's socket stands, and who is heard there: real sockets, in this process."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from batchrunner import live_socket
from batchrunner.live_socket import CLIENTS, LONGEST_PATH, Unreachable, ask, directories, peer_uid, place, serve, socket_name
from tests.e2e.harness import PATIENCE_SECONDS


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short-named directory, in place of the user's runtime directory and of the temporary one."""
    with tempfile.TemporaryDirectory(prefix="brun-", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


async def echo(line: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return b"heard " + line + b"\n"


async def asked(run_dir: Path) -> bytes:
    with trio.fail_after(PATIENCE_SECONDS):
        return await trio.to_thread.run_sync(ask, run_dir, b"line\n")


async def test_a_line_goes_there_and_back(runtime: Path, tmp_path: Path) -> None:
    """And when the run ends its socket goes with it."""
    said: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, said.append)
        path = place(tmp_path)
        assert path.parent == runtime / "batchrun"
        assert await asked(tmp_path) == b"heard line\n"
        nursery.cancel_scope.cancel()
    assert not path.exists()
    assert said == []


async def test_another_users_process_is_not_heard(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor answered: it is hung up on."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, print)
        monkeypatch.setattr(live_socket, "peer_uid", lambda _: os.geteuid() + 1)
        with pytest.raises(Unreachable):
            await asked(tmp_path)
        monkeypatch.setattr(live_socket, "peer_uid", lambda _: None)
        assert await asked(tmp_path) == b"heard line\n"
        nursery.cancel_scope.cancel()


async def test_what_took_a_sockets_place_is_left_alone(runtime: Path, tmp_path: Path) -> None:
    """At the end a run removes its own socket and nothing else."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, print)
        path = place(tmp_path)
        os.unlink(path)
        path.write_text("somebody else's")
        nursery.cancel_scope.cancel()
    assert path.read_text() == "somebody else's"


async def test_a_runtime_directory_that_goes_away_is_no_end(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever logs out may take it along: the run takes another place, and is found there."""
    monkeypatch.setattr(live_socket, "LOOK_SECONDS", 0.02)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, print)
        shutil.rmtree(runtime / "batchrun")
        monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(runtime / "gone"))
        elsewhere = place(tmp_path)
        assert elsewhere.parent == runtime / f"batchrun-{os.geteuid()}"
        with trio.fail_after(PATIENCE_SECONDS):
            while not elsewhere.is_socket():  # noqa: ASYNC110 - made by another task, that tells nobody
                await trio.sleep(0.01)
        assert await asked(tmp_path) == b"heard line\n"
        nursery.cancel_scope.cancel()
    assert not elsewhere.exists()


async def test_too_many_at_once_are_turned_away(runtime: Path, tmp_path: Path) -> None:
    """Those that are there are heard to their end."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, print)
        path = os.fspath(place(tmp_path))
        first = []
        for _ in range(CLIENTS):
            client = trio.socket.socket(socket.AF_UNIX)
            await client.connect(path)
            first.append(client)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(Unreachable):
            await asked(tmp_path)
        await first[0].send(b"early\n")
        assert await first[0].recv(100) == b"heard early\n"
        for client in first:
            client.close()
        nursery.cancel_scope.cancel()


async def test_a_run_whose_descriptors_are_used_up_listens_again(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that cannot be taken now is taken later."""
    failures = [OSError(24, "Too many open files"), OSError(103, "Connection aborted")]
    with trio.socket.socket() as any_socket:
        kind = type(any_socket)
    accept = kind.accept

    async def failing(listening: trio.socket.SocketType) -> object:
        if failures:
            await trio.lowlevel.checkpoint()
            raise failures.pop()
        return await accept(listening)

    monkeypatch.setattr(kind, "accept", failing)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, echo, print)
        assert await asked(tmp_path) == b"heard line\n"
        nursery.cancel_scope.cancel()
    assert failures == []


# ----------------------------------------------------------------------------------------------------------------- where


def test_every_path_to_a_run_directory_names_the_same_socket(tmp_path: Path) -> None:
    (tmp_path / "a.run").mkdir()
    (tmp_path / "link").symlink_to("a.run")
    (tmp_path / "b.run").mkdir()
    assert socket_name(tmp_path / "a.run") == socket_name(tmp_path / "link") != socket_name(tmp_path / "b.run")


def test_a_path_too_long_for_a_socket_is_not_used(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep the runtime directory and the run directory lie."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(deep))
    found = place(deep)
    assert found.parent == runtime / f"batchrun-{os.geteuid()}"
    assert len(os.fsencode(found)) + len(".new") <= LONGEST_PATH


def test_a_directory_that_others_could_enter_is_closed(runtime: Path, tmp_path: Path) -> None:
    (runtime / "batchrun").mkdir()
    (runtime / "batchrun").chmod(0o777)
    assert stat.S_IMODE(place(tmp_path).parent.stat().st_mode) == 0o700


def test_a_link_or_another_users_directory_is_not_used(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left it says why."""
    (runtime / "batchrun").symlink_to(tmp_path)
    assert place(tmp_path).parent == runtime / f"batchrun-{os.geteuid()}"
    monkeypatch.setattr(live_socket, "directories", lambda: iter((runtime / "batchrun",)))
    with pytest.raises(Unreachable, match="belongs to another user, or is no directory"):
        place(tmp_path)
    monkeypatch.setattr(live_socket, "directories", lambda: iter((runtime / "nowhere" / "batchrun",)))
    with pytest.raises(Unreachable, match="no such file"):
        place(tmp_path)


def test_below_another_users_directory_nothing_is_made(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns the parent can put another in the place of what is made there."""
    monkeypatch.setattr(live_socket, "directories", lambda: iter((runtime / "batchrun",)))
    os.chown(runtime, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Unreachable, match="its parent belongs to another user"):
        place(tmp_path)


def test_who_is_at_the_other_end_is_known() -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX)
    with mine, theirs:
        assert peer_uid(mine) == os.geteuid()


def test_who_is_at_the_other_end_is_known_by_what_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and BSD say it in another way; where none does, or nobody is there any more, it is not known."""
    mine, theirs = socket.socketpair(socket.AF_UNIX)
    with mine, theirs:
        monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
        monkeypatch.setattr(socket, "LOCAL_PEERCRED", 1, raising=False)
        assert peer_uid(Bsd(struct.pack("IIh", 0, 501, 1) + bytes(60))) == 501  # type: ignore[arg-type]
        assert peer_uid(Bsd(b"")) is None  # type: ignore[arg-type]
        monkeypatch.delattr(socket, "LOCAL_PEERCRED")
        assert peer_uid(mine) is None


class Bsd:
    """A socket of another system."""

    def __init__(self, credentials: bytes) -> None:
        self._credentials = credentials

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (0, 1)
        return self._credentials[:length]


def test_where_no_socket_can_be_bound_nothing_is_left_open(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is told why, and goes on."""
    said: list[str] = []
    place(tmp_path).mkdir()
    trio.run(serve, tmp_path, echo, said.append)
    assert len(said) == 1
    assert "`batchrun ctl` cannot reach this run" in said[0]


def test_without_a_runtime_directory_there_is_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not a word of it: a warning on stderr would be nobody's business."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert Path(tempfile.gettempdir()) / f"batchrun-{os.geteuid()}" in directories()


# ------------------------------------------------------------------------------------------------------------- who is asked


@pytest.mark.parametrize("said", [b"", b"half an answer", b"x" * (live_socket.ANSWER_BYTES + 2)])
async def test_an_answer_that_is_none(runtime: Path, tmp_path: Path, said: bytes) -> None:
    """Whoever listens there is no run that can be spoken to."""

    async def odd(_line: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return said

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, tmp_path, odd, print)
        with pytest.raises(Unreachable, match="without an answer"):
            await asked(tmp_path)
        nursery.cancel_scope.cancel()


async def test_who_does_not_answer_is_not_waited_for(runtime: Path, tmp_path: Path) -> None:
    """A run that hangs is told of, too."""
    listening = socket.socket(socket.AF_UNIX)
    with listening:
        listening.bind(os.fspath(place(tmp_path)))
        listening.listen()
        with pytest.raises(Unreachable, match="timed out"):
            await trio.to_thread.run_sync(lambda: ask(tmp_path, b"line\n", seconds=0.05))
    with pytest.raises(Unreachable, match="refused"):
        await asked(tmp_path)
