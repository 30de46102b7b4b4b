"""A small run with every kind of attempt in it, its server's ledger, and the promises that hold wherever it is cut off."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import msgspec
import trio

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge, CostLine, read_cost_line
from batchrunner.disk import Disk, MemoryDisk
from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.exchange import Reply
from batchrunner.index import Index
from batchrunner.job import BadLine, Job, Usage
from batchrunner.journal import Journal, Recovered, Tariff, inline, recover
from batchrunner.journal.files import COSTS, ERRORS, RESULTS
from batchrunner.lifecycle import State
from batchrunner.results import FinalLine, parse_id, read_line

RUN = "run-0-test"
URL = "/v1/chat/completions"
PRICE = Decimal("0.1")
CEILING = Decimal("0.5")
BAD_LINES = [BadLine(3, "not_json", "line 3 is no JSON"), BadLine(9, "not_json", "line 9 is no JSON")]


class PowerCut(BaseException):
    """The process ends here."""


class StepClock:
    """A clock on which every reading is a millisecond after the last."""

    def __init__(self, boot_id: str = "boot-1") -> None:
        self.boot_id = boot_id
        self.now_ns = 1_000 * NS_PER_SECOND

    def monotonic_ns(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def wall_ns(self) -> int:
        return self.monotonic_ns()


class _Facts(msgspec.Struct):
    usage: Usage | None
    finish: str
    tool_usage: dict[str, int] = {}
    opaque: bool = False


def _facts(endpoint: str, body: bytes) -> _Facts:
    usage = msgspec.json.decode(body)["usage"]
    return _Facts(Usage(usage["prompt_tokens"], usage["completion_tokens"]), "stop")


TARIFF = Tariff(
    request=lambda number: (URL, "model-1"),
    facts=_facts,
    price=lambda model, facts: PRICE,
    ceiling=lambda model, input_tokens, cap, units: CEILING,
)


def ids_of(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


def index_of(ids: list[str], fingerprints: dict[str, int] | None = None) -> Index:
    """The index of an input that holds these jobs, one a line."""
    index = Index(lambda number: ids[number])
    for number, custom_id in enumerate(ids):
        index.add(custom_id, (fingerprints or {}).get(custom_id, fingerprint_of(custom_id)), number * 100, 90, number + 1)
    return index


def fingerprint_of(custom_id: str) -> int:
    return 0xABC0_0000_0000_0000 + int(custom_id.split("-")[1])


def job_of(index: Index, ids: list[str], number: int) -> Job:
    return Job(number, index.lines[number], ids[number], URL, b"{}", index.fingerprints[number])


def start(
    disk: Disk,
    ids: list[str],
    *,
    clock: StepClock | None = None,
    index: Index | None = None,
    bad_lines: list[BadLine] | None = None,
    accept_changes: bool = False,
    retry_failed: bool = False,
    tariff_facts: Callable[[str, bytes], _Facts | None] = _facts,
) -> tuple[Recovered, Index]:
    """Recover as a run does when it starts."""
    index = index_of(ids) if index is None else index
    recovered = recover(
        disk,
        run_id=RUN,
        index=index,
        clock=clock or StepClock(),
        tariff=msgspec.structs.replace(TARIFF, facts=tariff_facts),
        pid=1,
        version="0",
        bad_lines=bad_lines or [],
        accept_changes=accept_changes,
        retry_failed=retry_failed,
    )
    return recovered, index


class World:
    """What outlives every crash: what the server saw, and what was shown to people."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, int]] = Counter()
        self.shown: dict[str, bool] = {}

    def sink(self, event: Event) -> None:
        if event.final:
            self.shown[event.custom_id] = event.succeeded


def body_of(custom_id: str, attempt: int) -> bytes:
    return b'{"text":"%b at %d",\n"usage":{"prompt_tokens":%d,"completion_tokens":3}}' % (custom_id.encode(), attempt, attempt)


async def run_script(
    disk: Disk,
    ids: list[str],
    world: World,
    *,
    commit_every: int = 3,
    clock: StepClock | None = None,
) -> None:
    """Run all jobs that have not ended, two in flight at a time; commit after every few jobs."""
    clock = clock or StepClock()
    recovered, index = start(disk, ids, clock=clock, bad_lines=BAD_LINES)
    journal = Journal(recovered.files, clock, sink=world.sink, totals=recovered.totals, sync_in=inline)
    sends = {number: history.sends for number, history in recovered.histories.items()}
    todo = [number for number in range(len(ids)) if index.state[number] == State.PENDING]
    for place in range(0, len(todo), 2):
        _run_pair(journal, world, [job_of(index, ids, number) for number in todo[place : place + 2]], sends)
        if place % commit_every == 0:
            await journal.commit()
    await journal.commit()
    await journal.finish([["jobs.jsonl", 1, 2, 3]], b'{"status":"completed"}')
    await journal.close()


def _run_pair(journal: Journal, world: World, jobs: list[Job], sends: dict[int, int]) -> None:
    """Send both, then end both, again and again until both are over."""
    while jobs:
        for job in jobs:
            if job.number % 7 != 6 or sends.get(job.number, 0):
                _send(journal, world, job, sends)
        jobs = [job for job in jobs if not _end(journal, job, sends.get(job.number, 0))]


def _send(journal: Journal, world: World, job: Job, sends: dict[int, int]) -> None:
    attempt = sends[job.number] = sends.get(job.number, 0) + 1
    journal.sent(job, attempt, model="model-1", input_tokens=5, output_cap_tokens=7, reserve_tokens=12)
    world.sent[(job.custom_id, attempt)] += 1


