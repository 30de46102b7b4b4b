"""What the server lets through: lowered by 429s, tried again in proportion to the gain."""

from __future__ import annotations

import pytest

from batchrunner.budget.effective import (
    LONGEST_PROBE_WAIT_NS,
    MUCH_MISSING_WAIT_NS,
    NOTHING_LEFT_WAIT_NS,
    PROBE_ECHO_NS,
    PROBE_STEP_NS,
    TOKENS_RAISED_AFTER_NS,
    RequestCeiling,
    TokenCeiling,
)
from batchrunner.budget.pacer import NS, WINDOW_NS

#: long after anything that came before
LATE_NS = 10_000 * NS


def lowered(
    ceiling: RequestCeiling, accepted: int | None = None, *, times: int = 1, closed: bool = False, limit: int = 50
) -> int:
    """The rate after a 429."""
    ceiling.lower(LATE_NS, limit, accepted, times=times, closed=closed)
    return ceiling.rpm(limit)


@pytest.mark.parametrize(("limit", "missing", "rpm"), [(50, 0, 50), (50, 49, 1), (50, 50, 1), (50, 10**6, 1), (1, 0, 1)])
def test_the_rate_is_what_is_not_missing_and_one_at_the_least(limit: int, missing: int, rpm: int) -> None:
    assert RequestCeiling(missing).rpm(limit) == rpm


@pytest.mark.parametrize("accepted", [None, 0, 45, 100])
def test_a_single_429_takes_a_single_request(accepted: int | None) -> None:
    """Also after a quiet minute, in which nothing was let through because nothing was sent."""
    assert lowered(RequestCeiling(), accepted) == 49


@pytest.mark.parametrize(
    ("times", "accepted", "rpm"),
    [
        (2, 40, 45),  # a tenth at most
        (2, 47, 47),
        (2, 60, 49),  # and one in any case
        (3, 10, 40),
        (6, 10, 25),
        (7, 10, 25),  # five tenths at most
        (2, None, 49),
    ],
)
def test_a_429_that_comes_again_lowers_to_what_was_let_through(times: int, accepted: int | None, rpm: int) -> None:
    """But by no more than a tenth, then two tenths, and so on."""
    assert lowered(RequestCeiling(), accepted, times=times) == rpm


@pytest.mark.parametrize(("times", "accepted", "rpm"), [(2, 10, 10), (2, 0, 1), (2, None, 49), (1, 10, 49)])
def test_where_nothing_is_let_through_at_all_what_was_is_all_there_is(times: int, accepted: int | None, rpm: int) -> None:
    ceiling = RequestCeiling()
    assert lowered(ceiling, accepted, times=times, closed=True) == rpm
    assert ceiling.closed


def test_the_rate_is_never_less_than_one() -> None:
    """However many 429s: ten thousand of them, at a limit of one too, where nothing is missing then."""
    ceiling = RequestCeiling()
    for number in range(10_000):
        ceiling.lower(number, 50, 0, times=number, closed=True)
    assert (ceiling.missing, ceiling.rpm(50)) == (49, 1)
    alone = RequestCeiling()
    assert lowered(alone, 0, limit=1) == 1
    assert (alone.missing, alone.next_ns) == (0, 0)


@pytest.mark.parametrize(("said", "accepted", "rpm"), [(25, 30, 25), (25, 31, 49), (25, None, 49), (0, 0, 49), (60, 50, 49)])
def test_a_limit_that_answers_speak_of_is_believed_where_no_more_was_let_through(
    said: int, accepted: int | None, rpm: int
) -> None:
    """By a fifth at most: it may be one for another window."""
    assert lowered(RequestCeiling(said=said), accepted) == rpm


@pytest.mark.parametrize(
    ("limit", "missing", "failures", "seconds"),
    [
        (50, 25, 0, 45),
        (50, 25, 1, 90),
        (50, 25, 2, 180),
        (50, 25, 3, 180),  # the full rate is to be back within five minutes
        (50, 10, 0, 112.5),
        (50, 10, 4, 1_800),
        (50, 10, 9, 1_800),
        (50, 11, 9, 180),
        (50, 1, 0, 1_125),
        (50, 1, 2, 3_600),
        (100, 50, 0, 22.5),
        (200, 100, 0, 11.25),
        (100_000, 50_000, 0, 11.25),
        (10, 5, 0, 45),
    ],
)
def test_a_try_waits_the_longer_the_less_it_can_gain(limit: int, missing: int, failures: int, seconds: float) -> None:
    """And twice as long with each one that failed, four times at most; the higher the limit, the shorter."""
    ceiling = RequestCeiling(missing - 1, failures=failures, lowered_ns=LATE_NS - WINDOW_NS)
    ceiling.lower(LATE_NS, limit, None, times=1, closed=False)
    assert (ceiling.missing, ceiling.next_ns) == (missing, LATE_NS + round(seconds * NS))


