"""The tokens of a minute: when a request may take its share, and what a 429 says of how they are counted."""

from __future__ import annotations

import pytest

from batchrunner.budget.charging import LAXER_AFTER_NS, Belief, Charging
from batchrunner.budget.effective import TokenCeiling
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS, WINDOW_NS, TokenPacer
from batchrunner.budget.tokens import Offer, Taking, Tokens
from batchrunner.budget.two_bucket import TwoBuckets
from batchrunner.budget.window import Window

#: of a token where 6,025 may flow in a minute of 60.25 s
TOKEN_NS = NS // 100
TPM = 6_025
ACTUAL, SETTLE, ESTIMATE = Charging
NOW_NS = 2 * WINDOW_NS + NS
NEVER_NS = 10**18


def tokens(way: Charging = ACTUAL, *, believed: bool = False) -> Tokens:
    """By one way of charging, with nothing taken; the server's minute began a second ago."""
    return Tokens(
        charging=Belief(way, laxer_ns=NEVER_NS),
        buckets=TwoBuckets(wall_offset_ns=0, believed=believed, began_ns=2 * WINDOW_NS),
    )


def taken(own: Tokens, window: Window, offer: Offer, at_ns: int = NOW_NS) -> tuple[Taking, int]:
    """Send a request: what it took, and its cell."""
    cell = window.add(at_ns, offer.tokens, offer.reserved_tokens)
    return own.take(at_ns, window, TPM, offer), cell


@pytest.mark.parametrize(("way", "paced", "asked"), [(ACTUAL, 100, 100), (SETTLE, 100, 900), (ESTIMATE, 900, 900)])
def test_what_a_request_takes_is_a_matter_of_the_way_of_charging(way: Charging, paced: int, asked: int) -> None:
    """The pacer is charged what flows: what will be used, unless the estimate stands for good. The minute is, what is held."""
    own, window = tokens(way), Window()
    taking, _ = taken(own, window, Offer(100, 900))
    assert own.pacer.empty_ns == NOW_NS + paced * TOKEN_NS
    assert (own.buckets.used, taking.bucket_load) == (asked, asked)
    assert taking == Taking(Offer(100, 900), way, 900, 900, asked)
    assert taking.paced == paced


def test_a_request_finds_itself_and_all_before_it() -> None:
    """Its loads by the stricter ways are those of the window with it."""
    own, window = tokens(), Window()
    _, cell = taken(own, window, Offer(100, 900))
    window.settle(cell, -50, -850)
    taking, _ = taken(own, window, Offer(10, 20))
    assert (taking.settle_load, taking.estimate_load, taking.bucket_load) == (70, 920, 110)


# When -----------------------------------------------------------------------------------------------------------------


def test_a_request_waits_for_the_latest_of_pacer_log_and_buckets() -> None:
    """By what it takes of each."""
    own, window = tokens(ESTIMATE), Window()
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 6_025)) == NOW_NS
    taken(own, window, Offer(1, 2_000))
    # 100 more: the pacer has paid for 593 by then; the log has room
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 100)) == NOW_NS + 2_100 * TOKEN_NS - SAFE_WINDOW_NS // 4
    # 4,026 more do not fit beside them
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 4_026)) == NOW_NS + SAFE_WINDOW_NS
    own.pacer = TokenPacer()
    own.buckets.believed = True
    # 99.5 % of the limit are 5,994; 3,995 beside 2,000 of this minute do not fit before a little of it is past
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 3_995)) == 3 * WINDOW_NS + 60 * NS // 2_000 + 70_000_000
    own.charging.way = SETTLE
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 3_994)) == NOW_NS
    own.charging.way = ACTUAL
    assert own.due_ns(NOW_NS, window, TPM, Offer(3_994, 10**6)) == NOW_NS


def test_alone_is_as_if_it_were_the_whole_minutes() -> None:
    """With nothing in the log, however small; for the buckets it is what it is."""
    own, window = tokens(believed=True), Window()
    assert own.due_ns(NOW_NS, window, TPM, Offer(10, 10), alone=True) == NOW_NS
    taken(own, window, Offer(1, 1))
    assert own.due_ns(NOW_NS, window, TPM, Offer(10, 10), alone=True) == NOW_NS + SAFE_WINDOW_NS
    assert own.due_ns(NOW_NS, window, TPM, Offer(10, 10)) == NOW_NS
    own.buckets.used, limit = 5_000, TPM * 1_000 // 995 + 1  # a whole minute's would fit, if there were nothing else
    assert own.due_ns(NOW_NS, Window(), limit, Offer(10, 10), alone=True) == NOW_NS


def test_behind_another_it_is_due_when_both_are_paid_for() -> None:
    """Nothing is taken by asking. Where both do not fit into one minute, a minute later."""
    own, window = tokens(ESTIMATE), Window()
    own.pacer.take(NOW_NS, 1_000, TPM)
    before = Offer(1, 500)
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 100), before=before) == NOW_NS + 1_600 * TOKEN_NS - SAFE_WINDOW_NS // 4
    assert own.pacer.empty_ns == NOW_NS + 1_000 * TOKEN_NS
    own.pacer = TokenPacer()
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 5_525), before=before) == NOW_NS + 500 * TOKEN_NS
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 5_526), before=before) == NOW_NS + SAFE_WINDOW_NS
    assert own.due_ns(NOW_NS, window, TPM, Offer(1, 1), alone=True, before=before) == NOW_NS + SAFE_WINDOW_NS


