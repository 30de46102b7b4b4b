"""Which job goes when, in virtual time: shares of files, priorities, large jobs among small ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.admission import Admission
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.errors import ChangedLines
from batchrunner.fair import FairQueue
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.lanes import Lane
from batchrunner.runner import Run
from batchrunner.tickets import Candidate, Held, NotNow, Ticket
from tests.sim.nights import MODEL, MakeNight, after, assert_whole, job

LIMITS = budget.Limits(50, 2_000_000)
MINUTE = 60.0

Loaded = Candidate | Held | NotNow


class Files:
    """Job files as lists of tokens, each a lane, and a dispatcher that sends them through a budget."""

    def __init__(self, *files: Sequence[int], priorities: Sequence[int] = (), limits: budget.Limits = LIMITS) -> None:
        self.tokens = [tokens for file in files for tokens in file]
        ends = [sum(map(len, files[: place + 1])) for place in range(len(files))]
        starts = [0, *ends[:-1]]
        lanes = [
            Lane(iter(range(start, end)), steps)
            for start, end, steps in zip(starts, ends, priorities or [0] * len(files), strict=True)
        ]
        self.file_of = [place for place, file in enumerate(files) for _ in file]
        self.store = MemoryStore(limits)
        self.sent: list[tuple[float, int]] = []
        self.load_hook: Callable[[int], Loaded | None] = lambda number: None
        queue = FairQueue(lanes, self.file_of.__getitem__, limits=limits)
        self.admission = Admission(
            self.store,
            queue,
            VirtualClock(trio.current_time),
            load=self.load,
            look=lambda number: RequestSize("m", self.tokens[number], 0),
            expect=lambda size: Usage(size.input_tokens, 0),
            max_in_flight=10_000,
            tpm=limits.tpm,
            rng=random.Random(7),
        )

    def load(self, number: int) -> Loaded:
        size = RequestSize("m", self.tokens[number], 0)
        line = Job(number, number + 1, f"job-{number}", "/v1/chat/completions", b"{}", number)
        return self.load_hook(number) or Candidate(line, size, Usage(size.input_tokens, 0))

    async def run(self, *, seconds: float = 10_000 * MINUTE, before: int = 0) -> None:
        """Send for so long, or to the end; each is answered after 5 s. `before`: tokens that were sent a moment ago."""
        now_ns = VirtualClock(trio.current_time).monotonic_ns()
        past = (budget.PastSend(now_ns, before),) if before else None
        await self.store.step(now_ns, budget.Open(past=past, jobs=len(self.tokens)))

        async def attempt(ticket: Ticket) -> None:
            await trio.sleep(5)
            await self.admission.succeeded(ticket, ticket.candidate.tokens)

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                while ticket := await self.admission.admit():
                    self.sent.append((trio.current_time(), ticket.job.number))
                    nursery.start_soon(attempt, ticket)

    def by_file(self) -> Counter[int]:
        return Counter(self.file_of[number] for _, number in self.sent)

    def sent_at(self, number: int) -> float:
        return next(at for at, sent in self.sent if sent == number)


async def test_three_files_of_different_jobs_have_equal_shares(autojump_clock: MockClock) -> None:
    """600 jobs of 1,000 tokens, 60 of 22,000 and 100 of 190,000: as long as all three have jobs, each has the same share of what
    it takes most of, and together they use all requests.
    """
    files = Files([1_000] * 600, [22_000] * 60, [190_000] * 100)
    await files.run(seconds=2.5 * MINUTE)
    sent = files.by_file()
    assert sent[1] < 60
    shares = [sent[0] / 50, sent[1] / 50, sent[2] * 190_000 / 2_000_000]
    assert max(shares) - min(shares) < 0.1, shares
    assert sum(sent.values()) > 0.97 * 2.5 * 50


async def test_a_file_of_large_jobs_does_not_keep_small_ones_waiting(autojump_clock: MockClock) -> None:
    """Large jobs are listed first; the small file's go all the same, at the rate that requests allow."""
    files = Files([380_000] * 40, [500] * 200)
    await files.run(seconds=4 * MINUTE)
    sent = files.by_file()
    assert sent[0] >= 17, "large jobs use the tokens"
    assert sum(sent.values()) > 0.95 * 4 * 50, "and all of them the requests"


async def test_small_files_share_what_a_large_one_leaves(autojump_clock: MockClock) -> None:
    """Whoever fills in while a large job waits takes turns: no file has it because it is named first."""
    files = Files([380_000] * 40, [500] * 200, [500] * 200)
    await files.run(seconds=4 * MINUTE)
    sent = files.by_file()
    assert abs(sent[1] - sent[2]) <= 1
    assert sent[1] > 80


async def test_small_jobs_behind_large_ones_of_the_same_file_use_the_requests(autojump_clock: MockClock) -> None:
    """Three of ten jobs take 125,000 tokens: in the order of the file a quarter of the limits would be lost."""
    rng = random.Random(3)
    files = Files([125_000 if rng.random() < 0.3 else 1_000 for _ in range(400)])
    await files.run(seconds=6 * MINUTE)
    tokens = sum(files.tokens[number] for _, number in files.sent)
    assert tokens > 0.96 * 6 * 2_000_000 or len(files.sent) > 0.96 * 6 * 50


