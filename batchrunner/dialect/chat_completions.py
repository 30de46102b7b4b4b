"""OpenAI Chat Completions: `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import input_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    n: Any = None


_decode = msgspec.json.Decoder(_Request).decode


class ChatCompletions:
    name = "chat_completions"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        cap = facts.cap(request.max_completion_tokens) or facts.cap(request.max_tokens)
        choices = facts.cap(request.n) or 1
        if cap is not None:
            cap = facts.cap(cap * choices)
        prompt = input_size(body)
        return sized(request.model, prompt, cap, choices)

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        choices = facts.mappings(reply.get("choices"))
        finish, reason = facts.most_telling(map(_finish, choices))
        return ReplyFacts(
            usage.by_prompt(reply),
            finish,
            reason,
            facts.string(reply.get("model")),
            usage.tool_usage_of(reply),
            opaque=any(_holds_media(facts.mapping(choice.get("message"))) for choice in choices),
        )


def _finish(choice: dict[str, Any]) -> tuple[Finish, str | None]:
    reason = facts.string(choice.get("finish_reason"))
    message = facts.mapping(choice.get("message"))
    finish = facts.FINISH_REASONS.get((reason or "").lower(), Finish.OTHER)
    if finish in (Finish.LENGTH, Finish.REFUSAL, Finish.TOOL):
        return finish, reason
    if facts.has_text(message.get("refusal")):
        return Finish.REFUSAL, reason
    if message.get("tool_calls") or message.get("function_call"):
        return Finish.TOOL, reason
    if facts.has_text(message.get("content")) or _holds_media(message):
        return finish, reason
    return Finish.EMPTY, reason


def _holds_media(message: dict[str, Any]) -> bool:
    """Whether an answer is more than text."""
    return bool(message.get("audio") or message.get("images"))


DIALECT: Final = ChatCompletions()
