"""The benchmark's servers, workloads and yardsticks against naive references and arrivals worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from batchrunner import budget
from batchrunner.simulator.limits import Accepted, Refused
from batchrunner.simulator.settings import Charging
from benchmarks.limiter.clairvoyant import passage
from benchmarks.limiter.servers import SERVERS, Server
from benchmarks.limiter.strain import STRAIN_BEGINS_NS, STRAIN_ENDS_NS, STRAINS
from benchmarks.limiter.timers import HeapTimers
from benchmarks.limiter.workloads import Work, jobs_of

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def server_of(name: str, rpm: int, tpm: int = 10**9, charging: Charging = Charging.ESTIMATE, *, phase_ns: int = 0) -> Server:
    return Server(SERVERS[name], rpm, tpm, charging, phase_ns=phase_ns)


def let_in(server: Server, at_ns: int, tokens: int = 1) -> bool:
    return isinstance(server.arrive(at_ns, tokens), Accepted)


# ------------------------------------------------------------------------------------------- requests, counted naively

Rule = Callable[[list[int], int, int], bool]


def in_span(span_ns: int, most: Callable[[int], int]) -> Rule:
    return lambda counted, at, rpm: sum(then // span_ns == at // span_ns for then in counted) < most(rpm)


def anchored(counted: list[int], at: int, rpm: int) -> bool:
    began, used = -MINUTE, 0
    for then in counted:
        began, used = (then, 1) if then >= began + MINUTE else (began, used + 1)
    return at >= began + MINUTE or used < rpm


def two_bucket(counted: list[int], at: int, *, strict: bool) -> Fraction:
    minutes = [then // MINUTE for then in counted]
    last = minutes.count(at // MINUTE - 1) * Fraction(MINUTE - at % MINUTE, MINUTE)
    return minutes.count(at // MINUTE) + (last if strict else Fraction(int(last)))


def bucket(capacity: int) -> Rule:
    def rule(counted: list[int], at: int, rpm: int) -> bool:
        size = Fraction(capacity or rpm)
        level, before = size, 0
        for then in [*counted, at]:
            level, before = min(size, level + Fraction((then - before) * rpm, MINUTE)) - 1, then
        return level >= 0

    return rule


def both(*rules: Rule) -> Rule:
    return lambda counted, at, rpm: all(rule(counted, at, rpm) for rule in rules)


RULES: dict[str, Rule] = {
    "fixed": in_span(MINUTE, lambda rpm: rpm),
    "anchored": anchored,
    "sliding": lambda counted, at, rpm: sum(then > at - MINUTE for then in counted) < rpm,
    "sliding-counts": lambda counted, at, rpm: sum(then > at - MINUTE for then in counted) < rpm,
    "two-bucket": lambda counted, at, rpm: two_bucket(counted, at, strict=False) + 1 <= rpm,
    "two-bucket-strict": lambda counted, at, rpm: two_bucket(counted, at, strict=True) + 1 <= rpm,
    "bucket-full": bucket(0),
    "bucket-10": bucket(10),
    "bucket-3": bucket(3),
    "bucket-2": bucket(2),
    "spacing": bucket(1),
    "seconds": both(in_span(MINUTE, lambda rpm: rpm), in_span(SECOND, lambda rpm: -(-rpm // 60))),
    "ten-seconds": both(in_span(MINUTE, lambda rpm: rpm), in_span(10 * SECOND, lambda rpm: rpm // 6)),
}


def test_every_server_has_a_reference() -> None:
    assert set(RULES) == set(SERVERS)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("rpm", [20, 40])
def test_a_server_lets_in_what_a_naive_count_does(name: str, rpm: int) -> None:
    """150 arrivals, some in bursts, some evenly spaced, on a server whose clock is not ours: one by one as the rule says."""
    rng = random.Random(f"{name} {rpm}")
    phase_ns = rng.randrange(MINUTE)
    server = server_of(name, rpm, phase_ns=phase_ns)
    counted: list[int] = []
    at_ns = refused = 0
    for _ in range(150):
        at_ns += rng.choice([0, SECOND // 50, SECOND, MINUTE // rpm, MINUTE // rpm, rng.randrange(2 * MINUTE // rpm)])
        fits = RULES[name](counted, phase_ns + at_ns, rpm)
        assert let_in(server, at_ns) == fits
        refused += not fits
        if fits or name == "sliding-counts":
            counted.append(phase_ns + at_ns)
    assert 0 < refused < 150


@pytest.mark.parametrize(("name", "expected"), [("ten-seconds", 48), ("seconds", 50), ("spacing", 50), ("fixed", 50)])
def test_what_a_server_lets_in_for_ever(name: str, expected: int) -> None:
    assert SERVERS[name].sustained_rpm(50) == expected


# ------------------------------------------------------------------------------------------------------------- tokens


def test_estimate_charging_takes_prompt_and_cap_for_a_minute() -> None:
    """80 of 100 tokens are taken, whatever is used: nothing of 80 fits until the minute is over."""
    server = server_of("sliding", 50, 100)
    taken = server.arrive(0, 80)
    assert isinstance(taken, Accepted)
    server.end(SECOND, taken, 10)
    assert not let_in(server, 2 * SECOND, 80)
    assert let_in(server, MINUTE, 80)


def test_settle_charging_gives_back_at_the_end() -> None:
    server = server_of("sliding", 50, 100, Charging.SETTLE)
    taken = server.arrive(0, 80)
    assert isinstance(taken, Accepted)
    assert not let_in(server, SECOND, 80)
    server.end(2 * SECOND, taken, 10)
    assert let_in(server, 3 * SECOND, 80)


def test_actual_charging_takes_nothing_before_the_end() -> None:
    """Three of 80 come in at once; when the first two have ended, 160 of 100 are used, and nobody comes in for a minute."""
    server = server_of("sliding", 50, 100, Charging.ACTUAL)
    taken = [server.arrive(0, 80) for _ in range(3)]
    for one in taken[:2]:
        assert isinstance(one, Accepted)
        server.end(SECOND, one, 80)
    assert not let_in(server, 2 * SECOND, 1)
    assert let_in(server, MINUTE + SECOND, 1)


@pytest.mark.parametrize(("hints", "expected"), [(True, 60 * SECOND), (False, None)])
def test_a_hint_is_in_whole_seconds_or_not_there(hints: bool, expected: int | None) -> None:
    """Half a second after the one request of the minute: 59.5 s to wait, which a header says as 60."""
    server = Server(SERVERS["sliding"], 1, 100, Charging.ESTIMATE, phase_ns=0, hints=hints)
    assert let_in(server, 0)
    refused = server.arrive(SECOND // 2, 1)
    assert isinstance(refused, Refused)
    assert server.hint_ns(refused) == expected


def test_headers_say_how_things_stand_when_they_leave() -> None:
    """Limit, left and reset of both, after one request of 80 tokens and 10 used; and each 429 says when to come back."""
    server = Server(SERVERS["sliding"], 2, 100, Charging.SETTLE, phase_ns=7 * SECOND, headers=True)
    assert server.said(0) == budget.Hints(2, 2, 0, 100, 100, 0)
    taken = server.arrive(0, 80)
    assert isinstance(taken, Accepted)
    assert server.said(SECOND) == budget.Hints(2, 1, 59 * SECOND, 100, 20, 59 * SECOND)
    server.end(2 * SECOND, taken, 10)
    assert server.said(2 * SECOND) == budget.Hints(2, 1, 58 * SECOND, 100, 90, 58 * SECOND)
    refused = server.arrive(2 * SECOND + 1, 91)
    assert isinstance(refused, Refused)
    assert server.hint_ns(refused) == 58 * SECOND


def test_headers_follow_a_change_of_the_limit() -> None:
    """Halved after three of four: nothing is left of two, and no less than nothing."""
    server = Server(SERVERS["fixed"], 4, 100, Charging.ESTIMATE, phase_ns=0, headers=True)
    assert all(let_in(server, 0) for _ in range(3))
    server.change(SECOND, 2)
    said = server.said(SECOND)
    assert said is not None
    assert (said.request_limit, said.requests_left) == (2, 0)


@pytest.mark.parametrize("hints", [True, False])
def test_a_server_without_headers_says_nothing_of_its_limits(hints: bool) -> None:
    assert Server(SERVERS["fixed"], 4, 100, Charging.ESTIMATE, phase_ns=0, hints=hints).said(0) is None


@pytest.mark.parametrize(
    ("workload", "reserved", "used"),
    [
        ("short", 1_100, 720),
        ("heavy", 83_000, 83_000),
        ("mixed", 38_400, 38_200),
        ("bigmax", 128_600, 1_600),
        ("bigout", 128_600, 56_000),
    ],
)
def test_a_workload_is_as_large_as_it_says(workload: str, reserved: int, used: int) -> None:
    """The means of 4,000 jobs, to within 5 %; no job uses more than it asked for."""
    jobs = jobs_of(workload, 4_000, random.Random(1))
    assert sum(work.reserved for work in jobs) / len(jobs) == pytest.approx(reserved, rel=0.05)
    assert sum(work.used for work in jobs) / len(jobs) == pytest.approx(used, rel=0.05)
    assert all(work.used <= work.reserved for work in jobs)


@pytest.mark.parametrize(
    ("workload", "mean_seconds"), [("short", 15.25), ("bigmax", 10.6), ("bigmax-slow", 15.25), ("bigout", 30)]
)
def test_answers_take_half_a_second_to_half_a_minute(workload: str, mean_seconds: float) -> None:
    """Any time in between; long ones as long as writing takes, which for the longest is the whole half minute."""
    seconds = [work.latency_ns / SECOND for work in jobs_of(workload, 4_000, random.Random(1))]
    assert sum(seconds) / len(seconds) == pytest.approx(mean_seconds, rel=0.05)
    assert 0.5 <= min(seconds) <= max(seconds) <= 30


# --------------------------------------------------------------------------------------------------------- yardsticks


def works(*reserved: int) -> list[Work]:
    return [Work(tokens, 0, 0, 5 * SECOND) for tokens in reserved]


@pytest.mark.parametrize(
    ("name", "admitted_seconds"),
    [("sliding", 120), ("anchored", 120), ("bucket-full", 85.2), ("spacing", 144), ("fixed", 120), ("ten-seconds", 150)],
)
def test_the_clairvoyant_client_takes_all_that_there_is(name: str, admitted_seconds: float) -> None:
    """121 jobs at 50 a minute from the first second of a minute; the last one is let in after so many seconds."""
    one = passage(server_of(name, 50), works(*[1] * 121))
    assert one.admitted_ns == round(admitted_seconds * SECOND)
    assert one.finished_ns == one.admitted_ns + 5 * SECOND


def test_the_clairvoyant_client_may_promise_to_keep_to_the_limit() -> None:
    """A full bucket lets 100 in within 60 s, an own log of 50 does not."""
    assert passage(server_of("bucket-full", 50), works(*[1] * 90)).admitted_ns < 50 * SECOND
    assert passage(server_of("bucket-full", 50), works(*[1] * 90), own_rpm=50).admitted_ns == 60 * SECOND


def test_looking_ahead_fills_what_a_large_job_leaves() -> None:
    """60, 60, 40 and 40 of 100 a minute: in their order the last one comes in after two minutes, else after one."""
    jobs = works(60, 60, 40, 40)
    assert passage(server_of("sliding", 50, 100), jobs).admitted_ns == 2 * MINUTE
    assert passage(server_of("sliding", 50, 100), jobs, look_ahead=3).admitted_ns == MINUTE


def test_what_is_given_back_is_used_at_once() -> None:
    """Settled after 5 s to nothing: each of three that take all of the limit waits for the one before."""
    server = server_of("sliding", 50, 100, Charging.SETTLE)
    assert passage(server, [Work(0, 100, 0, 5 * SECOND) for _ in range(3)]).admitted_ns == 10 * SECOND


# -------------------------------------------------------------------------------------------------------------- strain


def let_in_between(server: Server, timers: HeapTimers, from_ns: int, to_ns: int) -> int:
    """How many of ten requests a second come in."""
    accepted = 0

    def ask() -> None:
        nonlocal accepted
        accepted += let_in(server, timers.now_ns)

    for at_ns in range(from_ns, to_ns, SECOND // 10):
        timers.at(at_ns, ask)
    timers.run(to_ns - 1)
    return accepted


def test_half_of_the_limit_is_gone_for_a_quarter_of_an_hour() -> None:
    """Five minutes before, ten meanwhile and five after, each from its second minute on."""
    timers, server = HeapTimers(), server_of("fixed", 50)
    STRAINS["halved"](timers, server, 50)
    assert let_in_between(server, timers, STRAIN_BEGINS_NS - 5 * MINUTE, STRAIN_BEGINS_NS) == 5 * 50
    assert let_in_between(server, timers, STRAIN_BEGINS_NS + MINUTE, STRAIN_ENDS_NS) == 14 * 25
    assert let_in_between(server, timers, STRAIN_ENDS_NS + MINUTE, STRAIN_ENDS_NS + 6 * MINUTE) == 5 * 50


@pytest.mark.parametrize("strain", ["stranger", "stranger-gives-up"])
def test_a_stranger_takes_half_of_what_nobody_else_wants(strain: str) -> None:
    """In the last of its minutes 25 of 50 are left, from the next one on all of them."""
    timers, server = HeapTimers(), server_of("fixed", 50)
    STRAINS[strain](timers, server, 50)  # type: ignore[index]
    assert let_in_between(server, timers, STRAIN_ENDS_NS - SECOND, STRAIN_ENDS_NS) == 10
    timers.run(STRAIN_ENDS_NS)
    assert let_in_between(server, timers, STRAIN_ENDS_NS, STRAIN_ENDS_NS + MINUTE) == 50
