"""What becomes of an attempt, row by row of the table in `outcome`: whole runs, down to their files and their exit codes."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.cli.output import exit_code
from batchrunner.events import AttemptResult, Billing
from batchrunner.journal.files import ERRORS, RESULTS
from batchrunner.runner import Run
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.faults import Delivery
from batchrunner.status import Status
from tests.sim.nights import MODEL, PRICES, MakeNight, Night, assert_once, assert_whole, jobs
from tests.sim.scripts import REQUEST_ID, WORDS, Script, only, openai_error
from tests.sim.scripts import night as scripted

#: the most that a job of `jobs()` can have cost: 50 tokens of output, and 28 to 60 of input by our own count
LEAST_BOUND_USD, MOST_BOUND_USD = (PRICES.ceiling(MODEL, tokens, 50) or Decimal(0) for tokens in (28, 60))


@pytest.fixture
def night(tmp_path: Path, nursery: trio.Nursery) -> MakeNight:
    """Five jobs, or as many as are asked for, on a platform that follows a script."""

    def make(script: Script, count: int = 5) -> Night:
        return scripted(tmp_path, nursery, jobs(count), script)

    return make


def exits(status: Status) -> int:
    return exit_code(status, terminated=False)


def reply(content: str | None, finish: str, **more: Any) -> Answer:
    """A whole answer: 20 tokens read, 5 of them from the cache, and 10 written."""
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
    return Answer(200, msgspec.json.encode(body | more), REQUEST_ID)


def broken(delivery: Delivery) -> Answer:
    """An answer that does not arrive whole."""
    return Answer(200, b'{"id":"chatcmpl-1","choices":[]}', REQUEST_ID, delivery=delivery)


def assert_tried_again(ended: Night, status: Status, billing: Billing) -> None:
    """job-1 was sent twice and succeeded; its first attempt is on the bill, at its bound, where it may have been billed."""
    assert_once(ended, status)
    assert (status.completed, exits(status)) == (5, 0)
    assert ended.sends() == Counter({f"job-{number}": 1 + (number == 1) for number in range(5)})
    first = ended.costs().get(("job-1", 1))
    if billing is Billing.NOT:
        assert first is None
    else:
        assert first is not None
        assert (first.state, first.tokens.output) == (Billing.MAYBE, 50)
        assert LEAST_BOUND_USD < (first.cost.amount or 0) < MOST_BOUND_USD
    assert ended.costs()["job-1", 2].state is Billing.BILLED


# --- 2xx with a whole, valid JSON body


async def test_row_2xx_whole_json_is_success(autojump_clock: MockClock, night: MakeNight) -> None:
    """The body stands in results.jsonl as it was sent; usage settles the budget, and the cost to the last digit."""
    answer = reply("It is high.", "stop")
    begun = night(lambda _: answer)
    status = await begun.run(tpm=10_000)
    assert (status.completed, status.tokens_last_minute, exits(status)) == (5, 5 * 30, 0)
    assert {msgspec.json.encode(line["response"]["body"]) for line in begun.lines(RESULTS)} == {answer.body}
    assert status.billed_usd == 5 * Decimal("0.000008625")  # 15, 5 and 10 tokens at 0.15, 0.075 and 0.6 USD a million
    assert {(line.state, line.source) for line in begun.costs().values()} == {(Billing.BILLED, "catalog")}


async def test_row_2xx_whole_json_counts_how_it_finished(autojump_clock: MockClock, night: MakeNight) -> None:
    """Cut at the cap, refused, or without text: successes that were paid for, each counted apart."""
    answers = {
        "job-0": reply("It is", "length"),
        "job-1": reply(None, "content_filter"),
        "job-2": reply("", "stop"),
        "job-3": reply(" \n", "stop"),
        "job-4": reply("It is high.", "stop"),
    }
    begun = night(lambda ask: answers[ask.custom_id])
    status = await begun.run()
    assert (status.completed, status.failed) == (5, 0)
    assert (status.finish_length, status.finish_refusal, status.finish_empty) == (1, 1, 2)
    assert {line.state for line in begun.costs().values()} == {Billing.BILLED}


async def test_row_2xx_whole_json_with_tool_usage(autojump_clock: MockClock, night: MakeNight) -> None:
    """A tool that the platform ran costs more than the tokens: where the catalog has no price for it, the sum is unknown."""
    begun = night(only("job-1", reply("It is high.", "stop", tool_usage={"web_search": 2})))
    status = await begun.run()
    assert (status.completed, status.unpriced_attempts) == (5, 1)
    line = begun.costs()["job-1", 1]
    assert (line.state, line.cost.amount, line.tokens.total) == (Billing.BILLED, None, 30)


async def test_row_2xx_whole_json_of_another_shape(autojump_clock: MockClock, night: MakeNight) -> None:
    """Whole JSON that its dialect does not know was answered and paid for: kept, at an unknown price."""
    begun = night(only("job-1", Answer(200, b"[1,2,3]", REQUEST_ID)))
    status = await begun.run()
    assert (status.completed, status.unpriced_attempts, exits(status)) == (5, 1, 0)


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error"])
async def test_row_2xx_with_an_error_in_place_of_an_answer(autojump_clock: MockClock, night: MakeNight, kind: str) -> None:
    """Nobody was answered: tried again as the error asks for, and listed, since a success had been promised."""
    body = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": WORDS}})
    begun = night(only("job-1", Answer(200, body, REQUEST_ID), times=1))
    assert_tried_again(begun, await begun.run(), Billing.MAYBE)


# --- whole 2xx that is not JSON


@pytest.mark.parametrize("body", [b"", b"<html>It works!</html>", b'{"id":"chatcmpl-1"', b'{"a":NaN}'])
async def test_row_whole_2xx_that_is_not_json(autojump_clock: MockClock, night: MakeNight, body: bytes) -> None:
    """Failure at once, and maybe billed at its bound: to repeat it would be to pay again."""
    begun = night(only("job-1", Answer(200, body, REQUEST_ID)))
    status = await begun.run()
    assert_once(begun, status)
    assert begun.failures() == {"job-1": "unreadable_reply"}
    assert (begun.asked()["job-1"], exits(status)) == (1, 1)
    assert begun.maybe_billed() == {"job-1"}
    assert LEAST_BOUND_USD < status.maybe_billed_usd < MOST_BOUND_USD


# --- 429


async def test_row_429(autojump_clock: MockClock, night: MakeNight) -> None:
    """Ten at once are refused with `Retry-After: 7`: nothing is sent before, then one canary; no attempt is spent."""
    refusal = openai_error(429, "rate_limit_exceeded")
    refusal = msgspec.structs.replace(refusal, headers=(("retry-after", "7"),))
    begun = night(lambda ask: refusal if ask.times == 1 and int(ask.custom_id[4:]) < 10 else None, 30)
    status = await begun.run(max_in_flight=10, max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, status.rate_limited, status.attempts, exits(status)) == (30, 10, 40, 0)
    times = [asked.at_seconds for asked in begun.platform.asked]
    assert times[:10] == pytest.approx([0.0] * 10, abs=0.1)
    assert times[10] >= 1 + 7, "refused after one second, and told to wait for seven"
    assert times[11] - times[10] > 0.5, "one canary, and the others behind it"
    assert not begun.maybe_billed()


# --- 408, 409, 5xx, 529, connect or read failure, timeout, truncated body


@pytest.mark.parametrize("status_code", [408, 409, 500, 501, 502, 503, 504, 520, 529, 599])
async def test_row_408_409_5xx_529(autojump_clock: MockClock, night: MakeNight, status_code: int) -> None:
    """Another attempt after a backoff; behind 408 and 504 the work may have been done, and is listed."""
    begun = night(only("job-1", openai_error(status_code, "some_trouble"), times=1))
    status = await begun.run()
    assert_tried_again(begun, status, Billing.MAYBE if status_code in (408, 504) else Billing.NOT)


@pytest.mark.parametrize("delivery", [Delivery.RESET_HEADERS, Delivery.RESET_BODY, Delivery.TRUNCATED])
async def test_row_read_failure_and_truncated_body(autojump_clock: MockClock, night: MakeNight, delivery: Delivery) -> None:
    """An answer that breaks off: another attempt, and the first one is listed."""
    begun = night(only("job-1", broken(delivery), times=1))
    assert_tried_again(begun, await begun.run(), Billing.MAYBE)
    assert Counter(event.result for event in begun.events)[AttemptResult.NETWORK] == 1


async def test_row_timeout(autojump_clock: MockClock, night: MakeNight) -> None:
    """No answer within --timeout: another attempt, and the first one is listed."""
    begun = night(only("job-1", broken(Delivery.SILENT), times=1))
    status = await begun.run(timeout_seconds=30.0)
    assert_tried_again(begun, status, Billing.MAYBE)
    (late,) = (event for event in begun.events if event.result is AttemptResult.TIMEOUT)
    assert late.custom_id == "job-1"
    assert late.seconds == pytest.approx(30.0)


async def test_row_connect_failure(autojump_clock: MockClock, night: MakeNight) -> None:
    """A server that is away when a slot is due was not sent anything: no attempt is spent, and nothing is listed."""
    begun = night(lambda _: None)

    async def outage(_: Run) -> None:
        await trio.sleep(90)
        begun.server.go_down()
        await trio.sleep(600)
        begun.server.down = False

    status = await begun.run(outage, rpm=1, max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (5, 0)
    assert not begun.maybe_billed()


async def test_row_5xx_backs_off_and_is_bounded(autojump_clock: MockClock, night: MakeNight) -> None:
    """Up to 1, 2 and 4 seconds lie between four attempts; the job then fails with the server's last answer."""
    begun = night(only("job-1", openai_error(500, "some_trouble")))
    status = await begun.run(max_attempts=4)
    assert_whole(begun, status)
    assert (begun.failures(), exits(status)) == ({"job-1": "some_trouble"}, 1)
    times = [asked.at_seconds for asked in begun.platform.asked if asked.custom_id == "job-1"]
    pauses = [later - earlier - 1 for earlier, later in pairwise(times)]  # the answer itself takes a second
    assert len(pauses) == 3
    assert all(-0.01 <= pause <= 2**number + 0.01 for number, pause in enumerate(pauses))
    assert len(set(pauses)) == 3, "drawn anew each time"


