"""How many tokens a picture or a sound in a request may take: rules of thumb, until answers have told (`estimate`).

Pictures by OpenAI's published rule: scaled into 2048 x 2048 and to 768 on the shorter side, then 170 for each tile of 512
and 85 for the whole; 85 alone where `detail` is low. Its size is read from the file's own first bytes; one that is only
named by its address is taken for 1024 x 1024. Sounds by their seconds, at 32 tokens each, which is Gemini's published
figure and the highest that we know of. What else there is (films, documents) counts as nothing here.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

_WHOLE_IMAGE_TOKENS: Final = 85
_TILE_TOKENS: Final = 170
_TILE: Final = 512
_LONGER_SIDE: Final = 2048
_SHORTER_SIDE: Final = 768
#: of a picture whose size is not known
_USUAL_SIDE: Final = 1024
_TOKENS_PER_SECOND: Final = 32
#: of sound that is compressed: 128 kbit/s
_COMPRESSED_BYTES_PER_SECOND: Final = 16_000
#: so much of a file is looked at; sizes stand well before
_HEAD_CHARACTERS: Final = 1 << 16
_DATA_URL: Final = re.compile(r"data:(?P<kind>image|audio)/[\w.+-]+(?:;[\w=.+-]+)*,")
#: of a JPEG: frames whose header holds the picture's size
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def of_part(part: dict[str, Any]) -> int:
    """Tokens of a typed content part."""
    kind = str(part.get("type"))
    if "image" in kind:
        return _WHOLE_IMAGE_TOKENS if _said(part, "detail") == "low" else _image_tokens(_payload(part))
    return _audio_tokens(_payload(part)) if "audio" in kind else 0


def of_data_url(text: str) -> int:
    """Tokens of a file that stands in a body by itself."""
    found = _DATA_URL.match(text)
    if found is None:
        return 0
    payload = text[found.end() :]
    return _image_tokens(payload) if found["kind"] == "image" else _audio_tokens(payload)


def _said(part: dict[str, Any], name: str) -> object:
    """A field of the part, or of what it wraps."""
    inner = (value for value in part.values() if isinstance(value, dict))
    return next((place[name] for place in (part, *inner) if name in place), None)


def _payload(part: dict[str, Any]) -> str | None:
    """The part's file in base64; None where it is only named."""
    for name in ("data", "url", "image_url"):
        text = _said(part, name)
        if isinstance(text, str):
            found = _DATA_URL.match(text)
            if found is not None:
                return text[found.end() :]
            if name == "data":
                return text
    return None


def _image_tokens(payload: str | None) -> int:
    width, height = (None if payload is None else _dimensions(_head(payload))) or (_USUAL_SIDE, _USUAL_SIDE)
    longer, shorter = max(width, height, 1), max(min(width, height), 1)
    if longer > _LONGER_SIDE:
        longer, shorter = _LONGER_SIDE, max(1, shorter * _LONGER_SIDE // longer)
    if shorter > _SHORTER_SIDE:
        longer, shorter = longer * _SHORTER_SIDE // shorter, _SHORTER_SIDE
    return _WHOLE_IMAGE_TOKENS + _TILE_TOKENS * -(-longer // _TILE) * -(-shorter // _TILE)


def _audio_tokens(payload: str | None) -> int:
    if payload is None:
        return 0
    head = _head(payload)
    rate = int.from_bytes(head[28:32], "little") if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else 0
    seconds = len(payload) * 3 // 4 // (rate or _COMPRESSED_BYTES_PER_SECOND) + 1
    return seconds * _TOKENS_PER_SECOND


def _head(payload: str) -> bytes:
    """The first bytes of a file in base64; none where it is not."""
    text = payload[:_HEAD_CHARACTERS]
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _dimensions(head: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF or JPEG, from its first bytes."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head.startswith(b"GIF8") and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    return _jpeg_dimensions(head) if head.startswith(b"\xff\xd8") else None


def _jpeg_dimensions(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _JPEG_FRAMES:
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return None
