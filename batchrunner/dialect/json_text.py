"""JSON as servers write it: told by its grammar and not by its values, with a byte order mark before it perhaps.

An escaped half of a surrogate pair (a text cut in the middle of an emoji) and a number past every range are JSON, and a
reply that has them has been paid for. msgspec refuses them, so what it refuses is read once more by the slower standard
decoder. NaN is no JSON.
"""

from __future__ import annotations

import contextlib
import decimal
import json
import re
from decimal import Decimal
from typing import Final, NoReturn

import msgspec

#: some servers and editors begin a text with it
BOM: Final = b"\xef\xbb\xbf"
#: an escaped backslash, which escapes nothing that follows; a whole pair of surrogates; half of one
_ESCAPES: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def without_bom(data: bytes) -> bytes:
    """The text behind a byte order mark. A second one is no mark, and no JSON begins with it."""
    return data.removeprefix(BOM)


def mended(text: bytes) -> bytes:
    """The JSON with U+FFFD for what is no character: half of an escaped one (a text cut in the middle of an emoji), or no UTF-8.

    For records of which none may be lost over what stands in a text. A byte order mark is taken off.
    """
    text = without_bom(text)
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode("utf-8", "replace").encode()
    return _ESCAPES.sub(lambda found: found[0] if found[1] is None else rb"\ufffd", text) if rb"\u" in text else text


def on_one_line(text: bytes) -> bytes:
    """The JSON without line breaks, which it allows between tokens only."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text


def is_json(data: bytes) -> bool:
    """Whether `data` is one whole JSON text in UTF-8; one that begins with a byte order mark is none. Never raises."""
    try:
        data.decode()  # the decoder looks into no string that it is not asked for
        msgspec.json.decode(data, type=msgspec.Raw)
    except UnicodeDecodeError:
        return False
    except (msgspec.DecodeError, RecursionError):
        return _is_json_by_grammar(data)
    return True


def read_json(data: bytes) -> object:
    """The value of a JSON text. Raises: ValueError where it is none; RecursionError where it nests too deeply to be built."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(data)
    # Decoded here: given bytes, the standard decoder would take them for UTF-16 where they look like it.
    return json.loads(data.decode(), parse_int=_bounded_int, parse_constant=_refuse)


def read_exact_json(data: bytes) -> object:
    """As `read_json`, with Decimal for each number that is no integer, behind a byte order mark too: for amounts."""
    data = without_bom(data)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _EXACT.decode(data)
    return json.loads(data.decode(), parse_int=_bounded_int, parse_float=_exact, parse_constant=_refuse)


def _exact(text: str) -> Decimal | float:
    """A number as written; as a float (infinite, or 0) where its exponent is past all that Decimal holds."""
    try:
        return Decimal(text)
    except decimal.InvalidOperation:
        return float(text)


_EXACT: Final = msgspec.json.Decoder(float_hook=_exact)


def _is_json_by_grammar(data: bytes) -> bool:
    try:
        json.loads(data.decode(), parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _bounded_int(text: str) -> float:
    """An integer as written, or as a float where it is past all that anyone counts. int() of many digits would raise."""
    return int(text) if len(text) <= 300 else float(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
