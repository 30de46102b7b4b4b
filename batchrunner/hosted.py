"""Media that a server hosts: where an answer names them, where they may be fetched, under which names they are kept. Pure.

Names are made of what somebody else wrote, and so of letters, digits, dots, dashes and underscores alone; a hash of the run's id
and the custom_id keeps apart what that makes alike, and the same job of several runs. They can be told before anything is
fetched, but for their extension.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from batchrunner.dialect.facts import mapping, mappings, read_object, string
from batchrunner.dialect.media import RESULTS
from batchrunner.errors import UsageError
from batchrunner.transport import Origin

#: urls whose answers are media
MEDIA_URLS: Final = frozenset({"/v1/images/generations", "/v1/audio/speech", "/v1/videos/generations"})
#: so many files an answer may have
MOST_FILES: Final = 100
MAX_ADDRESS_CHARACTERS: Final = 8192

_NAMES: Final = ("url", "image_url", "video_url", "audio_url")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_STEM: Final = 80
#: of the hash: so many that no two of a million jobs share them whose ids look alike
_MARK_DIGITS: Final = 16
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,5}")
#: kept as they come in a path that is asked for
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"
_EXTENSIONS: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/json": ".json",
}


class Place(msgspec.Struct, frozen=True):
    """Where a file is fetched: a server, and what it is asked for."""

    origin: Origin
    target: str


def addresses(body: bytes) -> list[str]:
    """The addresses of the files that an answer names, in its order, each once."""
    reply = read_object(body)
    if reply is None:
        return []
    found: dict[str, None] = {}
    for place in (reply, *(reply.get(name) for name in RESULTS)):
        for address in _within(place):
            found[address] = None
    return list(found)[:MOST_FILES]


def _within(place: Any) -> list[str]:
    """The addresses in a result: its own, those of its items, or the result itself."""
    if isinstance(place, str):
        return [place] if place.startswith(("https://", "http://")) else []
    if isinstance(place, list):
        return [address for item in place for address in (_within(item) if isinstance(item, str) else _named(mapping(item)))]
    own = mapping(place)
    return _named(own) + [address for item in mappings(own.get("data")) for address in _named(item)]


def _named(item: dict[str, Any]) -> list[str]:
    said = (item.get(name) for name in _NAMES)
    texts = (string(value.get("url")) if isinstance(value, dict) else string(value) for value in said)
    return [text for text in texts if text is not None and len(text) <= MAX_ADDRESS_CHARACTERS]


def stem(run_id: str, custom_id: str, number: int) -> str:
    """The name of a job's file without its extension. Different runs, jobs and numbers have different ones."""
    mark = hashlib.sha256(f"{run_id}\n{custom_id}".encode("utf-8", "surrogatepass")).hexdigest()[:_MARK_DIGITS]
    readable = _UNSAFE.sub("_", custom_id)[:_LONGEST_STEM].strip("._-") or "job"
    return f"{readable}-{mark}-{number}"


def extension(content_type: str | None, address: str) -> str:
    """What a file's name ends in: by its type, else as its address does."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _EXTENSIONS:
        return _EXTENSIONS[kind]
    try:
        name = urlsplit(address).path.rpartition("/")[2]
    except ValueError:
        name = ""
    dot = name.rfind(".")
    suffix = name[dot:] if dot > 0 else ""
    return suffix.lower() if _SUFFIX.fullmatch(suffix) else ".bin"


def place_of(address: str, *, loopback: bool) -> Place:
    """Where an address leads. `loopback`: it may be this machine, whose own server named it.

    Raises: UsageError where it is not https (or http to this machine), names a user, or is no address at all.
    """
    try:
        parts = urlsplit(address)
        origin = Origin.parse(f"{parts.scheme}://{parts.netloc}")
        path = quote(parts.path or "/", safe=_PATH_SAFE)
        query = f"?{quote(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else ""
    except ValueError as cause:  # half of a character among them
        raise UsageError("it is no address") from cause
    if origin.is_loopback and not loopback:
        raise UsageError("it leads to this machine, and the server is another")
    return Place(origin, path + query)


def redirected(address: str, location: str | None) -> str | None:
    """The address that a redirect leads to; None where it names none."""
    try:
        return urljoin(address, location) if location else None
    except ValueError:
        return None
