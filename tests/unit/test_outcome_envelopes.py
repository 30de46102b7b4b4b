"""Errors by their envelope: Anthropic's, which has a type and no code, and those that come behind a status of success."""

from __future__ import annotations

import json
import random

import pytest

from batchrunner import dialect
from batchrunner.events import Billing
from batchrunner.exchange import Reply
from batchrunner.outcome import Again, Blame, Done, Failed, Outcome, Refused, StopAccount, SuspendKey, Tries, classify


def judge(status: int, body: str) -> Outcome:
    return classify(Reply(status, (), body.encode()), dialect.URLS["/v1/messages"], Tries(1, 5), random.Random(1), 0)


def anthropic(kind: str) -> str:
    return json.dumps({"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "req_1"})


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("invalid_request_error", 400, Failed),
        ("authentication_error", 401, SuspendKey),
        ("billing_error", 402, StopAccount),
        ("permission_error", 403, Failed),
        ("not_found_error", 404, Failed),
        ("request_too_large", 413, Failed),
        ("rate_limit_error", 429, Refused),
        ("api_error", 500, Again),
        ("timeout_error", 504, Again),
        ("overloaded_error", 529, Again),
    ],
)
@pytest.mark.parametrize("promised", [False, True])
def test_each_type_of_anthropic_means_what_its_status_does(
    kind: str, status: int, expected: type[Outcome], promised: bool
) -> None:
    """With its own status, and behind a 200 that a proxy had sent already: there the attempt may have been billed."""
    outcome = judge(200 if promised else status, anthropic(kind))
    assert type(outcome) is expected
    if isinstance(outcome, Failed | Again):
        assert (outcome.code, outcome.message) == (kind, "No.")
        assert outcome.billing is (Billing.MAYBE if promised or status == 504 else Billing.NOT)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("server_error", Again), ("502", Again), ("429", Refused), ("401", SuspendKey), ("402", StopAccount), ("400", Failed)],
)
def test_a_code_behind_a_promise_may_be_a_status(code: str, expected: type[Outcome]) -> None:
    """What fails in mid-stream has no status of its own any more: some servers say it in the place of a code."""
    outcome = judge(200, json.dumps({"error": {"code": code, "message": "No."}}))
    assert type(outcome) is expected
    assert type(judge(200, json.dumps({"error": {"code": int(code), "message": "No."}}))) is expected if code.isdigit() else True


@pytest.mark.parametrize("code", ["999", "200", "²²²", "5020", ""])
def test_a_code_that_is_no_status_of_an_error_fails_the_job(code: str) -> None:
    """Nothing is known of it."""
    assert isinstance(judge(200, json.dumps({"error": {"code": code, "message": "No."}})), Failed)


@pytest.mark.parametrize("status", [200, 500, 503, 529])
def test_overloaded_error_is_tried_again_with_any_status(status: int) -> None:
    """The server's trouble and not the job's, whichever status it came with."""
    outcome = judge(status, anthropic("overloaded_error"))
    assert isinstance(outcome, Again)
    assert outcome.blames is Blame.SERVER


# --- an error in place of an answer


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"code": "upstream_error", "message": "No."}}, Again),
        ({"error": {"code": "rate_limit_exceeded"}}, Refused),
        ({"error": {"code": "insufficient_credits"}}, StopAccount),
        ({"error": {"code": "model_not_found"}}, Failed),
        ({"error": {"message": "Something is wrong."}}, Failed),
    ],
)
def test_an_error_behind_a_2xx_is_no_success(body: object, expected: type[Outcome]) -> None:
    """A 200 with an error's envelope and nothing else answers nobody: it is judged by its code."""
    assert type(judge(200, json.dumps(body))) is expected
    assert type(judge(200, "\ufeff" + json.dumps(body))) is expected


@pytest.mark.parametrize(
    "body",
    [
        {"id": "resp_1", "status": "failed", "error": {"code": "server_error", "message": "m"}},
        {"error": {"message": "a warning"}, "usage": {"input_tokens": 7, "output_tokens": 3}},
        {"error": None, "choices": []},
        {"error": {}},
        {"error": {"choices": 3}},
        {"error": "a text of the model", "output": []},
        {},
    ],
)
def test_an_answer_that_mentions_an_error_is_a_success(body: object) -> None:
    """What has an id or usage of its own, or no word of any error, was answered and paid for."""
    assert isinstance(judge(200, json.dumps(body)), Done)
