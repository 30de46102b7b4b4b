"""Each rule by itself: few attempts, few events, and what is said of them."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation import AttemptReason, EventReason, Whose, reconcile, rest
from tests.unit.reconciliation.few import OVER, SECOND, START, attempt, background, billed, event, settled, unseen


def test_an_answer_has_the_event_with_its_tokens_in_its_time() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6))])
    assert said.events[0] == msgspec.structs.replace(said.events[0], whose=Whose.OURS, reason=EventReason.MATCHED, attempts=(0,))
    assert (said.attempts[0].billing, said.attempts[0].event) == (Billing.BILLED, 0)


def test_the_same_tokens_at_another_price_are_another_answers() -> None:
    """A film of eight seconds takes the tokens of one of four: the price tells them apart, if the platform reckons as we do."""
    four, eight, strange = ({"cost_usd": Decimal(usd)} for usd in ("0.2", "0.4", "0.6"))
    said = settled(
        [
            billed("four", 3, Usage(5, 0), amount_usd=Decimal("0.20")),
            billed("eight", 3.1, Usage(5, 0), amount_usd=Decimal("0.4")),
        ],
        [event(3.5, Usage(5, 0), **eight), event(3.8, Usage(5, 0), **strange), event(3.9, Usage(5, 0), **four)],
    )
    assert [claim.attempts for claim in said.events[:3]] == [(1,), (), (0,)]
    assert [claim.reason for claim in said.events[:3]] == [EventReason.MATCHED, EventReason.OTHER_TOKENS, EventReason.MATCHED]
    assert [claim.event for claim in said.attempts[:2]] == [2, 0]


def test_prices_are_the_lists_where_an_account_has_a_discount() -> None:
    halves = [{"cost_usd": Decimal(usd) / 2, "list_cost_usd": Decimal(usd)} for usd in ("0.2", "0.4")]
    said = settled(
        [billed("a", 3, Usage(5, 0), amount_usd=Decimal("0.2")), billed("b", 3.1, Usage(5, 0), amount_usd=Decimal("0.4"))],
        [event(3.5, Usage(5, 0), **halves[1]), event(3.9, Usage(5, 0), **halves[0])],
    )
    assert [claim.attempts for claim in said.events[:2]] == [(1,), (0,)]


def test_where_the_platform_reckons_otherwise_prices_say_nothing() -> None:
    """A catalog from yesterday: tokens and time tell all the same."""
    more_attempts, more_events = background()
    dearer = [msgspec.structs.replace(found, cost_usd=Decimal(2)) for found in more_events]
    said = reconcile(
        [billed("a", 3, Usage(5, 6)), *more_attempts],
        [event(3.9, Usage(5, 6), cost_usd=Decimal(2)), *dearer],
        complete_until_ns=OVER,
    )
    assert {claim.reason for claim in said.events} == {EventReason.MATCHED}


def test_two_answers_that_tell_no_tokens_are_given_neither_of_two_events_that_cost_differently() -> None:
    """Both events are ours; which answer cost what nobody can say, and so it is not said."""
    said = settled(
        [attempt("a", 3, Billing.BILLED, 1.0), attempt("b", 3.1, Billing.BILLED, 1.0)],
        [event(3.8, Usage(5, 6)), event(3.9, Usage(5, 9), cost_usd=Decimal(2))],
    )
    assert {claim.reason for claim in said.events[:2]} == {EventReason.ONE_OF_SEVERAL}
    assert {(claim.billing, claim.reason, claim.event) for claim in said.attempts[:2]} == {
        (Billing.BILLED, AttemptReason.MIXED, None)
    }


def test_answers_alike_whose_events_cost_differently_keep_their_own_figures() -> None:
    """The same tokens, at prices that are not ours: one was cached, and which one cannot be told."""
    usage = Usage(5, 6)
    events = [event(3.8, usage), event(3.9, usage, cost_usd=Decimal(2))]
    said = settled([billed("a", 3, usage, amount_usd=None), billed("b", 3.1, usage, amount_usd=None)], events)
    assert {claim.reason for claim in said.attempts[:2]} == {AttemptReason.MIXED}


def test_that_neither_wrote_a_text_is_no_likeness() -> None:
    """A film that was told a second time has no event; another film in its time is a stranger's."""
    said = settled([billed("a", 3, Usage(75, 0))], [event(3.9, Usage(180, 0))])
    assert said.events[0].reason is EventReason.OTHER_TOKENS
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.NOT, AttemptReason.NO_EVENT)


