"""A shared account behind its thread: what is asked is answered in order, what is told is written, and nothing hangs."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import trio

from batchrunner import budget, estimate
from batchrunner.account_file import AccountFile, Row
from batchrunner.clock import SystemClock
from batchrunner.estimate import Estimator
from batchrunner.job import RequestSize, Usage
from batchrunner.shared_account import SharedAccount
from batchrunner.shared_store import SharedStore
from benchmarks.limiter import cost
from tests.unit.budgets import take

CLOCK = SystemClock()


def store_on(path: Path, rpm: int = 0, tpm: int = 0, name: str = "a", said: list[str] | None = None) -> SharedStore:
    account = SharedAccount(
        AccountFile(path), budget.Limits(rpm, tpm), CLOCK, name=name, say=print if said is None else said.append
    )
    return SharedStore(account, CLOCK)


def row_of(path: Path) -> Row:
    file = AccountFile(path)
    row = file.transact(lambda row: (None, row))
    file.close()
    assert row is not None
    return row


async def sent(store: SharedStore, tokens: int = 0) -> int:
    """Send one request as soon as may be; its entry."""
    while True:
        slot = await store.step(CLOCK.monotonic_ns(), budget.Reserve())
        assert isinstance(slot, budget.Slot)
        at_ns = slot.at_ns
        while True:
            await trio.sleep(max(0, at_ns - CLOCK.monotonic_ns()) / 1e9)
            match await store.step(CLOCK.monotonic_ns(), take(slot.slot, tokens)):
                case budget.Taken(entry):
                    return entry
                case budget.Later(later_ns):
                    at_ns = later_ns
                case _:
                    break


@pytest.mark.parametrize("rpm", [0, 5_000])
async def test_all_that_was_told_is_written_at_the_end(tmp_path: Path, rpm: int) -> None:
    """With leases and without: settled to the last token, and nothing of the run is left but its minute."""
    path = tmp_path / "account.sqlite"
    with trio.fail_after(60):
        async with store_on(path, rpm, 10**9) as store:
            await store.step(CLOCK.monotonic_ns(), budget.Open((), 10))
            entries = [await sent(store, 100) for _ in range(50)]
            assert store.statistics(CLOCK.monotonic_ns()).in_flight == 50
            for entry in entries:
                await store.step(CLOCK.monotonic_ns(), budget.Settle(entry, 7))
    shared = row_of(path).shared
    assert (shared.holders, shared.lease, shared.state.in_flight) == ({}, None, {})
    assert shared.state.window.used == 50 * 7


@pytest.mark.parametrize("rpm", [0, 30_000])
async def test_two_stores_on_one_file_are_one_account(tmp_path: Path, rpm: int) -> None:
    """Each sends and settles as it likes; all of it is in one minute in the end, whoever had the account in between."""
    path = tmp_path / "account.sqlite"

    async def work(store: SharedStore) -> None:
        await store.step(CLOCK.monotonic_ns(), budget.Open(None, 10))
        for _ in range(100):
            await store.step(CLOCK.monotonic_ns(), budget.Settle(await sent(store, 10), 3))

    with trio.fail_after(100):
        async with store_on(path, rpm, 10**9) as one, store_on(path, rpm, 10**9, "b") as other, trio.open_nursery() as nursery:
            nursery.start_soon(work, one)
            nursery.start_soon(work, other)
    assert row_of(path).shared.state.window.used == 2 * 100 * 3


async def test_a_429_is_written_at_once(tmp_path: Path) -> None:
    """In the middle of a lease too: whoever comes next finds the gate closed."""
    path = tmp_path / "account.sqlite"
    with trio.fail_after(60):
        async with store_on(path) as store:
            await store.step(CLOCK.monotonic_ns(), budget.Open((), 10))
            entry = await sent(store)
            await store.step(CLOCK.monotonic_ns(), budget.Refuse(entry, 100 * 10**9, 0.5))
            await store.step(CLOCK.monotonic_ns(), budget.Reserve())
            assert row_of(path).shared.state.gate.until_ns > CLOCK.monotonic_ns()


async def test_the_loop_goes_on_while_the_file_is_locked_and_the_run_then_goes_on_by_itself(tmp_path: Path) -> None:
    """Whoever asks waits for two seconds, everybody else for nothing; then it is a warning."""
    path = tmp_path / "account.sqlite"
    said: list[str] = []
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.05)
            turns += 1

    with trio.fail_after(60):
        async with store_on(path, 50, said=said) as store:
            await store.step(CLOCK.monotonic_ns(), budget.Open((), 10))
            locking = sqlite3.connect(path, isolation_level=None)
            locking.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turn)
                await sent(store)
                nursery.cancel_scope.cancel()
            locking.execute("ROLLBACK")
            locking.close()
    assert turns >= 5
    assert "keeps it locked" in said[0]


async def test_a_cancelled_step_is_taken_to_its_end(tmp_path: Path) -> None:
    """What was granted is known: a slot that nobody heard of would be nobody's."""
    with trio.fail_after(60):
        async with store_on(tmp_path / "account.sqlite", 50) as store:
            with trio.CancelScope() as scope:
                scope.cancel()
                slot = await store.step(CLOCK.monotonic_ns(), budget.Reserve())
                assert isinstance(slot, budget.Slot)
            with trio.CancelScope() as scope:
                scope.cancel()
                await trio.lowlevel.checkpoint_if_cancelled()
            assert scope.cancelled_caught


