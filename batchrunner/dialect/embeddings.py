"""OpenAI Embeddings: `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import prompt_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    input: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Request).decode


class Embeddings:
    name = "embeddings"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        prompt, _ = prompt_size(body, request.input)
        # Nothing is written, so that the bound is known without any word of the body's.
        return sized(request.model, prompt, 0)

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        finish, _ = facts.most_telling((_finish(item), None) for item in facts.mappings(reply.get("data")))
        return ReplyFacts(usage.input_alone(reply), finish, None, facts.string(reply.get("model")), usage.tool_usage_of(reply))


def _finish(item: dict[str, Any]) -> Finish:
    """A vector is a list of numbers, or these in base64; some servers give several under names of their own."""
    vector = item.get("embedding")
    return Finish.STOP if isinstance(vector, (list, str, dict)) and vector else Finish.EMPTY


DIALECT: Final = Embeddings()
