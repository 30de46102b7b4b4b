"""Several processes on one account: the limit holds over all of them, each has its share, and nobody has to wait for the dead."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget import holders
from batchrunner.budget.holders import HOLDER_LIFE_NS, Holder, Shared
from batchrunner.budget.pacer import SAFE_WINDOW_NS, interval_ns
from batchrunner.budget.steps import SLOT_LIFE_NS
from tests.unit.budgets import opened, send, take
from tests.unit.crowds import NS, Crowd, Process

MINUTE = 60 * NS


def late() -> random.Random:
    return random.Random(7)


def four(crowd: Crowd, rpm: int, **wishes: Any) -> list[Process]:
    rng = late()
    return [crowd.process(name, rpm, late_ns=lambda: rng.randrange(5_000_000), **wishes) for name in "abcd"]


def shared_of(crowd: Crowd) -> Shared:
    row = crowd.file.read()  # type: ignore[attr-defined]
    assert row is not None
    shared: Shared = row.shared
    return shared


def test_one_alone_sends_as_if_nobody_could_come() -> None:
    """The same send times as from the budget itself, to the nanosecond."""
    crowd = Crowd()
    crowd.process("a", 50, 10_000, jobs=[random.Random(1).randrange(1, 900) for _ in range(100)], latency_ns=10**18)
    crowd.run(10 * MINUTE)
    state, now_ns, alone = opened(50, 10_000), 0, []
    for _, _, tokens in crowd.sends:
        now_ns, _ = send(state, now_ns, tokens)
        alone.append(now_ns)
    assert [at_ns for at_ns, _, _ in crowd.sends] == alone
    assert len(alone) == 100


@pytest.mark.parametrize("rpm", [1, 6, 50, 600])
def test_four_share_what_one_would_have(rpm: int) -> None:
    """Together as much as one alone, no minute above the limit, each a quarter of it."""
    crowd = Crowd()
    four(crowd, rpm)
    minutes = 600 // rpm + 2
    crowd.run(minutes * MINUTE)
    assert len(crowd.sends) >= 0.995 * rpm * minutes - 1
    assert crowd.most_sends() <= rpm
    counts = crowd.counts()
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("tokens", "others"), [((100_000, 1_000), 0.99), ((100_000, 50_000), 0.99), ((400_000, 20_000), 0.85)])
def test_large_jobs_and_small_ones_have_equal_parts_of_what_they_need_most(tokens: tuple[int, int], others: float) -> None:
    """The larger part of either limit is the same for both to within 5 %, and one limit is used."""
    crowd = Crowd()
    limits = (50, 2_000_000)
    for name, each in zip("ab", tokens, strict=True):
        crowd.process(name, *limits, jobs=itertools.repeat(each))
    crowd.run(60 * MINUTE)
    counts = crowd.counts()
    parts = [counts[name] * max(1 / 50, each / 2_000_000) / 60 for name, each in zip("ab", tokens, strict=True)]
    assert parts[0] == pytest.approx(parts[1], rel=0.05)
    used = sum(counts.values()) / 50 / 60, sum(each for _, _, each in crowd.sends) / 2_000_000 / 60
    assert max(used) > others


def test_a_usage_that_makes_no_sense_starves_nobody() -> None:
    """A reply of a billion tokens counts as a minute of the account, for the share too."""
    crowd = Crowd()
    one, _ = (crowd.process(name, 50, 2_000_000, latency_ns=5 * NS) for name in "ab")
    crowd.run(MINUTE)
    entry = min(shared_of(crowd).holders["a"].entries)
    one.ask(budget.Settle(entry, 10**18))
    crowd.run(20 * MINUTE)
    counts = crowd.counts()
    assert counts["a"] == pytest.approx(counts["b"], abs=60)


def test_who_has_nothing_to_send_leaves_all_of_it_to_others_and_saves_nothing_up() -> None:
    """Two minutes of pause: the other has the whole limit, and afterwards both have half, from the first minute on."""
    crowd = Crowd()
    crowd.process("a", 50)
    pausing = crowd.process("b", 50)
    crowd.at(5 * MINUTE, lambda: pausing.idle(120))
    crowd.run(10 * MINUTE)
    assert len(crowd.sends) >= 0.985 * 500
    pause, after = crowd.counts(5 * MINUTE, 7 * MINUTE), crowd.counts(7 * MINUTE, 8 * MINUTE)
    assert pause["a"] >= 97
    assert abs(after["a"] - after["b"]) <= 2


@pytest.mark.parametrize("rpm", [1, 6, 50])
def test_a_killed_holder_costs_three_seconds_at_the_most(rpm: int) -> None:
    """Whenever it is killed: the others lose a slot's life of the budget, and share what it had."""
    minutes = 600 // rpm + 12
    for when in range(5):
        crowd = Crowd()
        killed, *_ = four(crowd, rpm)
        crowd.at(5 * MINUTE + when * interval_ns(rpm), killed.kill)
        crowd.run(minutes * MINUTE)
        kept_ns = len(crowd.sends) * interval_ns(rpm)
        assert kept_ns >= minutes * MINUTE - SLOT_LIFE_NS - 2 * interval_ns(rpm) - minutes * NS // 4