def test_the_bounds_of_the_wait_are_those_that_are_named() -> None:
    assert (MUCH_MISSING_WAIT_NS, LONGEST_PROBE_WAIT_NS) == (180 * NS, 3_600 * NS)


# Tries ----------------------------------------------------------------------------------------------------------------


def test_a_try_that_goes_well_adds_twice_as_much_each_time() -> None:
    """1, 2, 4, 8, then 10, a fifth of the limit, every 20 s; where less than a tenth is missing, one each minute."""
    ceiling = RequestCeiling(40, next_ns=NS)
    ceiling.probe(NS - 1, 50)
    assert ceiling == RequestCeiling(40, next_ns=NS)
    found = []
    for step in range(6):
        now_ns = NS + step * PROBE_STEP_NS
        ceiling.probe(now_ns, 50)
        found.append(ceiling.missing)
        assert (ceiling.raised_ns, ceiling.tried_from) == (now_ns, 40)
    assert found == [39, 37, 33, 25, 15, 5]
    ceiling.probe(NS + 6 * PROBE_STEP_NS, 50)
    assert (ceiling.missing, ceiling.tried_from, ceiling.next_ns) == (4, 5, NS + 6 * PROBE_STEP_NS + WINDOW_NS)


def test_where_a_fifth_of_the_limit_is_one_a_try_adds_one_each_time() -> None:
    ceiling = RequestCeiling(8)
    for step, missing in enumerate((7, 6, 5)):
        ceiling.probe(step * PROBE_STEP_NS, 9)
        assert ceiling.missing == missing


def test_near_the_limit_a_thirtieth_of_it_has_to_prove_itself_for_a_window() -> None:
    ceiling = RequestCeiling(60, next_ns=NS)
    ceiling.probe(NS, 600)
    assert (ceiling.missing, ceiling.tried_from, ceiling.next_ns) == (40, 60, NS + WINDOW_NS)
    ceiling.probe(NS + WINDOW_NS, 600)
    assert (ceiling.missing, ceiling.tried_from) == (20, 40)


def test_after_days_of_silence_all_is_tried_at_once() -> None:
    """And nothing is missing then: no more is ever asked for than the limit."""
    for limit in (1, 2, 50, 100_000):
        ceiling = RequestCeiling(limit - 1, limit=limit)
        ceiling.probe(10**17, limit)
        assert (ceiling.missing, ceiling.rpm(limit)) == (0, limit)


@pytest.mark.parametrize(
    ("tried_from", "accepted", "rpm", "failures"),
    [
        (30, None, 20, 3),  # back to where it was tried from
        (30, 22, 20, 3),
        (30, 23, 23, 3),  # unless clearly more was let through
        (30, 60, 29, 3),
        (-1, None, 29, 2),
    ],
)
def test_a_429_soon_after_a_raise_is_its_doing(tried_from: int, accepted: int | None, rpm: int, failures: int) -> None:
    ceiling = RequestCeiling(20, failures=2, tried_from=tried_from, raised_ns=LATE_NS - PROBE_ECHO_NS + 1, step=8)
    assert lowered(ceiling, accepted) == rpm
    assert (ceiling.failures, ceiling.tried_from, ceiling.step) == (failures, -1, 1)


def test_near_the_limit_half_of_what_was_tried_stays() -> None:
    """From 45 to 49, refused: 47. The edge is closed in on."""
    ceiling = RequestCeiling(1, tried_from=5, raised_ns=LATE_NS)
    assert lowered(ceiling) == 47
    assert lowered(RequestCeiling(1, tried_from=6, raised_ns=LATE_NS)) == 44


@pytest.mark.parametrize(
    ("raised_ago_ns", "lowered_ago_ns", "failures"),
    [
        (PROBE_ECHO_NS, 2 * WINDOW_NS, 0),
        (PROBE_ECHO_NS, 2 * WINDOW_NS - 1, 3),
        (PROBE_ECHO_NS - 1, 2 * WINDOW_NS, 3),
    ],
)
def test_failures_are_forgotten_where_a_429_comes_of_itself(raised_ago_ns: int, lowered_ago_ns: int, failures: int) -> None:
    """After two minutes without one, and long after a raise: something else has changed."""
    ceiling = RequestCeiling(10, failures=3, raised_ns=LATE_NS - raised_ago_ns, lowered_ns=LATE_NS - lowered_ago_ns)
    lowered(ceiling)
    assert ceiling.failures == failures
    assert ceiling.lowered_ns == LATE_NS


