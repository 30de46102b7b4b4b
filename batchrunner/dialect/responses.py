"""OpenAI Responses: `POST /v1/responses`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchrunner.dialect import facts, usage
from batchrunner.dialect.facts import Finish, ReplyFacts
from batchrunner.dialect.size import input_size, sized
from batchrunner.job import RequestSize


class _Request(msgspec.Struct, gc=False):
    model: Any = None
    max_output_tokens: Any = None


_decode = msgspec.json.Decoder(_Request).decode

_INCOMPLETE: Final = {"max_output_tokens": Finish.LENGTH, "max_tokens": Finish.LENGTH, "content_filter": Finish.REFUSAL}
#: output items that wait for the caller; the other calls (web search, image generation) are run by the server itself
_CALLS: Final = frozenset({"function_call", "custom_tool_call", "computer_call", "local_shell_call", "mcp_approval_request"})


class Responses:
    name = "responses"

    def size(self, body: bytes) -> RequestSize:
        try:
            request = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = _Request()
        prompt = input_size(body)
        return sized(request.model, prompt, facts.cap(request.max_output_tokens))

    def read(self, body: bytes) -> ReplyFacts | None:
        reply = facts.read_object(body)
        if reply is None:
            return facts.read_other(body)
        finish, reason = _finish(reply)
        return ReplyFacts(
            usage.by_input(reply),
            finish,
            reason,
            facts.string(reply.get("model")),
            usage.tool_usage_of(reply),
            opaque=any(item.get("type") == "image_generation_call" for item in facts.mappings(reply.get("output"))),
        )


def _finish(reply: dict[str, Any]) -> tuple[Finish, str | None]:
    status = facts.string(reply.get("status"))
    items = facts.mappings(reply.get("output"))
    parts = [part for item in items for part in facts.mappings(item.get("content"))]
    if status == "incomplete":
        reason = facts.string(facts.mapping(reply.get("incomplete_details")).get("reason"))
        return _INCOMPLETE.get(reason or "", Finish.OTHER), reason or status
    if any(part.get("type") == "refusal" for part in parts):
        return Finish.REFUSAL, status
    if status not in ("completed", None):  # failed, cancelled, or a word that is not known
        return Finish.OTHER, status
    types = {kind for item in items if (kind := facts.string(item.get("type")))}
    if types & _CALLS:
        return Finish.TOOL, status
    if any(part.get("type") == "output_text" and facts.has_text(part.get("text")) for part in parts):
        return Finish.STOP, status
    # What a server-run call brought (a picture, say) is an answer too, though no text.
    return (Finish.TOOL if any(kind.endswith("_call") for kind in types) else Finish.EMPTY), status


DIALECT: Final = Responses()