def test_a_crowd_that_nothing_tells_apart_is_left_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits all of a crowd is as many pairs as both together: more than are looked at are not even kept."""
    monkeypatch.setattr(rest, "MOST_PAIRS", 30)
    attempts = [attempt(f"a{number}", 3, Billing.BILLED, 1.0) for number in range(6)]
    crowd = [event(3.5 + number / 100, Usage(5, number)) for number in range(6)]
    said = settled([*attempts, unseen("other", 3, model="large")], [*crowd, event(3.9, Usage(5, 6), model="large")])
    assert {(claim.whose, claim.reason) for claim in said.events[:6]} == {(Whose.UNDECIDED, EventReason.TOO_MANY)}
    assert {(claim.billing, claim.reason) for claim in said.attempts[:6]} == {(Billing.BILLED, AttemptReason.TOO_MANY)}
    assert said.attempts[6].event == 6, "another model's have nothing to do with it"


def test_a_crowd_of_attempts_that_nobody_saw_end_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for soon, and late once more: what was said first stands."""
    monkeypatch.setattr(rest, "MOST_PAIRS", 30)
    attempts = [unseen(f"a{number}", 3 + number / 100) for number in range(6)]
    said = settled(attempts, [event(3.5 + number / 100, Usage(5, number)) for number in range(6)])
    assert {(claim.whose, claim.reason) for claim in said.events[:6]} == {(Whose.UNDECIDED, EventReason.TOO_MANY)}
    assert {(claim.billing, claim.reason) for claim in said.attempts[:6]} == {(Billing.MAYBE, AttemptReason.TOO_MANY)}


def test_an_error_costs_nothing_though_none_of_the_accounts_events_is_ours() -> None:
    """Of all others nothing follows then."""
    said = reconcile(
        [attempt("error", 3, Billing.NOT, 1.0), billed("a", 3, Usage(5, 6))],
        [event(3.9, Usage(7, 8))],
        complete_until_ns=OVER,
    )
    assert [(claim.billing, claim.reason) for claim in said.attempts] == [
        (Billing.NOT, AttemptReason.NO_EVENT),
        (Billing.BILLED, AttemptReason.NO_EVENTS_AT_ALL),
    ]


def test_what_the_platform_has_forgotten_was_charged_all_the_same() -> None:
    """Its list begins in the middle of the run: answers were read before that, and so others may have been charged then too."""
    more_attempts, more_events = background()
    early = unseen("early", 3)
    gone, kept = [early, *more_attempts], [found for found in more_events if (found.at_ns or 0) > START + 1_000 * SECOND]
    said = reconcile(gone, kept, complete_until_ns=OVER, horizon_ns=60 * SECOND)
    assert {(claim.billing, claim.reason) for claim in said.attempts[1:100]} == {(Billing.BILLED, AttemptReason.FORGOTTEN)}
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.MAYBE, AttemptReason.FORGOTTEN)
    assert {claim.reason for claim in said.attempts[101:]} == {AttemptReason.MATCHED}


def test_an_event_that_bears_an_answers_id_is_no_other_answers() -> None:
    said = reconcile(
        [billed("a", 3, Usage(5, 6)), billed("b", 3, Usage(5, 6))],
        [event(3.9, Usage(5, 6))],
        complete_until_ns=OVER,
        by_id={0: 0},
    )
    assert said.events[0].reason is EventReason.BY_ID
    assert [claim.event for claim in said.attempts] == [0, None]
    assert said.attempts[1].billing is Billing.NOT