async def test_row_5xx_of_one_job_alone_looks_like_an_outage(autojump_clock: MockClock, night: MakeNight) -> None:
    """Five failures in a row, with nothing else left: the circuit opens and gives them back; as probes they count, and end it."""
    begun = night(only("job-0", openai_error(500, "some_trouble")), 1)
    status = await begun.run(max_attempts=5)
    assert_whole(begun, status)
    assert begun.failures() == {"job-0": "some_trouble"}
    times = [asked.at_seconds for asked in begun.platform.asked]
    pauses = [later - earlier - 1 for earlier, later in pairwise(times)]
    assert pauses[4:] == pytest.approx([5, 10, 20, 40, 80])


# --- the server was never reached


async def test_row_server_never_reached(autojump_clock: MockClock, night: MakeNight) -> None:
    """After 30 seconds the run stops with 69, nothing sent; reached before, the same server is waited for."""
    begun = night(lambda _: None)
    begun.server.down = True
    first = await begun.run()
    assert (first.stopped_by, first.attempts, first.failed, exits(first)) == ("unreachable", 0, 0, 69)
    assert 30 <= trio.current_time() < 40
    begun.server.down = False

    async def outage(_: Run) -> None:
        await trio.sleep(2)
        begun.server.go_down()
        await trio.sleep(3600)
        begun.server.down = False

    status = await begun.run(outage, max_in_flight=1)
    assert_once(begun, status)
    assert (status.completed, exits(status)) == (5, 0)


