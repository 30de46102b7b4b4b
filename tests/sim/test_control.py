"""The control plane is asked as a careful person would: again where it may help, with each key, and never told on."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock

from batchrunner.errors import AccountError
from batchrunner.platform.control import LONGEST_PAUSE_SECONDS, MAX_REPLY_BYTES, PAUSES_SECONDS, RefusedError
from tests.sim.control_planes import KEY, Answer, Question, control_over

PATH = "/v1/account/usage"


def error(code: str, message: str = "No.") -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


async def refusal(*answers: Answer, keys: tuple[str, ...] = (KEY,)) -> tuple[RefusedError, int]:
    """How a question ends that is answered so, the last answer again and again; and how often it was asked."""
    todo = list(answers)
    async with control_over(lambda _: todo.pop(0) if len(todo) > 1 else todo[0], keys) as asked:
        with pytest.raises(RefusedError) as refused:
            await asked.control.get(PATH, what="the usage")
        assert KEY not in str(refused.value)
        assert not any(KEY in line for line in asked.said)
        return refused.value, len(asked.questions)


async def test_a_question_has_its_query_and_an_exact_answer(autojump_clock: MockClock) -> None:
    """What a filter holds is encoded, and no digit of an amount is lost."""
    async with control_over(lambda _: (200, b'\xef\xbb\xbf{"amount":0.10000000000000000000001,"n":3}')) as asked:
        answer = await asked.control.get_json(PATH, {"model": "a/b & c=d", "limit": "5"}, what="the usage")
    assert answer == {"amount": Decimal("0.10000000000000000000001"), "n": 3}
    assert asked.questions == [Question(PATH, {"model": "a/b & c=d", "limit": "5"}, KEY)]
    assert asked.said == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, error("invalid_request", "limit: too large"), "status 400 (invalid_request: limit: too large)."),
        (401, error("missing_api_key"), "status 401 (missing_api_key: No.). Give a key"),
        (402, error("insufficient_credits"), "status 402 (insufficient_credits: No.). Top up the account."),
        (403, error("permission_denied"), "status 403 (permission_denied: No.). Use a key that may read this."),
        (404, b"<html><body>nginx</body></html>", "status 404. Check --base-url"),
        (302, b"", "status 302."),
    ],
)
async def test_a_refusal_is_told_at_once_in_the_servers_words(
    autojump_clock: MockClock, status: int, body: object, words: str
) -> None:
    """And with what to do about it; a proxy's page says nothing."""
    refused, asked = await refusal((status, body))
    assert str(refused).startswith(f"the usage cannot be fetched: the server answered with {words}")
    assert (refused.status, asked) == (status, 1)
    assert "<" not in str(refused)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 529])
async def test_what_may_pass_is_asked_again_and_given_up_in_the_end(autojump_clock: MockClock, status: int) -> None:
    refused, asked = await refusal((status, b"<html>"))
    assert refused.status == status
    assert "gain later" in str(refused) or "again later" in str(refused)
    assert asked == len(PAUSES_SECONDS) + 1
    assert trio.current_time() >= sum(PAUSES_SECONDS)


async def test_it_waits_as_long_as_the_server_says_within_reason(autojump_clock: MockClock) -> None:
    """Retry-After is a lower bound; one of an hour is asked sooner, since somebody is waiting."""
    answers: Iterator[Answer] = iter([(429, {}, b"retry-after: 20\r\n"), (503, {}, b"retry-after: 3600\r\n"), (200, {})])
    async with control_over(lambda _: next(answers)) as asked:
        assert await asked.control.get_json(PATH, what="the usage") == {}
    assert 20 + LONGEST_PAUSE_SECONDS <= trio.current_time() <= 25 + LONGEST_PAUSE_SECONDS
    assert len(asked.said) == 1
    assert asked.said[0].endswith("Trying again.")


async def test_a_dead_key_is_left_for_the_next_one(autojump_clock: MockClock) -> None:
    """Keys die while others of the account live; the one that works is kept to."""

    def server(question: Question) -> Answer:
        return (200, {}) if question.key == "third" else (401, error("invalid_api_key", f"Bad key {question.key}."))

    async with control_over(server, (KEY, "second", "third")) as asked:
        for _ in range(2):
            assert await asked.control.get_json(PATH, what="the usage") == {}
    assert [question.key for question in asked.questions] == [KEY, "second", "third", "third"]


async def test_when_no_key_is_left_the_last_refusal_stands(autojump_clock: MockClock) -> None:
    """And a key that the server spells out is blotted."""
    refused, asked = await refusal((401, error("invalid_api_key", f"Bad key {KEY}.")), keys=(KEY, KEY + "-2"))
    assert (refused.code, asked) == ("invalid_api_key", 2)
    assert "Bad key ***" in str(refused)


@pytest.mark.parametrize(
    ("body", "words"),
    [(b" <!doctype html><p>hi", "a page of HTML"), (b"hello", "no JSON"), (b"", "no JSON"), (b"[" * 100_000, "no JSON")],
)
async def test_an_answer_that_is_no_json_is_said_to_be_none(autojump_clock: MockClock, body: bytes, words: str) -> None:
    """It is not shown."""
    async with control_over(lambda _: (200, body)) as asked:
        with pytest.raises(AccountError, match=f"the usage cannot be read: the server sent {words}"):
            await asked.control.get_json(PATH, what="the usage")
    assert len(asked.questions) == 1


async def test_an_answer_has_a_bound(autojump_clock: MockClock) -> None:
    """What goes on for ever is not read for ever, and not asked for again."""
    async with control_over(lambda _: (200, b"x" * (MAX_REPLY_BYTES + 1))) as asked:
        with pytest.raises(AccountError, match="the usage cannot be fetched"):
            await asked.control.get(PATH, what="the usage")
    assert len(asked.questions) == 1


async def test_a_number_past_all_bounds_spoils_nothing(autojump_clock: MockClock) -> None:
    async with control_over(lambda _: (200, b'{"a":1e99999999999999999999,"b":"\\ud800","c":0.5}')) as asked:
        answer = await asked.control.get_json(PATH, what="the usage")
    assert (answer["a"], answer["c"]) == (float("inf"), Decimal("0.5"))
