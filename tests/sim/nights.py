"""A whole run in virtual time: a real job file, a disk in memory, and the simulated platform over in-memory streams.

A `Night` is one job file, one run directory and one server. `run()` starts a run on it as a process would, from recovery
to the last status; calling it again resumes. Nothing here decides anything: the parts are those of `submit`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from batchrunner.account_store import MemoryStore
from batchrunner.budget import Limits, Open
from batchrunner.cli.start import _last_minute, _tally, _tariff
from batchrunner.clock import Clock, VirtualClock
from batchrunner.config import Options
from batchrunner.costs import CostLine, read_cost_line
from batchrunner.disk import MemoryDisk
from batchrunner.estimate import Estimator
from batchrunner.events import Billing, Event
from batchrunner.heads import Heads
from batchrunner.index import Index
from batchrunner.inputs import Inputs, index_inputs
from batchrunner.job import BadLine
from batchrunner.journal import Journal, Recovered, inline, recover
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import Sent, decode
from batchrunner.lifecycle import State
from batchrunner.parts import AccountParts, Parts
from batchrunner.platform.balance import fetch_balance
from batchrunner.platform.control import ControlPlane
from batchrunner.pricing import PriceTable
from batchrunner.runner import Run
from batchrunner.secret import Secret
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.catalog import Catalog
from batchrunner.simulator.ledger import Entry, MemoryLedger
from batchrunner.simulator.plan import Plan
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.server import serve_stream
from batchrunner.simulator.settings import TEST_KEY, Rule, Settings
from batchrunner.sources import opened
from batchrunner.spending import Spending
from batchrunner.status import Status
from batchrunner.transport import Origin, Pool, StreamDriver
from tests.sim.streams import MemoryStream, stream_pair

ORIGIN = Origin.parse("http://localhost:8000")
CHAT = "/v1/chat/completions"
MODEL = "simulated-small"
PRICES = PriceTable.from_catalog(Catalog().list_body(), fetched_at="1970-01-01T00:00:00Z")
#: A run that has not ended by then never will: virtual, so that a hang is found at once.
LONGEST_SECONDS = 48 * 3600.0

Meanwhile = Callable[[Run], Awaitable[None]]


def job(custom_id: str, *, model: str = MODEL, cap: int | None = 50, text: str = "How high is the moon?", **extras: Any) -> bytes:
    """A line of a job file; its id also stands in the body's metadata, so that the server's ledger can be joined with it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "metadata": {"custom_id": custom_id},
    }
    if cap is not None:
        body["max_tokens"] = cap
    line: dict[str, Any] = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    return msgspec.json.encode(line | ({"batchrun": extras} if extras else {})) + b"\n"


def jobs(count: int, **wishes: Any) -> list[bytes]:
    return [job(f"job-{number}", **wishes) for number in range(count)]


class Asked(msgspec.Struct, frozen=True):
    """A request for a model as the server saw it."""

    at_seconds: float
    custom_id: str
    key: str


class WatchedPlatform(Platform):
    """The simulated platform, with a list of what it was asked, refused requests included."""

    def __init__(self, settings: Settings, plan: Plan | None = None, now_ns: Callable[[], int] | None = None) -> None:
        super().__init__(settings, plan=plan, now_ns=now_ns)
        self.asked: list[Asked] = []

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST":
            custom_id = msgspec.json.decode(body)["metadata"]["custom_id"]
            self.asked.append(Asked(trio.current_time(), custom_id, headers.get("authorization", "")))
        return await super().answer(method, target, headers, body)

    def delete_key(self, key: str) -> None:
        """Refuse a key from now on, as when somebody deletes it."""
        self.accounts.delete_key(key)

    @property
    def billed(self) -> list[Entry]:
        assert isinstance(self.ledger, MemoryLedger)
        return self.ledger.entries


