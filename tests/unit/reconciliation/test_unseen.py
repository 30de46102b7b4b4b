"""What is said of attempts whose end nobody saw."""

from __future__ import annotations

from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation import AttemptReason, EventReason, Whose
from tests.unit.reconciliation.few import SECOND, START, billed, event, settled, unseen


def test_an_unseen_attempt_that_no_event_fits_was_not_charged() -> None:
    said = settled([unseen("a", 3)], [])
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.NOT, AttemptReason.NO_EVENT)


def test_an_unseen_attempt_stays_open_until_the_platform_must_be_done_with_it() -> None:
    said = settled([unseen("a", 3)], [], complete_until_ns=START + 800 * SECOND)
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.MAYBE, AttemptReason.NOT_OVER)


def test_an_unseen_attempt_has_the_event_with_the_tokens_that_its_repeat_took() -> None:
    again = billed("a", 33, Usage(5, 6), number=2)
    said = settled([unseen("a", 3), again], [event(3.9, Usage(5, 6)), event(33.9, Usage(5, 6))])
    assert [claim.attempts for claim in said.events[:2]] == [(0,), (1,)]
    assert said.attempts[0].billing is Billing.BILLED


def test_an_answer_that_was_told_again_was_charged_to_the_attempt_that_asked_first() -> None:
    """Under its Idempotency-Key a repeat costs nothing. Such repeats say nothing of the clocks, and have no strangers' events."""
    firsts = [unseen(f"r-{number}", 10.0 * number + 3) for number in range(8)]
    again = [billed(f"r-{number}", 10.0 * number + 8, Usage(50 + number, 6), 0.5, number=2) for number in range(8)]
    own = [event(10.0 * number + 3.9, Usage(50 + number, 6), id=f"r{number}") for number in range(8)]
    said = settled([*firsts, *again], own)
    assert [claim.billing for claim in said.attempts[:16]] == [Billing.BILLED] * 8 + [Billing.NOT] * 8
    assert [claim.attempts for claim in said.events[:8]] == [(number,) for number in range(8)]


def test_an_unseen_attempt_whose_repeat_had_another_prompt_length_cannot_have_an_event() -> None:
    again = billed("a", 33, Usage(7, 6), number=2)
    said = settled([unseen("a", 3), again], [event(3.9, Usage(5, 6)), event(33.9, Usage(7, 6))])
    assert said.events[0].whose is Whose.STRANGERS
    assert said.attempts[0].billing is Billing.NOT


def test_an_unseen_attempt_cannot_have_written_more_than_its_cap() -> None:
    said = settled([unseen("a", 3, cap_tokens=10)], [event(3.9, Usage(5, 11))])
    assert said.events[0].whose is Whose.STRANGERS


def test_where_strangers_come_all_the_time_one_event_more_proves_nothing() -> None:
    """The event fits; so do a thousand others of strangers', at other times. The attempt stays as it is, the event undecided."""
    strangers = [event(6 + second / 2, Usage(5, 6), id=f"s_{second}") for second in range(1_000)]
    said = settled([unseen("a", 3)], [event(3.9, Usage(5, 6)), *strangers], horizon_seconds=2)
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.MAYBE, AttemptReason.COINCIDENCE)
    assert (said.events[0].whose, said.events[0].reason) == (Whose.UNDECIDED, EventReason.COINCIDENCE)
    assert all(claim.whose is Whose.STRANGERS for claim in said.events[1:1_001])


def test_of_two_unseen_jobs_and_one_event_the_event_is_ours_and_the_jobs_stay_open() -> None:
    twins = [billed(name, at, Usage(5, 6), number=2) for name, at in (("a", 33), ("b", 43))]
    attempts = [unseen("a", 3), unseen("b", 3.05), *twins]
    said = settled(attempts, [event(3.9, Usage(5, 6)), event(33.9, Usage(5, 6)), event(43.9, Usage(5, 6))])
    assert (said.events[0].whose, said.events[0].reason) == (Whose.OURS, EventReason.ONE_OF_SEVERAL)
    assert [claim.reason for claim in said.attempts[:2]] == [AttemptReason.TOO_FEW] * 2
    assert [claim.billing for claim in said.attempts[:2]] == [Billing.MAYBE] * 2


def test_of_two_unseen_attempts_of_one_job_and_one_event_the_earlier_is_given_it() -> None:
    again = billed("a", 33, Usage(5, 6), number=3)
    said = settled([unseen("a", 3), unseen("a", 3.05, number=2), again], [event(3.9, Usage(5, 6)), event(33.9, Usage(5, 6))])
    assert [claim.billing for claim in said.attempts[:2]] == [Billing.BILLED, Billing.NOT]