@pytest.mark.parametrize(("was", "raised_ago_ns", "then"), [(True, PROBE_ECHO_NS - 1, True), (True, PROBE_ECHO_NS, False)])
def test_what_was_closed_is_so_until_it_was_refused_in_another_way(was: bool, raised_ago_ns: int, then: bool) -> None:
    """A try's own 429 says nothing new of that."""
    ceiling = RequestCeiling(10, closed=was, raised_ns=LATE_NS - raised_ago_ns)
    lowered(ceiling)
    assert ceiling.closed is then


# Silence --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("closed", "failures", "missing"), [(False, 2, 20), (False, 1, 0), (True, 2, 0)])
def test_after_long_silence_only_a_servers_own_spacing_stays(closed: bool, failures: int, missing: int) -> None:
    """Tried twice in vain, and single requests let through all the time; it is tried again after the usual wait."""
    ceiling = RequestCeiling(20, failures=failures, closed=closed, tried_from=30)
    ceiling.expire(NS, 50)
    assert (ceiling.missing, ceiling.tried_from) == (missing, -1)
    assert ceiling.next_ns == (NS + 180 * NS if missing else 0)


def test_where_nothing_is_missing_silence_plans_nothing() -> None:
    ceiling = RequestCeiling(0, failures=2)
    ceiling.expire(NS, 50)
    assert ceiling.next_ns == 0


# What answers say ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "said", "missing"),
    [
        (25, 40, 10),  # it has risen
        (25, 50, 0),
        (25, 14_400, 0),
        (0, 50, 25),  # nobody spoke of it before
        (50, 50, 25),
        (60, 50, 25),
        (10, 25, 25),  # no more than there is
        (1, 40, 10),
        (25, None, 25),
        (25, 0, 25),
    ],
)
def test_a_limit_that_is_said_to_rise_is_adopted(before: int, said: int | None, missing: int) -> None:
    """Up to the configured one. One that falls lowers nothing by itself."""
    ceiling = RequestCeiling(25, said=before)
    ceiling.hear(NS, 50, said, None)
    assert ceiling.missing == missing
    assert ceiling.said == (said or before)
    assert (ceiling.raised_ns, ceiling.tried_from) == ((NS, 25) if missing < 25 else (-PROBE_ECHO_NS, -1))


def test_a_rise_that_was_not_true_is_taken_back() -> None:
    """The 429 that it costs is its doing: back to where it was, and a try has failed."""
    ceiling = RequestCeiling(25, said=25)
    ceiling.hear(NS, 50, 50, None)
    ceiling.lower(2 * NS, 50, None, times=1, closed=False)
    assert (ceiling.missing, ceiling.failures) == (25, 1)


def test_where_nothing_is_missing_what_is_said_is_only_remembered() -> None:
    ceiling = RequestCeiling(next_ns=5)
    ceiling.hear(NS, 50, 25, 50)
    assert ceiling == RequestCeiling(next_ns=5, said=25)


def test_a_seventh_of_the_limit_is_much() -> None:
    ceiling = RequestCeiling(25, next_ns=500 * NS)
    ceiling.hear(NS, 49, None, 7)
    assert ceiling.next_ns == NS


@pytest.mark.parametrize(
    ("left", "before_ns", "next_ns"),
    [
        (8, 500 * NS, NS),  # a seventh of the limit or more
        (7, 500 * NS, 500 * NS),
        (8, 0, 0),
        (1, 0, 0),
        (0, 0, NS + NOTHING_LEFT_WAIT_NS),
        (-3, 0, NS + NOTHING_LEFT_WAIT_NS),
        (0, 500 * NS, 500 * NS),
        (None, 500 * NS, 500 * NS),
    ],
)
def test_what_is_left_hastens_a_try_or_puts_it_off(left: int | None, before_ns: int, next_ns: int) -> None:
    ceiling = RequestCeiling(25, next_ns=before_ns)
    ceiling.hear(NS, 50, None, left)
    assert ceiling.next_ns == next_ns