# --- 400, 403, 404, 413, 422, unknown 4xx


@pytest.mark.parametrize("status_code", [400, 403, 404, 405, 410, 413, 415, 418, 422, 451])
async def test_row_400_403_404_413_422_and_unknown_4xx(autojump_clock: MockClock, night: MakeNight, status_code: int) -> None:
    """Failure at once, unbilled, with the server's whole answer and its words."""
    answer = openai_error(status_code, "some_trouble")
    begun = night(only("job-1", answer))
    status = await begun.run()
    assert_whole(begun, status)
    (line,) = begun.lines(ERRORS)
    assert (line["custom_id"], line["error"]) == ("job-1", {"code": "some_trouble", "message": WORDS})
    assert line["response"]["status_code"] == status_code
    assert line["response"]["body"] == msgspec.json.decode(answer.body)
    assert (status.attempts, exits(status)) == (5, 1)
    assert "job-1" not in {custom_id for custom_id, _ in begun.costs()}


# --- the same permanent error


async def test_row_same_permanent_error_as_each_of_the_first_20(autojump_clock: MockClock, night: MakeNight) -> None:
    """Stopped with 3 and the jobs that were not sent untouched; once it is mended, the same command runs them all."""
    wrong = {"model"}
    begun = night(lambda _: openai_error(404, "model_not_found") if wrong else None, 300)
    first = await begun.run(max_in_flight=4)
    assert (first.stopped_by, first.completed, exits(first)) == ("failures", 0, 3)
    assert 20 <= first.failed <= 24
    assert any(f"the same error, model_not_found: {WORDS}" in line for line in begun.said)
    wrong.clear()
    rest = await begun.run()
    assert_whole(begun, rest)
    assert (rest.failed, exits(rest)) == (first.failed, 1)
    status = await begun.run(retry_failed=True)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (300, 0)


async def test_row_same_permanent_error_100_in_a_row(autojump_clock: MockClock, night: MakeNight) -> None:
    """A model that goes for good in mid-run: a hundred jobs, not all of them. A success in between begins the count anew."""
    begun = night(lambda ask: openai_error(404, "gone") if int(ask.custom_id[4:]) not in (0, 60) else None, 400)
    status = await begun.run(max_in_flight=1)
    assert (status.stopped_by, status.completed, status.failed, exits(status)) == ("failures", 2, 59 + 100, 3)


# --- no credits


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(402, b"", REQUEST_ID),
        openai_error(402, "insufficient_credits"),
        openai_error(429, "insufficient_quota"),
        Answer(
            400,
            b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low."}}',
            REQUEST_ID,
        ),
    ],
    ids=["402", "insufficient_credits", "insufficient_quota", "credit balance is too low"],
)
async def test_row_402_insufficient_quota_and_credit_balance(
    autojump_clock: MockClock, night: MakeNight, refusal: Answer
) -> None:
    """69 at once with every job kept and no attempt spent, unbilled; once there are credits the same command goes on."""
    paid = {"job-0", "job-1"}
    begun = night(lambda ask: None if ask.custom_id in paid else refusal, 20)
    first = await begun.run(max_in_flight=2)
    assert (first.stopped_by, first.completed, first.failed, exits(first)) == ("credits", 2, 0, 69)
    assert first.rate_limited == 0
    assert begun.asked().total() <= 4
    assert not begun.maybe_billed()
    paid.update(f"job-{number}" for number in range(20))
    status = await begun.run(max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)
