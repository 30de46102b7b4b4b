"""The limiter's benchmark: our admission in it is the real one, its peers do as they are known to, its figures add up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from aiolimiter import AsyncLimiter
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.clock import NS_PER_SECOND
from benchmarks.limiter import cost, together
from benchmarks.limiter.adaptive import Adaptive
from benchmarks.limiter.aio import VirtualLoop
from benchmarks.limiter.cells import OURS, POLICIES, Cell, Run, all_cells, run
from benchmarks.limiter.clairvoyant import Passage
from benchmarks.limiter.cost import Cost
from benchmarks.limiter.goals import Whole, goals, verdicts
from benchmarks.limiter.measures import Figures, best_of, measure, most_per_minute, pooled, recovery_seconds
from benchmarks.limiter.network import Network, Send
from benchmarks.limiter.ours import Client
from benchmarks.limiter.peers import Aimd, Cookbook, FullBucket, Semaphore
from benchmarks.limiter.servers import SERVERS
from benchmarks.limiter.strain import STRAIN_ENDS_NS
from benchmarks.limiter.sweep import sweep
from benchmarks.limiter.tables import goals_table, tables

SECOND = NS_PER_SECOND
#: servers that an even pace never meets a refusal on, whatever way they count
EASY = set(SERVERS) - {"two-bucket-strict", "spacing", "ten-seconds"}
WHOLE = Whole(Cost(1, 1, 1), Cost(1, 1, 1))


class TrioTimers:
    """The benchmark's timers as tasks of a trio loop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._began = trio.current_time()

    @property
    def now_ns(self) -> int:
        return round((trio.current_time() - self._began) * SECOND)

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        async def wait() -> None:
            await trio.sleep_until(self._began + at_ns / SECOND)
            call()

        self._nursery.start_soon(wait)


@pytest.mark.parametrize(
    "cell",
    [
        Cell("steady-50", "spacing", "short", 100),
        Cell("tokens", "sliding", "bigmax", 60, hints=True),
        Cell("tokens", "fixed", "bigmax", 60, headers=True),
    ],
    ids=lambda cell: cell.server,
)
async def test_the_stepped_admission_sends_what_the_real_one_does(cell: Cell, autojump_clock: MockClock) -> None:
    """Request by request at the same nanosecond, to within what a float loses: 429s, canaries and token waits included."""
    async with trio.open_nursery() as nursery:
        timers = TrioTimers(nursery)
        network = Network(timers, cell.opened(3), cell.work(3), random.Random("3 network"))
        client = Client(timers, network, budget.Limits(cell.rpm, cell.tpm), random.Random("3 client"))
        await client.dispatch()
    stepped = run(cell, OURS, 3).sends
    assert len(stepped) == len(network.sends) > len(network.jobs)
    for ours, real in zip(stepped, network.sends, strict=True):
        assert (ours.number, ours.accepted) == (real.number, real.accepted)
        assert abs(ours.sent_ns - real.sent_ns) < 1_000


