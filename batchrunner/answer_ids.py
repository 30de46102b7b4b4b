"""Which attempt's answer bears the id of a usage event. On most servers none does, and that is found out by a look at a few."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from typing import Final

import msgspec

from batchrunner.journal.files import RESULTS
from batchrunner.results import parse_id
from batchrunner.verification.reader import RunReader

#: answers among which one must bear an event's id for the others to be looked at
_TRIED: Final = 200


class _Body(msgspec.Struct):
    id: str | None = None


class _Response(msgspec.Struct):
    request_id: str | None = None
    body: _Body | None = None


class _Line(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response


_decoder: Final = msgspec.json.Decoder(_Line)


def attempts_by_event(reader: RunReader, event_ids: Container[str]) -> dict[str, tuple[str, int]]:
    """Event id -> (custom_id, attempt), for the answers in results.jsonl that bear one: as their own id, or as the request's."""
    if not any(found in event_ids for found, *_ in itertools.islice(_ids(reader), _TRIED)):
        return {}
    return {found: (custom_id, attempt) for found, custom_id, attempt in _ids(reader) if found in event_ids}


def _ids(reader: RunReader) -> Iterator[tuple[str, str, int]]:
    for _, raw in reader.lines(RESULTS, end=reader.size(RESULTS)):
        try:
            line = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        identity = parse_id(line.id)
        if identity is None:
            continue
        for found in (line.response.request_id, line.response.body and line.response.body.id):
            if found:
                yield found, line.custom_id, identity.attempt
