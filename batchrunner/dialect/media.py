"""What is answered by files: pictures, speech, films, transcripts. The platform gives addresses of what it has made.

A result that was waited for (videos, transcriptions) stands in its job's status, under one of `RESULTS`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, units, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.generic import Generic, Request
from batchrunner.job import Usage

#: where a job's status holds its result
RESULTS: Final = ("result", "output", "data")


class Media(Generic):
    """A shape whose answer is billed by `unit`; where that is not said, what it takes is not known."""

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self._unit = unit

    def asked(self, request: Request) -> dict[str, Decimal]:
        quantity = units.asked(self._unit, request.n, [getattr(request, name) for name in units.SECONDS])
        return {} if quantity is None else {self._unit: quantity}

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body, opaque=True)
        results = [place for name in RESULTS if (place := facts.mapping(reply.get(name)))]
        places = [reply, *results]
        # What is billed goes before what the result says of itself, and that before what the job does.
        said = (units.billed(place, self._unit) for place in places)
        held = (units.read(place, self._unit) for place in (*results, reply))
        quantity = next((one for one in (*said, *held) if one is not None), None)
        tokens = next((found for place in places if (found := usage.in_any_spelling(place)) is not None), None)
        if quantity is not None:
            beside = tokens or Usage(0, 0, tokens_known=False)
            tokens = msgspec.structs.replace(beside, units={self._unit: quantity})
        return ReplyFacts(
            tokens,
            Finish.EMPTY if any(map(_is_empty, places)) else Finish.STOP,
            model=next((name for place in places if (name := facts.string(place.get("model")))), None),
            tool_usage=next((fired for place in places if (fired := usage.tool_usage_of(place))), {}),
            opaque=quantity is None,
        )


def _is_empty(place: dict[str, Any]) -> bool:
    """Whether a reply has room for files, or for a text, and nothing stands there."""
    text = place.get("text")
    return units.files(place) == [] or (isinstance(text, str) and not text.strip())


IMAGES: Final = Media("images", units.IMAGE)
SPEECH: Final = Media("speech", units.AUDIO_SECOND)
VIDEOS: Final = Media("videos", units.VIDEO_SECOND)
TRANSCRIPTIONS: Final = Media("transcriptions", units.AUDIO_SECOND)
