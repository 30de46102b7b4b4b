"""Answers as streams of events, in the shape of each dialect: what the whole answer says, in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from batchrunner.simulator import replies
from batchrunner.simulator.asks import Ask, Dialect

#: characters of a piece, where that does not make more than so many of them
_PIECE_CHARACTERS = 20
_MOST_PIECES = 100
_DONE = b"data: [DONE]\n\n"

_Shape = dict[str, Any]


def events(ask: Ask, completion: replies.Completion, stamp: replies.Stamp) -> tuple[bytes, ...]:
    """The events of an answer. Usage is among them where the request asks for it, or where the dialect always tells it."""
    return tuple(_STREAMED[ask.dialect](ask, replies.shape(ask, completion, stamp)))


def error_event(dialect: Dialect, status: int, code: str, message: str, request_id: str) -> bytes:
    """What a server says that fails in mid-stream."""
    body = msgspec.json.decode(replies.error(dialect, status, code, message, request_id))
    if dialect is Dialect.RESPONSES:
        return _event(body["error"] | {"type": "error", "sequence_number": 0})
    return _event(body) if dialect is Dialect.MESSAGES else _data(body)


def _data(value: _Shape) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)


def _event(value: _Shape) -> bytes:
    return b"event: %b\n%b" % (str(value["type"]).encode(), _data(value))


def _pieces(text: str) -> Iterator[str]:
    size = max(_PIECE_CHARACTERS, -(-len(text) // _MOST_PIECES))
    return (text[start : start + size] for start in range(0, len(text), size))


def _chat(ask: Ask, whole: _Shape) -> Iterator[bytes]:
    for choice in whole["choices"]:
        begun = choice["message"] | {"content": ""}
        yield _chunk(ask, whole, choice, {"delta": begun})
        for piece in _pieces(choice["message"]["content"]):
            yield _chunk(ask, whole, choice, {"delta": {"content": piece}})
        yield _chunk(ask, whole, choice, {"delta": {}}, ended=True)
    yield from _openai_end(ask, whole)


def _completion(ask: Ask, whole: _Shape) -> Iterator[bytes]:
    for choice in whole["choices"]:
        for piece in _pieces(choice["text"]):
            yield _chunk(ask, whole, choice, {"text": piece})
        yield _chunk(ask, whole, choice, {"text": ""}, ended=True)
    yield from _openai_end(ask, whole)


def _chunk(ask: Ask, whole: _Shape, choice: _Shape, fragment: _Shape, *, ended: bool = False) -> bytes:
    said = {"index": choice["index"], "logprobs": None, "finish_reason": choice["finish_reason"] if ended else None} | fragment
    return _openai(ask, whole, [said], {"usage": None} if ask.include_usage else {})


def _openai_end(ask: Ask, whole: _Shape) -> Iterator[bytes]:
    if ask.include_usage:
        yield _openai(ask, whole, [], {name: whole[name] for name in ("usage", "tool_usage") if name in whole})
    yield _DONE


def _openai(ask: Ask, whole: _Shape, choices: list[_Shape], more: _Shape) -> bytes:
    kind = "chat.completion.chunk" if ask.dialect is Dialect.CHAT_COMPLETIONS else whole["object"]
    beside = {name: whole[name] for name in ("id", "created", "model")}
    return _data(beside | {"object": kind, "choices": choices} | more)


def _response(_: Ask, whole: _Shape) -> Iterator[bytes]:
    begun = whole | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield _event({"type": "response.created", "response": begun})
    text = whole["output"][-1]["content"][0]["text"]
    for piece in _pieces(text):
        yield _event({"type": "response.output_text.delta", "item_id": whole["output"][-1]["id"], "delta": piece})
    yield _event({"type": "response.output_text.done", "item_id": whole["output"][-1]["id"], "text": text})
    yield _event({"type": f"response.{whole['status']}", "response": whole})


def _message(_: Ask, whole: _Shape) -> Iterator[bytes]:
    begun = whole | {"content": [], "stop_reason": None, "usage": whole["usage"] | {"output_tokens": 1}}
    yield _event({"type": "message_start", "message": begun})
    yield _event({"type": "ping"})
    for index, block in enumerate(whole["content"]):
        yield _event({"type": "content_block_start", "index": index, "content_block": block | {"text": ""}})
        for piece in _pieces(block["text"]):
            delta = {"type": "text_delta", "text": piece}
            yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    usage = {"output_tokens": whole["usage"]["output_tokens"]}
    yield _event({"type": "message_delta", "delta": ended, "usage": usage})
    yield _event({"type": "message_stop"})


_STREAMED: dict[Dialect, Callable[[Ask, _Shape], Iterator[bytes]]] = {
    Dialect.CHAT_COMPLETIONS: _chat,
    Dialect.COMPLETIONS: _completion,
    Dialect.RESPONSES: _response,
    Dialect.MESSAGES: _message,
}
