"""Whole runs in virtual time: jobs that the server takes on, and is asked for until they end; over kills, limits and outages."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner import polling, story
from batchrunner.clock import NS_PER_SECOND
from batchrunner.events import AttemptResult, Billing
from batchrunner.journal.files import ERRORS, RESULTS
from batchrunner.runner import Run
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Rule
from batchrunner.story_text import story_text
from tests.sim.nights import PRICES, after, assert_bill, assert_once, assert_whole, jobs
from tests.sim.works import (
    PRICE_USD,
    assert_verified,
    json_answer,
    lines,
    maker,
    platform,
    submissions,
)
from tests.verified import written


@pytest.fixture
def night_of(tmp_path: Path, nursery: trio.Nursery) -> Any:
    return maker(tmp_path, nursery)


async def test_work_is_asked_for_until_it_ends(autojump_clock: MockClock, night_of: Any, tmp_path: Path) -> None:
    """Submitted once, named in the journal, asked for less and less often; the final answer is the result, with one charge."""
    night = night_of(lines(2))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts, status.submitted) == (2, 2, 0)
    assert status.billed_usd == 2 * PRICE_USD == night.platform.counters.billed_usd
    assert not status.maybe_billed_usd
    bodies = {found["custom_id"]: found["response"]["body"] for found in night.lines(RESULTS)}
    assert bodies["work-0"]["result"]["data"][0]["seconds"] == 5
    assert bodies["work-1"]["result"]["text"].startswith("What was said")
    assert [event.usage.units for event in night.events if event.usage] in (
        [{"video-second": 5}, {"audio-second": bodies["work-1"]["result"]["duration"]}],
        [{"audio-second": bodies["work-1"]["result"]["duration"]}, {"video-second": 5}],
    )
    assert {record.path for record in submissions(night)} == {target for _, target in platform(night).questions}
    times = [at for at, target in platform(night).questions if target == platform(night).questions[0][1]]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == sorted(waits)
    assert_verified(night)


async def test_how_long_work_took_says_nothing_of_answers(autojump_clock: MockClock, night_of: Any) -> None:
    """The platform takes its time for films; what a text would take is not known from that."""
    night = night_of(lines(2), work_seconds=600.0)
    known: list[Run] = []

    async def look(run: Run) -> None:
        known.append(run)
        await trio.lowlevel.checkpoint()

    assert_whole(night, await night.run(look))
    (run,) = known
    assert run.parts.estimator.outputs
    assert not run.parts.estimator.latencies


async def test_a_killed_run_goes_on_asking(autojump_clock: MockClock, night_of: Any) -> None:
    """What was submitted is never submitted again: the next process asks for it by the name in the journal."""
    night = night_of(lines(4), work_seconds=60.0)

    async def kill(run: Run) -> None:
        await trio.sleep(10)
        night.disk = night.killed()
        run.cancel()

    await night.run(kill)
    night.disk = night.killed()
    assert len(submissions(night)) == 4
    status = await night.run()
    assert_whole(night, status)
    assert any("4 job(s) were left with the server" in said for said in night.said)
    assert night.asked() == {f"work-{number}": 1 for number in range(4)}
    assert (status.completed, status.attempts, status.billed_usd) == (4, 4, 4 * PRICE_USD)
    assert not status.maybe_billed_usd
    assert_verified(night)


async def test_a_job_that_the_server_works_on_has_a_story(autojump_clock: MockClock, night_of: Any) -> None:
    """Taken on, under which name, and that it is asked for; then its end."""
    night = night_of(lines(1), work_seconds=600.0)
    await night.run(after(30, Run.drain))
    told = story.tell(written(night.disk, night.path.with_suffix(".run"), run_id="night", prices=PRICES), "work-0")
    assert ([step.what for step in told.steps], told.state) == (["process", "sent", "submitted"][1:], "in_flight")
    (record,) = submissions(night)
    text = story_text(told, None, live=True)
    assert f"attempt 1 was taken on by the server, as {record.job}; it is asked for the result" in text
    assert "The server works on it" in text
    await night.run()
    told = story.tell(written(night.disk, night.path.with_suffix(".run"), run_id="night", prices=PRICES), "work-0")
    assert ([step.what for step in told.steps], told.state) == (["sent", "submitted", "process", "done"], "succeeded")


@pytest.mark.parametrize("stop", [Run.drain, Run.cancel])
async def test_a_stopped_run_leaves_its_work_with_the_server(autojump_clock: MockClock, night_of: Any, stop: Any) -> None:
    """Nothing of it is lost or perhaps billed: it is resumed, within the hour that results are kept."""
    night = night_of([*lines(3), *jobs(2)], work_seconds=600.0)
    status = await night.run(after(30, stop))
    assert (status.state, status.completed, status.submitted) == ("stopped", 2, 3)
    assert not night.maybe_billed()
    assert_verified(night)
    await trio.sleep(900)
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, not night.maybe_billed(), set(night.asked().values())) == (5, True, {1})


async def test_a_result_that_has_expired_fails_the_job(autojump_clock: MockClock, night_of: Any) -> None:
    """It may have been billed, and says so; it is not paid for again unless somebody asks for that."""
    night = night_of(lines(1))
    await night.run(after(1, Run.drain))
    await trio.sleep(2 * 3600)
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"work-0": "job_expired"}
    (cost,) = night.costs().values()
    assert (cost.state, cost.cost.amount) == (Billing.MAYBE, PRICE_USD)
    (error,) = (found["error"] for found in night.lines(ERRORS))
    assert "results are kept for an hour" in error["message"]
    assert "--retry-failed" in error["message"]
    assert night.asked()["work-0"] == 1
    status = await night.run(retry_failed=True)
    assert_whole(night, status)
    assert (status.completed, night.asked()["work-0"]) == (1, 2)
    assert_verified(night)


async def test_one_answer_that_does_not_know_the_work_is_not_believed(autojump_clock: MockClock, night_of: Any) -> None:
    """A server in several places may learn of it late in some of them."""
    night = night_of(lines(1))
    platform(night).instead = [json_answer(404, {"error": {"code": "job_not_found"}}), None] * 2
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, not night.maybe_billed()) == (1, True)


async def test_work_that_fails_at_its_provider_is_submitted_again(autojump_clock: MockClock, night_of: Any) -> None:
    """By its error's own code, at the cost of an attempt; the first may have been billed."""
    night = night_of(lines(1), rules=(Rule(kind="job_failed", tag="work-0"),))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts, night.maybe_billed()) == (1, 2, {"work-0"})
    assert [event.result for event in night.events] == [AttemptResult.SERVER_ERROR, AttemptResult.OK]
    assert [record.attempt for record in submissions(night)] == [1, 2]
    assert_verified(night)