async def test_what_comes_during_a_transaction_goes_before_what_comes_after_it(tmp_path: Path) -> None:
    """Settlements that were told while the account was being lent are in it before the next request is charged."""
    path = tmp_path / "account.sqlite"
    with trio.fail_after(60):
        async with store_on(path, 0, 1_000) as store:
            await store.step(CLOCK.monotonic_ns(), budget.Open((), 10))
            entries = [await sent(store, 45) for _ in range(2)]
            await trio.sleep(0.3)  # to the end of the lease
            locking = sqlite3.connect(path, isolation_level=None)
            locking.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.step, CLOCK.monotonic_ns(), budget.Reserve())
                await trio.sleep(0.1)
                for entry in entries:
                    await store.step(CLOCK.monotonic_ns(), budget.Settle(entry, 1))
                await store.step(CLOCK.monotonic_ns(), budget.Refuse(entries[0], None, 0.5))
                locking.execute("ROLLBACK")
                locking.close()
            await sent(store, 40)
    assert row_of(path).shared.state.window.used == 2 + 40


class SleepyClock(SystemClock):
    """A clock of a machine that sleeps now and then."""

    slept_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.slept_ns


async def test_ends_in_a_lease_that_was_slept_through_are_not_lost(tmp_path: Path) -> None:
    """Another has the account when the sleeper wakes: it waits for it, and then tells of what had ended."""
    path = tmp_path / "account.sqlite"
    clock = SleepyClock()
    other = SharedAccount(AccountFile(path), budget.Limits(0, 1_000), clock, name="b", say=print)
    account = SharedAccount(AccountFile(path), budget.Limits(0, 1_000), clock, name="a", say=print)
    with trio.fail_after(60):
        async with SharedStore(account, clock) as store:
            await store.step(clock.monotonic_ns(), budget.Open((), 10))
            slot = await store.step(clock.monotonic_ns(), budget.Reserve())
            assert isinstance(slot, budget.Slot)
            taken = await store.step(clock.monotonic_ns(), take(slot.slot, 100))
            while not isinstance(taken, budget.Taken):
                again = await store.step(clock.monotonic_ns(), budget.Reserve())
                assert isinstance(again, budget.Slot)
                taken = await store.step(clock.monotonic_ns(), take(again.slot, 100))
            await trio.sleep(0.3)
            await store.step(clock.monotonic_ns(), budget.Reserve())
            await store.step(clock.monotonic_ns(), budget.Settle(taken.entry, 10))
            clock.slept_ns = 10 * 10**9
            lent = other.apply([budget.Open((), 10)], lease=True).lent
            await trio.sleep(0.3)
            other.apply([], lent)
    file = row_of(path).shared
    assert file.holders.keys() == {"b"}
    assert file.state.window.used in {10, 10 + 50}, "what was lent and not given back counts as used up, and nothing else does"


async def test_lengths_are_kept_after_the_next_transaction_and_at_the_end(tmp_path: Path) -> None:
    """By the thread, as they were when it was told; another run finds them when it begins."""
    path = tmp_path / "account.sqlite"
    size = RequestSize(model="m", input_tokens=100, output_cap_tokens=128_000, opaque_parts=False)
    learned = Estimator()

    def kept() -> Estimator | None:
        data = AccountFile(path).lengths()
        return None if data is None else estimate.decode(data)

    with trio.fail_after(60):
        async with store_on(path, 50) as store:
            assert store.lengths() is None
            learned.learn(size, Usage(100, 10))
            store.keep_lengths(learned)
            assert kept() is None
            while kept() is None:
                await store.step(CLOCK.monotonic_ns(), budget.Reserve())
            for _ in range(20):
                learned.learn(size, Usage(100, 10))
            found = kept()
            assert found is not None
            assert found.predict(size).output_tokens > 10_000, "it was told after one answer"
            store.keep_lengths(learned)
        async with store_on(path, 50, name="b") as store:
            found = store.lengths()
            assert found is not None
            assert found.predict(size).output_tokens == 10


async def test_a_defect_reaches_whoever_asks(tmp_path: Path) -> None:
    """It is raised, then and ever after, and the end of the run is not kept waiting by it."""
    with trio.fail_after(60):
        async with store_on(tmp_path / "account.sqlite") as store:
            await store.step(CLOCK.monotonic_ns(), object())  # type: ignore[arg-type]
            for _ in range(2):
                with pytest.raises(AttributeError):
                    await store.step(CLOCK.monotonic_ns(), budget.Reserve())
    assert not any(thread.name == "account" for thread in threading.enumerate())


async def test_others_take_turns_with_one_that_is_at_full_speed(tmp_path: Path) -> None:
    """One sends as fast as it goes; another, that comes now and then, is let in within a lease's length or two."""
    path = tmp_path / "account.sqlite"
    counts = {"a": 0, "b": 0}

    async def work(name: str, store: SharedStore, pause_seconds: float) -> None:
        while min(counts.values()) < 20:
            await store.step(CLOCK.monotonic_ns(), budget.Settle(await sent(store), None))
            counts[name] += 1
            await trio.sleep(pause_seconds)

    with trio.fail_after(60):
        async with store_on(path) as one, store_on(path, name="b") as other, trio.open_nursery() as nursery:
            nursery.start_soon(work, "a", one, 0)
            nursery.start_soon(work, "b", other, 0.01)
    assert min(counts.values()) >= 20


def test_what_a_shared_admission_costs_is_measured_with_all_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "JOBS", 50)
    monkeypatch.setattr(cost, "ROUNDS", 1)
    found = cost.measured(cost.shared)
    assert found.ratio == pytest.approx(found.admission_us / found.task_us)
