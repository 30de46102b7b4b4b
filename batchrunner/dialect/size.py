"""How many prompt tokens a request body may take, guessed from its bytes.

The guess is a base: a quarter of the bytes, which English prose of most tokenizers is near to, JSON's own marks included.
`estimate` corrects it by the ratio learned from what servers report, so it is steadiness that counts here, not truth.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from batchrunner.dialect import parts
from batchrunner.job import RequestSize

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
_NO_UNITS: Final[Mapping[str, Decimal]] = {}
_decode_prompt: Final = msgspec.json.Decoder(list[str | int | list[int]]).decode


class Input(msgspec.Struct, frozen=True):
    """What a body's prompt may take."""

    #: guessed from its text
    tokens: int
    #: it holds parts that bytes cannot tell
    opaque_parts: bool = False
    #: of these, by rules of thumb
    opaque_tokens: int = 0


def sized(
    model: object,
    prompt: Input,
    output_cap_tokens: int | None,
    choices: int = 1,
    *,
    opaque_output: bool = False,
    units: Mapping[str, Decimal] = _NO_UNITS,
) -> RequestSize:
    """A request with this prompt, whose body names this model."""
    return RequestSize(
        model if isinstance(model, str) else "",
        prompt.tokens,
        output_cap_tokens,
        prompt.opaque_parts,
        choices,
        prompt.opaque_tokens,
        opaque_output,
        units,
    )


def input_size(body: bytes) -> Input:
    """How large a body's prompt is, guessed from its text, its pictures and its sounds."""
    text_bytes = len(body)
    opaque: _Opaque | None = None
    # Plain scans, the likeliest to settle it first: most bodies hold text alone, and need not be decoded.
    if b"data:" in body or (b'"type"' in body and any(mark in body for mark in _MARKS)):
        # A body that no decoder of ours reads is counted whole: too much is the safe side.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            opaque = _opaque(msgspec.json.decode(body), within=False)
            text_bytes -= 0 if opaque is None else opaque.bytes
    text_bytes -= _ESCAPE_SURPLUS_BYTES * body.count(b"\\u")
    tokens = max(text_bytes, 0) // BYTES_PER_TOKEN + 1
    return Input(tokens) if opaque is None else Input(tokens, True, opaque.tokens)


def prompt_size(body: bytes, prompt: msgspec.Raw) -> tuple[Input, int]:
    """Size a body whose prompt, a slice of it, is a text or several, token ids, or several lists of them; how many there are.

    Token ids are counted, all else is guessed as in any body.
    """
    try:
        items = _decode_prompt(prompt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return input_size(body), 1
    prompts = 1 if not items or isinstance(items[0], int) else len(items)
    if any(isinstance(item, str) for item in items):
        return input_size(body), prompts
    ids = sum(len(item) if isinstance(item, list) else 1 for item in items)
    beside_bytes = len(body) - memoryview(prompt).nbytes
    return Input(ids + beside_bytes // BYTES_PER_TOKEN + 1), prompts


class _Opaque(msgspec.Struct, frozen=True):
    """Parts that bytes cannot tell: the bytes of their strings, and what they may take."""

    bytes: int = 0
    tokens: int = 0


def _opaque(value: Any, *, within: bool) -> _Opaque | None:
    """What stands below a value in opaque parts, None where there is no such part; `within` one all does."""
    if isinstance(value, str):
        if within:
            return _Opaque(len(value.encode()))
        return _Opaque(len(value.encode()), parts.of_data_url(value)) if _DATA_URL.match(value) else None
    tokens = 0
    if isinstance(value, dict):
        if not within and str(value.get("type")) in _OPAQUE_TYPES and not _is_text_document(value):
            within, tokens = True, parts.of_part(value)
        found = [_opaque(item, within=within) for item in value.values()]
    elif isinstance(value, list):
        found = [_opaque(item, within=within) for item in value]
    else:
        return None
    known = [one for one in found if one is not None]
    if not known and not within:
        return None
    return _Opaque(sum(one.bytes for one in known), tokens + sum(one.tokens for one in known))


def _is_text_document(part: dict[str, Any]) -> bool:
    """Whether a document part carries its text as text, or as parts that are looked at one by one."""
    source = part.get("source")
    return isinstance(source, dict) and source.get("type") in ("text", "content")