@pytest.mark.parametrize(
    ("place", "count"),
    [
        (0, 4_000),
        (2_000, 4_000),
        (3_999, 4_000),
        *(pytest.param(place, 10_000, marks=pytest.mark.campaign) for place in (0, 5_000, 9_999)),
    ],
)
async def test_a_large_job_among_thousands_of_small_ones_is_not_starved(
    place: int, count: int, autojump_clock: MockClock
) -> None:
    """Half a million tokens among jobs that use the tokens up: it goes within a minute of those that stand beside it."""
    limits = budget.Limits(3_000, 2_000_000)
    files = Files([500_000 if number == place else 1_000 for number in range(count)], limits=limits)
    await files.run()
    assert len(files.sent) == count
    before = files.sent_at(place - 1) if place else 0.0
    assert files.sent_at(place) <= before + MINUTE


async def test_a_large_file_is_not_starved_by_a_small_ones_jobs(autojump_clock: MockClock) -> None:
    """One job of 1,500,000 tokens beside a file that would take everything: it waits no longer than its window needs."""
    limits = budget.Limits(3_000, 2_000_000)
    files = Files([1_000] * 10_000, [1_500_000], limits=limits)
    await files.run(seconds=10 * MINUTE)
    assert files.sent_at(10_000) <= 1.5 * MINUTE


async def test_priorities_are_kept(autojump_clock: MockClock) -> None:
    """Two steps of priority are four times the share; the file that comes first on the command line has no other advantage."""
    files = Files([1_000] * 300, [1_000] * 300, priorities=(0, 2))
    await files.run(seconds=4 * MINUTE)
    sent = files.by_file()
    assert sent[1] == pytest.approx(4 * sent[0], rel=0.05)


async def test_what_goes_ahead_and_turns_out_to_be_held_is_kept_aside(autojump_clock: MockClock) -> None:
    """Between the look and the send its model may have gone: no request goes out, no job is lost."""
    files = Files([1_900_000, 10, 10])
    asked: list[int] = []

    def hold_once(number: int) -> Loaded | None:
        asked.append(number)
        return Held("m", 30 * NS_PER_SECOND) if number == 1 and asked.count(1) == 1 else None

    files.load_hook = hold_once
    await files.run(before=1_000_000)
    assert sorted(number for _, number in files.sent) == [0, 1, 2]
    assert files.sent_at(1) >= 30
    assert files.store.state.in_flight == {}


async def test_a_changed_line_that_would_go_ahead_ends_it_and_stays_charged_for_nobody(autojump_clock: MockClock) -> None:
    """The file is checked again when a job goes before its turn; what the budget had let go is given back."""
    files = Files([1_900_000, 10])

    def changed(number: int) -> Loaded | None:
        if number == 1:
            raise ChangedLines([("jobs.jsonl line 2", "job-1")], 1)
        return None

    files.load_hook = changed
    with pytest.RaisesGroup(ChangedLines):
        await files.run(before=1_000_000)
    assert files.sent == []
    assert files.store.state.in_flight == {}


# --- whole runs


async def test_a_run_goes_by_priorities(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Lines that name a high priority are sent first, wherever they stand; the others are not left out."""
    lines = [job(f"job-{number}", priority=10) if number % 3 == 2 else job(f"job-{number}") for number in range(90)]
    night = make_night(lines)
    status = await night.run(rpm=200)
    assert_whole(night, status)
    order = [asked.custom_id for asked in night.platform.asked]
    urgent = {f"job-{number}" for number in range(2, 90, 3)}
    assert set(order[:32]) >= urgent


async def test_the_runs_own_priority_stands_for_lines_without_one(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """--priority 5 puts them before those of priority 0."""
    lines = [job(f"job-{number}", priority=0) if number < 45 else job(f"job-{number}") for number in range(90)]
    night = make_night(lines)
    assert_whole(night, await night.run(rpm=200, priority=5))
    order = [asked.custom_id for asked in night.platform.asked]
    assert sum(int(custom_id.removeprefix("job-")) >= 45 for custom_id in order[:45]) >= 42


async def test_a_run_with_priorities_resumes(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Cut off in the middle, in no order of the file, and changed in its priority: each job ends once."""
    lines = [job(f"job-{number}", priority=number % 5) for number in range(100)]
    night = make_night(lines, latency_median_seconds=2.0)

    stopped = await night.run(after(60, Run.cancel), rpm=30)
    assert stopped.state == "stopped"
    assert 0 < stopped.completed < 100
    assert_whole(night, await night.run(rpm=120, priority=-3))


async def test_a_run_looks_past_a_large_job(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Real lines of a file: large ones at its head, small ones behind them; a job of a foreign account fails in its turn, a
    model that is offline is not sent ahead, and each job ends once.
    """
    large = "word " * 20_000
    lines = [job(f"large-{number}", text=large) for number in range(8)]
    lines += [job("stranger", account="another")]
    lines += [job(f"small-{number}") for number in range(40)]
    night = make_night(lines)
    status = await night.run(rpm=60, tpm=60_000)
    assert (status.completed, status.failed) == (48, 1)
    assert night.failures() == {"stranger": "unknown_account"}
    order = [asked.custom_id for asked in night.platform.asked]
    assert order.index("large-7") > order.index("small-20"), f"{MODEL} requests pass unused"
