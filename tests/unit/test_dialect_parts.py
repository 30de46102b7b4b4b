"""Pictures and sounds in a request: what they may take, by rules of thumb."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect
from batchrunner.dialect import parts

CHAT = dialect.for_url("/v1/chat/completions")


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(500)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(500)


def jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xfe" + struct.pack(">H", 102) + bytes(100)
    return b"\xff\xd8" + comment + b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + bytes(500)


def wav(seconds: int, bytes_per_second: int) -> bytes:
    return b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(12) + struct.pack("<I", bytes_per_second) + bytes(seconds * bytes_per_second)


def inlined(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def tokens(part: dict[str, Any]) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]}
    found = CHAT.size(json.dumps(body).encode())
    assert found.opaque_parts
    assert found.input_tokens < 100
    assert found.guessed_tokens == found.input_tokens + found.opaque_tokens
    return found.opaque_tokens


@pytest.mark.parametrize("made", [png, gif, jpeg])
@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (100, 100, 85 + 170),
        (512, 512, 85 + 170),
        (513, 512, 85 + 2 * 170),
        (1024, 1024, 85 + 4 * 170),  # to 768 x 768
        (2048, 4096, 85 + 6 * 170),  # to 1024 x 2048, then 768 x 1536
        (10_000, 1, 85 + 4 * 170),  # to 2048 x 1
    ],
)
def test_a_picture_takes_its_tiles(made: Any, width: int, height: int, expected: int) -> None:
    """By its size, whatever its format and however many bytes it has."""
    assert tokens({"type": "image_url", "image_url": {"url": inlined(made(width, height))}}) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}, 85),
        ({"type": "input_image", "image_url": inlined(png(10, 10)), "detail": "low"}, 85),
        ({"type": "input_image", "file_id": "file-1"}, 765),
        ({"type": "input_image", "image_url": inlined(png(10, 10))}, 255),
        ({"type": "image", "source": {"type": "base64", "data": base64.b64encode(png(600, 10)).decode()}}, 425),
        ({"type": "image", "source": {"type": "base64", "data": "§§§"}}, 765),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, 765),
        ({"whatever": inlined(png(10, 10))}, 255),
        ({"whatever": inlined(bytes(160_000), "audio/mpeg")}, 11 * 32),
        ({"type": "tool_result", "content": [{"type": "image", "source": {}}, {"type": "image", "source": {}}]}, 2 * 765),
        ({"type": "file", "file": {"file_data": inlined(bytes(9000), "application/pdf")}}, 0),
        ({"type": "image", "source": {"type": "base64", "data": "§§§§"}}, 765),
        ({"type": "image", "source": {"type": "base64", "data": "A==="}}, 765),
        ({"type": "audio", "audio": {"id": "audio-1"}}, 0),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, 0),
    ],
)
def test_each_way_of_giving_a_file_is_looked_through(part: dict[str, Any], expected: int) -> None:
    """As an address, in a data URL, in base64, by itself, within a tool's result; a document or film is not guessed at."""
    assert tokens(part) == expected


def test_a_sound_takes_its_seconds() -> None:
    """A wave file says how many bytes a second has; of all others 128 kbit/s are assumed."""
    spoken = {"data": base64.b64encode(wav(10, 8_000)).decode(), "format": "wav"}
    assert tokens({"type": "input_audio", "input_audio": spoken}) == 11 * 32
    packed = {"data": base64.b64encode(bytes(160_000)).decode(), "format": "mp3"}
    assert tokens({"type": "input_audio", "input_audio": packed}) == 11 * 32


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff\xc0", b"\xff\xd8\xff\xfe", b"RIFF"]),
)
def test_no_file_is_too_odd_to_be_sized(rest: bytes, start: bytes) -> None:
    """A body chooses its bytes; sizing neither raises nor loops, and a picture takes 85 to 2,805 tokens."""
    text = base64.b64encode(start + rest).decode()
    assert 255 <= parts.of_part({"type": "image", "source": {"data": text}}) <= 85 + 16 * 170
    assert parts.of_part({"type": "audio", "data": text}) >= 32
