"""Which urls a job may ask, and the shape of each.

A url is a path below `/v1/`, whatever the base URL's own path is. Some have a shape of their own; every other is taken as it
comes (`generic`), but for those that no batch can be made of.
"""

from __future__ import annotations

import re
from typing import Final

from batchrunner.dialect import (
    chat_completions,
    completions,
    embeddings,
    findings,
    generic,
    media,
    messages,
    reranks,
    responses,
)
from batchrunner.dialect.facts import Dialect
from batchrunner.job import Job

#: the paths that have a shape of their own
URLS: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": chat_completions.DIALECT,
    "/v1/responses": responses.DIALECT,
    "/v1/messages": messages.DIALECT,
    "/v1/embeddings": embeddings.DIALECT,
    "/v1/completions": completions.DIALECT,
    "/v1/reranks": reranks.DIALECT,
    "/v1/rerank": reranks.DIALECT,
    "/v1/images/generations": media.IMAGES,
    "/v1/audio/speech": media.SPEECH,
    "/v1/search": findings.SEARCH,
    "/v1/detect": findings.DETECT,
    "/v1/videos/generations": media.VIDEOS,
    "/v1/audio/transcriptions": media.TRANSCRIPTIONS,
}
#: answered with the id of a job that must be polled
ASYNCHRONOUS_URLS: Final = frozenset({"/v1/videos/generations", "/v1/audio/transcriptions"})
#: answer GET alone
_READ_ONLY: Final = re.compile(r"/v1/(?:models|account/usage|jobs|playground)(?:/.*)?")

#: a url stands in every record and cost line of its job
MAX_URL_BYTES: Final = 256
#: segments of what RFC 3986 allows in one; those of dots alone, which servers resolve, are none
_SEGMENT: Final = r"(?!(?:\.|%2[Ee]){1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+"
_SOUND: Final = re.compile(rf"/v1(?:/{_SEGMENT})+")


def for_url(url: str) -> Dialect:
    """The dialect of a url."""
    return URLS.get(url, generic.DIALECT)


def of(job: Job) -> Dialect:
    """The dialect of a job."""
    return for_url(job.url)


def is_sound(url: str) -> bool:
    """Whether a url is a path below `/v1/` that means the same to every server and proxy on the way."""
    return len(url) <= MAX_URL_BYTES and _SOUND.fullmatch(url) is not None


def is_read_only(url: str) -> bool:
    """Whether a url is one that is asked with GET: a catalog, an account, a job's status."""
    return _READ_ONLY.fullmatch(url) is not None
