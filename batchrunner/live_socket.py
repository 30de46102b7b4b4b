"""The socket by which a live run is spoken to: a line of JSON in, a line out, and only for its owner.

It stands in a directory of the user's alone, under a short name made of what tells the run directory from all others on this
machine (device and inode): a socket's path must fit into about 100 bytes. Of its run directory a run holds the lock; whatever
stands in its place is therefore a dead run's, and is replaced at one stroke.

Nobody who speaks to it can end or hold up the run: clients are few at a time, each is heard for a few seconds and a few
kilobytes, and whatever goes wrong with one ends its own connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import struct
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import platformdirs
import trio

#: bytes of a path that every system takes, a terminating zero left out
LONGEST_PATH: Final = 103
REQUEST_BYTES: Final = 4096
ANSWER_BYTES: Final = 1 << 20
CLIENT_SECONDS: Final = 5.0
CLIENTS: Final = 8
#: while no connection can be taken
PAUSE_SECONDS: Final = 0.1
#: how often the socket is looked for where it should stand
LOOK_SECONDS: Final = 20.0
#: behind the name of a socket that does not listen yet
ASIDE: Final = ".new"

#: what a line is answered with
Respond = Callable[[bytes], Awaitable[bytes]]


class Unreachable(Exception):
    """The run cannot be spoken to. The message says why."""


# ----------------------------------------------------------------------------------------------------------------- where


def socket_name(run_dir: Path) -> str:
    """What a run directory's socket is called: the same for every path that leads there. Raises: OSError."""
    found = os.stat(run_dir)
    return hashlib.sha256(f"{found.st_dev}:{found.st_ino}".encode()).hexdigest()[:16]


def directories() -> Iterator[Path]:
    """Where sockets may stand, the best place first."""
    with warnings.catch_warnings(), contextlib.suppress(OSError):
        warnings.simplefilter("ignore")  # that there is no better place than a temporary one is nothing to tell people
        yield Path(platformdirs.user_runtime_dir("batchrun"))
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - checked to be ours before it is used
        yield Path(base) / f"batchrun-{os.geteuid()}"


def place(run_dir: Path) -> Path:
    """Where a run's socket is to stand, in a directory that is made or found to be the user's alone.

    Raises: Unreachable where there is no such place; OSError of the run directory.
    """
    name = socket_name(run_dir)
    why = ""
    for directory in directories():
        if len(os.fsencode(directory / name)) + len(ASIDE) > LONGEST_PATH:
            why = why or f"{directory}: is too long a path for a socket"
            continue
        try:
            _make_private(directory)
        except OSError as cause:
            why = why or f"{directory}: {(cause.strerror or str(cause)).lower()}"
            continue
        return directory / name
    raise Unreachable(why)


def _make_private(directory: Path) -> None:
    """Raises: OSError, where it cannot be had as a directory that the user alone may enter and nobody can replace."""
    if os.stat(directory.parent).st_uid not in (0, os.geteuid()):
        raise OSError(0, "its parent belongs to another user")
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _is_mine(directory):
        raise OSError(0, "belongs to another user, or is no directory")
    os.chmod(directory, 0o700)


def _is_mine(directory: Path) -> bool:
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


# -------------------------------------------------------------------------------------------------------------- the run's


async def serve(
    run_dir: Path,
    respond: Respond,
    say: Callable[[str], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer whoever comes until cancelled. Where no socket can be made, `say` is told why, and the run goes on without."""
    is_first = True
    while True:
        try:
            path = place(run_dir)
            listening = _listen(path)
        except (OSError, Unreachable) as cause:
            say(f"warning: `batchrun ctl` cannot reach this run: {cause}.")
            path = None
        if is_first:
            task_status.started()
        if path is None:
            return
        is_first = False
        await _serve_at(path, listening, respond)


async def _serve_at(path: Path, listening: trio.socket.SocketType, respond: Respond) -> None:
    """Answer whoever comes, for as long as the socket stands there: whoever logs out takes the runtime directory along."""
    mine = os.lstat(path)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listening, respond)
            while _stands(path, mine):  # noqa: ASYNC110 - nobody tells when it goes
                await trio.sleep(LOOK_SECONDS)
            nursery.cancel_scope.cancel()
    finally:
        listening.close()
        if _stands(path, mine):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _stands(path: Path, mine: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), mine)
    except OSError:
        return False


async def _accept(listening: trio.socket.SocketType, respond: Respond) -> None:
    """Hear those who come, a few at a time, and hang up on those who are too many or another user's."""
    async with trio.open_nursery() as nursery:
        while True:
            try:
                connected, _ = await listening.accept()
            except OSError:  # too many files are open, or whoever came has gone
                await trio.sleep(PAUSE_SECONDS)
                continue
            if len(nursery.child_tasks) < CLIENTS and peer_uid(connected) in (None, os.geteuid()):
                nursery.start_soon(converse, trio.SocketStream(connected), respond)
            else:
                connected.close()


def _listen(path: Path) -> trio.socket.SocketType:
    """A socket that takes its place, and that of a dead run's, once it listens. Raises: OSError."""
    aside = path.with_name(path.name + ASIDE)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(aside))
        os.chmod(aside, 0o600)
        listening.listen(CLIENTS)
        os.rename(aside, path)
        return trio.socket.from_stdlib_socket(listening)
    except BaseException:
        listening.close()
        raise


async def converse(stream: trio.abc.Stream, respond: Respond) -> None:
    """Hear one line, answer it and hang up. Whoever is slow, says too much or goes away is not waited for."""
    try:
        with trio.move_on_after(CLIENT_SECONDS):
            line = await _line(stream)
            if line is not None:
                with trio.CancelScope(shield=True):  # what is done is done whole, whoever still listens
                    answer = await respond(line)
                await stream.send_all(answer)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _line(stream: trio.abc.Stream) -> bytes | None:
    """The first line, without its end; None where there is none of a decent length."""
    heard = b""
    while b"\n" not in heard:
        more = await stream.receive_some(REQUEST_BYTES)
        heard += more
        if not more or len(heard) > REQUEST_BYTES:
            return None
    return heard.split(b"\n", 1)[0]


def peer_uid(connected: trio.socket.SocketType | socket.socket) -> int | None:
    """Whose process is at the other end; None where the system does not say, and the directory alone keeps others out."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            return int(struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        if hasattr(socket, "LOCAL_PEERCRED"):  # macOS, BSD: version and uid come first
            return int(struct.unpack_from("II", connected.getsockopt(0, socket.LOCAL_PEERCRED, 128))[1])
    except (OSError, struct.error):
        pass
    return None


# ------------------------------------------------------------------------------------------------------------ the other's


def ask(run_dir: Path, line: bytes, *, seconds: float = 2 * CLIENT_SECONDS) -> bytes:
    """Send a run a line and wait for its answer. Blocking. Raises: Unreachable, OSError of the run directory."""
    name = socket_name(run_dir)
    why = "it has no socket"
    for directory in filter(_is_mine, directories()):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            try:
                connection.connect(os.fspath(directory / name))
                connection.sendall(line)
                return _answer(connection)
            except FileNotFoundError:
                continue
            except OSError as cause:
                why = str(cause.strerror or cause).lower()
    raise Unreachable(why)


def _answer(connection: socket.socket) -> bytes:
    heard = b""
    while not heard.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more or len(heard) > ANSWER_BYTES:
            raise OSError(0, "it hung up without an answer")
        heard += more
    return heard
