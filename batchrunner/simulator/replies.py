"""The bodies that come back: what a model wrote, in the shape of each dialect, and errors in the shape that goes with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from batchrunner.simulator import hosted, vectors
from batchrunner.simulator.asks import BYTES_PER_TOKEN, WRITERS, Ask, Dialect
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.ledger import Tokens
from batchrunner.simulator.settings import Settings

# What the numbers that are drawn for a reply are used for; see `draws`.
_LENGTH, _CACHED, _CACHED_PART, _REASONING_PART, _TEXT, _TOOL = range(6)
#: of a tool in one answer, none included
_TOOL_CALLS = 4

_WORDS = (
    "a an and answer are as at batch because both by can each even few for from given has have however if in is it just "
    "know late less long made many may more most near night not of on one only or other over point question rate read "
    "right same see simple since slow so some sum take than that the then there they this time to true two under until "
    "very was way we well what when where which while who why will with word would write yes yet you"
)


def _make_corpus(size_bytes: int) -> str:
    words = _WORDS.split()
    return " ".join(random.Random(1).choices(words, k=size_bytes))[:size_bytes]


_CORPUS = _make_corpus(1 << 15)


class Completion(msgspec.Struct, frozen=True, gc=False):
    """What a model wrote, before any dialect puts it into words."""

    model: str
    #: one for each choice; none of what writes no text
    texts: tuple[str, ...]
    #: cached included
    input_tokens: int
    cached_tokens: int
    #: of all choices, reasoning included
    output_tokens: int
    reasoning_tokens: int
    #: stopped by the cap
    capped: bool
    #: calls by tool that the platform ran
    tool_usage: dict[str, int] = {}

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.input_tokens, self.output_tokens, self.cached_tokens, self.total_tokens)


def complete(ask: Ask, draws: Draws, settings: Settings) -> Completion:
    """The answer to a request: always the same one for the same body and seed. Only what writes text has a cached prompt."""
    if ask.dialect not in WRITERS:
        return Completion(ask.model.id, (), ask.input_tokens, 0, 0, 0, capped=False)
    wanted = max(1, round(draws.lognormal(_LENGTH, settings.output_median_tokens, settings.output_sigma)))
    length = min(wanted, ask.limit_tokens)
    reasoning = int(length * (0.2 + 0.6 * draws.uniform(_REASONING_PART))) if ask.model.reasoning else 0
    cached = 0
    if draws.uniform(_CACHED) < settings.cached_share:
        cached = int(ask.input_tokens * (0.3 + 0.6 * draws.uniform(_CACHED_PART)))
    start = int(draws.uniform(_TEXT) * len(_CORPUS))
    return Completion(
        model=ask.model.id,
        texts=tuple([_text(start + 97 * choice, length - reasoning) for choice in range(ask.choices)]),
        input_tokens=ask.input_tokens,
        cached_tokens=cached,
        output_tokens=length * ask.choices,
        reasoning_tokens=reasoning * ask.choices,
        capped=wanted > length,
        tool_usage=_tool_usage(ask, draws) if ask.tools else {},
    )


def _tool_usage(ask: Ask, draws: Draws) -> dict[str, int]:
    """How often each tool fired; those that did not are not named."""
    fired = {tool: int(draws.uniform(_TOOL + place % 2) * _TOOL_CALLS) for place, tool in enumerate(ask.tools)}
    return {tool: calls for tool, calls in fired.items() if calls}


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """What marks one answer among all."""

    seed: int
    #: unique, and gets the prefix that its dialect uses
    reply_id: str
    request_id: str
    #: Unix time
    created_seconds: int


def body(ask: Ask, completion: Completion, stamp: Stamp) -> bytes:
    """An answer as JSON, in the shape of its dialect."""
    written = _WRITTEN.get(ask.dialect)
    if written is not None:
        shape = written(completion, stamp.reply_id, stamp.created_seconds)
    elif ask.dialect is Dialect.EMBEDDINGS:
        shape = vectors.embeddings(ask, stamp.seed)
    elif ask.dialect is Dialect.RERANKS:
        shape = vectors.rerank(ask, stamp.seed, stamp.request_id)
    else:
        shape = hosted.reply(ask, stamp.seed, stamp.reply_id, stamp.created_seconds)
    if completion.tool_usage:
        shape["tool_usage"] = completion.tool_usage
    return msgspec.json.encode(shape)


def error(dialect: Dialect | None, status: int, code: str, message: str, request_id: str) -> bytes:
    """An error as JSON: Anthropic's shape on /v1/messages, where no `code` is to be had, else OpenAI's."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if dialect is Dialect.MESSAGES:
        return msgspec.json.encode(
            {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id},
        )
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _chat_completion(done: Completion, reply_id: str, created_seconds: int) -> dict[str, Any]:
    finish = "length" if done.capped else "stop"
    return {
        "id": f"chatcmpl-{reply_id}",
        "object": "chat.completion",
        "created": created_seconds,
        "model": done.model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish,
            }
            for index, text in enumerate(done.texts)
        ],
        "usage": _openai_usage(done),
    }