class Server:
    """The network between: connections to the platform, and what can befall all of them."""

    def __init__(self, nursery: trio.Nursery, platform: WatchedPlatform) -> None:
        self.platform = platform
        #: nobody listens: new connections are refused
        self.down = False
        #: nothing answers: opening a connection takes for ever
        self.hangs = False
        #: a connection that the server has closed is taken for open until it is used, as in the moment before the FIN comes
        self.hides_closing = False
        self.opened = 0
        self._nursery = nursery
        self._open: dict[MemoryStream, trio.CancelScope] = {}

    def driver(self, away: Callable[[], bool] = lambda: False) -> StreamDriver:
        """`away`: nobody listens to whoever connects with it."""

        async def connect() -> trio.abc.Stream:
            if away():
                await trio.lowlevel.checkpoint()
                raise OSError(111, "Connection refused")
            return await self._connect()

        return StreamDriver(connect, is_alive=lambda stream: self.hides_closing or stream in self._open)

    def hang_up(self) -> None:
        """Close every connection from this side."""
        for scope in self._open.values():
            scope.cancel()

    def go_down(self) -> None:
        self.down = True
        self.hang_up()

    async def _connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.down:
            raise OSError(111, "Connection refused")
        client, server = self._pair()
        self.opened += 1
        self._open[client] = scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, client, server, scope)
        return client

    def _pair(self) -> tuple[MemoryStream, MemoryStream]:
        """The client's and the server's end of a new connection."""
        return stream_pair()

    async def _serve(self, client: MemoryStream, server: MemoryStream, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._carry(server)
        finally:
            del self._open[client]

    async def _carry(self, server: MemoryStream) -> None:
        """What happens at the other end of a connection until it is over."""
        await serve_stream(self.platform, server)


class Night:
    """A job file at `path`, a run directory on `disk`, a `server`. What a run leaves behind is read with the methods below."""

    def __init__(self, path: Path, nursery: trio.Nursery, lines: Sequence[bytes], platform: WatchedPlatform) -> None:
        assert isinstance(trio.lowlevel.current_clock(), MockClock), "let the test itself ask for autojump_clock"
        self.path = path
        self.path.write_bytes(b"".join(lines))
        self.platform = platform
        self.server = Server(nursery, platform)
        self.disk = MemoryDisk()
        self.clock: Clock = VirtualClock(trio.current_time)
        self.store_of: Callable[[Limits], MemoryStore] = MemoryStore
        #: of the jitter that a run draws
        self.seed = "1"
        self.keys: tuple[str, ...] = (TEST_KEY,)
        #: runs ask what is left to pay with
        self.asks_for_balance = False
        #: keys by the name of their account, where a run goes under several
        self.accounts: dict[Any, tuple[str, ...]] = {}
        #: accounts whose server takes no new connections
        self.away: frozenset[str] = frozenset()
        self.said: list[str] = []
        #: of the newest run
        self.events: list[Event] = []
        self.pool: Pool | None = None

    async def run(
        self, meanwhile: Meanwhile | None = None, *, retry_failed: bool = False, accept_changes: bool = False, **wishes: Any
    ) -> Status:
        """Start, and go on to the end. `wishes` are fields of Options; no limits unless given."""
        settings = {"rpm": 0, "tpm": 0, "max_in_flight": 1_000} | wishes
        options = Options(inputs=(str(self.path),), run_dir="night.run", base_url=str(ORIGIN), **settings)
        with trio.fail_after(LONGEST_SECONDS), opened(options.inputs) as sources:
            inputs = Inputs([plain for source in sources if (plain := source.as_it_is()) is not None])
            run, pool = await self._put_together(options, inputs, retry_failed=retry_failed, accept_changes=accept_changes)
            try:
                async with trio.open_nursery() as nursery:
                    if meanwhile is not None:
                        nursery.start_soon(meanwhile, run)
                    status = await run.run()
                    nursery.cancel_scope.cancel()
            finally:
                await pool.aclose()
        return status

    async def _put_together(
        self, options: Options, inputs: Inputs, *, retry_failed: bool, accept_changes: bool
    ) -> tuple[Run, Pool]:
        """As the command line does, with a double at each seam."""
        clock = self.clock
        bad_lines: list[BadLine] = []
        index = index_inputs(inputs, bad_lines.append, priority=options.priority, accounts=list(self.accounts))
        recovered = recover(
            self.disk,
            run_id="night",
            index=index,
            clock=clock,
            tariff=_tariff(inputs, index, PRICES),
            pid=1,
            version="test",
            bad_lines=bad_lines,
            accept_changes=accept_changes,
            retry_failed=retry_failed,
        )
        self.said += recovered.warnings
        self.recovered(recovered, index)
        tally = _tally(recovered)
        self.events = []

        def sink(event: Event) -> None:
            tally.add(event)
            self.shown(event)

        jobs = index.state.count(State.PENDING)
        limits = Limits(options.rpm, options.tpm, auto=options.limit == "auto")
        self.pool = pool = Pool(ORIGIN, self.server.driver())
        accounts = []
        for name, keys in (self.accounts or {options.account: self.keys}).items():
            store = self.store_of(limits)
            await store.step(clock.monotonic_ns(), Open(_last_minute(recovered, name), jobs=jobs))
            heads = Heads(ORIGIN, [Secret(key) for key in keys])
            its = Pool(ORIGIN, self.server.driver(partial(self._is_away, name))) if self.accounts else pool
            balance = partial(fetch_balance, ControlPlane(its, heads, self.said.append)) if self.asks_for_balance else None
            accounts.append(
                AccountParts(name=name, server=str(ORIGIN), limits=limits, store=store, pool=its, heads=heads, balance=balance)
            )
        parts = Parts(
            options=options,
            run_id="night",
            clock=clock,
            disk=self.disk,
            rng=random.Random(self.seed),
            inputs=inputs,
            index=index,
            bad_lines=recovered.bad_lines,
            histories=recovered.histories,
            tally=tally,
            journal=Journal(recovered.files, clock, sink=sink, totals=recovered.totals, sync_in=inline),
            accounts=tuple(accounts),
            spending=Spending(PRICES, recovered.totals, options.max_cost_usd),
            estimator=Estimator(),
            say=self.said.append,
        )
        return Run(parts), pool

    def _is_away(self, account: str | None) -> bool:
        return account in self.away

    def recovered(self, recovered: Recovered, index: Index) -> None:
        """A run is about to go on from here."""

    def shown(self, event: Event) -> None:
        """An event has been handed out."""
        self.events.append(event)

    # What it came to ------------------------------------------------------------------------------------------------

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of one of the run's files."""
        return [msgspec.json.decode(line) for line in bytes(self.disk.files.get(name, b"")).splitlines()]

    def succeeded(self) -> list[str]:
        """custom_ids in results.jsonl, in the order of the file."""
        return [line["custom_id"] for line in self.lines(RESULTS)]

    def failures(self) -> dict[str, str]:
        """custom_id -> code, of errors.jsonl: our own, or the server's where it answered."""
        codes = {}
        for line in self.lines(ERRORS):
            assert line["custom_id"] not in codes
            codes[line["custom_id"]] = line["error"]["code"]
        return codes

    def costs(self) -> dict[tuple[str, int], CostLine]:
        """The valid cost line of each attempt."""
        found = {}
        for raw in bytes(self.disk.files.get(COSTS, b"")).splitlines(keepends=True):
            line = read_cost_line(raw)
            assert line is not None
            found[line.custom_id, line.attempt] = line
        return found

    def amount(self, billing: Billing) -> Decimal:
        """The sum of the valid cost lines in this state."""
        return sum((line.cost.amount or Decimal(0) for line in self.costs().values() if line.state is billing), Decimal(0))

    def maybe_billed(self) -> set[str]:
        """custom_ids with an attempt that may have been billed."""
        return {custom_id for (custom_id, _), line in self.costs().items() if line.state is Billing.MAYBE}

    def sends(self) -> Counter[str]:
        """How often each job was written down as sent."""
        records = map(decode, bytes(self.disk.files[JOURNAL]).splitlines(keepends=True)[1:])
        return Counter(record.id for record in records if isinstance(record, Sent))

    def asked(self) -> Counter[str]:
        """How often the server was asked for each job."""
        return Counter(asked.custom_id for asked in self.platform.asked)

    def killed(self) -> MemoryDisk:
        """The disk that kill -9 would leave at this moment: all that was written."""
        return self.disk.crash({name: len(data) for name, data in self.disk.files.items()})


def assert_whole(night: Night, status: Status) -> None:
    """What holds after every finished run that no power cut has met."""
    assert_once(night, status)
    assert_bill(night, status)


def assert_once(night: Night, status: Status) -> None:
    """The run is complete: each id of the job file ended exactly once, and what is shown is what is on disk."""
    ids = [msgspec.json.decode(line)["custom_id"] for line in night.path.read_bytes().splitlines()]
    ended = night.succeeded() + list(night.failures())
    assert Counter(ended) == Counter(ids)
    assert (status.state, status.stopped_by, status.total) == ("completed", None, len(ids))
    assert (status.completed, status.failed) == (len(night.succeeded()), len(night.failures()))
    assert (status.in_flight, status.backing_off) == (0, 0)
    assert status.billed_usd == night.amount(Billing.BILLED)
    assert status.maybe_billed_usd == night.amount(Billing.MAYBE)


def assert_bill(night: Night, status: Status) -> None:
    """No request that the server billed is missing from costs.jsonl, and together they are listed at no less."""
    listed = Counter(custom_id for custom_id, _ in night.costs())
    theirs = Counter(str(entry.custom_id) for entry in night.platform.billed)
    assert not theirs - listed
    assert night.platform.counters.billed_usd <= status.billed_usd + status.maybe_billed_usd


MakeNight = Callable[..., Night]


def fault(kind: str, custom_id: str = "job-1", *, times: int = 1) -> dict[str, object]:
    """Settings of a platform on which one job meets a fault; `times` 0: always."""
    return {"rules": (Rule(kind=kind, tag=custom_id, times=times),)}


def after(seconds: float, act: Callable[[Run], object]) -> Meanwhile:
    """Something to do so many seconds into a run."""

    async def meanwhile(run: Run) -> None:
        await trio.sleep(seconds)
        act(run)

    return meanwhile


def figures(status: Status) -> Status:
    """A status but for the moment that it was taken at."""
    return msgspec.structs.replace(status, at="", elapsed_seconds=0.0)


def peak_tokens(night: Night) -> int:
    """The most tokens that requests sent within any 60 seconds turned out to take. Of a job's requests the last was accepted."""
    sent = {asked.custom_id: asked.at_seconds for asked in night.platform.asked}
    taken = sorted((sent[entry.custom_id or ""], entry.tokens.total) for entry in night.platform.billed)
    return max(sum(tokens for at, tokens in taken if end - 60 < at <= end) for end, _ in taken)
