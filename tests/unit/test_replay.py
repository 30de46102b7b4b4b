"""What the records of a journal add up to, one after the other."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge, Totals
from batchrunner.events import Billing
from batchrunner.index import Index
from batchrunner.job import Usage
from batchrunner.journal import History
from batchrunner.journal.records import Ended, Line, Record, Refunded, Reopened, Sent, Settled, Started, What, fingerprint_text
from batchrunner.journal.replay import RECENT_NS, Replay
from batchrunner.lifecycle import IllegalTransitionError, State

URL = "/v1/responses"
MAYBE = Charge.maybe("m", URL, 1, 2, Decimal("0.5"))
BILLED = Charge.billed("m", URL, Usage(1, 2), Decimal("0.25"))
LINE = Line("results.jsonl", 0, 10, 77)


class Story:
    """A replay of three jobs, and what is told to it. Jobs from 3 on are not in the input any more."""

    def __init__(self) -> None:
        self.reads = 0
        self.index = Index(self._read)
        for number in range(3):
            self.index.add(f"job-{number}", number, 100 * number, 90, number + 1)
        self.reads = 0
        self.replay = Replay(self.index)
        self.offset = 0

    def _read(self, number: int) -> str:
        self.reads += 1
        return f"job-{number}"

    def tell(self, *records: Record) -> Story:
        for record in records:
            self.replay.apply(self.offset, record)
            self.offset += 100
        return self

    def history(self, number: int = 0) -> History:
        return self.replay.histories[number]

    def states(self) -> list[State]:
        return [State(state) for state in self.index.state]


def sent(number: int = 0, attempt: int = 1, *, at_ns: int = 0, boot: str = "b", reserve: int = 3) -> Sent:
    return Sent(f"job-{number}", fingerprint_text(number), attempt, boot, at_ns, reserve, 1, 2, "m", URL)


def ended(what: What, number: int = 0, attempt: int = 1, **more: object) -> Ended:
    end = Ended(f"job-{number}", fingerprint_text(number), attempt, what, 0)
    return msgspec.structs.replace(end, **more)


def finished(what: What, number: int = 0, attempt: int = 1, **more: object) -> Ended:
    return ended(what, number, attempt, spent=True, line=LINE, **more)


def reopened(number: int = 0, attempt: int = 1) -> Reopened:
    return Reopened(f"job-{number}", fingerprint_text(number), attempt)


def settled(charge: Charge, was: Charge | None, number: int = 0) -> Settled:
    return Settled(f"job-{number}", fingerprint_text(number), 1, 0, charge, was=was)


# Settlements ---------------------------------------------------------------------------------------------------------


def test_a_settlement_takes_the_place_of_what_was_believed() -> None:
    """In the sums, as often as it comes; and its line of costs.jsonl is to be there."""
    story = Story().tell(sent(), ended(What.AGAIN, charge=MAYBE), settled(BILLED, MAYBE))
    assert (story.replay.totals.billed, story.replay.totals.maybe_billed) == (Decimal("0.25"), Decimal(0))
    story.tell(settled(Charge("m", URL, Billing.NOT, amount=Decimal(0)), BILLED))
    assert (story.replay.totals.billed, story.replay.totals.input_tokens) == (Decimal(0), 0)
    assert [type(record) for _, record in story.replay.unsynced] == [Ended, Settled, Settled]


def test_a_settlement_of_what_was_thought_to_cost_nothing_and_of_a_job_that_has_ended() -> None:
    story = Story().tell(sent(), finished(What.FAILED), settled(BILLED, None))
    assert story.replay.totals.billed == Decimal("0.25")


def test_a_reply_that_turns_up_after_a_settlement_counts_once() -> None:
    """It takes the place of what was settled, not of what was believed before."""
    story = Story().tell(sent(), ended(What.LOST, charge=MAYBE), settled(BILLED, MAYBE), finished(What.DONE, charge=BILLED))
    assert (story.replay.totals.billed, story.replay.totals.maybe_billed) == (Decimal("0.25"), Decimal(0))


# Histories -----------------------------------------------------------------------------------------------------------


def test_attempts_are_counted_by_what_they_came_to() -> None:
    """How often it was sent, what of that counts, and what the server has said to have come to nothing."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True, in_vain=True))
    story.tell(sent(attempt=2), ended(What.REFUSED, attempt=2))
    story.tell(sent(attempt=3), ended(What.AGAIN, attempt=3, spent=True, in_vain=True))
    assert story.history() == History(sends=3, spent=2, in_vain=2)
    assert story.replay.totals == Totals(attempts=3, rate_limited=1)
    story.tell(sent(1), ended(What.REFUSED, 1))
    assert story.replay.totals.rate_limited == 2


