"""Work that a server takes on: what names it, what is said of it, when it is asked for next."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect, outcome, polling
from batchrunner.events import Billing
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.outcome import Again, Blame, Done, Failed, Refused, StopAccount, SuspendKey, Tries
from batchrunner.polling import Missing, Polled, Submission, Unanswered, Waiting

SERVER = "https://api.example.com:8443/api/v3"
SHAPE = dialect.for_url("/v1/videos/generations")
NS = polling.NS


def named(reply: Any, server: str = SERVER) -> Submission | None:
    return polling.submission(json.dumps(reply).encode(), server)


@pytest.mark.parametrize(
    ("reply", "name", "path"),
    [
        ({"job_id": "j-1"}, "j-1", "/v1/jobs/j-1"),
        ({"job_id": 17}, "17", "/v1/jobs/17"),
        ({"id": "j-1", "status": "queued"}, "j-1", "/v1/jobs/j-1"),
        ({"job": {"id": "j-1"}, "id": "other"}, "j-1", "/v1/jobs/j-1"),
        ({"job_id": "a/../b c?d#é"}, "a/../b c?d#é", "/v1/jobs/a%2F..%2Fb%20c%3Fd%23%C3%A9"),
        ({"job_id": "j", "polling_url": "/v1/jobs/j?full=1"}, "j", "/v1/jobs/j?full=1"),
        ({"job_id": "j", "polling_url": "https://api.example.com:8443/api/v3/works/j"}, "j", "/v1/works/j"),
        ({"job_id": "j", "polling_url": "/api/v3/works/j"}, "j", "/v1/works/j"),
        ({"job_id": "j", "status_url": "/v1/works/j"}, "j", "/v1/works/j"),
        ({"polling_url": "/v1/works/j"}, "/v1/works/j", "/v1/works/j"),
    ],
)
def test_a_submission_names_its_work(reply: Any, name: str, path: str) -> None:
    """By an id, and by where to ask for it; else it is asked for where the documentation says."""
    assert named(reply) == Submission(name, path)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/v1/jobs/j",
        "https://api.example.com/v1/jobs/j",  # another port
        "http://api.example.com:8443/v1/jobs/j",
        "//evil.example.com/v1/jobs/j",
        "https://api.example.com:8443@evil.example.com/v1/jobs/j",
        "https://user@api.example.com:8443/v1/jobs/j",
        "https://api.example.com:99999/v1/jobs/j",
        "https://[::1/v1/jobs/j",
        "file:///v1/jobs/j",
        "/v1/../admin",
        "/v1/jobs/%2e%2e/admin",
        "/admin",
        "v1/jobs/j",
        "/v1/jobs/j?a b",
        "/v1/jobs/j?é",
        "/v1/jobs/j?" + "x" * 1000,
        "",
        7,
        None,
    ],
)
def test_a_question_never_leaves_the_server(url: object) -> None:
    """A polling URL that is another's, or no path that we ask, is not used: the documented one is."""
    assert named({"job_id": "j", "polling_url": url}) == Submission("j", "/v1/jobs/j")
    assert named({"polling_url": url}) is None


@pytest.mark.parametrize(
    "reply",
    [
        {},
        [],
        {"job_id": ""},
        {"job_id": "x" * 257},
        {"job_id": "a\nb"},
        {"job_id": ".."},
        {"job_id": True},
        {"job_id": "j", "status": "completed", "result": {}},
        {"job_id": "j", "status": "failed"},
        {"id": "x", "data": [{"url": "https://example.com/a.mp4"}]},
    ],
)
def test_what_names_no_work_is_none(reply: Any) -> None:
    """Names that cannot be used, and answers that are final already."""
    assert named(reply) is None


@given(st.text(min_size=1, max_size=300))
def test_whatever_the_name_its_path_is_sound(name: str) -> None:
    """It stands in a path of its own, and means nothing else there."""
    found = named({"job_id": name})
    if found is not None:
        assert found.path.startswith("/v1/jobs/")
        assert "/" not in found.path.removeprefix("/v1/jobs/")
        assert dialect.is_sound(found.path)
        assert dialect.is_read_only(found.path)


