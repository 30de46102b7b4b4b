"""The files that answers point at, where the platform is served: small, whole, and always the same for the same name."""

from __future__ import annotations

import re
import struct
import zlib

from batchrunner.simulator.answers import Answer
from batchrunner.simulator.asks import Refusal
from batchrunner.simulator.hosted import HOST

PATH = "/files/"
_NAME = re.compile(r"[0-9a-f]{1,40}(?:-[0-9]{1,4})?\.(?P<kind>png|mp3|mp4|html|json)")
_TYPES = {"png": "image/png", "mp3": "audio/mpeg", "mp4": "video/mp4", "html": "text/html", "json": "application/json"}
_SIDE = 16


def hosted_at(answer: bytes, url: str) -> bytes:
    """An answer whose addresses lead to this server, which is at `url`."""
    return answer.replace(HOST.encode(), f"{url}{PATH}".rstrip("/").encode())


def answer(name: str, request_id: str) -> Answer:
    """A file. Raises: Refusal, 404, where there can be none of this name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Refusal(404, "not_found", "There is no such file.")
    kind = found["kind"]
    body = _picture(name) if kind == "png" else f"Simulated: {name}\n".encode() * 64
    return Answer(200, body, request_id, content_type=_TYPES[kind])


def _picture(name: str) -> bytes:
    """A picture of one colour, which follows from its name."""
    grey = zlib.crc32(name.encode()) & 0xFF
    rows = (b"\0" + bytes([grey]) * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