def test_the_same_tokens_at_another_time_are_a_strangers_and_the_answer_was_never_charged() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(1_000.5, Usage(5, 6))])
    assert said.events[0].whose is Whose.STRANGERS
    assert said.attempts[0] == msgspec.structs.replace(said.attempts[0], billing=Billing.NOT, reason=AttemptReason.NO_EVENT)


def test_a_model_that_nobody_asked_for_is_a_strangers() -> None:
    said = settled([], [event(3.9, Usage(5, 6), model="other")])
    assert said.events[0].reason is EventReason.OTHER_MODEL


def test_a_time_at_which_nothing_was_under_way_is_a_strangers() -> None:
    said = settled([], [event(5, Usage(5, 6))])
    assert said.events[0].reason is EventReason.OTHER_TIME


def test_tokens_that_none_of_those_under_way_took_are_a_strangers() -> None:
    said = settled([], [event(10.9, Usage(5, 6))])
    assert said.events[0].reason is EventReason.OTHER_TOKENS


def test_what_the_playground_made_is_a_strangers_whatever_it_looks_like() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6), source="playground")])
    assert said.events[0].reason is EventReason.PLAYGROUND
    assert said.attempts[0].billing is Billing.NOT


def test_an_event_without_a_time_is_undecided() -> None:
    said = settled([], [event(-1, Usage(5, 6))])
    assert (said.events[0].whose, said.events[0].reason) == (Whose.UNDECIDED, EventReason.UNTOLD)


def test_two_answers_alike_at_a_time_share_their_two_events() -> None:
    """Which is whose cannot be told: each claim names both, and each answer is given one."""
    said = settled(
        [billed("a", 3, Usage(5, 6)), billed("b", 3.1, Usage(5, 6))], [event(3.9, Usage(5, 6)), event(3.95, Usage(5, 6))]
    )
    assert [claim.reason for claim in said.events[:2]] == [EventReason.ONE_OF_SEVERAL] * 2
    assert [claim.attempts for claim in said.events[:2]] == [(0, 1)] * 2
    assert {claim.event for claim in said.attempts[:2]} == {0, 1}


def test_answers_alike_that_were_charged_differently_keep_what_their_books_say() -> None:
    """One of them was cached: each has its own amount already, and none is settled at the other's."""
    whole, cached, half = Usage(5, 6), Usage(5, 6, 4), Decimal("0.5")
    attempts = [msgspec.structs.replace(billed("a", 3, cached), amount_usd=half), billed("b", 3.1, whole)]
    said = settled(attempts, [event(3.9, whole), event(3.95, cached, cost_usd=half)])
    assert [claim.event for claim in said.attempts[:2]] == [1, 0]


def test_time_tells_answers_alike_apart_where_one_event_fits_one_of_them_only() -> None:
    said = settled(
        [billed("a", 3, Usage(5, 6), 0.95), billed("b", 3.5, Usage(5, 6))], [event(3.45, Usage(5, 6)), event(4.45, Usage(5, 6))]
    )
    assert [claim.attempts for claim in said.events[:2]] == [(0,), (1,)]
    assert [claim.reason for claim in said.attempts[:2]] == [AttemptReason.MATCHED] * 2


def test_of_two_events_for_one_answer_neither_is_decided_and_the_answer_was_charged() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6)), event(3.8, Usage(5, 6))])
    assert [claim.whose for claim in said.events[:2]] == [Whose.UNDECIDED] * 2
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.BILLED, AttemptReason.ALIKE)


def test_where_two_events_for_one_answer_cost_differently_its_amount_is_not_settled() -> None:
    events = [event(3.9, Usage(5, 6)), event(3.8, Usage(5, 6), cost_usd=Decimal(2))]
    said = settled([billed("a", 3, Usage(5, 6), amount_usd=None)], events)
    assert (said.attempts[0].reason, said.attempts[0].event) == (AttemptReason.TOO_MANY, None)


