"""The table of outcomes: every row of it, every code that is documented, every form of a hint."""

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
    PERMANENT_FAILURES,
    TIMEOUTS,
    Again,
    Blame,
    Done,
    Failed,
    Outcome,
    Refused,
    StopAccount,
    SuspendKey,
    Tries,
    backoff_ns,
    classify,
    exhausted,
)

CHAT = dialect.URLS["/v1/chat/completions"]
FIRST_OF_FIVE = Tries(1, 5)
LAST_OF_FIVE = Tries(5, 5)
SUCCESS = json.dumps(
    {
        "model": "m",
        "choices": [{"finish_reason": "length", "message": {"content": "high"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
)


def judge(result: Reply | Failure, attempts: Tries = FIRST_OF_FIVE) -> Outcome:
    verdict = classify(result, CHAT, attempts, random.Random(1), 0)
    return (exhausted(verdict, attempts) or verdict) if isinstance(verdict, Again) and verdict.spends else verdict


def reply(status: int, body: str | bytes = "", **headers: str) -> Reply:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, pairs, body if isinstance(body, bytes) else body.encode())


def error(status: int, code: str | None = None, message: str = "No.", **headers: str) -> Reply:
    return reply(status, json.dumps({"error": {"code": code, "message": message}}), **headers)


def failure(kind: FailureKind, *, sent: bool = True) -> Failure:
    return Failure(kind, "it broke", sent=sent)


# --- DESIGN 6, row by row


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_row_2xx_with_a_json_object_is_done(status: int) -> None:
    """A whole 2xx with a JSON object: the job has its answer, with usage and finish read."""
    outcome = judge(reply(status, SUCCESS))
    assert isinstance(outcome, Done)
    assert outcome.facts.usage is not None
    assert (outcome.facts.usage.total_tokens, outcome.facts.finish) == (10, dialect.Finish.LENGTH)


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "17", "\ufeff{}"])
def test_row_2xx_with_any_json_is_a_success(body: str) -> None:
    """Whole JSON of a shape that nobody promised is an answer all the same, and was paid for; its usage is not known."""
    outcome = judge(reply(200, body))
    assert isinstance(outcome, Done)
    assert outcome.facts.usage is None


@pytest.mark.parametrize(
    ("body", "is_error"),
    [
        ('{"error": "it broke"}', True),
        ('{"error": "it broke", "status": 500, "path": "/v1/chat/completions"}', True),
        ('{"error": ""}', False),
        ('{"error": "one of two", "results": [{"text": "a"}]}', False),
        ('{"error": "none", "id": "r-1"}', False),
    ],
)
def test_row_2xx_with_nothing_but_words_of_an_error_is_one(body: str, *, is_error: bool) -> None:
    """Some proxies promise 200 first. What holds anything else besides was paid for as an answer."""
    outcome = judge(reply(200, body))
    assert isinstance(outcome, Done) is not is_error
    if isinstance(outcome, Failed):
        assert (outcome.message, outcome.billing) == ("it broke", Billing.MAYBE)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[1",
        "<html></html>",
        b"\xff\xfe",
        '{"a": NaN}',
        b"{\x00}\x00",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
    ],
)
def test_row_2xx_that_is_no_json_fails_at_once(body: str | bytes) -> None:
    """A whole 2xx of anything else fails without another attempt, and may have been billed."""
    outcome = judge(reply(200, body))
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.billing, outcome.permanent) == ("unreadable_reply", Billing.MAYBE, False)
    assert f"status 200, {len(body)} bytes" in outcome.message


def test_row_429_spends_no_attempt() -> None:
    """429, whatever its body: the account's wait, with the server's hint, also for a job whose attempts are spent."""
    assert judge(reply(429, "slow down", retry_after="3"), LAST_OF_FIVE) == Refused(
        3 * NS_PER_SECOND, "the server answered with status 429"
    )


