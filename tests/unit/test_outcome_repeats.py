"""What another attempt is like: when it goes, whose trouble it was, what it costs its job; and how the last one ends."""

from __future__ import annotations

import json
import random

import pytest

from batchrunner import dialect
from batchrunner.clock import NS_PER_SECOND
from batchrunner.events import AttemptResult, Billing
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.outcome import (
    NO_CONNECTION,
    Again,
    Blame,
    Done,
    Failed,
    Outcome,
    Refused,
    Tries,
    backoff_ns,
    classify,
    exhausted,
)
from batchrunner.retry_after import retry_after_ns

CHAT = dialect.URLS["/v1/chat/completions"]
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
SEVEN_BEFORE_NS = 784_111_770 * NS_PER_SECOND


def judge(result: Reply | Failure, *, spent: int = 1, seed: int = 1, wall_ns: int = 0) -> Outcome:
    return classify(result, CHAT, Tries(spent, 5), random.Random(seed), wall_ns)


def repeat(result: Reply | Failure, *, spent: int = 1, seed: int = 1, wall_ns: int = 0) -> Again:
    outcome = judge(result, spent=spent, seed=seed, wall_ns=wall_ns)
    assert isinstance(outcome, Again)
    return outcome


def error(status: int, code: str, *headers: tuple[str, str]) -> Reply:
    return Reply(status, headers, json.dumps({"error": {"code": code, "message": "No."}}).encode())


def typed(status: int, kind: str) -> Reply:
    return Reply(status, (), json.dumps({"error": {"type": kind}}).encode())


def test_an_earlier_request_that_is_being_worked_on_is_waited_for() -> None:
    """It costs the job nothing, neither its attempt nor the retry budget; it is nobody's trouble, and says nothing of an end."""
    outcome = repeat(error(409, "idempotency_key_in_use"))
    assert outcome == Again(
        outcome.after_ns,
        "idempotency_key_in_use",
        "No.",
        AttemptResult.SERVER_ERROR,
        Billing.NOT,
        Blame.NOBODY,
        spends=False,
        repeats=False,
        in_vain=False,
        refundable=False,
    )


def test_it_is_asked_again_after_about_ten_seconds() -> None:
    """From five to fifteen, evenly."""
    waits = [repeat(error(409, "idempotency_key_in_use"), seed=seed).after_ns / NS_PER_SECOND for seed in range(2_000)]
    assert 5 <= min(waits) < 5.1
    assert 14.9 < max(waits) <= 15
    assert 9.8 < sum(waits) / len(waits) < 10.2


@pytest.mark.parametrize(
    ("status", "code", "in_vain"),
    [
        (500, "server_error", True),
        (503, "model_unavailable", True),
        (409, "conflict", False),
        (408, "timeout", False),
        (504, "timeout", False),
        (200, "upstream_error", False),
    ],
)
def test_only_a_5xx_says_that_the_work_was_in_vain(status: int, code: str, in_vain: bool) -> None:
    """A conflict is about another request, and after a timeout or a promised success the work may have been done."""
    assert repeat(error(status, code)).in_vain is in_vain


@pytest.mark.parametrize("kind", [FailureKind.READ, FailureKind.FIRST_BYTE_TIMEOUT, *sorted(NO_CONNECTION)])
def test_a_failure_without_an_answer_backs_off_like_an_error(kind: FailureKind) -> None:
    """With the same jitter, and longer with each attempt spent; of the work it says nothing."""
    for spent in (1, 4):
        outcome = repeat(Failure(kind, "it broke", sent=True), spent=spent)
        assert outcome.after_ns == backoff_ns(spent, random.Random(1))
        assert not outcome.in_vain


@pytest.mark.parametrize("kind", sorted(NO_CONNECTION))
def test_a_connection_that_never_came_about_asks_nothing_of_the_retry_budget(kind: FailureKind) -> None:
    """No request went out, so that none is repeated."""
    assert repeat(Failure(kind, "it broke", sent=False)).repeats is False
    assert repeat(Failure(FailureKind.READ, "it broke", sent=True)).repeats is True


def test_a_stale_connection_is_told_as_what_it_was() -> None:
    """In the words of the failure, counted with the network's."""
    outcome = repeat(Failure(FailureKind.STALE, "it broke", sent=True))
    assert (outcome.message, outcome.result) == ("it broke", AttemptResult.NETWORK)


def test_an_answer_that_cannot_be_read_is_an_invalid_one() -> None:
    outcome = judge(Reply(200, (), b"<html>"))
    assert isinstance(outcome, Failed)
    assert outcome.result is AttemptResult.INVALID


# The last attempt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "most", "words"), [(5, 5, "No. (attempt 5 of 5)"), (1, 1, "No. (attempt 1 of 1)"), (7, 2, "No. (after 7 attempts)")]
)
def test_a_job_ends_as_its_last_attempt_did(spent: int, most: int, words: str) -> None:
    """With its code, result and bill; a maximum that was lowered since is not named as what it was."""
    again = repeat(error(504, "late"))
    assert exhausted(again, Tries(spent, most)) == Failed("late", words, again.result, Billing.MAYBE, permanent=False)
    assert exhausted(again, Tries(spent, spent + 1)) is None


# Dates and statuses --------------------------------------------------------------------------------------------------


def test_a_date_is_held_against_our_clock_in_every_answer() -> None:
    """Behind 429, 503 and a 200 that is none, where the server does not say what time it is."""
    header = ("retry-after", DATE)
    for status in (200, 429):
        refused = judge(error(status, "rate_limit_exceeded", header), wall_ns=SEVEN_BEFORE_NS)
        assert refused == Refused(7 * NS_PER_SECOND, "No.")
    assert repeat(error(503, "busy", header), wall_ns=SEVEN_BEFORE_NS).after_ns == 7 * NS_PER_SECOND


def test_a_date_with_a_zone_of_its_own_is_read_by_it() -> None:
    """No server should send one; who does means what it says."""
    reply = Reply(429, (("retry-after", "Sun, 06 Nov 1994 09:49:47 +0100"), ("date", DATE)), b"")
    assert retry_after_ns(reply, 0) == 10 * NS_PER_SECOND


def test_a_wait_of_a_hundred_thousand_million_seconds_is_no_hint() -> None:
    """Nor is a longer one: it would only overflow something."""
    assert retry_after_ns(Reply(429, (("retry-after", "1e11"),), b""), 0) is None


def test_away_from_a_2xx_the_status_counts_and_not_the_type() -> None:
    """A type of Anthropic's stands for a status only where there is none that means anything."""
    assert isinstance(judge(typed(503, "not_found_error")), Again)
    assert isinstance(judge(typed(400, "overloaded_error")), Failed)


def test_a_type_alone_makes_an_error_of_a_2xx() -> None:
    """Without code or words; an error that says nothing at all is an answer that happens to have such a field."""
    assert isinstance(judge(typed(200, "overloaded_error")), Again)
    assert isinstance(judge(Reply(200, (), b'{"error":{"kind":"overloaded_error"}}')), Done)