def _end(journal: Journal, job: Job, attempt: int) -> bool:
    """What the job's number says that comes of this attempt; whether it is over."""
    maybe = Charge.maybe("model-1", URL, 5, 7, CEILING)
    kind = job.number % 7
    done = Event(job.custom_id, job.line, attempt, "model-1", URL, AttemptResult.OK, final=True, succeeded=True)
    failed = Event(job.custom_id, job.line, attempt, "model-1", URL, AttemptResult.INVALID, final=True)
    if kind == 6:
        journal.failed(job, attempt, code="price_unknown", message="never sent", spent=False, event=failed)
    elif kind == 1:
        answer = Reply(400, (("x-request-id", "r-1"),), b'{"error":\r\n{"code":"bad"}}')
        journal.failed(job, attempt, code="bad", message="no", reply=answer, event=failed)
    elif kind == 2:
        journal.failed(job, attempt, code="not_json", message="no", reply=Reply(200, (), b"<p>\n"), charge=maybe, event=failed)
    elif kind == 3 and attempt == 1:
        journal.again(job, attempt, why="timeout", charge=maybe)
        return False
    elif kind == 4 and attempt == 1:
        journal.refused(job, attempt, why="rate_limit_exceeded")
        return False
    else:
        charge = Charge.billed("model-1", URL, Usage(attempt, 3), PRICE)
        journal.done(job, attempt, Reply(200, (), body_of(job.custom_id, attempt)), charge=charge, event=done)
    return True


# What is left on disk --------------------------------------------------------------------------------------------


def lines_of(disk: MemoryDisk, name: str) -> list[bytes]:
    return bytes(disk.files.get(name, b"")).splitlines(keepends=True)


def final_lines(disk: MemoryDisk) -> dict[str, list[FinalLine]]:
    """All final lines of jobs by id, from both files. Each line must be JSON."""
    found: dict[str, list[FinalLine]] = {}
    for name in (RESULTS, ERRORS):
        for raw in lines_of(disk, name):
            json.loads(raw)
            line = read_line(raw)
            assert line is not None, raw
            if line.custom_id is not None:
                found.setdefault(line.custom_id, []).append(line)
    return found


def valid_costs(disk: MemoryDisk) -> dict[tuple[str, int], CostLine]:
    """The last cost line of each attempt."""
    valid: dict[tuple[str, int], CostLine] = {}
    for raw in lines_of(disk, COSTS):
        line = read_cost_line(raw)
        assert line is not None, raw
        valid[(line.custom_id, line.attempt)] = line
    return valid


def check_money(disk: MemoryDisk, recovered: Recovered) -> None:
    """The journal's sums are those of the valid cost lines."""
    sums = dict.fromkeys(Billing, Decimal(0))
    for line in valid_costs(disk).values():
        sums[line.state] += line.cost.amount or 0
    assert (recovered.totals.billed, recovered.totals.maybe_billed) == (sums[Billing.BILLED], sums[Billing.MAYBE])


def check_shown(world: World, index: Index, ids: list[str]) -> None:
    """What was shown as done is done."""
    for custom_id, succeeded in world.shown.items():
        state = State(index.state[ids.index(custom_id)])
        assert state is (State.SUCCEEDED if succeeded else State.FAILED), custom_id


def check_finished(disk: MemoryDisk, ids: list[str], world: World, *, power: bool) -> None:
    """All promises at a run's end. After a power cut the ledger may hold sends that the last commits' records lost."""
    finals = final_lines(disk)
    assert sorted(finals) == sorted(ids)
    costs = valid_costs(disk)
    for custom_id, lines in finals.items():
        assert len(lines) == 1, custom_id
        identity = parse_id(lines[0].id)
        assert identity is not None
        body = lines[0].answer()
        if body is not None:
            assert body == body_of(custom_id, identity.attempt).replace(b"\n", b" ")
            assert costs[(custom_id, identity.attempt)].state is Billing.BILLED
    assert [json.loads(raw)["line"] for raw in lines_of(disk, ERRORS)[:2]] == [3, 9]
    if not power:
        assert set(world.sent.values()) == {1}, "an attempt's number was used twice"
        for custom_id, attempt in costs:
            assert world.sent[(custom_id, attempt)] == 1


def break_at(disk: MemoryDisk, nth: int, error: BaseException) -> None:
    """The `nth` operation from now on (1 for the next) raises instead of happening."""
    left = nth

    def fail(operation: str, name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    disk.fail = fail  # type: ignore[method-assign]


def after_power_cut(disk: MemoryDisk, chance: random.Random) -> MemoryDisk:
    """Of what was not synced, a prefix that ends anywhere; sometimes with rubbish behind it."""
    unsynced = {name: len(data) - disk.synced[name] for name, data in disk.files.items()}
    left = disk.crash({name: chance.choice((0, size, chance.randint(0, size))) for name, size in unsynced.items()})
    for name, data in left.files.items():
        if chance.random() < 0.3:
            data.extend(bytes(min(unsynced[name], 40)))
    return left


def killed(disk: MemoryDisk) -> MemoryDisk:
    """What kill -9 leaves: everything that was written."""
    return disk.crash({name: len(data) for name, data in disk.files.items()})


async def run_until_broken(disk: MemoryDisk, ids: list[str], world: World) -> bool:
    """Whether the script came to its end."""
    try:
        await run_script(disk, ids, world)
    except PowerCut:
        return False
    await trio.lowlevel.checkpoint()
    return True