def judged(status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> Polled:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return polling.judge(Reply(status, headers, data), SHAPE, Tries(1, 5), random.Random(1), 0)


@pytest.mark.parametrize("word", ["queued", "processing", "cancelled", "Running", "", "expired"])
def test_any_other_word_means_that_it_is_being_worked_on(word: str) -> None:
    """Three words are final, and no other is guessed at."""
    assert judged(200, {"status": word}) == Waiting()
    assert judged(202, {"status": word, "result": {"partial": 1}}) == Waiting()


def test_the_server_may_say_when_to_ask_again() -> None:
    """Not sooner; and not later than in five minutes, since a result is kept for an hour."""
    assert judged(200, {"status": "queued"}, (("retry-after", "7"),)) == Waiting(7 * NS)
    assert judged(200, {"status": "queued"}, (("retry-after", "86400"),)) == Waiting(300 * NS)


@pytest.mark.parametrize("word", ["completed", "succeeded", "COMPLETED"])
@pytest.mark.parametrize("place", ["result", "output", "data"])
def test_a_final_answer_is_a_success(word: str, place: str) -> None:
    """Wherever its result stands: units and usage are read there too."""
    verdict = judged(200, {"status": word, place: {"url": "https://example.com/a.mp4", "seconds": 5}})
    assert isinstance(verdict, Done)
    assert verdict.facts.usage is not None
    assert verdict.facts.usage.units == {"video-second": 5}


def test_a_result_without_a_status_is_one() -> None:
    """Some servers give the bare result."""
    assert isinstance(judged(200, {"result": {"text": "Hi"}}), Done)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "upstream_error", "message": "m"}, Again),
        ({"code": "500"}, Again),
        ({"type": "overloaded_error"}, Again),
        ({"code": "content_policy"}, Failed),
        ({"code": "invalid_api_key"}, Failed),
        ({"code": "insufficient_credits"}, Failed),
        ({"code": "rate_limit_exceeded"}, Failed),
        ("because", Failed),
        (None, Failed),
        ({"message": "\ud800"}, Failed),
    ],
)
def test_failed_work_is_judged_by_its_error(error: object, expected: type[Polled]) -> None:
    """It says nothing of account, key or server; what it took may have been billed; and it is the same for no other job."""
    verdict = judged(200, {"status": "failed", "error": error})
    assert type(verdict) is expected
    assert isinstance(verdict, Failed | Again)
    assert verdict.billing is Billing.MAYBE
    if isinstance(verdict, Again):
        assert verdict.blames is Blame.NOBODY
        assert verdict.spends
    else:
        assert not verdict.permanent
        assert verdict.message


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, {}, Missing),
        (410, b"", Missing),
        (401, {}, SuspendKey),
        (402, {}, StopAccount),
        (429, {}, Refused),
        (408, {}, Unanswered),
        (409, {}, Unanswered),
        (500, {}, Unanswered),
        (503, {"error": {"code": "model_unavailable"}}, Unanswered),
        (200, b"<html>", Unanswered),
        (200, {"error": {"code": "upstream_error"}}, Unanswered),
        (301, {}, Failed),
        (400, {}, Failed),
        (403, {}, Failed),
    ],
)
def test_what_fails_is_the_question(status: int, body: Any, expected: type[Polled]) -> None:
    """A question that fails is asked again; an answer for good ends the job, which was paid for perhaps."""
    verdict = judged(status, body)
    assert type(verdict) is expected
    if isinstance(verdict, Failed):
        assert verdict.billing is Billing.MAYBE
        assert verdict.message.startswith("asked for its result")


def test_no_answer_is_asked_for_again() -> None:
    """Whatever the network did."""
    for kind in FailureKind:
        verdict = polling.judge(Failure(kind, "m", sent=True), SHAPE, Tries(1, 5), random.Random(1), 0)
        permanent = kind in outcome.PERMANENT_FAILURES
        assert type(verdict) is (Failed if permanent else Unanswered)


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.integers(0, 10_000), st.integers(0, 1000))
def test_each_work_is_asked_for_within_its_hour(asked: int, submitted: int, rpm: int, seed: int) -> None:
    """However old it is and however many there are; and never in a hurry."""
    after_ns = polling.next_ns(asked, submitted, rpm, random.Random(seed))
    assert 0.9 * polling.FIRST_NS <= after_ns <= 1.1 * polling.RAREST_NS


def test_questions_become_rarer_and_take_half_of_the_limit() -> None:
    """Two seconds at first, a minute after a few; with many works out, as many questions a minute as half the limit."""
    steady = random.Random(1)
    waits = [polling.next_ns(asked, 1, 0, steady) / NS for asked in range(12)]
    assert 1.8 <= waits[0] <= 2.2
    assert 54 <= waits[-1] <= 66
    crowd = sum(polling.next_ns(3, 300, 50, steady) for _ in range(1000)) / 1000 / NS
    assert crowd == pytest.approx(300 / 25 * 60, rel=0.01)
    assert polling.most_submitted(50) == 750
    assert polling.most_submitted(0) == polling.MOST_SUBMITTED