def test_errors_have_the_failed_events_that_cost_nothing() -> None:
    errors = [attempt(f"e-{n}", 10.0 * n + 3, Billing.NOT, 1.0, why="upstream_error") for n in range(20)]
    events = [event(10.0 * n + 3.9, Usage(0, 0), error="upstream_error", cost_usd=Decimal(0), id=f"f{n}") for n in range(20)]
    said = settled(errors, events)
    assert all(claim.whose is Whose.OURS for claim in said.events[:20])
    assert {claim.reason for claim in said.attempts[:20]} == {AttemptReason.FAILED_EVENT}
    assert {claim.billing for claim in said.attempts[:20]} == {Billing.NOT}


def test_a_failed_event_that_costs_is_charged() -> None:
    errors = [attempt(f"e-{n}", 10.0 * n + 3, Billing.NOT, 1.0, why="upstream_error") for n in range(20)]
    said = settled(errors, [event(10.0 * n + 3.9, Usage(0, 0), error="upstream_error", id=f"f{n}") for n in range(20)])
    assert {claim.billing for claim in said.attempts[:20]} == {Billing.BILLED}


def test_an_answer_whose_event_counts_other_tokens_is_matched_by_the_rest() -> None:
    said = settled([billed("a", 3, Usage(5, 60))], [event(3.9, Usage(5, 50))])
    assert (said.events[0].whose, said.events[0].reason) == (Whose.OURS, EventReason.COUNTED_OTHERWISE)
    assert (said.attempts[0].reason, said.attempts[0].event) == (AttemptReason.COUNTED_OTHERWISE, 0)


def test_an_event_with_the_id_of_an_answer_is_its_whatever_else_it_says() -> None:
    found = reconcile(
        [billed("a", 3, Usage(5, 6))], [event(900, Usage(9, 9), model="renamed")], complete_until_ns=OVER, by_id={0: 0}
    )
    assert (found.events[0].whose, found.events[0].reason) == (Whose.OURS, EventReason.BY_ID)
    assert found.attempts[0].event == 0


def test_events_of_which_none_is_ours_settle_nothing() -> None:
    """They are another account's, or another day's: that an attempt is not among them says nothing."""
    found = reconcile(
        [billed("a", 3, Usage(5, 6)), unseen("b", 4)], [event(3.9, Usage(9, 9), model="other")], complete_until_ns=OVER
    )
    assert [claim.billing for claim in found.attempts] == [Billing.BILLED, Billing.MAYBE]
    assert {claim.reason for claim in found.attempts} == {AttemptReason.NO_EVENTS_AT_ALL}


def test_events_without_endpoints_are_matched_by_the_model() -> None:
    attempts, events = background()
    found = reconcile(attempts, [msgspec.structs.replace(one, endpoint=None) for one in events], complete_until_ns=OVER)
    assert all(claim.whose is Whose.OURS for claim in found.events)


def test_nothing_at_all_comes_to_nothing() -> None:
    found = reconcile([], [], complete_until_ns=OVER)
    assert (found.events, found.attempts, found.theirs.count) == ([], [], 0)


def test_a_crowd_of_answers_alike_is_given_its_events_in_the_order_of_time() -> None:
    size = 500
    attempts = [billed(f"c-{n}", 3 + n / 1_000, Usage(5, 6), number=1) for n in range(size)]
    said = settled(attempts, [event(3.9 + n / 1_000, Usage(5, 6), id=f"c{n}") for n in range(size)])
    assert [claim.event for claim in said.attempts[:size]] == list(range(size))
    assert all(claim.whose is Whose.OURS for claim in said.events[:size])


def test_answers_alike_that_their_events_do_not_come_out_even_with_are_told_apart_by_the_rest() -> None:
    """Two were under way together, and two events came when only one of them was: one is left over."""
    attempts = [billed("a", 3, Usage(5, 6), 0.95), billed("b", 3.5, Usage(5, 6), 3)]
    said = settled(attempts, [event(3.2, Usage(5, 6)), event(3.3, Usage(5, 6))])
    assert [claim.whose for claim in said.events[:2]] == [Whose.UNDECIDED] * 2
    assert [claim.billing for claim in said.attempts[:2]] == [Billing.BILLED, Billing.NOT]


