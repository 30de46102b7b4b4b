"""What is offered beside the job whose turn it is."""

from __future__ import annotations

from batchrunner import budget
from batchrunner.fair import FairQueue
from batchrunner.job import RequestSize, Usage
from batchrunner.lanes import Lane
from batchrunner.lookahead import AHEAD, MOST_KEPT, PROMISE_NS, SIZED_AT_ONCE, LookAhead

TPM = 100_000
LARGE = 1_001


class Ahead:
    """A look-ahead over a lane of jobs of 10 tokens, with what it was asked for."""

    def __init__(self, jobs: int = 1_000, *, tpm: int = TPM, unfit: frozenset[int] = frozenset()) -> None:
        self.queue = FairQueue([Lane(iter(range(jobs)))])
        self.looked: list[int] = []
        self.away = False
        self.unfit = unfit
        self.ahead = LookAhead(self.queue, self.size, self.expect, tpm=tpm)

    def size(self, number: int) -> RequestSize | None:
        self.looked.append(number)
        return None if number in self.unfit else RequestSize("m", 7, 50)

    def expect(self, size: RequestSize) -> Usage | None:
        return None if self.away else Usage(size.input_tokens, 3)

    def offered(self, tokens: int, number: int | None = None) -> tuple[tuple[int, ...], budget.Take]:
        head = self.queue.peek(0) if number is None else number
        assert head is not None
        offered = self.ahead.offered(head, budget.Offer(tokens, tokens), 9, alone=False)
        return offered.numbers, offered.take

    def go(self, number: int) -> None:
        self.queue.remove(number, 0)
        self.ahead.gone(number)


def test_small_jobs_are_not_looked_past() -> None:
    """As long as no job is large each goes in its turn, and is read once."""
    held = Ahead()
    for number in range(100):
        assert held.offered(LARGE - 1) == ((number,), budget.Take(9, (budget.Offer(LARGE - 1, LARGE - 1),)))
        held.go(number)
    assert held.looked == []


def test_without_a_token_limit_nothing_is_large() -> None:
    """Nobody waits for tokens then."""
    held = Ahead(tpm=0)
    assert held.offered(10**9)[0] == (0,)


def test_a_large_job_opens_the_window_a_few_at_a_time() -> None:
    """Bodies are long where jobs are large: a handful is read at each question, and each of them once."""
    held = Ahead()
    for question in range(1, 12):
        numbers, take = held.offered(LARGE)
        assert numbers == tuple(range(min(question * SIZED_AT_ONCE, AHEAD) + 1))
        assert take.equals == len(numbers)
        assert take.offers[1:] == (budget.Offer(10, 57),) * (len(numbers) - 1)
    assert held.looked == list(range(1, AHEAD + 1))


def test_it_is_looked_ahead_for_a_while_after_a_large_job() -> None:
    """There may be more of them; after as many jobs as are looked at there is no reason any more, and nothing is kept."""
    held = Ahead()
    held.offered(LARGE)
    for number in range(AHEAD + 1):
        assert len(held.offered(10, number)[0]) > 1
        held.go(number)
    assert held.offered(10) == ((AHEAD + 1,), budget.Take(9, (budget.Offer(10, 10),)))
    assert not held.ahead._sizes


def test_what_may_not_be_sent_is_not_offered() -> None:
    """A job with something wrong goes in its turn, and is told of then; one of a model that is away may be back later."""
    held = Ahead(unfit=frozenset({2}))
    assert held.offered(LARGE)[0] == (0, 1, 3, 4, 5, 6, 7, 8)
    held.away = True
    assert held.offered(LARGE)[0] == (0,)
    held.away = False
    assert 1 in held.offered(LARGE)[0]


def test_a_job_that_comes_back_fills_up_from_the_lane() -> None:
    """One that was in flight before is of no lane's order: others only fill what it must leave."""
    held = Ahead()
    held.queue.again(500, 0)
    numbers, take = held.offered(LARGE)
    assert numbers == (500, *range(SIZED_AT_ONCE))
    assert take.equals == 1


def test_what_a_job_was_promised_is_kept() -> None:
    """Each that goes before it takes from its promise, until it goes."""
    held = Ahead()
    _, take = held.offered(LARGE)
    assert (take.passed, take.spare_ns) == (0, PROMISE_NS)
    held.ahead.passed(0, 7)
    held.ahead.passed(0, 5)
    _, take = held.offered(LARGE)
    assert (take.passed, take.spare_ns) == (2, PROMISE_NS - 12)
    held.go(0)
    _, take = held.offered(LARGE)
    assert (take.passed, take.spare_ns) == (0, PROMISE_NS)


def test_what_others_have_sent_is_not_kept() -> None:
    """Two accounts look at the same lanes: of jobs that one has sized up the other sends many, for as long as files last."""
    held = Ahead(100_000)
    for _ in range(1_000):
        numbers, take = held.offered(LARGE)
        assert (len(numbers), take.passed) == (SIZED_AT_ONCE + 1, 0)
        held.ahead.passed(numbers[0], 1)
        for number in numbers[:-1]:
            held.queue.remove(number, 0)
        held.go(numbers[-1])
    assert len(held.ahead._sizes) <= MOST_KEPT + SIZED_AT_ONCE
    assert len(held.ahead._promises) <= MOST_KEPT + 1