@pytest.mark.parametrize(
    ("before", "said", "then"), [(25, 50, 25), (50, 25, 25), (0, 25, 25), (25, None, 25), (25, 0, 25), (0, None, 0)]
)
def test_a_429_says_less_but_never_more(before: int, said: int | None, then: int) -> None:
    """Nothing is raised, and no try hastened, because of one; what it says of more, an answer has to say too."""
    ceiling = RequestCeiling(25, said=before, next_ns=500 * NS)
    ceiling.hear(NS, 50, said, 50, refused=True)
    assert ceiling == RequestCeiling(25, said=then, next_ns=500 * NS)
    ceiling.next_ns = 0
    ceiling.hear(NS, 50, None, 1, refused=True)
    assert ceiling.next_ns == 0
    ceiling.hear(NS, 50, None, 0, refused=True)
    assert ceiling.next_ns == NS + NOTHING_LEFT_WAIT_NS


@pytest.mark.parametrize(("after_ns", "believed"), [(NOTHING_LEFT_WAIT_NS - 1, False), (NOTHING_LEFT_WAIT_NS, True)])
def test_soon_after_a_429_what_is_said_of_more_is_not_believed_yet(after_ns: int, believed: bool) -> None:
    """An answer may have been written before; ten seconds later it is, though said for the second time."""
    for said, left in ((50, None), (None, 50)):
        ceiling = RequestCeiling(25, said=25, next_ns=500 * NS, lowered_ns=NS)
        ceiling.hear(NS + after_ns, 50, said, left)
        assert (ceiling.missing < 25 or ceiling.next_ns < 500 * NS) is believed
        ceiling.hear(NS + NOTHING_LEFT_WAIT_NS, 50, said, left)
        assert ceiling.missing < 25 or ceiling.next_ns < 500 * NS


# Another limit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "missing", "limit", "rpm"),
    [
        (50, 10, 50, 40),
        (100_000, 50_000, 10, 10),  # what was let through is more than is asked for now
        (50, 40, 30, 10),
        (50, 49, 1, 1),
        (50, 10, 500, 490),
        (0, 10, 50, 40),  # a state that does not say what its limit was
    ],
)
def test_under_another_limit_what_was_let_through_still_is(was: int, missing: int, limit: int, rpm: int) -> None:
    """Where that is less; of a limit that was raised the same is missing as before. A try is not gone on with."""
    ceiling = RequestCeiling(missing, limit=was, tried_from=was - 1)
    ceiling.adopt(limit)
    assert (ceiling.rpm(limit), ceiling.limit) == (rpm, limit)
    assert ceiling.tried_from == (was - 1 if was in {0, limit} else -1)


# Tokens ----------------------------------------------------------------------------------------------------------------


def test_a_429_lowers_the_tokens_by_3_percent() -> None:
    ceiling = TokenCeiling()
    ceiling.lower(NS)
    assert (ceiling, ceiling.tpm(2_000)) == (TokenCeiling(970, NS), 1_940)
    ceiling.lower(2 * NS)
    assert ceiling == TokenCeiling(940, 2 * NS)


def test_tokens_never_fall_to_none() -> None:
    """Ten thousand 429s leave a thousandth, and one token at the least."""
    ceiling = TokenCeiling()
    for number in range(10_000):
        ceiling.lower(number)
    assert [ceiling.thousandths, ceiling.tpm(2_000_000), ceiling.tpm(1), ceiling.tpm(999)] == [1, 2_000, 1, 1]


def test_tokens_come_back_every_ten_minutes() -> None:
    """To the nanosecond; after a day of silence all of them, and never more than all."""
    ceiling = TokenCeiling(940, NS)
    ceiling.probe(NS + TOKENS_RAISED_AFTER_NS - 1)
    assert ceiling == TokenCeiling(940, NS)
    ceiling.probe(NS + TOKENS_RAISED_AFTER_NS)
    assert ceiling == TokenCeiling(970, NS + TOKENS_RAISED_AFTER_NS)
    ceiling.probe(NS + 2 * TOKENS_RAISED_AFTER_NS)
    assert ceiling == TokenCeiling(1_000, NS + 2 * TOKENS_RAISED_AFTER_NS)
    ceiling.probe(10**18)
    assert ceiling == TokenCeiling(1_000, NS + 2 * TOKENS_RAISED_AFTER_NS)
    least = TokenCeiling(1)
    least.probe(5 * 86_400 * NS)
    assert least.thousandths == 1_000


def test_after_long_silence_all_tokens_are_there() -> None:
    ceiling = TokenCeiling(500, NS)
    ceiling.expire()
    assert ceiling == TokenCeiling(1_000, NS)