async def test_work_that_failed_is_new_work_under_another_idempotency_key(autojump_clock: MockClock, night_of: Any) -> None:
    """What had become of it was told: under the same key the server would name the same work, which has failed for ever."""
    night = night_of(lines(1), rules=(Rule(kind="job_failed", tag="work-0"),), idempotency=True)
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (1, 2)
    assert len({record.job for record in submissions(night)}) == 2


async def test_work_that_always_fails_ends_with_its_attempts(autojump_clock: MockClock, night_of: Any) -> None:
    """As any job does."""
    night = night_of(lines(1), rules=(Rule(kind="job_failed", tag="work-0", times=0),))
    status = await night.run(max_attempts=3)
    assert_once(night, status)
    assert_bill(night, status)
    assert (night.failures(), status.attempts) == ({"work-0": "upstream_error"}, 3)
    assert_verified(night)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "content_policy", "message": "No."}, "content_policy"),
        ({"code": "rate_limit_exceeded", "message": "No."}, "rate_limit_exceeded"),
        ({"code": "insufficient_credits", "message": "No."}, "insufficient_credits"),
        ("It broke.", "job_failed"),
        (None, "job_failed"),
        ({}, "job_failed"),
        ({"message": "\ud800"}, "job_failed"),
    ],
)
async def test_work_that_fails_otherwise_fails_the_job(
    autojump_clock: MockClock, night_of: Any, error: object, code: str
) -> None:
    """Whatever its error speaks of, it is the work's: neither account nor key are in question."""
    night = night_of(lines(1))
    failed = {"status": "failed", "error": error} if error != {"message": "\ud800"} else {"status": "failed", "error": {}}
    platform(night).instead = [json_answer(200, failed)]
    status = await night.run()
    assert_whole(night, status)
    assert (night.failures(), status.state) == ({"work-0": code}, "completed")
    assert night.maybe_billed() == {"work-0"}


@pytest.mark.parametrize(
    "answers",
    [
        [json_answer(500, {})] * 3,
        [json_answer(503, {"error": {"code": "model_unavailable", "message": "m"}})] * 8,
        [Answer(502, b"<html>", "req", content_type="text/html")] * 12,
        [Answer(200, b"<html>", "req")] * 3,
        [json_answer(200, {"status": "cancelled"})] * 3,
        [json_answer(200, {"status": 7})] * 3,
        [json_answer(200, [])],
        [json_answer(429, {"error": {"code": "rate_limit_exceeded"}})] * 12,
    ],
)
async def test_a_question_that_fails_is_asked_again(autojump_clock: MockClock, night_of: Any, answers: list[Answer]) -> None:
    """However often: it costs no attempt, is nothing that is billed, and does not submit anything anew."""
    night = night_of(lines(2))
    platform(night).instead = [*answers]
    status = await night.run(max_attempts=1)
    if answers[0].body == b"[]":  # an answer that is no object is one
        assert status.completed == 2
        return
    assert_whole(night, status)
    assert (status.completed, status.attempts, status.rate_limited) == (2, 2, 0)
    assert not night.maybe_billed()


