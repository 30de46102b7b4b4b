"""How many prompt tokens a request body may take, guessed from its bytes.

The guess is a base: a quarter of the bytes, which English prose of most tokenizers is near to, JSON's own marks included.
`estimate` corrects it by the ratio learned from what servers report, so it is steadiness that counts here, not truth.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final

import msgspec

BYTES_PER_TOKEN: Final = 4
#: `中` spells in 6 bytes what UTF-8 says in 3 for most scripts: both spellings shall weigh the same
_ESCAPE_SURPLUS_BYTES: Final = 3

#: a typed part that holds none of these is text
_MARKS: Final = (b"image", b"audio", b"video", b"file", b"document")
_DATA_URL: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]")
#: `type` of content parts whose tokens bytes say nothing about
_OPAQUE_TYPES: Final = frozenset(
    f"{prefix}{kind}"
    for prefix in ("", "input_")
    for kind in ("image", "image_url", "audio", "video", "video_url", "file", "document")
)
_decode_prompt: Final = msgspec.json.Decoder(list[str | int | list[int]]).decode


def input_tokens(body: bytes) -> tuple[int, bool]:
    """Prompt tokens guessed from a body's text, and whether it holds parts that bytes cannot tell."""
    text_bytes = len(body)
    opaque = False
    # Plain scans, the likeliest to settle it first: most bodies hold text alone, and need not be decoded.
    if b"data:" in body or (b'"type"' in body and any(mark in body for mark in _MARKS)):
        # A body that no decoder of ours reads is counted whole: too much is the safe side.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            opaque_bytes = _opaque_bytes(msgspec.json.decode(body), within=False)
            opaque = opaque_bytes is not None
            text_bytes -= opaque_bytes or 0
    text_bytes -= _ESCAPE_SURPLUS_BYTES * body.count(b"\\u")
    return max(text_bytes, 0) // BYTES_PER_TOKEN + 1, opaque


class PromptSize(msgspec.Struct, frozen=True):
    """How large a body is whose prompt is a text or several, token ids, or several lists of them."""

    input_tokens: int
    opaque_parts: bool
    #: how many prompts there are
    prompts: int


def prompt_size(body: bytes, prompt: msgspec.Raw) -> PromptSize:
    """Size a body with its prompt, which is a slice of it. Token ids are counted, all else is guessed by its bytes."""
    try:
        items = _decode_prompt(prompt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return PromptSize(*input_tokens(body), 1)
    prompts = 1 if not items or isinstance(items[0], int) else len(items)
    if any(isinstance(item, str) for item in items):
        return PromptSize(*input_tokens(body), prompts)
    ids = sum(len(item) if isinstance(item, list) else 1 for item in items)
    beside_bytes = len(body) - memoryview(prompt).nbytes
    return PromptSize(ids + beside_bytes // BYTES_PER_TOKEN + 1, False, prompts)


def _opaque_bytes(value: Any, *, within: bool) -> int | None:
    """Bytes of the strings of opaque parts below a value, None where there is no such part; `within` one all are."""
    if isinstance(value, str):
        return len(value.encode()) if within or _DATA_URL.match(value) else None
    if isinstance(value, dict):
        within = within or (str(value.get("type")) in _OPAQUE_TYPES and not _is_text_document(value))
        found = [_opaque_bytes(item, within=within) for item in value.values()]
    elif isinstance(value, list):
        found = [_opaque_bytes(item, within=within) for item in value]
    else:
        return None
    known = [size for size in found if size is not None]
    return sum(known) if known or within else None


def _is_text_document(part: dict[str, Any]) -> bool:
    """Whether a document part carries its text as text, or as parts that are looked at one by one."""
    source = part.get("source")
    return isinstance(source, dict) and source.get("type") in ("text", "content")