@pytest.mark.parametrize("status", [408, 409, 500, 501, 502, 503, 504, 507, 520, 524, 529, 599])
def test_row_408_409_5xx_529_backs_off(status: int) -> None:
    """408, 409 and every 5xx: another attempt after a backoff, which is spent."""
    outcome = judge(reply(status))
    assert isinstance(outcome, Again)
    assert (outcome.code, outcome.spends) == (f"http_{status}", True)
    assert 0 <= outcome.after_ns < NS_PER_SECOND
    assert outcome.blames is (Blame.NOBODY if status == 409 else Blame.SERVER)


@pytest.mark.parametrize(
    ("status", "billing"),
    [(408, Billing.MAYBE), (504, Billing.MAYBE), (409, Billing.NOT), (500, Billing.NOT), (503, Billing.NOT)],
)
def test_row_408_and_504_may_have_been_billed(status: int, billing: Billing) -> None:
    """Behind 408 and 504 the work may have been done; other errors cost nothing. So it is when they end the job."""
    again, failed = judge(reply(status)), judge(reply(status), LAST_OF_FIVE)
    assert isinstance(again, Again)
    assert isinstance(failed, Failed)
    assert (again.billing, failed.billing) == (billing, billing)


def test_row_408_is_a_timeout() -> None:
    """408 counts as a timeout, other statuses that are tried again as server errors."""
    results = [outcome.result for status in (408, 409, 500, 504) if isinstance(outcome := judge(reply(status)), Again)]
    assert results == [AttemptResult.TIMEOUT, *[AttemptResult.SERVER_ERROR] * 3]


@pytest.mark.parametrize("kind", sorted(set(FailureKind) - PERMANENT_FAILURES - {FailureKind.STALE}))
@pytest.mark.parametrize("sent", [True, False])
def test_row_no_whole_response_backs_off(kind: FailureKind, sent: bool) -> None:
    """No whole response: another attempt; maybe billed where a byte of the request had gone out, and only there."""
    outcome = judge(failure(kind, sent=sent))
    assert isinstance(outcome, Again)
    assert (outcome.code, outcome.message, outcome.blames) == (kind.value, "it broke", Blame.SERVER)
    assert outcome.spends is (kind not in NO_CONNECTION)
    assert outcome.billing is (Billing.MAYBE if sent else Billing.NOT)
    assert outcome.result is (AttemptResult.TIMEOUT if kind in TIMEOUTS else AttemptResult.NETWORK)


@pytest.mark.parametrize("kind", sorted(NO_CONNECTION))
def test_row_no_connection_is_never_the_jobs_fault(kind: FailureKind) -> None:
    """A server that is away fails no job, however often: it had nothing to do with it."""
    outcome = judge(failure(kind, sent=False), LAST_OF_FIVE)
    assert isinstance(outcome, Again)
    assert (outcome.spends, outcome.billing) == (False, Billing.NOT)


@pytest.mark.parametrize("kind", sorted(set(FailureKind) - PERMANENT_FAILURES - {FailureKind.STALE}))
def test_a_timeout_is_not_refunded(kind: FailureKind) -> None:
    """It may have been billed and be the job's own doing; a connection that broke is an outage's, if it proves to be one."""
    outcome = judge(failure(kind))
    assert isinstance(outcome, Again)
    assert outcome.refundable is (kind not in TIMEOUTS or kind in NO_CONNECTION)


@pytest.mark.parametrize(("status", "refundable"), [(500, True), (503, True), (529, True), (408, False), (504, False)])
def test_what_may_have_been_billed_by_its_status_is_not_refunded(status: int, refundable: bool) -> None:
    """5xx costs nothing and can be given back; behind 408 and 504 somebody may have been paid."""
    outcome = judge(reply(status))
    assert isinstance(outcome, Again)
    assert outcome.refundable is refundable


