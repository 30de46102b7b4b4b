"""Anthropic Messages: `POST /v1/messages`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import input_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    max_tokens: Any = None


_decode = msgspec.json.Decoder(_Request).decode

_FINISH: Final = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "tool_use": Finish.TOOL,
    "refusal": Finish.REFUSAL,
}


class Messages:
    name = "messages"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        prompt = input_size(body)
        return sized(request.model, prompt, facts.cap(request.max_tokens))

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        finish, reason = _finish(reply)
        return ReplyFacts(
            usage.beside_cache(reply),
            finish,
            reason,
            facts.string(reply.get("model")),
            usage.tool_usage_of(reply),
        )


def _finish(reply: dict[str, Any]) -> tuple[Finish, str | None]:
    reason = facts.string(reply.get("stop_reason"))
    finish = _FINISH.get(reason or "", Finish.OTHER)
    if finish is not Finish.STOP:
        return finish, reason
    blocks = facts.mappings(reply.get("content"))
    if any(str(block.get("type")).endswith("tool_use") for block in blocks) or facts.has_text(reply.get("content")):
        return finish, reason
    return Finish.EMPTY, reason


DIALECT: Final = Messages()