def test_the_admission_is_told_what_the_headers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each answer and each 429 of a server that says it; what is left is never more than the limit."""
    told: list[budget.Event] = []
    step = MemoryStore.step

    async def watched(store: MemoryStore, now_ns: int, event: budget.Event) -> budget.Decision:
        told.append(event)
        return await step(store, now_ns, event)

    monkeypatch.setattr(MemoryStore, "step", watched)
    run(Cell("steady-50", "spacing", "short", 40, headers=True), OURS, 1)
    ends = [event for event in told if isinstance(event, budget.Settle | budget.Refuse)]
    assert {type(event) for event in ends} == {budget.Settle, budget.Refuse}
    for event in ends:
        assert event.hints is not None
        assert event.hints.request_limit == 50
        assert 0 <= (event.hints.requests_left or 0) <= 50


@pytest.mark.parametrize("name", SERVERS)
def test_a_run_comes_through_on_every_server(name: str) -> None:
    """200 jobs on each server: all are accepted, no minute holds more sends than the limit, none is refused on an easy one."""
    cell = Cell("steady-50", name, "short", 200)
    figures = measure(cell, 1, run(cell, OURS, 1), *best_of(cell, 1))
    assert (figures.stuck, figures.lost) == (0, 0)
    assert figures.peak <= 1
    if name in EASY:
        assert figures.steady_share > 0.99
        assert figures.refused == 0
    else:
        assert figures.refused > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_client_does_the_same_again(policy: str) -> None:
    """The same seed, the same sends; another seed, others. All jobs are accounted for."""
    cell = Cell("steady-50", "bucket-10", "short", 60)
    one, again, other = (run(cell, policy, seed) for seed in (1, 1, 2))
    assert one.sends == again.sends != other.sends
    assert sum(send.accepted for send in one.sends) + one.lost == 60


@pytest.mark.parametrize("policy", POLICIES)
def test_no_client_waits_for_ever_for_a_fraction_of_a_nanosecond(policy: str) -> None:
    """Some backoffs of this run end where a float of seconds rounds to a nanosecond before them."""
    one = run(Cell("small", "ten-seconds", "short", 40), policy, 1004)
    assert sum(send.accepted for send in one.sends) + one.lost == 40


@pytest.mark.parametrize("policy", ["cookbook", "full-bucket", "semaphore", "aiolimiter"])
def test_whoever_is_refused_by_a_bucket_of_ten_has_sent_more(policy: str) -> None:
    """A burst of 50 meets a bucket of 10: at least 30 are refused, before anybody knows."""
    cell = Cell("steady-50", "bucket-10", "short", 60)
    sends = run(cell, policy, 1).sends
    assert sum(not send.accepted for send in sends[:50]) >= 30


# ---------------------------------------------------------------------------------------------------------------- peers


def test_the_cookbook_sends_one_request_between_two_pauses() -> None:
    """After 429s at 1 s and 2 s: one request at 16 s, the next at 17 s, then one each millisecond."""
    peer = Cookbook(50, 1_000)
    peer.refused(1.0, 0.5, 1, None)
    assert peer.earliest(1.0, 1) == 16
    peer.refused(2.0, 0.5, 1, None)
    assert peer.earliest(3.0, 1) == 16
    peer.sent(16.0, 1)
    assert peer.earliest(16.0, 1) == 17
    peer.sent(17.0, 1)
    assert peer.earliest(17.0, 1) == pytest.approx(17.001)


@pytest.mark.parametrize(("refunds", "seconds"), [(True, 0), (False, 60)])
def test_a_full_bucket_waits_for_its_tokens_or_gets_them_back(refunds: bool, seconds: int) -> None:
    peer = FullBucket(50, 1_000, refunds=refunds)
    peer.sent(0.0, 1_000)
    peer.accepted(0.0, 1_000, 0, 0)
    assert peer.earliest(0.0, 1_000) == pytest.approx(seconds)


@pytest.mark.parametrize(("hint", "until"), [(None, 11), (30.0, 31), (900.0, 121)])
def test_a_full_bucket_pauses_as_long_as_it_is_told(hint: float | None, until: float) -> None:
    """10 s where nothing is said, and never more than two minutes."""
    peer = FullBucket(50, 1_000)
    assert peer.refused(1.0, 0.5, 1, hint) == until
    assert peer.earliest(1.0, 1) == until


def test_additive_increase_and_one_decrease_a_flight() -> None:
    """60 a minute: a second apart; after two 429s of one flight two seconds; a minute later a second again."""
    peer = Aimd(60, 10**9)
    peer.sent(0.0, 1)
    assert peer.earliest(0.0, 1) == 1
    peer.refused(0.5, 0.0, 1, None)
    peer.refused(0.6, 0.1, 1, None)
    assert peer.earliest(0.6, 1) == 2.5
    peer.sent(60.0, 1)
    assert peer.earliest(60.0, 1) == pytest.approx(61, abs=0.06)


def test_a_semaphore_has_twice_the_places_that_the_limit_needs() -> None:
    """50 a minute of 15.5 s each are 13 at once; nobody gets out of its backoff before a second."""
    peer = Semaphore(50, 0, random.Random(1))
    assert peer.places == 26
    backoffs = [peer.refused(100.0, 99.0, tries, None) - 100 for tries in range(1, 7) for _ in range(50)]
    assert min(backoffs) >= 1
    assert 50 < max(backoffs) <= 60


def test_the_adaptive_rate_falls_to_seven_tenths_and_comes_back_as_a_cubic() -> None:
    """Ten a second measured at the first 429: 7 a second then, 10 again after the cube root of 10 x 0.3 / 0.4 seconds."""
    peer = Adaptive(600, 0, random.Random(1))
    for at in range(1, 200):
        peer.accepted(at / 10, 1, 1, 0)
    peer.refused(20.0, 19.9, 1, None)
    assert peer.earliest(20.0, 1) == pytest.approx(20.0 + 1 / 7, rel=0.02)
    for at in range(201, 220):
        peer.accepted(at / 10, 1, 1, 0)
    peer.accepted(20 + 7.5 ** (1 / 3), 1, 1, 0)
    assert peer._rate == pytest.approx(10, rel=0.001)


def test_the_adaptive_purse_pays_for_a_hundred_retries() -> None:
    peer = Adaptive(600, 0, random.Random(1))
    assert all(peer.refused(1.0, 0.9, 1, None) is not None for _ in range(100))
    assert peer.refused(1.0, 0.9, 1, None) is None
    peer.accepted(1.0, 1, 1, tries=1)
    assert peer.refused(1.0, 0.9, 1, None) is not None


def test_aiolimiter_in_a_loop_of_virtual_time() -> None:
    """Of 51 that enter at once 50 do, the last one 1.2 s later."""
    loop = VirtualLoop()
    entered: list[float] = []

    async def enter(limiter: AsyncLimiter) -> None:
        async with limiter:
            entered.append(loop.time())

    async def main() -> None:
        limiter = AsyncLimiter(50, 60)
        await asyncio.gather(*(enter(limiter) for _ in range(51)))

    loop.run_until_complete(main())
    loop.close()
    assert entered[49] < 0.1
    assert entered[50] == pytest.approx(1.2, abs=0.1)


# ------------------------------------------------------------------------------------------------------------- measures


def sends_at(times_ns: Sequence[int]) -> list[Send]:
    return [Send(number, at_ns, at_ns, accepted=True, replied_ns=at_ns + SECOND) for number, at_ns in enumerate(times_ns)]


@pytest.mark.parametrize(("workload", "every_seconds"), [("short", 1.2), ("bigmax", 3.86)])
def test_an_even_pace_is_all_of_the_limit(workload: str, every_seconds: float) -> None:
    """A request each 1.2 s is 50 a minute; one of 128,600 tokens each 3.86 s is 2,000,000 a minute."""
    cell = Cell("tokens", "sliding", workload, 100)
    one = Run(cell.work(1), sends_at([round(number * every_seconds * SECOND) for number in range(100)]), 0)
    figures = measure(cell, 1, one, Passage(60 * SECOND, 0), None)
    assert figures.steady_share == pytest.approx(1, rel=0.001)
    assert figures.used_share == pytest.approx(60 / 99 / every_seconds)


def test_figures_add_up_over_runs() -> None:
    """Shares and rates are those of the sums, the worst is the worst."""
    one = Figures(runs=1, jobs=100, refused=1, steady=1, steady_most=1, makespan=1, makespan_worst=1, peak=0.5)
    other = Figures(runs=1, jobs=300, refused=0, steady=1, steady_most=3, makespan=2, makespan_worst=2, peak=1)
    both = pooled([one, other])
    assert (both.refused_per_1000, both.steady_share, both.mean_makespan) == (2.5, 0.5, 1.5)
    assert (both.makespan_worst, both.peak) == (2, 1)


def test_most_in_any_minute_counts_across_the_edges_of_minutes() -> None:
    assert most_per_minute([0, 30 * SECOND, 59 * SECOND, 60 * SECOND, 61 * SECOND, 200 * SECOND]) == 4


def test_a_strain_is_measured_before_meanwhile_and_after() -> None:
    """Accepted at 50 a minute all the time: all of it before and after, twice what is left meanwhile; 429s where they came."""
    cell = Cell("strain", "sliding", "short", 1, strain="halved")
    sends = sends_at(range(0, cell.until_ns, round(1.2 * SECOND)))
    sends[600].accepted = sends[601].accepted = sends[1_300].accepted = False
    found = measure(cell, 1, Run([], sends, 0), Passage(0, 0), None).strained
    assert found is not None
    assert found.before / found.before_most == pytest.approx(1, abs=0.01)
    assert found.during / found.during_most == pytest.approx(2, abs=0.01)
    assert found.after / found.after_most == pytest.approx(1, abs=0.01)
    assert (found.during_refused, found.outside_refused, found.outside) == (2, 1, 1_249)


@pytest.mark.parametrize(("slow_seconds", "expected"), [(0, 0), (90, 75), (1_000, None)])
def test_recovery_ends_where_a_minute_at_the_full_rate_begins(slow_seconds: int, expected: int | None) -> None:
    """So many seconds at half of the rate after the strain's end, then all of it: 45 of 50 come in the minute that begins 15 s
    before. Too late: never.
    """
    cell = Cell("strain", "sliding", "short", 1)
    slow = range(STRAIN_ENDS_NS, STRAIN_ENDS_NS + slow_seconds * SECOND, round(2.4 * SECOND))
    fast = range(STRAIN_ENDS_NS + slow_seconds * SECOND, STRAIN_ENDS_NS + 900 * SECOND, round(1.2 * SECOND))
    found = recovery_seconds(cell, [*slow, *fast])
    assert found == (None if expected is None else pytest.approx(expected, abs=3))


# ---------------------------------------------------------------------------------------------------------------- goals


def test_every_goal_is_of_a_cell_that_is_run() -> None:
    names = [cell.name for cell in all_cells()]
    assert len(set(names)) == len(names)
    assert {goal.cell for goal in goals()} <= set(names)


@pytest.mark.parametrize(("told", "seconds"), [("", 300), ("-with-Retry-After", 300), ("-with-limit-headers", 45)])
def test_a_strain_is_over_in_seconds_only_where_headers_say_so(told: str, seconds: int) -> None:
    """Retry-After says when to ask again, not what is left."""
    found = [goal for goal in goals() if goal.cell.startswith(f"strain/halved{told}/")]
    assert len(found) == 3
    assert {goal.bounds[-1].bound for goal in found} == {seconds}


@pytest.mark.parametrize(
    ("steady", "refused", "met"), [(0.995, 0, True), (0.9949, 0, False), (0.999, 1, False), (0.995, 0.9, True)]
)
def test_a_goal_is_met_at_its_bounds_and_not_beyond(steady: float, refused: float, met: bool) -> None:
    """99.5 % and under 1 in 1,000, of 10,000 jobs."""
    name = "steady-50/short/sliding"
    figures = Figures(runs=1, jobs=10_000, refused=round(refused * 10), steady=steady, steady_most=1)
    verdict = next(line for line in verdicts({name: figures}, WHOLE) if "sliding" in line.title)
    assert verdict.met is met


@pytest.mark.parametrize(
    ("lost", "shown"), [(0, "90.0 (80.0) / 1.0 |"), (20, "90.0 (-) / 1.0, loses 20.0 |"), (600, "gives up 600 of 1,000 |")]
)
def test_who_loses_jobs_has_not_done_the_file(lost: int, shown: str) -> None:
    cells = [cell for cell in all_cells() if cell.name == "steady-50/short/sliding"]
    figures = Figures(runs=1, jobs=1_000, refused=1, lost=lost, steady=9, steady_most=10, best_seconds=8, seconds=10)
    assert f"| cookbook | {shown}" in "\n".join(tables(cells, {(cells[0].name, "cookbook"): figures}))


@pytest.mark.parametrize(("stuck", "lost"), [(1, 0), (0, 1)])
def test_who_has_not_done_the_file_meets_no_goal(stuck: int, lost: int) -> None:
    """However well it did as far as it came."""
    figures = Figures(runs=1, jobs=10_000, steady=1, steady_most=1, stuck=stuck, lost=lost)
    verdict = verdicts({"steady-50/short/sliding": figures}, WHOLE)[0]
    assert not verdict.met
    assert "undone" in verdict.measured


def test_a_goal_may_be_met_in_another_way() -> None:
    """Seconds' slices at 600 a minute: 91 % at 6 in 1,000, or 88 % at 1."""
    name = "steady-600/short/seconds"
    figures = Figures(runs=1, jobs=1_000, refused=1, steady=0.88, steady_most=1)
    assert verdicts({name: figures}, WHOLE)[0].met
    figures.refused = 2
    assert not verdicts({name: figures}, WHOLE)[0].met