def test_what_an_outage_took_is_given_back() -> None:
    """Again and again; a refund to a job that has ended, or is not in the input, changes nothing."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True), sent(attempt=2), ended(What.AGAIN, attempt=2, spent=True))
    story.tell(Refunded("job-0", fingerprint_text(0), 1), Refunded("job-0", fingerprint_text(0), 1))
    assert story.history() == History(sends=2, spent=0, excused=2)
    story.tell(Refunded("job-1", fingerprint_text(1), 1), Refunded("job-9", fingerprint_text(9), 1))
    assert set(story.replay.histories) == {0}


def test_a_refund_by_another_line_than_the_inputs_is_one_of_a_changed_job() -> None:
    """The record says which line it was about."""
    story = Story().tell(Refunded("job-0", fingerprint_text(99), 1))
    assert story.replay.changed == {0: "job-0"}
    assert story.tell(Refunded("job-0", fingerprint_text(0), 1)).replay.changed == {}


def test_a_reopened_job_begins_anew_under_another_name() -> None:
    """None of its attempts counts any more, and all of them were in vain: what follows is a new request."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True), sent(attempt=2), finished(What.FAILED, attempt=2))
    assert story.replay.histories == {}
    story.tell(reopened(attempt=2))
    assert story.history() == History(sends=2, spent=0, in_vain=2, reopened=2)
    assert (story.states()[0], story.replay.line_crcs[0]) == (State.PENDING, 0)


def test_the_line_of_a_job_that_succeeded_may_be_lost_and_the_job_run_again() -> None:
    """Reopened by recovery, as a failed one is by its user."""
    for what in (What.DONE, What.FAILED):
        story = Story().tell(sent(), finished(what))
        assert story.replay.line_crcs[0] == 77
        assert story.tell(reopened()).states()[0] is State.PENDING


def test_an_open_job_that_is_reopened_stays_open() -> None:
    """Its line was changed before it ended."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True), reopened())
    assert (story.states()[0], story.history().spent) == (State.PENDING, 0)


def test_a_history_is_told_in_words() -> None:
    """Reopened before it was ever sent is reopened, too."""
    assert str(History(sends=2, spent=1)) == "sent 2 times, 1 of them counted, 0 excused, 0 in vain"
    assert str(History(reopened=0)).endswith("0 in vain, reopened after 0")


# Jobs that are gone --------------------------------------------------------------------------------------------------


def test_jobs_that_the_input_does_not_hold_any_more_are_counted_by_their_lines() -> None:
    """One that is reopened has none, whatever became of it before; its history goes on under its id."""
    story = Story().tell(sent(8), finished(What.DONE, 8), sent(9), finished(What.FAILED, 9))
    assert story.replay.removed == 2
    story.tell(reopened(9))
    assert (story.replay.removed, story.replay.histories) == (1, {"job-9": History(sends=1, in_vain=1, reopened=1)})
    story.tell(reopened(9))
    assert story.replay.removed == 1
    assert story.states() == [State.PENDING] * 3


def test_a_job_is_known_by_its_fingerprint_without_a_look_at_its_line() -> None:
    """A replay of ten million records reads no line of the job file."""
    story = Story().tell(sent(1), ended(What.AGAIN, 1, spent=True), sent(2), finished(What.DONE, 2), reopened(2))
    assert story.reads == 0


# Adoption ------------------------------------------------------------------------------------------------------------


def test_a_sending_that_is_known_by_its_end_alone_is_a_sending() -> None:
    """The record of the sending went with the power: the attempt counts, and those before it that nobody knows of."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True), finished(What.DONE, attempt=3, charge=BILLED))
    assert story.replay.totals.attempts == 3
    assert story.tell(finished(What.DONE, 1, charge=BILLED)).replay.totals.attempts == 4
    assert story.states() == [State.SUCCEEDED, State.SUCCEEDED, State.PENDING]


