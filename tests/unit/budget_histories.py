"""Histories of one account's budget: whatever its holders, its server and its clock may do, one event at a time."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget.charging import Charging
from batchrunner.budget.pacer import NS, WINDOW_NS

#: what may happen, with a pause before it and a number that says which one, how many or how long
ACTIONS = st.tuples(
    st.sampled_from([*["send"] * 4, "reserve", "take", "return", *["settle"] * 2, *["refuse"] * 2, "lost", "open"]),
    st.one_of(st.just(0), st.integers(0, 3 * NS), st.sampled_from((2 * NS, 20 * NS, 61 * NS, 600 * NS))),
    st.integers(0, 10**6),
)
HISTORIES = st.lists(ACTIONS, min_size=1, max_size=150)
LIMITS = st.builds(budget.Limits, st.sampled_from((0, 1, 2, 7, 50, 600)), st.sampled_from((0, 1, 1_000, 10_000)))


class Sent(msgspec.Struct):
    """One request, as a naive ledger has it."""

    sent_ns: int
    predicted: int
    reserved: int
    entry: int
    #: None as long as the server has not said; 0 where it was refused
    used: int | None = None
    refused: bool = False

    def tokens(self, way: Charging) -> int:
        """What it takes of a minute by one way of charging."""
        if self.refused:
            return 0
        if way is Charging.ESTIMATE:
            return self.reserved
        if self.used is not None:
            return self.used
        return self.predicted if way is Charging.ACTUAL else self.reserved


class Moment(msgspec.Struct, frozen=True):
    """One step: what was asked, and what came of it."""

    now_ns: int
    event: budget.Event
    decision: budget.Decision


class History:
    """Plays actions against a budget, with a ledger of its own beside it."""

    def __init__(self, limits: budget.Limits, *, jobs: int = 10**6, state: budget.State | None = None) -> None:
        self.state = state or budget.State(limits)
        self.now_ns = 0
        self.moments: list[Moment] = []
        self.sent: list[Sent] = []
        self.flying: list[Sent] = []
        self.slots: list[int] = []
        self.step(budget.Open(past=(), jobs=jobs, wall_offset_ns=7 * NS))

    def step(self, event: budget.Event) -> budget.Decision:
        decision = budget.step(self.state, self.now_ns, event)
        self.moments.append(Moment(self.now_ns, event, decision))
        return decision

    def play(self, kind: str, pause_ns: int, number: int) -> None:
        """One action; nothing, where there is nothing to do it to."""
        self.now_ns += pause_ns
        if kind == "send":
            self.send(*self._offer(number))
        elif kind == "open":
            self.step(budget.Open(past=(), jobs=number % 200, wall_offset_ns=number * NS // 1_000))
        elif kind == "reserve":
            self.reserve()
        elif self.slots and kind == "take":
            self.take(self.slots[number % len(self.slots)], *self._offer(number))
        elif self.slots and kind == "return":
            self.step(budget.Return(self.slots.pop(number % len(self.slots))))
        elif self.flying and kind in {"settle", "refuse", "lost"}:
            self.end(kind, self.flying[number % len(self.flying)], number)

    def _offer(self, number: int) -> tuple[int, int]:
        """Tokens predicted and reserved: of all sizes, a few of them larger than a minute."""
        most = max(1, self.state.limits.tpm)
        reserved = number % (most // 4 + 2) if number % 10 else number % (2 * most)
        return reserved // (number % 3 + 1), reserved

    def reserve(self) -> budget.Slot:
        slot = self.step(budget.Reserve())
        assert isinstance(slot, budget.Slot)
        self.slots.append(slot.slot)
        return slot

    def take(self, slot: int, predicted: int, reserved: int) -> budget.Decision:
        """Offer a request, and one of a quarter of its tokens behind it, which may go before it in some cases."""
        offers = (budget.Offer(predicted, reserved), budget.Offer(predicted // 4, reserved // 4))
        decision = self.step(budget.Take(slot, offers, equals=1 + reserved % 2, spare_ns=5 * NS))
        if isinstance(decision, budget.Taken):
            self.slots.remove(slot)
            chosen = offers[decision.offer]
            one = Sent(self.now_ns, chosen.tokens, chosen.reserved_tokens, decision.entry)
            self.sent.append(one)
            self.flying.append(one)
        return decision

    def send(self, predicted: int, reserved: int) -> Sent:
        """Ask until it goes: what a holder does that has nothing else to do."""
        slot = self.reserve()
        self.now_ns = max(self.now_ns, slot.at_ns)
        for _ in range(200):
            match self.take(slot.slot, predicted, reserved):
                case budget.Taken():
                    return self.sent[-1]
                case budget.Later(at_ns):
                    self.now_ns = at_ns
                case _:
                    slot = self.reserve()
                    self.now_ns = max(self.now_ns, slot.at_ns)
        raise AssertionError("no send in 200 questions")

    def end(self, kind: str, one: Sent, number: int, hints: budget.Hints | None = None) -> None:
        """An answer, a 429, or nobody knows."""
        self.flying.remove(one)
        match kind:
            case "settle":
                used = None if number % 5 == 0 else number % (one.reserved + one.reserved // 2 + 2)
                one.used = used
                self.step(budget.Settle(one.entry, used, hints))
            case "refuse":
                one.used, one.refused = 0, True
                self.step(budget.Refuse(one.entry, None if number % 3 else number % 30 * NS, number % 100 / 100, hints))
            case _:
                self.step(budget.Lost(one.entry))

    def in_minute(self, *, before_ns: int, length_ns: int = WINDOW_NS) -> list[Sent]:
        """What was sent in the time that ends, inclusive, at a moment."""
        return [one for one in self.sent if before_ns - length_ns < one.sent_ns <= before_ns]


def played(limits: budget.Limits, actions: list[tuple[str, int, int]], **kwargs: Any) -> History:
    history = History(limits, **kwargs)
    for action in actions:
        history.play(*action)
    return history
