"""Saved conversations, read tolerantly, and the jobs that try their prompts again. Pure.

The platform documents that there are lists and conversations with their full history, not their fields. So the list is taken
from `data`, `conversations`, `items` or a bare array; the messages from `messages`, `history`, `turns` or `items`; a message's
words from `content` or `text`, as a string or as parts. Roles in other spellings count as what they mean.

**What is a prompt**: the history up to and including a user message that is the last one before somebody answers, or before
the end. A conversation of three turns makes three jobs, each with all that was said before it, answers included, as they
were given then. What is neither system, user nor assistant (calls of tools, and what came of them) is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from batchrunner.dialect import mended, on_one_line, read_json
from batchrunner.dialect.facts import count, mapping, mappings, string
from batchrunner.jobfile import MAX_CUSTOM_ID_BYTES

URL: Final = "/v1/chat/completions"
#: saved conversations that an account may have, as documented
CAP: Final = 50
_LISTS: Final = ("data", "conversations", "items", "results")
_INSIDE: Final = ("conversation", "data")
_HISTORIES: Final = ("messages", "history", "turns", "items")
_SYSTEMS: Final = ("system", "system_prompt", "instructions")
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True):
    """One thing that was said."""

    #: `system`, `user` or `assistant`
    role: str
    #: a text, or parts as the Chat Completions shape has them
    content: str | list[Any]

    @property
    def text(self) -> str:
        """The words of it, with the kind of each part that is none."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part["text"] if part.get("type") == "text" else f"[{part.get('type')}]" for part in self.content)


class Conversation(msgspec.Struct, frozen=True):
    """A saved conversation; in a list without its messages."""

    id: str
    title: str | None = None
    model: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    message_count: int | None = None
    messages: tuple[Message, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """One page of a list. None wherever the server does not say."""

    conversations: tuple[Conversation, ...]
    has_more: bool | None = None
    total: int | None = None
    cursor: str | None = None


def read_list(body: bytes) -> Listing | None:
    """A list of conversations; None where it is none. What has no id cannot be loaded and is left out."""
    said = _value(body)
    fields = mapping(said)
    listed = (
        said if isinstance(said, list) else next((fields[name] for name in _LISTS if isinstance(fields.get(name), list)), None)
    )
    if listed is None:
        return None
    more = fields.get("has_more")
    return Listing(
        conversations=tuple(found for entry in mappings(listed) if (found := _conversation(entry)) is not None),
        has_more=more if isinstance(more, bool) else None,
        total=count(fields.get("total")),
        cursor=string(fields.get("next_cursor")) or string(fields.get("next")),
    )


def read_conversation(body: bytes) -> Conversation | None:
    """A conversation with its messages; None where it is none."""
    return _conversation(mapping(_value(unwrapped(body))))


def unwrapped(body: bytes) -> bytes:
    """The conversation itself, on one line and otherwise as the server wrote it, where it stands in an envelope."""
    plain = mended(body)
    try:
        fields = msgspec.json.decode(plain, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return on_one_line(plain)
    inner = next((bytes(fields[name]) for name in _INSIDE if bytes(fields.get(name, b"")).startswith(b"{")), None)
    return on_one_line(plain if inner is None or "messages" in fields else inner)


def job_lines(conversation: Conversation, model: str | None) -> Iterator[bytes]:
    """A line of a job file for each prompt of a conversation, the same ones each time.

    `model`: in place of the conversation's own; one of them is needed. `custom_id` is the conversation's id and the turn.
    """
    turn = 0
    for place, message in enumerate(conversation.messages):
        following = conversation.messages[place + 1 : place + 2]
        if message.role != "user" or (following and following[0].role == "user"):
            continue
        turn += 1
        history = [{"role": said.role, "content": said.content} for said in conversation.messages[: place + 1]]
        body = {"model": model or conversation.model, "messages": history}
        yield _encode({"custom_id": _custom_id(conversation.id, turn), "method": "POST", "url": URL, "body": body})


def _custom_id(conversation_id: str, turn: int) -> str:
    made = f"{conversation_id}-{turn}"
    if len(made.encode()) <= MAX_CUSTOM_ID_BYTES:
        return made
    return f"{hashlib.sha256(conversation_id.encode()).hexdigest()}-{turn}"


def _conversation(said: dict[str, Any]) -> Conversation | None:
    found = string(said.get("id")) or string(said.get("conversation_id"))
    if found is None:
        return None
    history = next((said[name] for name in _HISTORIES if isinstance(said.get(name), list)), None)
    messages = [message for entry in mappings(history) if (message := _message(entry)) is not None]
    prompt = next((text for name in _SYSTEMS if (text := string(said.get(name)))), None)
    if prompt is not None and all(message.role != "system" for message in messages):
        messages.insert(0, Message("system", prompt))
    named = count(said.get("message_count"))
    return Conversation(
        id=found,
        title=string(said.get("title")) or string(said.get("name")),
        model=string(said.get("model")) or string(said.get("model_id")),
        created_at=_moment(said.get("created_at")),
        updated_at=_moment(said.get("updated_at")),
        message_count=len(messages) if named is None and messages else named,
        messages=tuple(messages),
    )


def _message(said: dict[str, Any]) -> Message | None:
    """A message of somebody known that says something, else None."""
    said = mapping(said.get("message")) or said
    role = _ROLES.get(str(said.get("role") or said.get("author") or said.get("sender")).lower())
    content = said.get("content") if said.get("content") is not None else said.get("text")
    if role is None or not content:
        return None
    if isinstance(content, str):
        return Message(role, content)
    parts = [part for entry in (content if isinstance(content, list) else [content]) if (part := _part(entry)) is not None]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return Message(role, parts[0]["text"])
    return Message(role, parts) if parts else None


def _part(said: object) -> dict[str, Any] | None:
    """A part as the Chat Completions shape has it."""
    if isinstance(said, str):
        return {"type": "text", "text": said} if said else None
    part = mapping(said)
    text = string(part.get("text")) or string(mapping(part.get("text")).get("value"))
    if part.get("type", "text") in _TEXT_PARTS:
        return None if text is None else {"type": "text", "text": text}
    return part if isinstance(part.get("type"), str) else None


def _moment(said: object) -> str | None:
    return str(said) if isinstance(said, int) and not isinstance(said, bool) else string(said)


def _value(body: bytes) -> object:
    try:
        return read_json(mended(body))
    except (ValueError, RecursionError):
        return None
