"""The story of a job as its run's files tell it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner import story_text as words
from batchrunner.errors import InvalidInput
from batchrunner.events import Billing
from batchrunner.journal.files import ERRORS, JOURNAL, RESULTS
from batchrunner.runner import Run
from batchrunner.simulator.settings import Rule
from batchrunner.status import decode
from batchrunner.story import Story, tell
from tests.sim.nights import PRICES, MakeNight, Night, after, fault, job, jobs
from tests.sim.test_run_outages import OTHER, Outage
from tests.verified import written


def told(night: Night, tmp_path: Path, custom_id: str = "job-1") -> Story:
    return tell(written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES), custom_id)


def steps(story: Story) -> list[Any]:
    return [(step.what, step.attempt) for step in story.steps]


async def test_a_plain_success(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """One send, one answer, what it cost, and where its line stands."""
    night = make_night(jobs(3), latency_median_seconds=4.0, latency_sigma=0.0)
    await night.run()
    story = told(night, tmp_path)
    assert (story.state, steps(story), story.sends, story.spent) == ("succeeded", [("sent", 1), ("done", 1)], 1, 1)
    sent, done = story.steps
    assert (sent.model, sent.endpoint, sent.cap_tokens, sent.pid) == ("simulated-small", "/v1/chat/completions", 50, 1)
    assert sent.at is not None
    assert sent.at.startswith("1970-01-01T00:00:0")
    assert done.after_seconds == pytest.approx(4.0, abs=0.2)
    assert story.billed_usd == night.costs()["job-1", 1].cost.amount
    assert story.final is not None
    assert story.final.offset is not None
    line = bytes(night.disk.files[RESULTS])[story.final.offset :][: story.final.length]
    assert b'"custom_id":"job-1"' in line
    assert line.endswith(b"\n")


@pytest.mark.parametrize(
    ("kind", "what", "billing"),
    [("error500", "again", None), ("error504", "again", Billing.MAYBE), ("rate_limited", "refused", None)],
)
async def test_a_repeat(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path, kind: str, what: str, billing: Billing | None
) -> None:
    """Why an attempt was not the last, what it may have cost, and how long it was until the next."""
    night = make_night(jobs(3), **fault(kind))
    await night.run()
    story = told(night, tmp_path)
    assert steps(story) == [("sent", 1), (what, 1), ("sent", 2), ("done", 2)]
    failed = story.steps[1]
    assert failed.why
    assert (failed.charge and failed.charge.billing) == billing
    assert story.steps[2].after_seconds is not None
    assert story.steps[2].after_seconds > 0
    assert (story.sends, story.spent) == (2, 1 if what == "refused" else 2)
    assert (story.maybe_billed_usd > 0) == (billing is not None)


async def test_an_interruption_and_a_retry(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """A process that ends, the next one that takes over, a failure, and its reopening: in the order in which they came."""
    rules = (Rule(kind="slow", tag="job-1", times=1), Rule(kind="error400", tag="job-1", times=1))
    night = make_night(jobs(2), rules=rules)
    await night.run(after(2, Run.cancel))
    interrupted = told(night, tmp_path)
    assert steps(interrupted) == [("sent", 1), ("lost", 1)]
    assert interrupted.state == "pending"
    await night.run()
    assert told(night, tmp_path).state == "failed"
    await night.run(retry_failed=True)
    story = told(night, tmp_path)
    assert steps(story) == [
        ("sent", 1),
        ("lost", 1),
        ("process", 0),
        ("sent", 2),
        ("failed", 2),
        ("reopened", 2),
        ("sent", 3),
        ("done", 3),
    ]
    assert (story.state, story.sends, story.spent) == ("succeeded", 3, 1)


async def test_a_failure(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """A job that ended in errors.jsonl, found where it stands after the file was replaced."""
    night = make_night([b"nonsense\n", *jobs(3)], **fault("error400", times=0))
    await night.run()
    story = told(night, tmp_path)
    assert story.state == "failed"
    assert story.final is not None
    assert story.final.file == ERRORS
    moved = bytes(night.disk.files[ERRORS]).splitlines(keepends=True)
    directory = written(night.disk, tmp_path / "night.run", run_id="night")
    (directory / ERRORS).write_bytes(b"".join(reversed(moved)))
    again = tell(directory, "job-1").final
    assert again is not None
    assert again.offset == 0 != story.final.offset
    (directory / ERRORS).write_bytes(b"")
    lost = tell(directory, "job-1")
    assert lost.final is not None
    assert lost.final.offset is None
    assert "missing from errors.jsonl" in words.story_text(lost, None, live=False)


async def test_a_live_run(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """While it is at work: what is in flight, and what waits for the account."""
    night = make_night(jobs(3), latency_median_seconds=30.0, latency_sigma=0.0, **fault("rate_limited", times=0))
    seen: list[Story] = []

    async def look(run: Run) -> None:
        await trio.sleep(20)
        seen.extend(told(night, tmp_path, custom_id) for custom_id in ("job-0", "job-1"))
        run.cancel()

    await night.run(look)
    flying, refused = seen
    assert (flying.state, flying.final) == ("in_flight", None)
    status = decode(bytes(night.disk.files["status.json"]))
    assert "It is in flight" in words.story_text(flying, status, live=True)
    assert "It waits for the account, which was refused" in words.story_text(refused, status, live=True)
    assert "No process is at work on it: run the same command again" in words.story_text(refused, status, live=False)


async def test_the_whole_text(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Hostile ids and causes have no power over a terminal, and every step has its line."""
    night = make_night([job("a\x1b[2J"), job("job-1")], **fault("error504"))
    await night.run()
    text = words.story_text(told(night, tmp_path, "a\x1b[2J"), None, live=False)
    assert "\x1b" not in text
    assert text.startswith("Job a\\x1b[2J: succeeded.\n")
    story = told(night, tmp_path)
    lines = words.story_text(story, None, live=False).splitlines()
    assert "attempt 1 sent to /v1/chat/completions for simulated-small by process 1" in lines[2]
    assert "attempt 1 failed and is worth another" in lines[3]
    assert "maybe billed, up to $" in lines[3]
    assert "attempt 2 succeeded, ended by stop" in lines[5] or "ended by length" in lines[5]
    assert lines[-1].endswith("in 2 sends of which 2 counted toward --max-attempts.")


