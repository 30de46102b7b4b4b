"""The whole list of saved chats is had from a server that pages in whatever way, and each chat from one that may lose it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trio.testing import MockClock

from batchrunner.chats import Conversation
from batchrunner.errors import AccountError
from batchrunner.platform.control import RefusedError
from batchrunner.platform.conversations import MOST, PATH, Loaded, Saved, list_conversations, load, load_all
from tests.sim.control_planes import Answer, Question, control_over

Paged = Callable[[dict[str, str], int], int | None]


def by_cursor(query: dict[str, str], size: int) -> int | None:
    return int(query.get("cursor", "0")) if size else None


def by_before(query: dict[str, str], size: int) -> int | None:
    return int(query["before"]) + 1 if "before" in query else 0 if size else None


def by_after(query: dict[str, str], size: int) -> int | None:
    return None if "before" in query else int(query["after"]) + 1 if "after" in query else 0 if size else None


def by_offset(query: dict[str, str], size: int) -> int | None:
    return int(query.get("offset", "0")) if size else None


def never(query: dict[str, str], size: int) -> int | None:
    return 0 if size and query is not None else None


def server(count: int, size: int, paged: Paged, *, telling: str = "has_more") -> Callable[[Question], Answer]:
    def answer(question: Question) -> Answer:
        first = paged(question.query, size)
        if first is None:
            return 400, {"error": {"code": "invalid_request"}}
        page: dict[str, Any] = {"data": [{"id": str(number)} for number in range(count)][first : first + size]}
        tells: dict[str, Any] = {"has_more": first + size < count, "total": count, "next_cursor": str(first + size)}
        if telling in tells and (telling != "next_cursor" or first + size < count):
            page[telling] = tells[telling]
        return 200, page

    return answer


async def listed(answer: Callable[[Question], Answer]) -> tuple[Saved, int]:
    async with control_over(answer) as asked:
        return await list_conversations(asked.control), len(asked.questions)


@pytest.mark.parametrize(
    ("paged", "telling"),
    [
        (by_cursor, "next_cursor"),
        (by_before, "has_more"),
        (by_before, "total"),
        (by_before, "nothing"),
        (by_after, "has_more"),
        (by_offset, "total"),
        (by_offset, "has_more"),
    ],
)
async def test_all_pages_are_had(autojump_clock: MockClock, paged: Paged, telling: str) -> None:
    """However the next one is asked for, each chat once and in the server's order."""
    saved, _ = await listed(server(47, 10, paged, telling=telling))
    assert [chat.id for chat in saved.conversations] == [str(number) for number in range(47)]
    assert saved.complete


@pytest.mark.parametrize(("telling", "questions"), [("has_more", 1), ("total", 1), ("nothing", 2)])
async def test_a_list_without_pages_is_asked_for_once(autojump_clock: MockClock, telling: str, questions: int) -> None:
    """Twice where nothing tells that this is all of it."""
    saved, asked = await listed(server(12, 50, never, telling=telling))
    assert (len(saved.conversations), saved.complete, asked) == (12, True, questions)


async def test_a_list_that_cannot_be_had_whole_is_said_to_be_so(autojump_clock: MockClock) -> None:
    saved, _ = await listed(server(47, 10, never))
    assert (len(saved.conversations), saved.complete) == (10, False)


async def test_a_list_without_end_ends(autojump_clock: MockClock) -> None:
    """A server that makes up chats for ever."""
    saved, asked = await listed(server(1_000_000, 400, by_before))
    assert (len(saved.conversations) >= MOST, saved.complete) == (True, False)
    assert asked < 10


async def test_no_chat_at_all(autojump_clock: MockClock) -> None:
    assert await listed(lambda _: (200, [])) == (Saved((), complete=True), 1)


@pytest.mark.parametrize(("body", "words"), [({"data": None}, "holds no list"), (b"<html>", "HTML")])
async def test_what_is_no_list_is_told(autojump_clock: MockClock, body: object, words: str) -> None:
    async with control_over(lambda _: (200, body)) as asked:
        with pytest.raises(AccountError, match=f"the list of saved chats cannot be read: .*{words}"):
            await list_conversations(asked.control)


async def test_a_refusal_between_pages_is_told(autojump_clock: MockClock) -> None:
    async with control_over(
        lambda question: (403, {}) if question.query else (200, {"data": [{"id": "1"}], "has_more": True})
    ) as asked:
        with pytest.raises(RefusedError, match="status 403"):
            await list_conversations(asked.control)


async def test_a_chat_is_loaded_by_its_id(autojump_clock: MockClock) -> None:
    """Which may hold anything; it comes as the server wrote it, on one line."""
    async with control_over(lambda _: (200, b'{"id":"a/b",\n"messages":[]}')) as asked:
        found = await load(asked.control, "a/b?c")
    assert asked.questions[0].path == f"{PATH}/a%2Fb%3Fc"
    assert found == Loaded(Conversation("a/b"), b'{"id":"a/b", "messages":[]}')


@pytest.mark.parametrize(("body", "words"), [({"x": 1}, "is no conversation"), (b"hi", "no JSON")])
async def test_what_is_no_chat_is_told(autojump_clock: MockClock, body: object, words: str) -> None:
    async with control_over(lambda _: (200, body)) as asked:
        with pytest.raises(AccountError, match=f"saved chat c1 cannot be read: .*{words}"):
            await load(asked.control, "c1")


async def test_a_chat_that_was_deleted_meanwhile_is_known_as_it_was_listed(autojump_clock: MockClock) -> None:
    """The others are had; any other refusal ends it."""
    chats = tuple(Conversation(name) for name in "abc")

    def answer(question: Question) -> Answer:
        name = question.path[-1]
        return (404, {}) if name == "b" else (200, {"id": name, "messages": []})

    async with control_over(answer) as asked:
        found = [chat async for chat in load_all(asked.control, chats)]
        assert [chat if isinstance(chat, Conversation) else chat.conversation.id for chat in found] == ["a", chats[1], "c"]
    async with control_over(lambda _: (403, {})) as asked:
        with pytest.raises(RefusedError):
            _ = [chat async for chat in load_all(asked.control, chats)]