def test_a_crowd_that_does_not_come_out_even_is_not_given_events_in_turn() -> None:
    """The last events come when all but a few of the crowd are over."""
    size = 250
    attempts = [billed(f"c-{n}", 3 + n / 1_000, Usage(5, 6), 1 if n else 5) for n in range(size)]
    events = [event((3.9 if n < size // 2 else 7) + n / 1_000, Usage(5, 6), id=f"c{n}") for n in range(size)]
    said = settled(attempts, events)
    assert {claim.reason for claim in said.attempts[1:size]} == {AttemptReason.TOO_FEW}
    assert all(claim.event is None for claim in said.attempts[1:size])


def test_an_error_that_no_event_tells_of_cost_nothing() -> None:
    said = settled([attempt("a", 3, Billing.NOT, 1.0, why="upstream_error")], [])
    assert (said.attempts[0].billing, said.attempts[0].reason) == (Billing.NOT, AttemptReason.NO_EVENT)


def test_an_error_cannot_have_an_event_with_another_one() -> None:
    errors = [attempt("a", 3, Billing.NOT, 1.0, why="http_503"), attempt("b", 13, Billing.NOT, 1.0, why="model_unavailable")]
    events = [
        event(3.9, Usage(0, 0), error="upstream_error", status_code=502, cost_usd=Decimal(0)),
        event(13.9, Usage(0, 0), error="upstream_error", status_code=502, cost_usd=Decimal(0)),
        event(23.9, Usage(0, 0), error="model_unavailable", status_code=503, cost_usd=Decimal(0)),
    ]
    said = settled(errors, events)
    assert [claim.reason for claim in said.events[:2]] == [EventReason.OTHER_OUTCOME] * 2
    assert said.events[2].whose is Whose.STRANGERS


def test_an_event_without_a_cost_is_counted_apart() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6), cost_usd=None)])
    assert (said.ours.unpriced, said.theirs.unpriced, said.strangers.unpriced) == (1, 1, 0)


def test_a_guess_bounds_the_prompt_of_an_attempt_that_was_never_answered() -> None:
    """Replies of the model tell how far guesses are off: half as many tokens as guessed, here."""
    answers = [billed(f"g-{n}", 10.0 * n + 3, Usage(100 + n, 6), guessed_input_tokens=2 * (100 + n)) for n in range(25)]
    own = [event(10.0 * n + 3.9, Usage(100 + n, 6), id=f"g{n}") for n in range(25)]
    lonely = unseen("a", 505, guessed_input_tokens=100)
    said = settled([lonely, *answers], [event(505.9, Usage(50, 8)), event(505.8, Usage(80, 8)), *own])
    assert [claim.whose for claim in said.events[:2]] == [Whose.OURS, Whose.STRANGERS]
    assert said.attempts[0].event == 0


def test_an_answer_that_tells_no_tokens_has_the_one_event_of_its_time() -> None:
    said = settled([attempt("a", 3, Billing.BILLED, 1.0)], [event(3.9, Usage(5, 6))])
    assert (said.attempts[0].event, said.events[0].whose) == (0, Whose.OURS)


def test_an_event_that_tells_no_tokens_is_the_answers_of_its_time() -> None:
    said = settled([billed("a", 3, Usage(5, 6))], [event(3.9, None)])
    assert (said.attempts[0].event, said.events[0].whose) == (0, Whose.OURS)


def test_with_few_answers_nothing_is_known_of_when_events_come() -> None:
    """A handful of attempts: what fits is looked for in all the time that the platform may take."""
    answers = [billed(f"p-{n}", 10.0 * n, Usage(50 + n, 6)) for n in range(6)]
    events = [event(10.0 * n + 0.9, Usage(50 + n, 6), id=f"p{n}") for n in range(6)]
    again = billed("a", 63, Usage(5, 6), number=2)
    found = reconcile(
        [unseen("a", 3), again, *answers],
        [event(40, Usage(5, 6)), event(63.9, Usage(5, 6)), *events],
        complete_until_ns=OVER,
        horizon_ns=50 * SECOND,
    )
    assert found.events[0].whose in (Whose.OURS, Whose.UNDECIDED)
    assert found.attempts[0].billing is not Billing.NOT
