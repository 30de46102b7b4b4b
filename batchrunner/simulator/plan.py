"""Which request meets which fault: a script, then rules, then chance."""

from __future__ import annotations

from typing import Protocol

from batchrunner.simulator.asks import Ask
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.faults import KINDS, OK, Bill, Fault, check_rates, kind_named
from batchrunner.simulator.settings import Rule, Settings

# What the numbers that are drawn for an arrival are used for; see `draws`.
_CHOICE, _BILL, LATENCY = range(3)


class Plan(Protocol):
    """Decides how each request ends."""

    def choose(self, arrival: int, ask: Ask) -> Fault:
        """`arrival` counts all requests to a model from 0, those included that were refused before a plan was asked."""
        ...


class SeededPlan:
    """The script first, then the rules in their order, then chance. Raises ValueError on settings that make no sense."""

    def __init__(self, settings: Settings) -> None:
        check_rates(settings.faults)
        self._seed = settings.seed
        self._script = [kind_named(kind) for kind in settings.script]
        self._rules = [_Armed(rule) for rule in settings.rules]
        self._rates = [(KINDS[kind], rate) for kind, rate in settings.faults.items()]

    def choose(self, arrival: int, ask: Ask) -> Fault:
        if arrival < len(self._script):
            return self._script[arrival]
        for rule in self._rules:
            if rule.meets(ask):
                return rule.fault
        if self._rates:
            point = draws_of(self._seed, arrival).uniform(_CHOICE)
            for fault, rate in self._rates:
                point -= rate
                if point < 0:
                    return fault
        return OK


class _Armed:
    """A rule, and how many more requests will meet it."""

    def __init__(self, rule: Rule) -> None:
        self.fault = kind_named(rule.kind)
        self._rule = rule
        self._left = rule.times or -1

    def meets(self, ask: Ask) -> bool:
        rule = self._rule
        if not self._left or (rule.tag is not None and rule.tag != ask.tag):
            return False
        if rule.model is not None and rule.model != ask.model.id:
            return False
        self._left -= 1
        return True


def is_billed(fault: Fault, seed: int, arrival: int) -> bool:
    """Whether the platform charges for this request; the same in every run with the same seed and order."""
    if fault is OK:
        return True
    if fault.bill is Bill.HALF:
        return draws_of(seed, arrival).uniform(_BILL) < 0.5
    return fault.bill is Bill.ALWAYS


def draws_of(seed: int, arrival: int) -> Draws:
    """Chance by order of arrival and not by body: the same body sent again must be able to fare better."""
    return Draws(seed, b"arrival", arrival.to_bytes(8, "big"))