def test_the_cost_is_compared_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one pair of rounds, its ratio; every job of either round has gone through."""
    monkeypatch.setattr(cost, "JOBS", 20)
    monkeypatch.setattr(cost, "ROUNDS", 1)
    found = cost.measured()
    assert found.ratio == pytest.approx(found.admission_us / found.task_us)


def test_four_processes_have_what_one_has_and_each_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them killed in the middle: 99 % of one's, no rejection on top, nobody further than 5 % from its share."""
    first, *_, last = together.cells()
    monkeypatch.setattr(together, "cells", lambda: [first, last])
    alike, one_large = together.measured([1])
    assert alike.used_share >= 0.99
    assert one_large.title.endswith("one with large jobs")
    for found in (alike, one_large):
        assert (found.refused_on_top, found.peak <= 1, found.unfair_share < 0.05) == (0, True, True)
    verdict = next(
        line for line in verdicts({}, msgspec.structs.replace(WHOLE, sharing=[alike])) if line.title.startswith("four")
    )
    assert verdict.met


@pytest.mark.parametrize(
    "spoilt", [{"together": 98}, {"refused": 4}, {"unfair_share": 0.06}, {"peak": 1.02}], ids=lambda spoilt: next(iter(spoilt))
)
def test_four_processes_that_lose_or_take_too_much_have_not_met_the_goal(spoilt: dict[str, float]) -> None:
    fine = {"together": 99, "alone": 100, "refused": 3, "refused_alone": 3, "unfair_share": 0.05, "peak": 1.0}
    found = [together.Sharing(title="sliding", **(fine | wrong)) for wrong in ({}, spoilt)]  # type: ignore[arg-type]
    lines = [line for line in verdicts({}, msgspec.structs.replace(WHOLE, sharing=found)) if line.title.startswith("four")]
    assert [line.met for line in lines] == [True, False]


def test_a_sweep_goes_on_where_its_record_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on record is not measured again; tables and goals show all of it."""
    cells = [cell for cell in all_cells() if cell.name == "small/40-jobs/sliding"]
    record = tmp_path / "record.jsonl"
    first = sweep(cells, ["cookbook"], range(1), workers=1, record=record)
    second = sweep(cells, ["cookbook", OURS], range(2), workers=1, record=record)
    assert len(record.read_bytes().splitlines()) == 4
    monkeypatch.setattr("benchmarks.limiter.sweep.run", None)
    assert sweep(cells, ["cookbook"], range(1), workers=1, record=record) == first
    assert sweep(cells, ["cookbook", OURS], range(2), workers=0, record=record) == second
    assert sweep(cells, ["cookbook", "aimd"], range(2), workers=0, record=record).keys() == {(cells[0].name, "cookbook")}
    text = "\n".join(tables(cells, second))
    assert "| batchrun | 1." in text
    assert "| cookbook | 1.0" in text
    figures = {cell.name: second[cell.name, OURS] for cell in cells}
    assert "makespan of 40 jobs, sliding" in "\n".join(goals_table(verdicts(figures, WHOLE)))
