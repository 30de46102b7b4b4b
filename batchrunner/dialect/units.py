"""What requests and replies say of pictures and seconds, by the catalog's names of these units. Counted or said; never guessed.

A request says how many pictures it wants, or how many films of how many seconds; of sound only the reply tells.

A reply's pictures are counted where they stand, in `data`. Seconds are read from a usage (`{"type": "duration", "seconds": 9}`
is OpenAI's), else from the reply itself, else summed over its files where each says its own. The `duration` of a job, which has
a `status`, may be the time that it took, and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from batchrunner.dialect import facts

IMAGE: Final = "image"
VIDEO_SECOND: Final = "video-second"
AUDIO_SECOND: Final = "audio-second"

#: a larger figure is nonsense: no sound or film of two years is made
MOST: Final = 100_000_000
#: nor does a smaller part of one mean anything: written out it could fill a disk
_MOST_DECIMALS: Final = 18
#: names that a length goes by
SECONDS: Final = ("seconds", "duration_seconds", "duration")
_OF_KIND: Final = {VIDEO_SECOND: ("video_seconds",), AUDIO_SECOND: ("audio_seconds",)}
#: names that a file stands under, as an address or in base64
_FILES: Final = ("url", "b64_json", "image_url", "video_url", "audio_url")


def asked(unit: str, n: object, lengths: Iterable[object]) -> Decimal | None:
    """How much of a unit a request asks for; None where it does not say, or not in words that every server takes alike.

    `n` pictures or films, one where that is left out; each film as long as the longest of `lengths`, of which some may be None.
    """
    copies = 1 if n is None else facts.count(n)
    if not copies:
        return None
    if unit == IMAGE:
        return Decimal(copies)
    said = [length for length in lengths if length is not None]
    sound = [seconds for length in said if (seconds := _quantity(length))]
    if unit != VIDEO_SECOND or not sound or len(sound) < len(said):
        return None
    return max(sound) * copies


def read(reply: dict[str, Any], unit: str) -> Decimal | None:
    """How much of a unit a reply holds; None where it does not say."""
    return _images(reply) if unit == IMAGE else _seconds(reply, _OF_KIND[unit] + SECONDS)


def files(reply: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The items of `data` that hold a file; None where there is no such array."""
    items = reply.get("data")
    if not isinstance(items, list):
        return None
    return [item for item in facts.mappings(items) if any(facts.string(item.get(name)) for name in _FILES)]


def _images(reply: dict[str, Any]) -> Decimal | None:
    found = files(reply)
    return None if found is None else Decimal(len(found))


def billed(reply: dict[str, Any], unit: str) -> Decimal | None:
    """How much of a unit a reply's usage counts; None where it does not."""
    usage = facts.mapping(reply.get("usage"))
    said = None if unit == IMAGE else _said(usage, _OF_KIND[unit] + SECONDS)
    return None if said is None else _quantity(said)


def _seconds(reply: dict[str, Any], names: tuple[str, ...]) -> Decimal | None:
    own = tuple(name for name in names if name != "duration") if "status" in reply else names
    for said in (_said(facts.mapping(reply.get("usage")), names), _said(reply, own)):
        if said is not None:
            return _quantity(said)
    each = [_seconds(item, names) for item in files(reply) or ()]
    return sum((one for one in each if one is not None), Decimal(0)) if each and None not in each else None


def _said(place: dict[str, Any], names: tuple[str, ...]) -> object:
    return next((place[name] for name in names if place.get(name) is not None), None)


def _quantity(value: object) -> Decimal | None:
    """A finite number of at least 0, as a number or in digits, of a size that makes sense; exact as it is written."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)) or len(str(value)) > 40:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    is_sound = math.isfinite(amount) and 0 <= amount <= MOST and amount.adjusted() >= -_MOST_DECIMALS
    return amount if is_sound else None