def test_behind_another_the_log_and_the_buckets_hold_both() -> None:
    own, window = tokens(), Window()
    window.add(NOW_NS, 5_000, 5_000)
    assert own.due_ns(NOW_NS, window, TPM, Offer(1_000, 0), before=Offer(25, 0)) == NOW_NS
    assert own.due_ns(NOW_NS, window, TPM, Offer(1_000, 0), before=Offer(26, 0)) == NOW_NS + SAFE_WINDOW_NS
    own.buckets = TwoBuckets(wall_offset_ns=0, believed=True, began_ns=2 * WINDOW_NS, used=5_000)
    assert own.due_ns(NOW_NS, Window(), TPM, Offer(900, 0), before=Offer(94, 0)) == NOW_NS
    assert own.due_ns(NOW_NS, Window(), TPM, Offer(900, 0), before=Offer(95, 0)) > 3 * WINDOW_NS


def test_the_limit_is_what_the_server_seems_to_let_through() -> None:
    """970 thousandths of it, after a 429 that was for tokens."""
    own, window = tokens(), Window()
    own.ceiling = TokenCeiling(500)
    window.add(NOW_NS, 3_000, 0)
    assert own.due_ns(NOW_NS, window, TPM, Offer(12, 0)) == NOW_NS
    assert own.due_ns(NOW_NS, window, TPM, Offer(13, 0)) == NOW_NS + SAFE_WINDOW_NS
    own.take(NOW_NS, window, TPM, Offer(3_012, 0))
    assert own.pacer.empty_ns == NOW_NS + SAFE_WINDOW_NS


@pytest.mark.parametrize(("tenths_ns", "soon"), [(0, True), (-NS, True), (6_025_000_000, False), (6_024_999_999, True)])
def test_the_burst_overflows_soon_where_more_than_six_tenths_of_it_are_unused(tenths_ns: int, soon: bool) -> None:
    """A quarter of the minute may come at once: 15.0625 s of it, of which 6.025 s are used."""
    own = tokens()
    own.pacer.empty_ns = NOW_NS + tenths_ns
    assert own.overflow_soon(NOW_NS) is soon


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "pacer", "buckets"),
    [(ACTUAL, 30, 30), (SETTLE, 30, 30), (ESTIMATE, 900, 900)],
)
def test_what_a_request_used_is_what_it_took_but_where_the_estimate_stands(way: Charging, pacer: int, buckets: int) -> None:
    own, window = tokens(way), Window()
    taking, _ = taken(own, window, Offer(100, 900))
    own.settle(NOW_NS, NOW_NS, taking, TPM, 30)
    assert own.pacer.empty_ns == NOW_NS + pacer * TOKEN_NS
    assert own.buckets.used == buckets


@pytest.mark.parametrize("way", Charging)
def test_a_refused_request_takes_nothing(way: Charging) -> None:
    own, window = tokens(way), Window()
    taking, _ = taken(own, window, Offer(100, 900))
    own.refuse(NOW_NS, NOW_NS, taking, TPM)
    assert (own.pacer.empty_ns, own.buckets.used) == (NOW_NS, 0)


def test_what_was_taken_by_one_way_is_given_back_by_it() -> None:
    """Though another is believed by now, by which the minute was counted again."""
    own, window = tokens(), Window()
    taking, _ = taken(own, window, Offer(100, 900))
    own.charging.way = ESTIMATE
    own.buckets.recount(NOW_NS, window, ESTIMATE)
    own.refuse(NOW_NS, NOW_NS, taking, TPM)
    assert (own.pacer.empty_ns, own.buckets.used) == (NOW_NS, 0)
    back, window = tokens(ESTIMATE), Window()
    taking, _ = taken(back, window, Offer(100, 900))
    back.charging.way = ACTUAL
    taken(back, window, Offer(900, 900))
    back.buckets.recount(NOW_NS, window, ACTUAL)
    back.refuse(NOW_NS, NOW_NS, taking, TPM)
    assert back.buckets.used == 900


