"""OpenAI's older Completions: `POST /v1/completions`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import prompt_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    prompt: msgspec.Raw = msgspec.Raw()
    max_tokens: Any = None
    n: Any = None
    best_of: Any = None


_decode = msgspec.json.Decoder(_Request).decode


class Completions:
    name = "completions"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        prompt, prompts = prompt_size(body, request.prompt)
        # Each prompt is answered n times, out of best_of that are written and billed.
        written = max(facts.cap(request.n) or 1, facts.cap(request.best_of) or 1)
        choices = facts.cap(prompts * written) or 1
        cap = 0 if facts.count(request.max_tokens) == 0 else facts.cap(request.max_tokens)  # 0 scores a prompt
        if cap is not None:
            cap = min(cap * choices, facts.MAX_TOKENS)
        return sized(request.model, prompt, cap, choices)

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        finish, reason = facts.most_telling(_finish(choice) for choice in facts.mappings(reply.get("choices")))
        return ReplyFacts(usage.by_prompt(reply), finish, reason, facts.string(reply.get("model")), usage.tool_usage_of(reply))


def _finish(choice: dict[str, Any]) -> tuple[Finish, str | None]:
    reason = facts.string(choice.get("finish_reason"))
    finish = facts.FINISH_REASONS.get((reason or "").lower(), Finish.OTHER)
    if finish in (Finish.LENGTH, Finish.REFUSAL, Finish.TOOL) or facts.has_text(choice.get("text")):
        return finish, reason
    return Finish.EMPTY, reason


DIALECT: Final = Completions()