async def test_a_lost_attempt_whose_reply_turns_up_is_charged_once(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """The sums of all stories are the run's."""
    night = make_night(jobs(12), faults={"error504": 0.3, "html200": 0.2, "reset_body": 0.2}, latency_median_seconds=3.0)
    await night.run(after(2, Run.cancel))
    status = await night.run()
    stories = [told(night, tmp_path, f"job-{number}") for number in range(12)]
    assert sum((story.billed_usd for story in stories), Decimal(0)) == status.billed_usd
    assert sum((story.maybe_billed_usd for story in stories), Decimal(0)) == status.maybe_billed_usd > 0
    assert sum(story.sends for story in stories) == status.attempts


async def test_an_unknown_job(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """The message says so, and names ids that are like it."""
    night = make_night(jobs(3))
    await night.run()
    with pytest.raises(InvalidInput, match=r"does not know a job 'JOB-2 '.*Like it are 'job-2'\."):
        told(night, tmp_path, "JOB-2 ")
    with pytest.raises(InvalidInput, match=r"in no job file of this run\.$"):
        told(night, tmp_path, "something else")


async def test_a_damaged_journal_is_said_to_be(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """What the rest tells is told, with a warning."""
    night = make_night(jobs(3))
    await night.run()
    journal = bytes(night.disk.files[JOURNAL])
    night.disk.files[JOURNAL] = bytearray(journal.replace(b'"job-0"', b'"job-X"', 1))
    story = told(night, tmp_path)
    assert story.damaged
    assert "batchrun verify says where" in words.story_text(story, None, live=False)


def waits(story: Story) -> dict[int, dict[str, int]]:
    """By attempt: what the job waited for before it, in whole seconds."""
    return {
        step.attempt: {cause: round(ms / 1_000) for cause, ms in step.waits_ms.items() if ms >= 500}
        for step in story.steps
        if step.what == "sent"
    }


async def test_the_cause_of_each_wait(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """A first send waits for the limit; one that repeats, for its own backoff, of which the run may know nothing."""
    night = make_night(jobs(120), latency_median_seconds=1.0, latency_sigma=0.0, **fault("error500", custom_id="job-0"))
    await night.run(rpm=60, tpm=0)
    repeated, last = told(night, tmp_path, "job-0"), told(night, tmp_path, "job-119")
    sends = [step for step in repeated.steps if step.what == "sent"]
    assert sends[0].waits_ms == {}
    assert sends[1].waits_ms.keys() == {"backoff", "requests"}
    assert sends[1].after_seconds is not None
    assert sends[1].waits_ms["backoff"] <= sends[1].after_seconds * 1_000 + 1
    (first,) = waits(last).values()
    assert first.keys() == {"requests"}
    assert first["requests"] > 5
    assert "; before that limited by requests " in words.story_text(last, None, live=False)
    assert "; before that its own backoff " in words.story_text(repeated, None, live=False)


async def test_a_job_put_aside_says_so(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Ten minutes of a model that is offline are a wait of its jobs, and of the run once there is nothing else."""
    lines = [job(f"job-{number}", model=OTHER if number % 2 else "simulated-small") for number in range(60)]
    night = make_night(lines, latency_median_seconds=1.0, latency_sigma=0.0)
    night.platform._plan = Outage("model_unavailable", 0.0, 600.0, lambda ask: ask.model.id == OTHER)
    await night.run(rpm=60)
    (waited,) = waits(told(night, tmp_path, "job-59")).values()
    assert waited["held"] > 500
    assert waited["models"] > 400
    assert "put aside until model or server are back " in words.story_text(told(night, tmp_path, "job-59"), None, live=False)


async def test_waits_begin_with_the_process(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """An hour in which nothing ran is no wait for anything."""
    night = make_night(jobs(2), **fault("slow"))
    await night.run(after(2, Run.cancel))
    await trio.sleep(3_600)
    await night.run()
    assert waits(told(night, tmp_path)) == {1: {}, 2: {}}