def test_a_killed_holders_slot_is_taken_a_slots_life_later() -> None:
    """One request a minute: the next one waits 3 s, not a minute, for a slot that nobody takes."""
    crowd = Crowd()
    first = crowd.process("a", 1)
    crowd.process("b", 1)
    crowd.at(MINUTE // 2, lambda: None)
    crowd.run(MINUTE // 2)
    assert [name for _, name, _ in crowd.sends] == ["a"]
    second_ns = interval_ns(1)
    crowd.run(second_ns + NS)
    assert [name for _, name, _ in crowd.sends] == ["a", "b"]
    first.kill()  # it was to be the third
    crowd.run(4 * MINUTE)
    gaps = [later - earlier for (earlier, _, _), (later, _, _) in itertools.pairwise(crowd.sends)]
    assert max(gaps) <= interval_ns(1) + SLOT_LIFE_NS


def test_a_slot_that_was_given_back_costs_nothing() -> None:
    """One request a minute, a slot reserved and returned, or let lapse: the next one has its time."""
    for returned in (True, False):
        state = opened(rpm=1)
        slot = budget.step(state, 0, budget.Reserve())
        assert isinstance(slot, budget.Slot)
        if returned:
            budget.step(state, NS, budget.Return(slot.slot))
        again = budget.step(state, 10 * NS, budget.Reserve())
        assert isinstance(again, budget.Slot)
        assert again.at_ns <= 10 * NS


def test_a_slot_before_the_last_passes_unused() -> None:
    """What was planned behind it stays where it is."""
    state = opened(rpm=50)
    first, second = (budget.step(state, 0, budget.Reserve()) for _ in range(2))
    assert isinstance(first, budget.Slot)
    assert isinstance(second, budget.Slot)
    due_ns = state.pacer.due_ns
    budget.step(state, 0, budget.Return(first.slot))
    assert state.pacer.due_ns == due_ns


def test_what_a_killed_holder_had_in_flight_stays_charged_and_does_not_pile_up() -> None:
    """Its tokens are in the window until they leave it; a minute later there is nothing left of it."""
    crowd = Crowd()
    for number in range(30):
        killed = crowd.process(f"killed-{number}", 600, 1_000_000, jobs=itertools.repeat(1_000), latency_ns=10**18)
        crowd.run(crowd.now_ns + NS)
        killed.kill()
    charged = shared_of(crowd).state.window.used
    assert charged == 1_000 * sum(at_ns + SAFE_WINDOW_NS > crowd.now_ns for at_ns, _, _ in crowd.sends)
    crowd.run(crowd.now_ns + HOLDER_LIFE_NS + 4 * NS)
    crowd.process("b", 600, 1_000_000, jobs=[])
    assert shared_of(crowd).holders.keys() == {"b"}
    assert not shared_of(crowd).state.in_flight


def test_who_ends_in_order_is_gone_at_once() -> None:
    crowd = Crowd()
    ended, _ = crowd.process("a", 50, latency_ns=10**18), crowd.process("b", 50)
    crowd.run(MINUTE)
    ended.end()
    assert shared_of(crowd).holders.keys() == {"b"}
    assert len(shared_of(crowd).state.in_flight) <= 2


def test_a_429_is_felt_by_all_before_their_next_send() -> None:
    """One is refused: nobody sends until the gate opens, then one canary, though the others knew nothing of it."""
    crowd = Crowd()
    refused_ns: list[int] = []

    def refuse(sent_ns: int) -> bool:
        if sent_ns > MINUTE and not refused_ns:
            refused_ns.append(sent_ns)
            return True
        return False

    four(crowd, 50, refuse=refuse)
    crowd.run(2 * MINUTE)
    told_ns = refused_ns[0] + NS // 10
    after = [at_ns for at_ns, _, _ in crowd.sends if at_ns > told_ns]
    assert after[0] - told_ns >= interval_ns(50)
    assert after[1] - after[0] >= interval_ns(50) - NS // 20
    assert max(later - earlier for earlier, later in itertools.pairwise(after)) < 5 * NS


def test_places_of_before_a_429_are_void() -> None:
    """A slot that was given out before it is stale afterwards, whoever holds it."""
    shared = Shared(budget.State(budget.Limits(50, 0)))
    for name in "ab":
        holders.meet(shared, name, budget.Limits(50, 0), 0)
    first = holders.step(shared, "a", 0, budget.Reserve())
    assert isinstance(first, budget.Slot)
    taken = holders.step(shared, "a", 0, take(first.slot))
    assert isinstance(taken, budget.Taken)
    slot = holders.step(shared, "b", 0, budget.Reserve())
    assert isinstance(slot, budget.Slot)
    holders.step(shared, "a", NS, budget.Refuse(taken.entry, None, 0.5))
    assert isinstance(holders.step(shared, "b", slot.at_ns, take(slot.slot)), budget.Stale)


def test_nobody_ends_the_requests_of_others() -> None:
    """An entry that is not the holder's is unknown to it: no settlement, no refund, no gate."""
    shared = Shared(budget.State(budget.Limits(50, 1_000)))
    for name in "ab":
        holders.meet(shared, name, budget.Limits(50, 1_000), 0)
    slot = holders.step(shared, "a", 0, budget.Reserve())
    assert isinstance(slot, budget.Slot)
    taken = holders.step(shared, "a", 0, take(slot.slot, 100))
    assert isinstance(taken, budget.Taken)
    for event in (budget.Settle(taken.entry, 0), budget.Refuse(taken.entry, None, 0.0), budget.Lost(taken.entry)):
        holders.step(shared, "b", NS, event)
    assert shared.state.window.used == 100
    assert shared.state.gate.consecutive == 0
    assert shared.holders["a"].entries == {taken.entry}


@pytest.mark.parametrize(
    ("given_limits", "held"),
    [
        ([(50, 1_000), (40, 2_000)], (40, 1_000)),
        ([(0, 0), (40, 0)], (40, 0)),
        ([(0, 0), (0, 0)], (0, 0)),
    ],
)
def test_the_smallest_limits_hold(given_limits: list[tuple[int, int]], held: tuple[int, int]) -> None:
    """0 is no limit; and once the one with the smaller limits has gone, those of the other hold again."""
    shared = Shared(budget.State(budget.Limits(50, 1_000)))
    for number, limits in enumerate(given_limits):
        holders.meet(shared, str(number), budget.Limits(*limits), 0)
    assert shared.state.limits == budget.Limits(*held)
    holders.leave(shared, "1", NS)
    assert shared.state.limits == budget.Limits(*given_limits[0])


def test_an_unknown_holder_leaves_without_a_trace() -> None:
    shared = Shared(budget.State(budget.Limits(50, 0)), {"a": Holder(budget.Limits(50, 0), 0)})
    holders.leave(shared, "b", 0)
    assert shared.holders.keys() == {"a"}


@pytest.mark.parametrize("seconds", [2, 600])
def test_no_burst_after_the_machine_has_slept(seconds: int) -> None:
    """All of them wake at once, and keep the pace of one: what was missed is not made up for."""
    crowd = Crowd()
    four(crowd, 50)
    crowd.at(MINUTE, lambda: crowd.sleep(seconds))
    crowd.run(3 * MINUTE + seconds * NS)
    after = [at_ns for at_ns, _, _ in crowd.sends if at_ns >= MINUTE + seconds * NS]
    assert min(later - earlier for earlier, later in itertools.pairwise(after)) >= interval_ns(50) - NS // 20
    assert len(after) >= 97


@given(seed=st.integers(0, 2**32), rpm=st.sampled_from([1, 7, 60, 300]), tpm=st.sampled_from([0, 5_000]))
@settings(max_examples=12, deadline=None)
def test_B12_any_history_of_several_processes_holds_the_budget(seed: int, rpm: int, tpm: int) -> None:
    """Whatever starts, ends, is killed, refused, late or idle: no minute holds more sends or tokens than the limit, the sums
    equal the log, nobody is forgotten, and what is left alive goes on.
    """
    rng = random.Random(seed)
    crowd = Crowd()
    alive: list[Process] = []

    def start() -> None:
        alive.append(
            crowd.process(
                f"p{rng.random()}",
                rpm,
                tpm,
                jobs=(rng.randrange(1, 1_200) for _ in itertools.count()),
                file_size=rng.choice([5, 10**6]),
                latency_ns=rng.randrange(1, 90 * NS),
                refuse=lambda _: rng.random() < 0.02,
                late_ns=lambda: rng.choice([0, rng.randrange(NS // 10), rng.randrange(4 * NS)]),
            )
        )

    start()
    for _ in range(12):
        crowd.run(crowd.now_ns + rng.randrange(60 * NS))
        match rng.randrange(4):
            case 0 | 1 if len(alive) < 5:
                start()
            case 2 if len(alive) > 1:
                alive.pop(rng.randrange(len(alive))).kill()
            case 3 if len(alive) > 1:
                alive.pop(rng.randrange(len(alive))).end()
            case _:
                rng.choice(alive).idle(rng.randrange(90))
        window = shared_of(crowd).state.window
        assert window.requests == sum(cell.requests for cell in window.cells)
        assert window.used == sum(cell.used for cell in window.cells)
    sent = len(crowd.sends)
    crowd.run(crowd.now_ns + 30 * MINUTE)
    assert len(crowd.sends) > sent
    assert crowd.most_sends() <= rpm
    assert not tpm or crowd.most_tokens() <= tpm


def test_the_same_history_comes_out_the_same() -> None:
    """Decisions follow from events alone: a second telling of them sends the same requests at the same times."""
    sends = []
    for _ in range(2):
        crowd = Crowd()
        killed, *_ = four(crowd, 50, file_size=100)
        crowd.at(90 * NS, killed.kill)
        crowd.run(5 * MINUTE)
        sends.append(crowd.sends)
    assert sends[0] == sends[1]