def _openai_usage(done: Completion) -> dict[str, Any]:
    return {
        "prompt_tokens": done.input_tokens,
        "completion_tokens": done.output_tokens,
        "total_tokens": done.total_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
    }


def _response(done: Completion, reply_id: str, created_seconds: int) -> dict[str, Any]:
    status = "incomplete" if done.capped else "completed"
    message = {
        "id": f"msg_{reply_id}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [{"type": "output_text", "text": done.texts[0], "annotations": []}],
    }
    reasoning = {"id": f"rs_{reply_id}", "type": "reasoning", "summary": []}
    return {
        "id": f"resp_{reply_id}",
        "object": "response",
        "created_at": created_seconds,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done.capped else None,
        "model": done.model,
        "output": [reasoning, message] if done.reasoning_tokens else [message],
        "usage": {
            "input_tokens": done.input_tokens,
            "input_tokens_details": {"cached_tokens": done.cached_tokens},
            "output_tokens": done.output_tokens,
            "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
            "total_tokens": done.total_tokens,
        },
    }


def _message(done: Completion, reply_id: str, _created_seconds: int) -> dict[str, Any]:
    return {
        "id": f"msg_{reply_id}",
        "type": "message",
        "role": "assistant",
        "model": done.model,
        "content": [{"type": "text", "text": done.texts[0]}],
        "stop_reason": "max_tokens" if done.capped else "end_turn",
        "stop_sequence": None,
        "usage": {
            # Alone among the three, this dialect counts cached tokens apart from `input_tokens`.
            "input_tokens": done.input_tokens - done.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": done.cached_tokens,
            "output_tokens": done.output_tokens,
        },
    }


def _completion(done: Completion, reply_id: str, created_seconds: int) -> dict[str, Any]:
    finish = "length" if done.capped else "stop"
    return {
        "id": f"cmpl-{reply_id}",
        "object": "text_completion",
        "created": created_seconds,
        "model": done.model,
        "choices": [
            {"index": index, "text": text, "logprobs": None, "finish_reason": finish} for index, text in enumerate(done.texts)
        ],
        "usage": _openai_usage(done),
    }


_WRITTEN: dict[Dialect, Callable[[Completion, str, int], dict[str, Any]]] = {
    Dialect.CHAT_COMPLETIONS: _chat_completion,
    Dialect.COMPLETIONS: _completion,
    Dialect.RESPONSES: _response,
    Dialect.MESSAGES: _message,
}


def some_text(draws: Draws, slot: int, most_tokens: int) -> str:
    """Words as a person or a model may have written them, at least a few."""
    return _text(int(draws.uniform(slot) * len(_CORPUS)), 5 + int(draws.uniform(slot + 2) * (most_tokens - 5))).strip()


def _text(start: int, tokens: int) -> str:
    start %= len(_CORPUS)
    end = start + tokens * BYTES_PER_TOKEN
    if end <= len(_CORPUS):
        return _CORPUS[start:end]
    return (_CORPUS * -(-end // len(_CORPUS)))[start:end]