@pytest.mark.parametrize(("hint", "seconds"), [("7", 7), ("100000", 300)])
def test_a_server_that_fails_may_say_for_how_long(hint: str, seconds: int) -> None:
    """Retry-After on a 503 is a lower bound on the backoff, up to five minutes."""
    outcome = judge(reply(503, retry_after=hint))
    assert isinstance(outcome, Again)
    assert outcome.after_ns == seconds * NS_PER_SECOND


def test_every_timeout_is_called_one() -> None:
    """The kinds of failure that are timeouts by their name are timeouts."""
    assert {kind for kind in FailureKind if "timeout" in kind} == TIMEOUTS


@pytest.mark.parametrize("result", [reply(503), failure(FailureKind.READ), error(502, "upstream_error")])
def test_row_attempts_spent(result: Reply | Failure) -> None:
    """The last attempt's failure is the job's: with its code and words, and retryable by --retry-failed."""
    assert isinstance(judge(result, Tries(4, 5)), Again)
    outcome = judge(result, LAST_OF_FIVE)
    assert isinstance(outcome, Failed)
    assert outcome.message.endswith("(attempt 5 of 5)")
    assert not outcome.permanent


def test_attempts_beyond_the_maximum_are_spent() -> None:
    """A job that has spent more than a maximum that was lowered since fails."""
    assert isinstance(judge(reply(500), Tries(7, 2)), Failed)


def test_row_stale_connection_spends_nothing_once() -> None:
    """A stale connection sends the job back at once, at no attempt's cost, listed as maybe billed if anything was sent."""
    outcome = judge(failure(FailureKind.STALE), LAST_OF_FIVE)
    assert isinstance(outcome, Again)
    assert (outcome.after_ns, outcome.code, outcome.billing, outcome.blames) == (0, "stale", Billing.MAYBE, Blame.NOBODY)
    assert (outcome.spends, outcome.repeats) == (False, False)
    unsent = judge(failure(FailureKind.STALE, sent=False))
    assert isinstance(unsent, Again)
    assert unsent.billing is Billing.NOT


def test_row_stale_connection_the_second_time_is_a_read_failure() -> None:
    """A job that was sent back for a stale connection before spends an attempt on the next one."""
    outcome = judge(failure(FailureKind.STALE), Tries(1, 5, stale_before=True))
    assert isinstance(outcome, Again)
    assert outcome.spends
    assert isinstance(judge(failure(FailureKind.STALE), Tries(1, 1, stale_before=True)), Failed)


@pytest.mark.parametrize("kind", sorted(PERMANENT_FAILURES))
def test_row_too_large_or_compressed_a_reply_fails_at_once(kind: FailureKind) -> None:
    """A reply over the cap would be over it again, and whoever compresses replies does so always: perhaps billed, once."""
    outcome = judge(failure(kind))
    assert outcome == Failed(kind.value, "it broke", AttemptResult.INVALID, Billing.MAYBE, permanent=False)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 403, 404, 405, 410, 413, 415, 418, 422, 451, 499])
def test_row_400_403_404_413_422_unknown_4xx_fails_at_once(status: int) -> None:
    """Redirects and 4xx: the job fails with the server's words, unbilled; another one like it would fare the same."""
    assert judge(error(status, "bad_thing", "It is bad.")) == Failed(
        "bad_thing", "It is bad.", AttemptResult.INVALID, Billing.NOT, permanent=True
    )
    bare = judge(reply(status))
    assert isinstance(bare, Failed)
    assert (bare.code, bare.message) == (f"http_{status}", f"the server answered with status {status}")


@pytest.mark.parametrize("body", ["", "<html></html>", '{"error":{"code":"whatever"}}'])
def test_row_401_suspends_the_key(body: str) -> None:
    """401, whatever its body: it is the key that is refused, not the job."""
    assert isinstance(judge(reply(401, body), LAST_OF_FIVE), SuspendKey)


def test_row_402_stops_the_account() -> None:
    """402, whatever its body: nothing of this account can succeed now."""
    assert judge(reply(402), LAST_OF_FIVE) == StopAccount("the server answered with status 402")


