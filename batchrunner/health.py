"""What failures say about the server and its models: whose circuit they count for, and what may be sent meanwhile. Pure.

`model_unavailable` and `upstream_error` speak against their model, and for the server that reports them; whatever else fails
on the way speaks against the server. An open circuit of a model holds its own jobs, the server's all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from batchrunner.breaker import NS, Breaker, Circuit, JobKey, Noted, Refunds
from batchrunner.outcome import Blame

#: a model that has been away for so long, with nothing else to do, is not waited for
OFFLINE_NS: Final = 30 * 60 * NS
#: a file that names more models than this that fail is a wrong one: the rest have no circuit
MOST_MODELS: Final = 1000


class Request(msgspec.Struct, frozen=True):
    """A request as its circuits know it."""

    #: unlike that of any other of this process
    id: int
    job: JobKey
    model: str
    sent_ns: int


class Recovery(msgspec.Struct, frozen=True):
    """What a success came to."""

    #: the server's circuit closed with it
    server: bool
    #: its model's did
    model: bool
    #: attempts of jobs that do not count any more
    refunds: Refunds


class Statistics(msgspec.Struct, frozen=True):
    """The circuits as they stand."""

    server: Circuit
    #: of each model that has failed, in the order in which they first did
    models: Mapping[str, Circuit]

    @property
    def models_offline(self) -> tuple[str, ...]:
        """Models whose circuit is not closed."""
        return tuple(model for model, circuit in self.models.items() if circuit is not Circuit.CLOSED)


class Health:
    """The circuits of one server and of its models."""

    def __init__(self) -> None:
        #: nothing but their attempts ends jobs that look like an outage of the server
        self._server = Breaker(probes_spend=True)
        #: of models that have failed; a model is given up after a while
        self._models: dict[str, Breaker] = {}
        self._given_up: set[str] = set()

    def server_due_ns(self, now_ns: int) -> int | None:
        """When the next request may go, whichever it is; None while a probe is out."""
        return self._server.due_ns(now_ns)

    def model_due_ns(self, model: str, now_ns: int) -> int | None:
        """When the next request to a model may go; None while a probe is out."""
        breaker = self._models.get(model)
        return now_ns if breaker is None else breaker.due_ns(now_ns)

    def sent(self, request: Request) -> None:
        """A request goes out."""
        for breaker in self._breakers(request.model):
            breaker.sent(request.id)

    def succeeded(self, request: Request, now_ns: int) -> Recovery:
        """The model has answered."""
        server, refunds = _close(self._server, now_ns)
        breaker = self._models.get(request.model)
        if breaker is None:
            return Recovery(server, False, refunds)
        model, of_model = _close(breaker, now_ns)
        return Recovery(server, model, _sum(refunds, of_model))

    def answered(self, request: Request, now_ns: int) -> Recovery:
        """The server has answered in its own words, which say nothing of the model."""
        server, refunds = _close(self._server, now_ns)
        if (breaker := self._models.get(request.model)) is not None:
            breaker.ended(now_ns, request.id)
        return Recovery(server, False, refunds)

    def failed(self, request: Request, now_ns: int, blames: Blame, *, refundable: bool) -> Noted:
        """A request has failed; `refundable`: its attempt need not count if that was an outage."""
        if blames is Blame.SERVER:
            if (breaker := self._models.get(request.model)) is not None:
                breaker.ended(now_ns, request.id)
            return self._server.failed(now_ns, request.id, request.sent_ns, request.job, refundable=refundable)
        if blames is Blame.NOBODY:
            self.ended(request, now_ns)
            return Noted(spends=True)
        _, refunds = _close(self._server, now_ns)
        if request.model not in self._models and len(self._models) >= MOST_MODELS:
            return Noted(spends=True, refunds=refunds)
        breaker = self._models.setdefault(request.model, Breaker(probes_spend=False))
        noted = breaker.failed(now_ns, request.id, request.sent_ns, request.job, refundable=refundable)
        return msgspec.structs.replace(noted, refunds=_sum(refunds, noted.refunds))

    def is_suspicious(self, request: Request, blames: Blame) -> bool:
        """Whether the failure of this request, just noted, may be the beginning of an outage."""
        breaker = self._server if blames is Blame.SERVER else self._models.get(request.model)
        return breaker is not None and blames is not Blame.NOBODY and breaker.is_suspicious(request.job)

    def ended(self, request: Request, now_ns: int) -> None:
        """A request has ended in a way that says nothing of server or model."""
        for breaker in self._breakers(request.model):
            breaker.ended(now_ns, request.id)

    def is_offline(self, model: str, now_ns: int) -> bool:
        """Whether a model has been away for so long that its jobs need not wait, where there is nothing else to do."""
        breaker = self._models.get(model)
        if breaker is None or breaker.circuit is Circuit.CLOSED or breaker.tripped_ns is None:
            return False
        return now_ns - breaker.tripped_ns >= OFFLINE_NS

    def give_up(self, model: str) -> None:
        """Wait for this model no longer, in this process."""
        self._given_up.add(model)

    def given_up(self, model: str) -> bool:
        return model in self._given_up

    def statistics(self) -> Statistics:
        models = self._models.copy()  # other threads look on, and a dict that grows must not be gone through
        return Statistics(self._server.circuit, {model: breaker.circuit for model, breaker in models.items()})

    def _breakers(self, model: str) -> list[Breaker]:
        breaker = self._models.get(model)
        return [self._server] if breaker is None else [self._server, breaker]


def _close(breaker: Breaker, now_ns: int) -> tuple[bool, Refunds]:
    """Note a success; whether the circuit closed with it, and what is refunded."""
    was = breaker.circuit
    refunds = breaker.succeeded(now_ns)
    return was is not Circuit.CLOSED, refunds


def _sum(one: Refunds, other: Refunds) -> Refunds:
    return {job: one.get(job, 0) + other.get(job, 0) for job in one | other}