async def test_a_server_that_is_away_is_waited_for(autojump_clock: MockClock, night_of: Any) -> None:
    """Work goes on while nobody can ask; its questions wait behind the server's circuit."""
    night = night_of(lines(3), work_seconds=60.0)

    async def outage(run: Run) -> None:
        await trio.sleep(10)
        night.server.go_down()
        await trio.sleep(300)
        night.server.down = False

    status = await night.run(outage)
    assert_whole(night, status)
    assert (status.completed, status.attempts, not night.maybe_billed()) == (3, 3, True)


@pytest.mark.parametrize("status_code", [301, 400, 403])
async def test_an_answer_for_good_fails_the_job(autojump_clock: MockClock, night_of: Any, status_code: int) -> None:
    """A redirect is not followed. What was paid for is listed so."""
    night = night_of(lines(1))
    platform(night).instead = [json_answer(status_code, {"error": {"message": "No."}})]
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"work-0": f"http_{status_code}"}
    assert night.maybe_billed() == {"work-0"}


async def test_work_without_end_is_given_up_after_a_day(
    autojump_clock: MockClock, night_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one such job would keep a run alive for ever."""
    assert polling.PATIENCE_NS == 24 * 3600 * NS_PER_SECOND
    monkeypatch.setattr(polling, "PATIENCE_NS", 1800 * NS_PER_SECOND)  # a day of questions takes its time, virtual or not
    night = night_of(lines(1))
    platform(night).instead = [json_answer(200, {"status": "processing"})] * 10_000
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"work-0": "job_never_ended"}
    assert 1800 <= status.elapsed_seconds < 1800 + 120


async def test_questions_keep_to_the_budget_and_leave_room(autojump_clock: MockClock, night_of: Any) -> None:
    """Hundreds of works: the account's limit holds for all requests together, and other jobs still get through."""
    night = night_of([*lines(60), *jobs(40)], rpm=50, work_seconds=120.0)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert (status.completed, status.rate_limited) == (100, 0)
    asked = sorted([at for at, _ in platform(night).questions] + [asked.at_seconds for asked in night.platform.asked])
    assert all(later - earlier >= 60 for earlier, later in zip(asked, asked[50:], strict=False))
    last_job = max(asked.at_seconds for asked in night.platform.asked)
    assert last_job < 60 * (100 / 50) * 4


async def test_no_more_is_submitted_than_can_be_asked_for(autojump_clock: MockClock, night_of: Any) -> None:
    """At two requests a minute, thirty at a time: each must be found within the hour that its result is kept."""
    night = night_of(lines(40), work_seconds=1.0)
    most = 0

    async def watch(run: Run) -> None:
        nonlocal most
        while True:
            most = max(most, run.status().submitted)
            await trio.sleep(30)

    status = await night.run(watch, rpm=2)
    assert_whole(night, status)
    assert (status.completed, not night.failures()) == (40, True)
    assert most <= 30


async def test_a_cap_counts_what_the_server_works_on(autojump_clock: MockClock, night_of: Any) -> None:
    """Until its end it may cost what was expected, also for the process that resumes it."""
    night = night_of(lines(4), work_seconds=600.0)
    cap_usd = 2 * PRICE_USD
    status = await night.run(after(30, Run.drain), max_cost_usd=cap_usd)
    assert (status.submitted, status.attempts) == (2, 0)
    status = await night.run(max_cost_usd=cap_usd)
    assert (status.stopped_by, status.completed, status.billed_usd) == ("max_cost", 2, cap_usd)
    assert len(night.platform.asked) == 2


async def test_a_suspended_key_or_empty_account_loses_no_work(autojump_clock: MockClock, night_of: Any) -> None:
    """The run stops, and goes on where it was once the key is good again."""
    night = night_of(lines(1))
    platform(night).instead = [json_answer(402, {"error": {"code": "insufficient_credits", "message": "m"}})]
    status = await night.run()
    assert (status.stopped_by, status.submitted) == ("credits", 1)
    platform(night).instead = [json_answer(401, {"error": {"code": "invalid_api_key", "message": "m"}})]
    status = await night.run()
    assert (status.stopped_by, status.submitted) == ("keys", 1)
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, night.asked()["work-0"], not night.maybe_billed()) == (1, 1, True)
