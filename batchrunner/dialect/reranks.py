"""Reranking, in the shape that most servers share: `POST /v1/reranks`, and `/v1/rerank`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import input_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None


_decode = msgspec.json.Decoder(_Request).decode


class Reranks:
    name = "reranks"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        prompt = input_size(body)
        return sized(request.model, prompt, 0)  # documents are put in order, none is written

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        model = facts.string(reply.get("model"))
        return ReplyFacts(usage.input_alone(reply), Finish.STOP, None, model, usage.tool_usage_of(reply))


DIALECT: Final = Reranks()
