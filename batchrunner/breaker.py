"""Circuit breakers: what fails again and again is left alone, and asked now and then whether it is back. Pure.

    closed --trip--> open --probe--> probing --probe fails or is lost--> open
       ^               |                |
       +---- succeed --+----------------+

A circuit trips after `TRIPS_AFTER` failures in a row with no success in `QUIET_NS`. Open, it lets one request at a time
through, the probe, after 5, 10, 20 ... 300 s. Any success closes it, also one of a request that was sent before it tripped.

An outage is nobody's fault: the failures that led to a trip, and those of requests that were in flight then, are refunded to
their jobs. Those of probes are not while nobody can tell whether it is the job that the server never takes, unless somebody
else sees to it that they end (`probes_spend`); once a success has proved the outage, they are refunded too. Not refunded is
what a caller does not put forward for it (`refundable`): a timeout, which may have been billed; what cost no attempt; the
attempts of a job that has been excused too often. Else a job that always fails could be paid for without end.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

NS: Final = 1_000_000_000
TRIPS_AFTER: Final = 5
#: a success as recent as this says that it is the jobs that fail, not the server
QUIET_NS: Final = 10 * NS
FIRST_PROBE_NS: Final = 5 * NS
LONGEST_PROBE_NS: Final = 300 * NS


class Circuit(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Sign(enum.Enum):
    """What can happen to it."""

    FAIL = "fail"  # not enough of them, or of a request that is no probe
    TRIP = "trip"
    PROBE = "probe"
    PROBE_FAILED = "probe_failed"
    PROBE_LOST = "probe_lost"  # it ended without saying anything about the server
    SUCCEED = "succeed"


# None is an illegal transition; every pair stands here.
TRANSITIONS: Final[dict[Circuit, dict[Sign, Circuit | None]]] = {
    Circuit.CLOSED: {
        Sign.FAIL: Circuit.CLOSED,
        Sign.TRIP: Circuit.OPEN,
        Sign.PROBE: None,
        Sign.PROBE_FAILED: None,
        Sign.PROBE_LOST: None,
        Sign.SUCCEED: Circuit.CLOSED,
    },
    Circuit.OPEN: {
        Sign.FAIL: Circuit.OPEN,
        Sign.TRIP: None,
        Sign.PROBE: Circuit.PROBING,
        Sign.PROBE_FAILED: None,
        Sign.PROBE_LOST: None,
        Sign.SUCCEED: Circuit.CLOSED,
    },
    Circuit.PROBING: {
        Sign.FAIL: Circuit.PROBING,
        Sign.TRIP: None,
        Sign.PROBE: None,
        Sign.PROBE_FAILED: Circuit.OPEN,
        Sign.PROBE_LOST: Circuit.OPEN,
        Sign.SUCCEED: Circuit.CLOSED,
    },
}

#: (number, custom_id)
JobKey = tuple[int, str]
#: attempts by job
Refunds = dict[JobKey, int]


class Noted(msgspec.Struct, frozen=True):
    """What a failure came to."""

    #: it counts toward its job's attempts
    spends: bool
    #: the circuit has tripped with it
    tripped: bool = False
    #: the server's circuit has closed with it: it answers, if only to say that a model is away
    server_is_back: bool = False
    #: attempts of other jobs that do not count any more
    refunds: Refunds = {}


class Breaker:
    """One circuit: a server's, or a model's.

    Invariant: `_streak` holds the refundable failures since the last success that were spent and have not been refunded.
    """

    def __init__(self, *, probes_spend: bool) -> None:
        self._probes_spend = probes_spend
        self.circuit = Circuit.CLOSED
        #: when it last tripped; kept once it is closed, for what was in flight then
        self.tripped_ns: int | None = None
        self._failures = 0
        #: the jobs that they were of
        self._failing: set[JobKey] = set()
        self._success_ns: int | None = None
        self._streak: Refunds = {}
        self._probe: int | None = None
        self._probe_due_ns = 0
        self._failed_probes = 0

    def due_ns(self, now_ns: int) -> int | None:
        """When the next request may go: now, or when a probe is due; None while one is out."""
        if self.circuit is Circuit.PROBING:
            return None
        return now_ns if self.circuit is Circuit.CLOSED else max(now_ns, self._probe_due_ns)

    def sent(self, request: int) -> None:
        """A request goes out: of an open circuit it is the probe."""
        if self.circuit is Circuit.OPEN:
            self._move(Sign.PROBE)
            self._probe = request

    def succeeded(self, now_ns: int) -> Refunds:
        """It works. What is to be refunded, where it was an outage that has ended."""
        refunds = self._streak if self.circuit is not Circuit.CLOSED else {}
        self._move(Sign.SUCCEED)
        self._success_ns = now_ns
        self._failures = 0
        self._failing.clear()
        self._failed_probes = 0
        self._streak = {}
        self._probe = None
        return refunds

    def failed(self, now_ns: int, request: int, sent_ns: int, job: JobKey, *, refundable: bool) -> Noted:
        """A request that went out at `sent_ns` has failed in a way that speaks against the server."""
        if self.circuit is not Circuit.CLOSED and request == self._probe:
            self._probe_failed(now_ns)
            if refundable and not self._probes_spend:
                return Noted(spends=False)
            self._note(job, refundable=refundable)
            return Noted(spends=True)
        if self.tripped_ns is not None and sent_ns <= self.tripped_ns:
            return Noted(spends=not refundable)  # in flight when it tripped
        self._failures += 1
        self._failing.add(job)
        quiet = self._success_ns is None or now_ns - self._success_ns >= QUIET_NS
        if self.circuit is not Circuit.CLOSED or self._failures < TRIPS_AFTER or not quiet:
            self._move(Sign.FAIL)
            self._note(job, refundable=refundable)
            return Noted(spends=True)
        self._move(Sign.TRIP)
        self.tripped_ns = now_ns
        self._probe_due_ns = now_ns + FIRST_PROBE_NS
        refunds, self._streak = self._streak, {}
        return Noted(spends=not refundable, tripped=True, refunds=refunds)

    def ended(self, now_ns: int, request: int) -> None:
        """A request has ended in a way that says nothing about the server; if it was the probe, another may go."""
        if self.circuit is Circuit.PROBING and request == self._probe:
            self._move(Sign.PROBE_LOST)
            self._probe = None
            self._probe_due_ns = now_ns

    def is_suspicious(self, job: JobKey) -> bool:
        """Whether an outage may just have begun: others have failed beside this job since the last success."""
        return self.circuit is Circuit.CLOSED and len(self._failing) > (job in self._failing)

    def _probe_failed(self, now_ns: int) -> None:
        self._move(Sign.PROBE_FAILED)
        self._probe = None
        self._failed_probes += 1
        self._probe_due_ns = now_ns + min(LONGEST_PROBE_NS, FIRST_PROBE_NS << min(self._failed_probes, 10))

    def _note(self, job: JobKey, *, refundable: bool) -> None:
        if refundable:
            self._streak[job] = self._streak.get(job, 0) + 1

    def _move(self, sign: Sign) -> None:
        following = TRANSITIONS[self.circuit][sign]
        assert following is not None, f"a circuit that is {self.circuit.value} cannot {sign.value}"
        self.circuit = following
