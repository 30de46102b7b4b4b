"""Puts answers on the wire: whole, or in one of the ways that a client must survive; see the table in `faults`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from batchrunner.simulator.answers import REASONS, Answer
from batchrunner.simulator.connection import READ_BYTES, Connection
from batchrunner.simulator.faults import Delivery

#: one more than clients take that know a limit
OVERSIZE_BYTES = (64 << 20) + 1
DRIP_PIECES = 16
DRIP_PAUSE_SECONDS = 0.1
ENDLESS_PAUSE_SECONDS = 1.0
_WHOLE = Delivery.WHOLE  # to name a member of an enum costs something, and each answer comes this way
_TERABYTE = 1 << 40
_LACKING_BYTES = 100
#: what is sent to make an answer long; after a whole JSON value it changes nothing
_BLANKS = b" " * (1 << 16)
_GARBAGE_HEADERS = b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\x00\x01\x02\r\n: no name\r\n\r\n"


async def deliver(stream: trio.abc.Stream, answer: Answer, *, keep_alive: bool) -> bool:
    """Send an answer in the way that it asks for. True where the connection can be used again."""
    if answer.delivery is _WHOLE and answer.events:
        await _stream(stream, answer, answer.events)
        return keep_alive
    if answer.delivery is _WHOLE:
        await stream.send_all(head(answer, len(answer.body), keep_alive=keep_alive) + answer.body)
        return keep_alive
    stays = await _WAYS[answer.delivery](stream, answer)
    return stays and keep_alive


def head(answer: Answer, length_bytes: int | None, *, keep_alive: bool = True) -> bytes:
    """Status line and headers. `length_bytes` None: the body comes in chunks."""
    framing = b"transfer-encoding: chunked" if length_bytes is None else b"content-length: %d" % length_bytes
    more = "".join(f"{name}: {value}\r\n" for name, value in answer.headers).encode("latin-1") if answer.headers else b""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"%b%b\r\nx-request-id: %b\r\n%b%b" % (
        _start(answer.status, answer.content_type),
        framing,
        answer.request_id.encode("latin-1"),
        more,
        end,
    )


@functools.lru_cache
def _start(status: int, content_type: str) -> bytes:
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\ncontent-type: {content_type}\r\n".encode("latin-1")


# Each way of answering returns whether the connection stays. ------------------------------------------------------------


async def _drip(stream: trio.abc.Stream, answer: Answer) -> bool:
    body = answer.body
    size = max(1, -(-len(body) // DRIP_PIECES))
    await stream.send_all(head(answer, len(body)))
    for start in range(0, len(body), size):
        await trio.sleep(DRIP_PAUSE_SECONDS)
        await stream.send_all(body[start : start + size])
    return True


async def _then_close(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, len(answer.body)) + answer.body)
    return False


async def _then_stale(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, len(answer.body)) + answer.body)
    if await stream.receive_some(1):
        _prepare_reset(stream)
    return False


async def _silent(stream: trio.abc.Stream, _: Answer) -> bool:
    await _until_hung_up(stream)
    return False


async def _reset_before(stream: trio.abc.Stream, _: Answer) -> bool:
    _prepare_reset(stream)
    return False


async def _reset_headers(stream: trio.abc.Stream, answer: Answer) -> bool:
    whole = head(answer, len(answer.body))
    await stream.send_all(whole[: len(whole) // 2])
    _prepare_reset(stream)
    return False


async def _reset_body(stream: trio.abc.Stream, answer: Answer) -> bool:
    await _truncated(stream, answer)
    _prepare_reset(stream)
    return False


async def _closed_before(_: trio.abc.Stream, __: Answer) -> bool:
    return False


async def _truncated(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, len(answer.body)) + answer.body[: len(answer.body) // 2])
    return False


async def _long_length(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, len(answer.body) + _LACKING_BYTES) + answer.body)
    await _until_hung_up(stream)
    return False


async def _short_length(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, len(answer.body) // 2) + answer.body)
    return True


async def _endless(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, None))
    await _send_chunks(stream, itertools.chain([answer.body], itertools.repeat(_BLANKS)))
    return False


async def _endless_length(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, _TERABYTE) + answer.body)
    for blanks in itertools.repeat(_BLANKS):
        await stream.send_all(blanks)
        await trio.lowlevel.checkpoint()
    return False


async def _endless_drip(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, None))
    while True:
        await _send_chunks(stream, [b" "])
        await trio.sleep(ENDLESS_PAUSE_SECONDS)


async def _oversize(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, OVERSIZE_BYTES))
    for piece in _oversize_body(answer):
        await stream.send_all(piece)
        await trio.lowlevel.checkpoint()
    return True


async def _oversize_chunked(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, None))
    await _send_chunks(stream, _oversize_body(answer))
    await stream.send_all(b"0\r\n\r\n")
    return True


async def _stream(stream: trio.abc.Stream, answer: Answer, events: Iterable[bytes]) -> None:
    await stream.send_all(head(answer, None))
    for event in events:
        await trio.sleep(answer.pause_seconds)
        await _send_chunks(stream, [event])
    await stream.send_all(b"0\r\n\r\n")


async def _stream_cut(stream: trio.abc.Stream, answer: Answer) -> bool:
    await _stream(stream, answer, _first_half(answer))
    return True


async def _stream_stalls(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(head(answer, None))
    await _send_chunks(stream, _first_half(answer))
    await _until_hung_up(stream)
    return False


async def _stream_error(stream: trio.abc.Stream, answer: Answer) -> bool:
    await _stream(stream, answer, [*_first_half(answer), answer.error_event] if answer.events else [answer.body])
    return True


def _first_half(answer: Answer) -> Sequence[bytes]:
    return answer.events[: len(answer.events) // 2] or [answer.body[: len(answer.body) // 2]]


async def _garbage_headers(stream: trio.abc.Stream, answer: Answer) -> bool:
    await stream.send_all(_GARBAGE_HEADERS + answer.body)
    return False


_WAYS: dict[Delivery, Callable[[trio.abc.Stream, Answer], Awaitable[bool]]] = {
    Delivery.DRIP: _drip,
    Delivery.CLOSES_IDLE: _then_close,
    Delivery.STALE: _then_stale,
    Delivery.OVERSIZE: _oversize,
    Delivery.OVERSIZE_CHUNKED: _oversize_chunked,
    Delivery.SILENT: _silent,
    Delivery.RESET_BEFORE: _reset_before,
    Delivery.RESET_HEADERS: _reset_headers,
    Delivery.RESET_BODY: _reset_body,
    Delivery.CLOSED_BEFORE: _closed_before,
    Delivery.TRUNCATED: _truncated,
    Delivery.LONG_LENGTH: _long_length,
    Delivery.SHORT_LENGTH: _short_length,
    Delivery.ENDLESS: _endless,
    Delivery.ENDLESS_LENGTH: _endless_length,
    Delivery.ENDLESS_DRIP: _endless_drip,
    Delivery.GARBAGE_HEADERS: _garbage_headers,
    Delivery.STREAM_CUT: _stream_cut,
    Delivery.STREAM_STALLS: _stream_stalls,
    Delivery.STREAM_ERROR: _stream_error,
}


def _oversize_body(answer: Answer) -> Iterable[bytes]:
    """The answer and blanks after it, in pieces, so that nobody here holds all of it."""
    yield answer.body
    pieces, rest = divmod(OVERSIZE_BYTES - len(answer.body), len(_BLANKS))
    yield from itertools.repeat(_BLANKS, pieces)
    yield _BLANKS[:rest]


async def _send_chunks(stream: trio.abc.Stream, pieces: Iterable[bytes]) -> None:
    for piece in filter(None, pieces):  # an empty chunk would be the last
        await stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
        await trio.lowlevel.checkpoint()


async def _until_hung_up(stream: trio.abc.Stream) -> None:
    while await stream.receive_some(READ_BYTES):
        pass


def _prepare_reset(stream: trio.abc.Stream) -> None:
    """Make closing a socket send a reset. In-memory streams know no reset: there the client sees an early end."""
    if isinstance(stream, Connection):
        stream.prepare_reset()
