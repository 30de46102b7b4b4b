"""Saved chats in whatever shape they come, and the jobs that are made of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batchrunner.chats import Conversation, Message, job_lines, read_conversation, read_list, unwrapped
from batchrunner.jobfile import MAX_CUSTOM_ID_BYTES, check


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def conversation(messages: list[Any], **fields: Any) -> Conversation:
    found = read_conversation(msgspec.json.encode({"id": "c", "model": "m", "messages": messages} | fields))
    assert found is not None
    return found


def jobs(chat: Conversation, model: str | None = None) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in job_lines(chat, model)]


@pytest.mark.parametrize("name", ["data", "conversations", "items", "results"])
def test_a_list_under_each_name(name: str) -> None:
    """Entries without an id cannot be loaded; unknown fields are ignored."""
    body = {
        name: [{"id": "a", "title": "T", "model": "m", "message_count": 4, "updated_at": "2026", "x": 1}, {"title": "no id"}, 5]
    }
    listing = read_list(msgspec.json.encode(body | {"has_more": True, "total": 9, "next_cursor": "n"}))
    assert listing is not None
    assert listing.conversations == (Conversation("a", "T", "m", None, "2026", 4),)
    assert (listing.has_more, listing.total, listing.cursor) == (True, 9, "n")


def test_a_bare_list_and_other_names() -> None:
    listing = read_list(b'\xef\xbb\xbf[{"conversation_id": "a", "name": "T", "model_id": "m", "created_at": 17}]')
    assert listing is not None
    assert listing.conversations == (Conversation("a", "T", "m", "17"),)
    assert (listing.has_more, listing.total, listing.cursor) == (None, None, None)


@pytest.mark.parametrize("body", [b"", b"5", b"{}", b'{"data": 5}', b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_list_is_none(body: bytes) -> None:
    assert read_list(body) is None


def test_what_is_no_utf_8_loses_no_message() -> None:
    found = read_conversation(b'{"id":"c","messages":[{"role":"user","content":"gr\xf6n"}]}')
    assert found is not None
    assert found.messages[0].content == "gr\ufffdn"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 5}', b"<html>", b"\xff"])
def test_what_is_no_conversation_is_none(body: bytes) -> None:
    assert read_conversation(body) is None


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("hello", "hello"),
        (["hello"], "hello"),
        ([{"type": "text", "text": "hello"}], "hello"),
        ([{"type": "input_text", "text": "hello"}], "hello"),
        ({"type": "output_text", "text": "hello"}, "hello"),
        ([{"type": "text", "text": {"value": "hello"}}], "hello"),
        ([{"text": "hel"}, "lo"], [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]),
        (
            [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x"}}],
            [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x"}}],
        ),
        ([], None),
        ("", None),
        ([{"type": "text"}, 5, ""], None),
        (None, None),
    ],
)
def test_content_as_text_or_parts(content: object, read: object) -> None:
    """One text is a text; what says nothing is no message."""
    messages = conversation(said(("user", content))).messages
    assert messages == (() if read is None else (Message("user", read),))  # type: ignore[arg-type]


def test_messages_in_other_spellings() -> None:
    """Roles, words and the message itself under other names; tools' part of a conversation is left out."""
    found = conversation(
        [
            {"role": "developer", "content": "s"},
            {"author": "human", "text": "q"},
            {"message": {"sender": "AI", "content": "a"}},
            {"role": "tool", "content": "result"},
            "not a message",
        ]
    )
    assert found.messages == (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))


@pytest.mark.parametrize("name", ["messages", "history", "turns", "items"])
def test_a_history_under_each_name_and_a_prompt_beside_it(name: str) -> None:
    """A system prompt of the conversation's own comes first, unless the messages have one."""
    found = read_conversation(msgspec.json.encode({"id": "c", "system_prompt": "Be short.", name: said(("user", "q"))}))
    assert found is not None
    assert found.messages == (Message("system", "Be short."), Message("user", "q"))
    assert found.message_count == 2
    twice = conversation(said(("system", "Be long."), ("user", "q")), system="Be short.")
    assert [message.content for message in twice.messages] == ["Be long.", "q"]


def test_each_prompt_becomes_a_job_with_the_history_before_it() -> None:
    """The answers that were given are part of the history; the last one is not asked for by itself."""
    chat = conversation(said(("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")))
    first, second = jobs(chat)
    assert first == {
        "custom_id": "c-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": said(("system", "s"), ("user", "q1"))},
    }
    assert second["custom_id"] == "c-2"
    assert second["body"]["messages"] == said(("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"))


def test_of_several_user_messages_in_a_row_the_last_makes_the_job() -> None:
    """With those before it; one that nobody answered is a prompt all the same."""
    chat = conversation(said(("user", "q1"), ("user", "q2"), ("assistant", "a"), ("user", "q3")))
    assert [job["body"]["messages"][-1]["content"] for job in jobs(chat)] == ["q2", "q3"]
    assert len(jobs(chat)[0]["body"]["messages"]) == 2


def test_the_model_is_the_conversations_own_unless_one_is_given() -> None:
    chat = conversation(said(("user", "q")))
    assert (jobs(chat)[0]["body"]["model"], jobs(chat, "other")[0]["body"]["model"]) == ("m", "other")


def test_a_conversation_in_which_nobody_asked_makes_no_job() -> None:
    assert jobs(conversation(said(("system", "s"), ("assistant", "a")))) == []


@pytest.mark.parametrize("identity", ["c", "ä" * 300, "x" * 2_000, "a b\n\x1b"])
def test_every_line_is_one_that_submit_takes(identity: str) -> None:
    """On one line, with an id within bounds, the same each time."""
    chat = conversation(said(("user", "line\nbreak \u2028"), ("assistant", "a"), ("user", "q")), id=identity)
    lines = list(job_lines(chat, None))
    ids = [check(line) for line in lines]
    assert len(set(ids)) == 2
    assert all(
        b"\n" not in line and len(custom_id.encode()) <= MAX_CUSTOM_ID_BYTES for line, custom_id in zip(lines, ids, strict=True)
    )
    assert lines == list(job_lines(chat, None))


def test_half_an_emoji_is_a_character_of_its_own() -> None:
    """A text that was cut in its middle is read, and makes jobs that every parser takes; a whole one stays."""
    body = b'{"id":"c","model":"m","messages":[{"role":"user","content":"cut \\ud83d, whole \\ud83d\\ude00, \\\\ud83d"}]}'
    found = read_conversation(body)
    assert found is not None
    assert found.messages[0].content == "cut \ufffd, whole \U0001f600, \\ud83d"
    assert check(next(job_lines(found, None))) == "c-1"


@pytest.mark.parametrize("envelope", ["conversation", "data"])
def test_an_envelope_is_taken_off(envelope: str) -> None:
    """What is inside stays as the server wrote it, but on one line."""
    inner = b'{"id": "c",\r\n "n": 1.50, "messages": []}'
    assert unwrapped(b'{"ok": true, "%b": %b}' % (envelope.encode(), inner)) == inner.replace(b"\r\n", b"  ")
    assert unwrapped(inner) == inner.replace(b"\r\n", b"  ")
    assert unwrapped(b"[]\n") == b"[] "


def test_a_message_is_shown_by_its_words() -> None:
    assert Message("user", "a").text == "a"
    assert Message("user", [{"type": "text", "text": "a"}, {"type": "image_url"}]).text == "a\n[image_url]"
