"""Puts an object together from its fragments: what grows is appended, what is said again replaces what was said.

Texts are collected in a buffer that grows in place, so that an answer in a hundred thousand fragments takes the memory of
one. `plain` turns the result into values that can be encoded.
"""

from __future__ import annotations

import io
import json
from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, is_json
from batchrunner.dialect.json_text import read_json

#: Strings that come whole. All others of a fragment go on with what came before.
_WHOLE: Final = frozenset({"id", "type", "role", "name", "object", "model", "format", "finish_reason", "call_id", "status"})
#: items that are told apart by their index; so many calls no answer makes
_MOST_ITEMS: Final = 4096
#: what a value takes in memory beside its characters, in bytes: about
VALUE_BYTES: Final = 64


def merge(into: dict[str, Any], fragment: dict[str, Any]) -> int:
    """Add a fragment to what there is; the bytes that it takes, about."""
    held = 0
    for name, value in fragment.items():
        if name not in into:
            into[name] = None
            held += VALUE_BYTES + len(name)
        known = into[name]
        if value is None:
            continue
        if isinstance(value, str) and name not in _WHOLE:
            if not isinstance(known, io.StringIO):
                into[name] = known = io.StringIO()
            known.write(value)
            held += len(value)
        elif isinstance(value, dict):
            if not isinstance(known, dict):
                into[name] = known = {}
            held += merge(known, value)
        elif isinstance(value, list):
            if not isinstance(known, list):
                into[name] = known = []
            held += _extend(known, value)
        else:
            held += put(into, name, value)
    return held


def put(into: dict[str, Any], name: str, value: Any) -> int:
    """Let a value stand in the place of whatever had its name; the bytes that it takes more, about."""
    held = weight(value) + (-weight(into[name]) if name in into else len(name))
    into[name] = value
    return held


def _extend(known: list[Any], items: list[Any]) -> int:
    """Fragments of items that say which one they are of are merged into it, all others are further items."""
    held = 0
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is int and len(known) < _MOST_ITEMS:
            place = next((one for one in known if isinstance(one, dict) and one.get("index") == index), None)
            if place is None:
                place = {}
                known.append(place)
            held += merge(place, item)
        else:
            known.append(item)
            held += weight(item)
    return held


def weight(value: object) -> int:
    """What a decoded value takes, in bytes: about."""
    match value:
        case str():
            return VALUE_BYTES + len(value)
        case list():
            return VALUE_BYTES + sum(map(weight, value))
        case dict():
            return VALUE_BYTES + sum(len(name) + weight(inner) for name, inner in value.items())
        case _:
            return VALUE_BYTES


def plain(value: Any) -> Any:
    """The value with texts in the place of the buffers that they were collected in."""
    match value:
        case io.StringIO():
            return value.getvalue()
        case dict():
            return {name: plain(inner) for name, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case _:
            return value


def encoded(value: Any) -> bytes:
    """JSON. Halves of a character that two fragments brought become one; a half that stays alone is escaped, as servers do."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, ValueError):
        return json.dumps(value, default=_decoded).encode()


def error_in(said: dict[str, Any]) -> dict[str, Any]:
    """The error that an event tells of. One without words that errors have gets some: it is no answer."""
    error = said.get("error") or said
    if isinstance(error, str):
        return {"message": error}
    own: dict[str, Any] = facts.mapping(error)
    told = any(facts.string(own.get(name)) or type(own.get(name)) is int for name in ("code", "type", "message"))
    return own if told else own | {"message": "the server broke the stream off, and did not say why"}


def _decoded(raw: msgspec.Raw) -> Any:
    return read(bytes(raw))


def read(data: bytes) -> Any:
    """The value of an event's data. Raises: ValueError or RecursionError where it is no JSON."""
    return read_json(data)


def parsed(text: str) -> Any:
    """A JSON text that came in fragments, as it is written; the text itself where it is none: cut off by a cap, as a rule."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return text
    return msgspec.Raw(data) if is_json(data) else text
