"""Request shapes: what a body asks for, and what its answer says it took. One module per shape.

`for_url` finds a url's dialect; whatever has none of its own is `generic`. Both directions are read tolerantly: a field of
the wrong type counts as absent, and nothing that stands in a body or a reply raises.
"""

from __future__ import annotations

from batchrunner.dialect.facts import Dialect, Finish, ReplyFacts
from batchrunner.dialect.json_text import is_json, mended, on_one_line, read_exact_json, read_json, without_bom
from batchrunner.dialect.urls import ASYNCHRONOUS_URLS, MAX_URL_BYTES, URLS, for_url, is_read_only, is_sound, of

__all__ = [
    "ASYNCHRONOUS_URLS",
    "MAX_URL_BYTES",
    "URLS",
    "Dialect",
    "Finish",
    "ReplyFacts",
    "for_url",
    "is_json",
    "is_read_only",
    "is_sound",
    "mended",
    "of",
    "on_one_line",
    "read_exact_json",
    "read_json",
    "without_bom",
]
