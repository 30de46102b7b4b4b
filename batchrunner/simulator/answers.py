"""What leaves the platform for a request, before the server puts it on the wire, well or badly."""

from __future__ import annotations

import functools
import gzip
from http import HTTPStatus

import msgspec

from batchrunner.simulator import replies
from batchrunner.simulator.asks import Dialect
from batchrunner.simulator.faults import Content, Delivery, Fault

REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_GARBAGE = b'{"id": "cut off by a broken prox'
_BOMB_MEMBER_BYTES = 1 << 24
_BOMB_MEMBERS = 64


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the server is to send, and how."""

    status: int
    body: bytes
    request_id: str
    content_type: str = "application/json"
    #: besides content-type, content-length and x-request-id
    headers: tuple[tuple[str, str], ...] = ()
    delivery: Delivery = Delivery.WHOLE
    #: the parts of a body that is streamed, and the time between two of them
    events: tuple[bytes, ...] = ()
    pause_seconds: float = 0.0
    #: what a stream that fails says instead of its second half
    error_event: bytes = b""


def refusal(dialect: Dialect | None, status: int, code: str, message: str, request_id: str) -> Answer:
    """An error in its dialect's own shape."""
    return Answer(status, replies.error(dialect, status, code, message, request_id), request_id)


def failure(fault: Fault, dialect: Dialect, request_id: str) -> Answer:
    """The answer that a fault puts in the place of what was asked for: its content is not COMPLETION."""
    match fault.content:
        case Content.HTML:
            return Answer(fault.status, _page(fault.status), request_id, content_type="text/html")
        case Content.GARBAGE:
            return Answer(fault.status, _GARBAGE, request_id)
        case Content.EMPTY:
            return Answer(fault.status, b"", request_id)
        case Content.GZIP:
            return Answer(fault.status, _bomb(), request_id, headers=(("content-encoding", "gzip"),))
        case _:
            return refusal(dialect, fault.status, fault.code, fault.message, request_id)


def _page(status: int) -> bytes:
    """What a proxy says that speaks for itself."""
    title = f"{status} {REASONS[status]}"
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n".encode()


@functools.cache
def _bomb() -> bytes:
    """About a megabyte that unpacks to a gigabyte of blanks: a gzip file may have any number of members."""
    return gzip.compress(b" " * _BOMB_MEMBER_BYTES, mtime=0) * _BOMB_MEMBERS