def test_an_attempt_known_by_its_bill_alone_leaves_its_job_where_it_stands() -> None:
    story = Story().tell(ended(What.LOST, charge=MAYBE))
    assert (story.states()[0], story.history().sends, story.replay.totals.maybe_billed) == (State.PENDING, 1, Decimal("0.5"))


def test_only_what_was_lost_may_be_charged_otherwise_later() -> None:
    """A line that turns up after its attempt was counted as lost takes the charge's place; other charges stay."""
    story = Story().tell(sent(), ended(What.AGAIN, spent=True, charge=MAYBE))
    story.tell(sent(attempt=2), ended(What.LOST, attempt=2, charge=MAYBE), finished(What.DONE, attempt=2, charge=BILLED))
    assert (story.replay.totals.maybe_billed, story.replay.totals.billed) == (Decimal("0.5"), Decimal("0.25"))
    story.tell(sent(1), ended(What.AGAIN, 1, charge=MAYBE), ended(What.FAILED, 1, spent=True, line=LINE))
    assert story.replay.totals.maybe_billed == 1


# What cannot have happened -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "impossible",
    [
        sent(attempt=2),
        ended(What.AGAIN, attempt=2),
        ended(What.REFUSED, attempt=2),
        finished(What.FAILED, attempt=2),
        finished(What.DONE, attempt=2),
    ],
)
def test_an_impossible_story_names_its_job(impossible: Record) -> None:
    """Nothing comes after a success but the loss of its line."""
    story = Story().tell(sent(), finished(What.DONE))
    with pytest.raises(IllegalTransitionError, match=r"^job 'job-0' is succeeded and cannot [a-z]+") as caught:
        story.tell(impossible)
    assert caught.value.custom_id == "job-0"


def test_an_impossible_story_is_told_with_all_that_came_before() -> None:
    story = Story().tell(sent(), ended(What.AGAIN, spent=True))
    with pytest.raises(IllegalTransitionError, match=r"cannot again \(sent 1 times, 1 of them counted, 0 excused, 0 in vain\)$"):
        story.tell(ended(What.AGAIN))


def test_an_impossible_story_of_a_job_that_was_never_sent_tells_none() -> None:
    story = Story().tell(sent(), finished(What.DONE))
    with pytest.raises(IllegalTransitionError, match=r"^job 'job-0' is succeeded and cannot send \(sent 2 times"):
        story.tell(sent(attempt=2))


# The last two minutes ------------------------------------------------------------------------------------------------


def test_the_last_two_minutes_of_sends_are_kept() -> None:
    """To the nanosecond, with what was set aside for each; and of the newest boot alone."""
    story = Story().tell(Started("b", 0, 0, 1, "0"), sent(0, at_ns=5, reserve=10), sent(1, at_ns=6, reserve=20))
    story.tell(sent(2, at_ns=5 + RECENT_NS, reserve=30))
    assert list(story.replay.recent) == [(5, 10, None), (6, 20, None), (5 + RECENT_NS, 30, None)]
    story.tell(ended(What.AGAIN, 2), sent(2, 2, at_ns=6 + RECENT_NS, reserve=40))
    assert list(story.replay.recent) == [(6, 20, None), (5 + RECENT_NS, 30, None), (6 + RECENT_NS, 40, None)]
    assert RECENT_NS == 120 * NS_PER_SECOND
    story.tell(Started("c", 0, 0, 1, "0"))
    assert (list(story.replay.recent), story.replay.boot) == ([], "c")
