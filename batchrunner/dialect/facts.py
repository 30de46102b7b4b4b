"""What every dialect offers, and the tolerant reading that they share."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from batchrunner.dialect.json_text import is_json, read_json, without_bom
from batchrunner.job import RequestSize, Usage

#: tokens; a larger figure in a reply is nonsense, a larger cap in a request is taken as this
MAX_TOKENS: Final = 1_000_000_000


class Finish(enum.StrEnum):
    """How an answer ended: a closed set, fit for a label."""

    STOP = "stop"
    LENGTH = "length"
    REFUSAL = "refusal"
    TOOL = "tool"
    EMPTY = "empty"  # ended as it should, but holds neither text nor a call
    OTHER = "other"


#: OpenAI's words for how a choice ended, and those that compatible servers have in their place
FINISH_REASONS: Final = {
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "content_filter": Finish.REFUSAL,
    "refusal": Finish.REFUSAL,
    "tool_calls": Finish.TOOL,
    "function_call": Finish.TOOL,
    "tool_use": Finish.TOOL,
    "stop": Finish.STOP,
    "end_turn": Finish.STOP,
    "eos": Finish.STOP,
}


class ReplyFacts(msgspec.Struct, frozen=True):
    """What the answer to a request says about itself."""

    #: None where the reply tells none, or figures that make no sense
    usage: Usage | None
    finish: Finish
    #: as the server spelt it
    finish_reason: str | None = None
    #: the model that the server says has answered
    model: str | None = None
    #: calls by tool that the platform ran on its side and bills beside the tokens
    tool_usage: dict[str, int] = {}
    #: may hold what no usage counts and some models are billed by: pictures, seconds of sound
    opaque: bool = False


class Dialect(Protocol):
    """One request shape."""

    @property
    def name(self) -> str: ...

    def size(self, body: bytes) -> RequestSize:
        """What a request body says about its tokens. Never raises: what cannot be read counts as absent."""
        ...

    def read(self, body: bytes) -> ReplyFacts | None:
        """What a reply says; None where it is no whole JSON, see `read_other`. Never raises."""
        ...


def read_object(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None where the bytes are none that can be read."""
    try:
        value = read_json(without_bom(body))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_other(body: bytes, *, opaque: bool = False) -> ReplyFacts | None:
    """What is known of a reply that is no object. Any whole JSON is an answer, and was paid for; None where it is none."""
    return ReplyFacts(None, Finish.OTHER, opaque=opaque) if is_json(without_bom(body)) else None


def count(value: object) -> int | None:
    """A number of tokens as it should be: an integer of at least 0. None for everything else."""
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def cap(value: object) -> int | None:
    """An output cap as it should be: a positive integer, taken as MAX_TOKENS where it is larger. None for everything else."""
    return min(value, MAX_TOKENS) if type(value) is int and value > 0 else None


def string(value: object) -> str | None:
    """The value where it is a string that says something."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The objects of an array; none where it is no array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def has_text(value: object) -> bool:
    """Whether a content field says anything: a string, or parts with a `text`, that are more than white space."""
    texts = [value] if isinstance(value, str) else [part.get("text") for part in mappings(value)]
    return any(isinstance(text, str) and text and not text.isspace() for text in texts)


#: where several answers came in one reply, the one that people should look at names the whole
_MOST_TELLING: Final = (Finish.REFUSAL, Finish.LENGTH, Finish.EMPTY, Finish.OTHER, Finish.TOOL, Finish.STOP)


def most_telling(answers: Iterable[tuple[Finish, str | None]]) -> tuple[Finish, str | None]:
    """The answer that is furthest from a plain end, with its own word for it; empty where there is none."""
    return min(answers, key=lambda answer: _MOST_TELLING.index(answer[0]), default=(Finish.EMPTY, None))
