"""Any other POST below `/v1/`: whatever a server has that has no shape of its own here.

Nothing is known of such a shape. What stands under a name that all shapes share is read; the rest counts as unknown.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import input_size, sized
from batchrunner.job import RequestSize


class Request(msgspec.Struct, gc=False):
    """What a body says under names that shapes share."""

    model: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    max_tokens: Any = None
    n: Any = None
    seconds: Any = None
    duration: Any = None
    duration_seconds: Any = None


_decode = msgspec.json.Decoder(Request).decode


class Generic:
    #: of those that build on it, another one
    name: str = "generic"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
            asked = self.asked(request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request, asked = Request(), {}
        caps = (request.max_completion_tokens, request.max_output_tokens, request.max_tokens)
        cap = next((cap for value in caps if (cap := facts.cap(value)) is not None), None)
        choices = facts.cap(request.n) or 1
        if cap is not None:
            cap = facts.cap(cap * choices)
        prompt = input_size(body)
        return sized(request.model, prompt, cap, choices, opaque_output=True, units=asked)

    def asked(self, _request: Request) -> dict[str, Decimal]:
        """What a request asks for beside tokens, by unit, as far as it says how much."""
        return {}

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body, opaque=True)
        return ReplyFacts(
            usage.in_any_spelling(reply),
            Finish.STOP,
            model=facts.string(reply.get("model")),
            tool_usage=usage.tool_usage_of(reply),
            opaque=True,
        )


DIALECT: Final = Generic()
