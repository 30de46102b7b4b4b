"""Which request goes wrong, how it does, and whether it is billed all the same.

| kind | what the client sees | billed |
| --- | --- | --- |
| ok | the answer | yes |
| slow | the answer, after ten times the latency | yes |
| rate_limited | 429, though the windows had room | no |
| overloaded | 529 | no |
| error400, invalid_key, no_credits | 400, 401 `invalid_api_key`, 402 `insufficient_credits` | no |
| error500, upstream_error, model_unavailable, html | 500, 502, 503, 502 with a page of HTML | no |
| error408, error504 | 408, 504: the work may have been done | one in two |
| reset_before | the connection is reset before any byte of the answer | one in two |
| silent | nothing, ever, until one side hangs up | one in two |
| reset_headers, reset_body | the connection is reset within the head, within the body | yes |
| truncated | half of the body that `content-length` promised, then an orderly end | yes |
| garbage, empty | 200 with a body that is no JSON, with none | yes |

The first group of errors meets a request at the door (`at_door`): at once, and no window counts it. All others take the
usual time, and count as accepted.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from batchrunner.simulator.asks import Ask
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.settings import Rule, Settings

# What the numbers that are drawn for an arrival are used for; see `draws`.
_CHOICE, _BILL, LATENCY = range(3)


class Delivery(enum.Enum):
    """How an answer leaves the server."""

    WHOLE = enum.auto()
    RESET_BEFORE = enum.auto()
    RESET_HEADERS = enum.auto()
    RESET_BODY = enum.auto()
    TRUNCATED = enum.auto()
    SILENT = enum.auto()


class Content(enum.Enum):
    """What an answer consists of."""

    COMPLETION = enum.auto()
    ERROR = enum.auto()
    GARBAGE = enum.auto()
    EMPTY = enum.auto()
    HTML = enum.auto()


class Bill(enum.Enum):
    """Whether the platform charges for a request that ended so."""

    NEVER = enum.auto()
    ALWAYS = enum.auto()
    HALF = enum.auto()  # one in two, drawn by seed and order of arrival


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One way for a request to end; see the table above."""

    kind: str
    bill: Bill = Bill.NEVER
    content: Content = Content.COMPLETION
    delivery: Delivery = Delivery.WHOLE
    status: int = 200
    code: str = ""
    message: str = ""
    at_door: bool = False
    latency_factor: float = 1.0


def _error(kind: str, status: int, code: str, message: str, *, at_door: bool = False, bill: Bill = Bill.NEVER) -> Fault:
    return Fault(kind=kind, bill=bill, content=Content.ERROR, status=status, code=code, message=message, at_door=at_door)


OK = Fault(kind="ok", bill=Bill.ALWAYS)

_ALL = (
    OK,
    Fault(kind="slow", bill=Bill.ALWAYS, latency_factor=10.0),
    _error("rate_limited", 429, "rate_limit_exceeded", "Rate limit exceeded. Try again later.", at_door=True),
    _error("overloaded", 529, "overloaded", "Overloaded. Try again later.", at_door=True),
    _error("error400", 400, "invalid_request", "The request is not valid.", at_door=True),
    _error("invalid_key", 401, "invalid_api_key", "The API key is not valid.", at_door=True),
    _error("no_credits", 402, "insufficient_credits", "The account needs credits.", at_door=True),
    _error("error500", 500, "internal_error", "Something went wrong."),
    _error("upstream_error", 502, "upstream_error", "The model's provider failed."),
    _error("model_unavailable", 503, "model_unavailable", "The model is offline. Try again shortly."),
    Fault(kind="html", content=Content.HTML, status=502),
    _error("error408", 408, "request_timeout", "The request took too long.", bill=Bill.HALF),
    _error("error504", 504, "gateway_timeout", "The model took too long.", bill=Bill.HALF),
    Fault(kind="reset_before", bill=Bill.HALF, delivery=Delivery.RESET_BEFORE),
    Fault(kind="silent", bill=Bill.HALF, delivery=Delivery.SILENT),
    Fault(kind="reset_headers", bill=Bill.ALWAYS, delivery=Delivery.RESET_HEADERS),
    Fault(kind="reset_body", bill=Bill.ALWAYS, delivery=Delivery.RESET_BODY),
    Fault(kind="truncated", bill=Bill.ALWAYS, delivery=Delivery.TRUNCATED),
    Fault(kind="garbage", bill=Bill.ALWAYS, content=Content.GARBAGE),
    Fault(kind="empty", bill=Bill.ALWAYS, content=Content.EMPTY),
)

KINDS: dict[str, Fault] = {fault.kind: fault for fault in _ALL}


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
    if fault.bill is Bill.HALF:
        return draws_of(seed, arrival).uniform(_BILL) < 0.5
    return fault.bill is Bill.ALWAYS


def draws_of(seed: int, arrival: int) -> Draws:
    """Chance by order of arrival and not by body: the same body sent again must be able to fare better."""
    return Draws(seed, b"arrival", arrival.to_bytes(8, "big"))


def kind_named(kind: str) -> Fault:
    """Raises: ValueError, naming the kinds that there are."""
    if kind not in KINDS:
        raise ValueError(f"no such kind of fault: {kind!r}. There are: {', '.join(KINDS)}.")
    return KINDS[kind]


def check_rates(rates: dict[str, float]) -> None:
    """Raises: ValueError where a kind does not exist or the probabilities are none."""
    for kind, rate in rates.items():
        kind_named(kind)
        if not 0 <= rate <= 1:
            raise ValueError(f"{kind}={rate}: a probability lies between 0 and 1.")
    if sum(rates.values()) > 1 + 1e-9:
        raise ValueError("the probabilities of all faults add up to more than 1.")
