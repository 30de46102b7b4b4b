"""R-12: whatever happens to a run in whichever order, what its journal says next time is what a naive model says."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge
from batchrunner.disk import MemoryDisk
from batchrunner.events import AttemptResult, Event
from batchrunner.exchange import Reply
from batchrunner.index import Index
from batchrunner.job import Job, Usage
from batchrunner.journal import Journal, Recovered, inline
from batchrunner.journal.replay import RECENT_NS
from batchrunner.lifecycle import State
from tests.crash.scripted import (
    CEILING,
    PRICE,
    RUN,
    URL,
    StepClock,
    World,
    after_power_cut,
    body_of,
    check_money,
    check_shown,
    fingerprint_of,
    ids_of,
    index_of,
    job_of,
    killed,
    start,
    valid_costs,
)
from tests.verified import assert_clean, written

IDS = ids_of(5)
NUMBERS = st.integers(0, len(IDS) - 1)
MAYBE = Charge.maybe("model-1", URL, 5, 7, CEILING)


class Fate(msgspec.Struct):
    """What the model knows of one job."""

    state: State = State.PENDING
    sends: int = 0
    spent: int = 0
    refunded: int = 0
    #: how often its line was changed in the job file
    edits: int = 0


class Sums(msgspec.Struct):
    """What the model knows of the run."""

    attempts: int = 0
    rate_limited: int = 0
    billed: Decimal = Decimal(0)
    maybe_billed: Decimal = Decimal(0)


class RunMachine(RuleBasedStateMachine):
    """Drives a run's journal as the runner does, kills it, cuts its power, tears its files, resumes it, edits its job file."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.clock = StepClock()
        self.world = World()
        self.fates = [Fate() for _ in IDS]
        #: every state that a job was in since the newest commit; which of them a power cut goes back to is not foretold
        self.since_commit: list[set[State]] = [set() for _ in IDS]
        self.committed_sends = [0 for _ in IDS]
        self.sums = Sums()
        self.sent_ns: list[int] = []
        self.boots = 1
        self.start()
        self.commit()

    # What a run does ------------------------------------------------------------------------------------------------

    @rule(number=NUMBERS)
    def send(self, number: int) -> None:
        fate = self.fates[number]
        if fate.state is State.PENDING:
            fate.sends += 1
            self.journal.sent(
                self.job(number), fate.sends, model="model-1", input_tokens=5, output_cap_tokens=7, reserve_tokens=12
            )
            self.sent_ns.append(self.clock.now_ns)
            self.sums.attempts += 1
            self.becomes(number, State.IN_FLIGHT)

    @rule(number=NUMBERS)
    def succeed(self, number: int) -> None:
        fate = self.fates[number]
        if fate.state is State.IN_FLIGHT:
            reply = Reply(200, (), body_of(IDS[number], fate.sends))
            charge = Charge.billed("model-1", URL, Usage(fate.sends, 3), PRICE)
            self.journal.done(self.job(number), fate.sends, reply, charge=charge, event=self.event(number, succeeded=True))
            self.sums.billed += PRICE
            self.becomes(number, State.SUCCEEDED, spent=1)

    @rule(number=NUMBERS, billed=st.booleans())
    def fail(self, number: int, billed: bool) -> None:
        fate = self.fates[number]
        if fate.state is State.IN_FLIGHT:
            charge, reply = (MAYBE, Reply(200, (), b"<p>")) if billed else (None, Reply(400, (), b"{}"))
            event = self.event(number, succeeded=False)
            self.journal.failed(self.job(number), fate.sends, code="bad", message="no", reply=reply, charge=charge, event=event)
            self.sums.maybe_billed += CEILING * billed
            self.becomes(number, State.FAILED, spent=1)

    @rule(number=NUMBERS)
    def fail_unsent(self, number: int) -> None:
        fate = self.fates[number]
        if fate.state is State.PENDING:
            event = self.event(number, succeeded=False)
            self.journal.failed(self.job(number), fate.sends, code="price_unknown", message="no", spent=False, event=event)
            self.becomes(number, State.FAILED)

    @rule(number=NUMBERS, billed=st.booleans(), spent=st.booleans())
    def again(self, number: int, billed: bool, spent: bool) -> None:
        fate = self.fates[number]
        if fate.state is State.IN_FLIGHT:
            self.journal.again(self.job(number), fate.sends, why="timeout", charge=MAYBE if billed else None, spent=spent)
            self.sums.maybe_billed += CEILING * billed
            self.becomes(number, State.PENDING, spent=int(spent))

    @rule(number=NUMBERS)
    def refuse(self, number: int) -> None:
        fate = self.fates[number]
        if fate.state is State.IN_FLIGHT:
            self.journal.refused(self.job(number), fate.sends, why="rate_limit_exceeded")
            self.sums.rate_limited += 1
            self.becomes(number, State.PENDING)

    @rule(number=NUMBERS)
    def refund(self, number: int) -> None:
        """An outage gives back all that a job had spent."""
        fate = self.fates[number]
        if fate.state is State.PENDING and fate.spent:
            self.journal.refunded(IDS[number], self.fingerprint(number), fate.spent)
            fate.refunded += fate.spent
            fate.spent = 0

    @rule()
    def commit(self) -> None:
        trio.run(self.journal.commit)
        self.since_commit = [{fate.state} for fate in self.fates]
        self.committed_sends = [fate.sends for fate in self.fates]

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * NS_PER_SECOND)

    # What befalls it --------------------------------------------------------------------------------------------------

    @rule(retry_failed=st.booleans(), reboot=st.booleans())
    def killed(self, retry_failed: bool, reboot: bool) -> None:
        """All that was written is there: the next process knows everything."""
        self.disk = killed(self.disk)
        self.loses_what_flies()
        if reboot:
            self.reboots()
        if retry_failed:
            self.reopens(lambda fate: fate.state is State.FAILED)
        recovered = self.start(retry_failed=retry_failed)
        self.agrees(recovered)
        self.commit()

    @rule(seed=st.integers(0, 2**32))
    def loses_power(self, seed: int) -> None:
        """Of what was not synced anything may be left, and it may be torn: no more is lost than that, and nothing shown."""
        self.disk = after_power_cut(self.disk, random.Random(seed))
        self.reboots()
        recovered = self.start()
        for number, fate in enumerate(self.fates):
            state = State(self.index.state[number])
            allowed = {State.PENDING if was is State.IN_FLIGHT else was for was in self.since_commit[number]}
            assert state in allowed, (IDS[number], state, allowed)
            if state is State.PENDING:
                history = recovered.histories.get(number)
                sends = 0 if history is None else history.sends
                assert self.committed_sends[number] <= sends <= fate.sends
        self.believes(recovered)
        self.commit()

    @precondition(lambda self: any(fate.state is not State.SUCCEEDED for fate in self.fates))
    @rule(number=NUMBERS)
    def line_is_edited(self, number: int) -> None:
        """Between two processes, and with --accept-changes: what has not succeeded runs anew, what has keeps its result."""
        self.disk = killed(self.disk)
        self.loses_what_flies()
        fate = self.fates[number]
        told = fate.sends > 0 or fate.state is not State.PENDING
        fate.edits += 1
        if told:
            self.reopens(lambda other: other is fate and fate.state is not State.SUCCEEDED)
        self.agrees(self.start(accept_changes=True))
        self.commit()

    # What must hold -----------------------------------------------------------------------------------------------------

    @invariant()
    def each_attempt_of_the_money_is_known(self) -> None:
        for custom_id, attempt in valid_costs(self.disk):
            assert attempt <= self.fates[IDS.index(custom_id)].sends

    def teardown(self) -> None:
        """At the end nothing is wrong with what is left, as seen from outside."""
        with TemporaryDirectory() as scratch:
            assert_clean(written(killed(self.disk), Path(scratch) / "left.run", run_id=RUN))

    def agrees(self, recovered: Recovered) -> None:
        """Job by job, count by count, to the last digit of the money."""
        for number, fate in enumerate(self.fates):
            assert State(self.index.state[number]) is fate.state, IDS[number]
            history = recovered.histories.get(number)
            if fate.state is State.PENDING and fate.sends:
                assert history is not None
                assert (history.sends, history.spent, history.excused) == (fate.sends, fate.spent, fate.refunded)
        totals = recovered.totals
        assert Sums(totals.attempts, totals.rate_limited, totals.billed, totals.maybe_billed) == self.sums
        assert [at_ns for at_ns, _, _ in recovered.recent_sends] == [
            at_ns for at_ns in self.sent_ns if at_ns >= self.clock.now_ns - RECENT_NS
        ]
        self.holds(recovered)

    def holds(self, recovered: Recovered) -> None:
        check_money(self.disk, recovered)
        check_shown(self.world, self.index, IDS)

    # The model ----------------------------------------------------------------------------------------------------------

    def becomes(self, number: int, state: State, *, spent: int = 0) -> None:
        fate = self.fates[number]
        fate.state = state
        fate.spent += spent
        self.since_commit[number].add(state)

    def loses_what_flies(self) -> None:
        for fate in self.fates:
            if fate.state is State.IN_FLIGHT:
                fate.state = State.PENDING
                self.sums.maybe_billed += CEILING

    def reopens(self, whose: Callable[[Fate], bool]) -> None:
        for number, fate in enumerate(self.fates):
            if whose(fate):
                self.world.shown.pop(IDS[number], None)
                fate.state, fate.spent, fate.refunded = State.PENDING, 0, 0

    def reboots(self) -> None:
        self.boots += 1
        self.sent_ns.clear()

    def believes(self, recovered: Recovered) -> None:
        """Take over what a power cut left."""
        for number, fate in enumerate(self.fates):
            fate.state = State(self.index.state[number])
            history = recovered.histories.get(number)
            if history is not None:
                fate.sends, fate.spent, fate.refunded = history.sends, history.spent, history.excused
            elif fate.state is State.PENDING:
                fate.sends = fate.spent = fate.refunded = 0
        totals = recovered.totals
        self.sums = Sums(totals.attempts, totals.rate_limited, totals.billed, totals.maybe_billed)
        self.holds(recovered)

    # The run ------------------------------------------------------------------------------------------------------------

    def start(self, *, retry_failed: bool = False, accept_changes: bool = False) -> Recovered:
        self.clock.boot_id = f"boot-{self.boots}"
        self.index: Index = index_of(IDS, {custom_id: self.fingerprint(number) for number, custom_id in enumerate(IDS)})
        recovered, _ = start(
            self.disk, IDS, clock=self.clock, index=self.index, retry_failed=retry_failed, accept_changes=accept_changes
        )
        self.journal = Journal(recovered.files, self.clock, sink=self.world.sink, totals=recovered.totals, sync_in=inline)
        return recovered

    def job(self, number: int) -> Job:
        return job_of(self.index, IDS, number)

    def fingerprint(self, number: int) -> int:
        return fingerprint_of(IDS[number]) + 0x1_0000 * self.fates[number].edits

    def event(self, number: int, *, succeeded: bool) -> Event:
        result = AttemptResult.OK if succeeded else AttemptResult.INVALID
        fate = self.fates[number]
        return Event(IDS[number], number + 1, fate.sends, "model-1", URL, result, final=True, succeeded=succeeded)


def play(examples: int) -> None:
    run_state_machine_as_test(RunMachine, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None))


def test_R12_the_journal_is_the_model() -> None:
    play(60)


def test_what_follows_in_a_file_that_was_replaced_is_synced() -> None:
    """An error line was not, for as long as the new errors.jsonl was shorter than the old one had been."""
    machine = RunMachine()
    machine.fail_unsent(number=0)
    machine.line_is_edited(number=0)
    machine.fail_unsent(number=0)
    machine.commit()
    machine.loses_power(seed=1)
    machine.teardown()


@pytest.mark.parametrize("seed", [36, 215])
def test_a_job_that_failed_unsent_keeps_the_bill_of_its_lost_attempt(seed: int) -> None:
    """Its error line, found without a record, was taken for the end of that attempt, and its bill given back or doubled."""
    machine = RunMachine()
    machine.send(number=0)
    machine.line_is_edited(number=1)
    machine.fail_unsent(number=0)
    machine.loses_power(seed=seed)
    machine.teardown()


@pytest.mark.campaign
def test_R12_the_journal_is_the_model_500_times() -> None:
    play(500)
