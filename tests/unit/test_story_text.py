"""A job's story in words: each kind of step, each end, what it waits for, what it cost."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from batchrunner.costs import Charge
from batchrunner.job import Usage
from batchrunner.status import Status
from batchrunner.story import FinalPlace, Step, Story
from batchrunner.story_text import story_text

URL = "/v1/responses"
BILLED = Charge.billed("m", URL, Usage(1_000, 2), Decimal("0.25"))
MAYBE = Charge.maybe("m", URL, 10, None, Decimal("0.5"))
UNPRICED = Charge.billed("m", URL, None, None)


def story(*steps: Step, **fields: Any) -> Story:
    plain: dict[str, Any] = {
        "custom_id": "job-1",
        "state": "pending",
        "steps": list(steps),
        "sends": 1,
        "spent": 1,
        "final": None,
        "billed_usd": Decimal(0),
        "maybe_billed_usd": Decimal(0),
        "unpriced_attempts": 0,
        "damaged": False,
    }
    return Story(**(plain | fields))


def step(what: Any, **fields: Any) -> Step:
    return Step(what, None, 0, **({"attempt": 2} | fields))


def told(what: Any, **fields: Any) -> str:
    """The words of one step."""
    return story_text(story(step(what, **fields)), None, live=False).splitlines()[2].strip()


@pytest.mark.parametrize(
    ("what", "fields", "words"),
    [
        ("done", {"finish": "stop", "charge": BILLED}, "attempt 2 succeeded, ended by stop; billed $0.25 for 1,000 in, 2 out"),
        ("done", {"charge": UNPRICED}, "attempt 2 succeeded, ended by an unknown cause; billed at an unknown price"),
        ("failed", {"spent": True, "why": "bad", "charge": None}, "attempt 2 failed for good: bad; not billed"),
        ("failed", {"attempt": 0, "why": "price_unknown"}, "failed without being sent: price_unknown"),
        ("failed", {"why": "price_unknown"}, "failed without being sent again: price_unknown"),
        (
            "again",
            {"why": "timeout", "charge": MAYBE, "spent": True},
            "attempt 2 failed and is worth another: timeout; maybe billed, up to $0.5 for 10 in",
        ),
        ("refused", {"why": "slow"}, "attempt 2 was refused with 429: slow; not billed; counts toward no limit"),
        ("lost", {}, "attempt 2 was lost in flight; not billed; counts toward no limit"),
        ("reopened", {"why": "failed before"}, "runs again: failed before, with all its attempts, after 2 sends"),
        ("refunded", {"attempt": 1}, "1 attempt given back: part of an outage"),
        ("process", {"pid": 42}, "process 42 took the run over"),
    ],
)
def test_each_step_has_its_words(what: str, fields: dict[str, Any], words: str) -> None:
    assert told(what, **fields) == words


@pytest.mark.parametrize(("cap", "words"), [(7, "at most 7 out"), (None, "no cap on output")])
def test_a_sending_says_what_was_asked_and_set_aside(cap: int | None, words: str) -> None:
    asked = {"endpoint": URL, "model": "m", "pid": 42, "input_tokens": 1_000, "cap_tokens": cap, "reserve_tokens": 30}
    assert told("sent", **asked) == (f"attempt 2 sent to {URL} for m by process 42; about 1,000 tokens in, {words}, 30 reserved")


@pytest.mark.parametrize(("seconds", "since"), [(1.5, "+1.500 s"), (90.0, "+1:30"), (-1.0, ""), (None, "")])
def test_a_step_says_how_long_after_the_one_before(seconds: float | None, since: str) -> None:
    """Nothing where a clock went back."""
    text = told("refunded", attempt=1, after_seconds=seconds)
    assert text.split("1 attempt")[0].strip() == since


@pytest.mark.parametrize(("offset", "where"), [(1_024, "at byte 1,024 of"), (None, "missing from")])
def test_a_job_that_has_ended_has_its_line(offset: int | None, where: str) -> None:
    final = FinalPlace("results.jsonl", offset, 2_048)
    text = story_text(story(final=final, state="succeeded"), None, live=True)
    assert f"Its line, of 2,048 bytes, is {where} results.jsonl.\n" in text


def test_an_open_job_at_which_nobody_is_at_work_says_how_to_go_on(make_status: Callable[..., Status]) -> None:
    """And why the run stopped, where that is known."""
    plain = story_text(story(), None, live=False)
    assert "No process is at work on it: " in plain
    assert "The run stopped" not in plain
    stopped = story_text(story(), make_status(state="stopped", stopped_by="max_cost"), live=False)
    assert " The run stopped: " in stopped


@pytest.mark.parametrize(
    ("state", "steps", "words"),
    [
        ("in_flight", ["sent"], "It is in flight, and waits for its answer."),
        ("pending", ["again", "process"], "It waits for a backoff of up to a minute, then its turn."),
        ("pending", ["refused"], "It waits for the account, which was refused, and its turn."),
        ("pending", [], "It waits for its turn."),
    ],
)
def test_a_job_of_a_run_at_work_says_what_it_waits_for(state: str, steps: list[str], words: str) -> None:
    asked = {"input_tokens": 1, "reserve_tokens": 1}
    text = story_text(story(*(step(what, **asked) for what in steps), state=state), None, live=True)
    assert words in text.splitlines()


def test_what_binds_the_run_binds_the_job(make_status: Callable[..., Status]) -> None:
    text = story_text(story(), make_status(binding="requests"), live=True)
    assert "It waits for its turn (the run: " in text


def test_the_cost_names_what_is_certain_and_what_is_not() -> None:
    """And how often it was sent, of which how many count."""
    whole = {"billed_usd": Decimal("0.25"), "maybe_billed_usd": Decimal("0.5"), "unpriced_attempts": 1, "sends": 3, "spent": 2}
    assert story_text(story(**whole), None, live=False).splitlines()[-1] == (
        "Cost: $0.25 billed + up to $0.5 maybe billed + unknown for 1 attempt without a price, "
        "in 3 sends of which 2 counted toward --max-attempts."
    )
    assert "Cost: $0 billed, in 1 send of which 1 counted" in story_text(story(), None, live=False)


def test_a_damaged_journal_may_have_told_more() -> None:
    assert story_text(story(damaged=True), None, live=False).endswith("batchrun verify says where.\n")
    assert "damaged" not in story_text(story(), None, live=False)


def test_a_hostile_id_keeps_no_power_over_a_terminal() -> None:
    assert "\x1b" not in story_text(story(custom_id="\x1b[2J"), None, live=False)
