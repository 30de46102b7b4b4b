"""What is looked up or judged: `POST /v1/search`, `POST /v1/detect`. What models ask for it besides tokens, no reply says."""

from __future__ import annotations

from typing import Final

import msgspec

from batchrunner.dialect import facts
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.generic import Generic

#: where the pages that were found stand
_LISTS: Final = ("results", "data")


class Findings(Generic):
    """A shape whose answer is what was found; empty where a list of it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, body: bytes) -> ReplyFacts | None:
        said = super().read(body)
        reply = facts.read_object(body)
        if said is None or reply is None:
            return said
        found = next((reply[name] for name in _LISTS if isinstance(reply.get(name), list)), None)
        return msgspec.structs.replace(said, finish=Finish.EMPTY) if found == [] else said


SEARCH: Final = Findings("search")
DETECT: Final = Findings("detect")
