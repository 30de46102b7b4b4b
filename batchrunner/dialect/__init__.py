"""Request shapes: what a body asks for, and what its answer says it took. One module per shape.

`for_url` finds a job's dialect; a url without one cannot be run in a batch. Both directions are read tolerantly: a field of
the wrong type counts as absent, and nothing that stands in a body or a reply raises.
"""

from __future__ import annotations

from typing import Final

from batchrunner.dialect import chat_completions, messages, responses
from batchrunner.dialect.facts import Dialect, Finish, ReplyFacts
from batchrunner.dialect.json_text import is_json, without_bom
from batchrunner.job import Job

__all__ = ["URLS", "Dialect", "Finish", "ReplyFacts", "for_url", "is_json", "of", "without_bom"]

#: the paths that have a dialect
URLS: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": chat_completions.DIALECT,
    "/v1/responses": responses.DIALECT,
    "/v1/messages": messages.DIALECT,
}


def for_url(url: str) -> Dialect | None:
    """The dialect of a job's url, or None."""
    return URLS.get(url)


def of(job: Job) -> Dialect:
    """The dialect of a job whose url was checked when its line was read."""
    return URLS[job.url]