def test_an_accepted_request_is_proof() -> None:
    """It refutes what could not have let it in, and the minute is counted again by what is believed then."""
    own, window = tokens(ESTIMATE, believed=True), Window()
    taken(own, window, Offer(100, 2 * TPM))
    taking, _ = taken(own, window, Offer(10, TPM // 2))
    own.accept(NOW_NS, window, taking, TPM)
    assert (own.charging.way, own.charging.settle_accepted, own.charging.estimate_accepted) == (ACTUAL, 15_062, 15_062)
    assert (own.buckets.used, own.buckets.refuted) == (110, True)


def test_a_laxer_way_that_is_tried_counts_the_minute_again() -> None:
    own, window = tokens(ESTIMATE), Window()
    own.ceiling = TokenCeiling(940, 0)
    own.charging.laxer_ns = 900 * NS
    at_ns = 900 * NS - 1
    _, cell = taken(own, window, Offer(100, 900), at_ns)
    window.settle(cell, -50, -850)
    own.pass_time(at_ns, window, TPM)
    assert (own.charging.way, own.buckets.last + own.buckets.used, own.ceiling.thousandths) == (ESTIMATE, 900, 970)
    own.pass_time(900 * NS, window, TPM)
    assert (own.charging.way, own.buckets.last + own.buckets.used) == (SETTLE, 50)
    assert own.charging.laxer_ns == 900 * NS + LAXER_AFTER_NS


# 429s ------------------------------------------------------------------------------------------------------------------


def test_a_429_is_first_one_of_a_stricter_way_of_charging() -> None:
    """By which the minute was full: it is believed, the minute counted again, and no more taken at once than is left."""
    own, window = tokens(), Window()
    taken(own, window, Offer(100, 5_000))
    taking, _ = taken(own, window, Offer(100, 1_000))
    assert own.explain(NOW_NS, window, taking, TPM, None)
    assert (own.charging.way, own.buckets.used) == (SETTLE, 6_000)
    assert own.pacer.empty_ns == NOW_NS + SAFE_WINDOW_NS // 4 - 25 * TOKEN_NS
    assert own.ceiling == TokenCeiling()


def test_more_than_a_minutes_load_leaves_nothing_to_be_taken_at_once() -> None:
    own, window = tokens(), Window()
    taking, _ = taken(own, window, Offer(100, 9_000))
    assert own.explain(NOW_NS, window, taking, TPM, None)
    assert own.pacer.empty_ns == NOW_NS + SAFE_WINDOW_NS // 4


@pytest.mark.parametrize(("way", "then"), [(ACTUAL, SETTLE), (SETTLE, ESTIMATE)])
def test_what_was_full_when_a_request_was_sent_or_when_its_429_came_explains_it(way: Charging, then: Charging) -> None:
    """Meanwhile something may have left the window, or have been settled; and something may have come."""
    for sent_load, load_now in ((6_000, 0), (0, 6_000)):
        own, window = tokens(way), Window()
        taking = Taking(Offer(1, 1), way, sent_load * (way is ACTUAL), sent_load, 0)
        window.held, window.reserved = load_now * (way is ACTUAL), load_now
        assert own.explain(NOW_NS, window, taking, TPM, None)
        assert own.charging.way is then


@pytest.mark.parametrize(("sent_load", "load_now"), [(5_845, 0), (0, 5_845)])
def test_then_one_of_two_buckets(sent_load: int, load_now: int) -> None:
    """Above 97 % of the limit, when it was sent or now."""
    own, window = tokens(ESTIMATE), Window()
    own.buckets.used = load_now - 1
    taking = Taking(Offer(1, 1), ESTIMATE, 0, 0, sent_load - 1)
    assert not own.explain(NOW_NS, window, taking, TPM, None)
    own.buckets.used = load_now
    assert own.explain(NOW_NS, window, Taking(Offer(1, 1), ESTIMATE, 0, 0, sent_load), TPM, None)
    assert own.buckets.believed
    assert own.ceiling == TokenCeiling()


@pytest.mark.parametrize(
    ("used", "requests_percent", "explained"),
    [
        (5_422, None, False),
        (5_423, None, True),  # more than 90 % of the limit
        (5_423, 88, True),
        (5_423, 89, False),  # of the requests a greater share was used
        (6_025, 97, True),
        (6_025, 98, False),
    ],
)
def test_then_one_of_a_minute_that_was_nearly_used_up(used: int, requests_percent: int | None, explained: bool) -> None:
    """More so than that of requests, by two hundredths: then there are fewer tokens than the limit says."""
    own, window = tokens(), Window()
    window.used = used
    own.buckets.refuted = True
    assert own.explain(NOW_NS, window, Taking(Offer(1, 1), ACTUAL, 0, 0, 0), TPM, requests_percent) is explained
    assert own.ceiling == (TokenCeiling(970, NOW_NS) if explained else TokenCeiling())


@pytest.mark.parametrize("believed", [True, False])
def test_buckets_that_are_believed_in_may_be_what_is_used_up(believed: bool) -> None:
    """And those that are not, are not."""
    own, window = tokens(believed=believed), Window()
    own.buckets.refuted = not believed
    taking = Taking(Offer(1, 1), ACTUAL, 0, 0, 6_000)
    assert own.explain(NOW_NS, window, taking, TPM, None) is believed


def test_explanations_go_by_what_the_server_seems_to_let_through() -> None:
    """Half of the limit: 92 % of that is full."""
    own, window = tokens(), Window()
    own.ceiling = TokenCeiling(500)
    assert own.explain(NOW_NS, window, Taking(Offer(1, 1), ACTUAL, 2_772, 2_772, 0), TPM, None)
    assert own.charging.way is SETTLE
    assert own.pacer.empty_ns == NOW_NS + SAFE_WINDOW_NS // 4 - 240 * SAFE_WINDOW_NS // 3_012
