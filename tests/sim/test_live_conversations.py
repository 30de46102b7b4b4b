"""Those who speak to a run, over streams in memory: one line each, a few seconds, and nothing that they do goes further."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from batchrunner.live_socket import CLIENT_SECONDS, REQUEST_BYTES, converse
from tests.sim.streams import MemoryStream, stream_pair


class Run:
    """Answers lines, and remembers them."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.heard: list[bytes] = []
        self.done = 0
        self._seconds = seconds

    async def respond(self, line: bytes) -> bytes:
        self.heard.append(line)
        await trio.sleep(self._seconds)
        self.done += 1
        return b"answer\n"


async def spoken(run: Run, *parts: bytes | float) -> tuple[bytes, float]:
    """What a client gets that says these parts, with pauses of so many seconds, and when it is hung up on."""
    mine, theirs = stream_pair()
    heard = b""
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(converse, theirs, run.respond)
        for part in parts:
            if isinstance(part, bytes):
                with trio.move_on_after(60):
                    try:
                        await mine.send_all(part)
                    except trio.BrokenResourceError:
                        break
            else:
                await trio.sleep(part)
        while more := await mine.receive_some():
            heard += more
    return heard, trio.current_time() - began


async def test_a_line_is_answered_by_a_line(autojump_clock: MockClock) -> None:
    run = Run()
    assert await spoken(run, b"li", 1.0, b"ne\n") == (b"answer\n", 1.0)
    assert run.heard == [b"line"]


async def test_what_comes_behind_the_first_line_is_not_heard(autojump_clock: MockClock) -> None:
    run = Run()
    assert (await spoken(run, b"one\ntwo\n"))[0] == b"answer\n"
    assert run.heard == [b"one"]


async def test_who_says_nothing_is_hung_up_on(autojump_clock: MockClock) -> None:
    run = Run()
    assert await spoken(run) == (b"", CLIENT_SECONDS)
    assert await spoken(run, b"half a li") == (b"", CLIENT_SECONDS)
    assert run.heard == []


async def test_who_drips_is_hung_up_on(autojump_clock: MockClock) -> None:
    """A byte now and then keeps nobody here."""
    run = Run()
    drops = [part for _ in range(20) for part in (b"x", 0.5)]
    heard, seconds = await spoken(run, *drops)
    assert (heard, run.heard) == (b"", [])
    assert seconds <= CLIENT_SECONDS + 0.5


@pytest.mark.parametrize("length", [REQUEST_BYTES + 1, 10 * REQUEST_BYTES])
async def test_a_line_without_end_is_not_read_to_its_end(autojump_clock: MockClock, length: int) -> None:
    run = Run()
    assert await spoken(run, b"x" * length) == (b"", 0.0)
    assert run.heard == []


async def test_what_was_begun_is_done_whole(autojump_clock: MockClock) -> None:
    """Who goes away, or is out of time, changes nothing of what is being carried out."""
    run = Run(seconds=2 * CLIENT_SECONDS)
    assert (await spoken(run, b"line\n"))[0] == b""
    assert run.done == 1


async def test_who_goes_away_harms_nobody(autojump_clock: MockClock) -> None:
    """Before the line, in the middle of it, before the answer."""
    for said in (b"", b"half", b"line\n"):
        run = Run(seconds=1.0)
        mine, theirs = stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, theirs, run.respond)
            if said:
                await mine.send_all(said)
            await trio.sleep(0.1)
            mine.close()
        assert isinstance(theirs, MemoryStream)
        assert theirs.is_closed
        assert run.done == (said == b"line\n")