def test_row_credit_balance_is_too_low_stops_the_account() -> None:
    """Anthropic says it with 400 and words alone."""
    message = "Your credit balance is too low to access the API."
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    assert judge(reply(400, json.dumps(body))) == StopAccount(message)


# --- every documented code


@pytest.mark.parametrize("code", ["missing_api_key", "invalid_api_key"])
@pytest.mark.parametrize("status", [401, 403, 400])
def test_code_missing_and_invalid_api_key_401(code: str, status: int) -> None:
    """Both codes are the key's, whatever the status says."""
    assert judge(error(status, code)) == SuspendKey("No.")


@pytest.mark.parametrize("code", ["insufficient_credits", "insufficient_quota", "billing_hard_limit_reached"])
@pytest.mark.parametrize("status", [402, 403, 429])
def test_code_insufficient_credits_402(code: str, status: int) -> None:
    """No credits: every job is kept; with a 429 too, which no waiting would lift."""
    assert judge(error(status, code), LAST_OF_FIVE) == StopAccount("No.")


def test_code_model_not_found_404() -> None:
    """The job fails at once, in the server's words."""
    assert judge(error(404, "model_not_found")) == Failed(
        "model_not_found", "No.", AttemptResult.INVALID, Billing.NOT, permanent=True
    )


@pytest.mark.parametrize("status", [429, 400, 503])
def test_code_rate_limit_exceeded_429(status: int) -> None:
    """The job goes back at no attempt's cost, whatever the status says."""
    assert judge(error(status, "rate_limit_exceeded", retry_after="2"), LAST_OF_FIVE) == Refused(2 * NS_PER_SECOND, "No.")


@pytest.mark.parametrize("code", ["gpu_limit_exceeded", "agent_limit_reached"])
@pytest.mark.parametrize("status", [400, 403, 409, 429])
def test_code_gpu_and_agent_limits_4xx(code: str, status: int) -> None:
    """A limit that no waiting lifts fails the job, also where it comes as 409 or 429."""
    outcome = judge(error(status, code))
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.permanent, outcome.billing) == (code, True, Billing.NOT)


@pytest.mark.parametrize(
    ("code", "meaning"), [("gpu_limit_exceeded", "all the GPUs"), ("agent_limit_reached", "all the hosted agents")]
)
def test_a_limit_of_the_account_is_shown_for_what_it_is(code: str, meaning: str) -> None:
    """Behind the server's own words: which limit it is, and what lifts it."""
    outcome = judge(error(429, code))
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith(f"No. (the account has {meaning} ")
    assert outcome.message.endswith("; waiting does not lift it: free one, then --retry-failed)")


@pytest.mark.parametrize(("code", "status"), [("model_unavailable", 503), ("upstream_error", 502), ("model_unavailable", 404)])
def test_code_model_unavailable_503_and_upstream_error_502(code: str, status: int) -> None:
    """The model's trouble and nobody else's: another attempt, and only the model's breaker hears of it."""
    outcome = judge(error(status, code))
    assert isinstance(outcome, Again)
    assert (outcome.code, outcome.blames, outcome.billing) == (code, Blame.MODEL, Billing.NOT)


# --- backoff


@pytest.mark.parametrize(("spent", "ceiling_seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (40, 60), (10**6, 60)])
def test_backoff_is_full_jitter(spent: int, ceiling_seconds: int) -> None:
    """Uniform between nothing and 1 s doubled with each attempt, 60 s at most."""
    drawn = [backoff_ns(spent, random.Random(seed)) for seed in range(2_000)]
    assert all(0 <= backoff < ceiling_seconds * NS_PER_SECOND for backoff in drawn)
    assert min(drawn) < 0.01 * ceiling_seconds * NS_PER_SECOND
    assert max(drawn) > 0.99 * ceiling_seconds * NS_PER_SECOND
    assert 0.47 < sum(drawn) / len(drawn) / (ceiling_seconds * NS_PER_SECOND) < 0.53
