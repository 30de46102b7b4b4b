"""A circuit under everything that requests can bring, in any order: what it promises holds after each step."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchrunner.breaker import LONGEST_PROBE_NS, NS, QUIET_NS, TRIPS_AFTER, Breaker, Circuit, JobKey, Refunds

JOBS = st.integers(0, 3).map(lambda number: (number, f"job-{number}"))


class BreakerMachine(RuleBasedStateMachine):
    """Sends when it is due, as a rule; some requests slip through, as where the store was asked while the circuit opened."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.requests = 0
        #: job and time of each that is in flight
        self.flying: dict[int, tuple[JobKey, int]] = {}
        #: went out while the circuit was open
        self.probes: set[int] = set()
        self.spent: Counter[JobKey] = Counter()
        #: of these, what had to be spent: it may have been paid for
        self.kept: Counter[JobKey] = Counter()
        self.failures = 0
        self.success_ns: int | None = None

    @initialize(probes_spend=st.booleans())
    def begin(self, probes_spend: bool) -> None:
        self.probes_spend = probes_spend
        self.breaker = Breaker(probes_spend=probes_spend)

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)

    @rule(job=JOBS, slips_through=st.integers(0, 9).map(lambda draw: draw == 0))
    def send(self, job: JobKey, slips_through: bool) -> None:
        if self.breaker.due_ns(self.now_ns) != self.now_ns and not slips_through:
            return
        self.requests += 1
        if self.breaker.circuit is Circuit.OPEN:
            self.probes.add(self.requests)
        self.breaker.sent(self.requests)
        self.flying[self.requests] = (job, self.now_ns)

    def land(self, data: st.DataObject) -> tuple[int, JobKey, int]:
        request = data.draw(st.sampled_from(sorted(self.flying)))
        job, sent_ns = self.flying.pop(request)
        return request, job, sent_ns

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), refundable=st.integers(0, 4).map(bool))
    def fail(self, data: st.DataObject, refundable: bool) -> None:
        request, job, sent_ns = self.land(data)
        self.failures += 1
        before = self.breaker.circuit
        noted = self.breaker.failed(self.now_ns, request, sent_ns, job, refundable=refundable)
        assert noted.spends or refundable
        if noted.tripped:
            assert before is Circuit.CLOSED
            assert self.failures >= TRIPS_AFTER
            assert self.success_ns is None or self.now_ns - self.success_ns >= QUIET_NS
        else:
            assert not noted.refunds
        self.give_back(noted.refunds)
        self.spent[job] += noted.spends
        self.kept[job] += not refundable

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.land(data)
        self.give_back(self.breaker.succeeded(self.now_ns))
        self.failures = 0
        self.success_ns = self.now_ns
        assert self.breaker.circuit is Circuit.CLOSED

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """With a 429 perhaps, which says nothing of the server."""
        request, _, _ = self.land(data)
        before = self.breaker.circuit
        self.breaker.ended(self.now_ns, request)
        if self.breaker.circuit is not before:
            assert self.breaker.due_ns(self.now_ns) == self.now_ns

    def give_back(self, refunds: Refunds) -> None:
        assert all(attempts > 0 for attempts in refunds.values())
        self.spent.subtract(refunds)

    @invariant()
    def no_job_gets_back_what_it_did_not_spend(self) -> None:
        assert all(self.spent[job] >= self.kept[job] for job in self.spent)

    @invariant()
    def there_is_always_a_way_on(self) -> None:
        """A closed circuit lets all go, an open one somebody in five minutes at most; else a probe of it is in flight."""
        due_ns = self.breaker.due_ns(self.now_ns)
        if self.breaker.circuit is Circuit.PROBING:
            assert due_ns is None
            assert self.breaker._probe in self.flying.keys() & self.probes
        else:
            assert due_ns is not None
            assert self.now_ns <= due_ns <= self.now_ns + LONGEST_PROBE_NS * (self.breaker.circuit is Circuit.OPEN)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
