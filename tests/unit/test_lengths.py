"""Lengths that outlive their run: encoded, kept in an account's file, and learned anew whatever is wrong with them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner import budget, estimate, lengths
from batchrunner.account_file import LENGTHS_MAX_BYTES, AccountFile
from batchrunner.account_store import MemoryStore
from batchrunner.clock import VirtualClock
from batchrunner.estimate import Estimator
from batchrunner.job import RequestSize, Usage
from batchrunner.shared_account import SharedAccount

SIZE = RequestSize(model="m", input_tokens=100, output_cap_tokens=128_000, opaque_parts=False)
LIMITS = budget.Limits(50, 0)


def experienced(output_tokens: int = 100, answers: int = 20) -> Estimator:
    estimator = Estimator()
    for _ in range(answers):
        estimator.learn(SIZE, Usage(300, output_tokens))
    return estimator


def account_on(path: Path, said: list[str]) -> SharedAccount:
    clock = VirtualClock(lambda: 0.0)
    return SharedAccount(AccountFile(path), LIMITS, clock, name="a", say=said.append)


class RememberingStore(MemoryStore):
    """Keeps lengths for the test to see."""

    def __init__(self, known: Estimator | None = None) -> None:
        super().__init__(LIMITS)
        self.known = known
        self.kept: list[tuple[float, bytes]] = []

    def lengths(self) -> Estimator | None:
        return self.known

    def keep_lengths(self, lengths: Estimator) -> None:
        self.kept.append((trio.current_time(), estimate.encode(lengths)))


def test_a_later_run_predicts_as_the_one_before_did() -> None:
    """All that predictions are made from is kept; how far they were off is each run's own affair."""
    before = experienced()
    before.learn(msgspec.structs.replace(SIZE, opaque_parts=True), Usage(5_000, 100))
    after = estimate.decode(estimate.encode(before))
    assert after is not None
    for size in (SIZE, msgspec.structs.replace(SIZE, opaque_parts=True)):
        assert after.predict(size) == before.predict(size)
    assert after.predict(SIZE).output_tokens == 100
    assert after.statistics() == Estimator().statistics()


def test_the_largest_sums_that_can_be_learned_can_be_read_again() -> None:
    """None comes near the bound beyond which they are taken for nonsense."""
    estimator = Estimator()
    for _ in range(2 * estimate.WINDOW):
        estimator.learn(msgspec.structs.replace(SIZE, input_tokens=10**8), Usage(1, estimate.MOST_TOKENS - 1))
        estimator.learn(msgspec.structs.replace(SIZE, opaque_parts=True), Usage(estimate.MOST_TOKENS, 0))
        assert estimate.decode(estimate.encode(estimator)) is not None


def kept(**changes: object) -> bytes:
    return msgspec.msgpack.encode({"version": 1, "ratios": {}, "parts": {}, "outputs": {}} | changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        kept()[:-1],
        kept() + b"\x00",
        kept(version=2),
        kept(more=1),
        kept(ratios={"m": {"guessed": -1_000}}),
        kept(parts={"m": {"value": 1 << 60}}),
        kept(outputs={"m": {"most": "many"}}),
        kept(outputs={"m": []}),
        kept(outputs={1: {}}),
        b"\x81\xa1\xff\x00",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"version": 1}),
    ],
)
def test_anything_else_is_nothing(data: bytes) -> None:
    """Torn, of another version, or out of all reason: never half of it, and never an error."""
    assert estimate.decode(kept()) == Estimator()
    assert estimate.decode(data) is None


def test_an_account_gives_the_next_run_what_it_was_given(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "account.sqlite"
    assert account_on(path, said).lengths() is None
    account_on(path, said).keep_lengths(estimate.encode(experienced()), last=False)
    found = account_on(path, said).lengths()
    assert found is not None
    assert found.predict(SIZE) == experienced().predict(SIZE)
    assert not said


def test_of_two_runs_the_later_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "account.sqlite"
    first, second = account_on(path, []), account_on(path, [])
    for account, tokens in ((first, 100), (second, 200), (first, 300)):
        account.keep_lengths(estimate.encode(experienced(tokens)), last=True)
    found = second.lengths()
    assert found is not None
    assert found.predict(SIZE).output_tokens == 300


def test_lengths_that_cannot_be_read_are_a_warning(tmp_path: Path) -> None:
    """The budget is shared all the same, and what is learned anew takes their place."""
    said: list[str] = []
    path = tmp_path / "account.sqlite"
    AccountFile(path).write_lengths(b"nonsense")
    account = account_on(path, said)
    assert account.lengths() is None
    assert said == [f"warning: {path}: what it says of lengths cannot be read; they are learned anew."]
    assert account.apply([budget.Open((), 1)]).decisions == [None]
    account.keep_lengths(estimate.encode(experienced()), last=True)
    assert account.lengths() is not None
    assert len(said) == 1


def test_of_a_file_that_cannot_be_used_the_first_step_tells(tmp_path: Path) -> None:
    """Once; at the end of such a run nothing is tried any more."""
    said: list[str] = []
    path = tmp_path / "account.sqlite"
    path.write_bytes(b"no database at all " * 100)
    account = account_on(path, said)
    assert account.lengths() is None
    assert not said
    account.apply([budget.Open((), 1)])
    account.keep_lengths(estimate.encode(experienced()), last=True)
    assert [line.split(":")[0] for line in said] == ["warning"]
    assert path.read_bytes().startswith(b"no database")


def test_lengths_that_cannot_be_written_are_told_of_at_the_end(tmp_path: Path) -> None:
    """Before that there will be another time."""
    said: list[str] = []
    path = tmp_path / "account.sqlite"
    account = account_on(path, said)
    account.apply([budget.Open((), 1)])
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE lengths")
    database.close()
    account.keep_lengths(b"", last=False)
    assert not said
    account.keep_lengths(b"", last=True)
    assert "no such table" in said[0]
    assert "The next run does not know what this one has learned of lengths." in said[0]


def test_more_than_anybody_reads_is_not_written(tmp_path: Path) -> None:
    """What was kept before stays."""
    path = tmp_path / "account.sqlite"
    account = account_on(path, [])
    account.keep_lengths(estimate.encode(experienced()), last=True)
    account.keep_lengths(b"x" * (LENGTHS_MAX_BYTES + 1), last=True)
    assert account.lengths() is not None


def test_of_several_accounts_the_first_that_knows_anything_is_believed() -> None:
    stores = [RememberingStore(), RememberingStore(experienced(100)), RememberingStore(experienced(200))]
    assert lengths.known(stores).predict(SIZE).output_tokens == 100
    assert lengths.known([MemoryStore(LIMITS)]) == Estimator()


async def test_every_account_is_told_every_minute_and_at_the_end(autojump_clock: MockClock) -> None:
    """Each time what is known by then."""
    stores = [RememberingStore(), RememberingStore()]
    estimator = Estimator()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lengths.keep, estimator, stores)
        await trio.sleep(90)
        estimator.learn(SIZE, Usage(300, 100))
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    empty, full = estimate.encode(Estimator()), estimate.encode(estimator)
    for store in stores:
        assert [(round(at), data) for at, data in store.kept] == [(60, empty), (120, full), (150, full)]


async def test_a_run_that_ends_at_once_tells_them_too(autojump_clock: MockClock) -> None:
    store = RememberingStore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lengths.keep, experienced(), [store])
        nursery.cancel_scope.cancel()
    assert len(store.kept) == 1


async def test_a_process_alone_forgets(autojump_clock: MockClock) -> None:
    store = MemoryStore(LIMITS)
    store.keep_lengths(experienced())
    assert store.lengths() is None
