"""Which file meets which server under which strain, and one run of one client through it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from batchrunner import budget
from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.settings import Charging
from benchmarks.limiter import aio
from benchmarks.limiter.adaptive import Adaptive
from benchmarks.limiter.crowd import Crowd
from benchmarks.limiter.network import Network, Send
from benchmarks.limiter.ours import Client, Stepped, step_through
from benchmarks.limiter.peers import PEERS, MakePeer
from benchmarks.limiter.servers import SERVERS, WITH_BURST, Server
from benchmarks.limiter.strain import STRAIN_ENDS_NS, STRAINS, Strain
from benchmarks.limiter.timers import HeapTimers, Timers
from benchmarks.limiter.workloads import Work, jobs_of

TOKENS_PER_REQUEST = 40_000
#: clients that have not come through by this multiple of the time that the limit needs, and ten minutes more, are stuck
PATIENCE = 4
PATIENCE_NS = 600 * NS_PER_SECOND
#: how long a strained run goes on
STRAINED_NS = STRAIN_ENDS_NS + 900 * NS_PER_SECOND
#: what a run of the day before has in place of its seed: other jobs, another moment of the server's minute
ANOTHER_DAY = 100_000
#: more than any of them could send in that time
STRAINED_JOBS = 6_000

OURS = "batchrun"
AIOLIMITER = "aiolimiter"
_CROWDS: dict[str, MakePeer] = PEERS | {"aws-adaptive": Adaptive}
POLICIES = (OURS, *PEERS, "aws-adaptive", AIOLIMITER)

Group = Literal["steady-50", "steady-600", "small", "tokens", "strain"]
GROUPS: tuple[Group, ...] = ("steady-50", "steady-600", "small", "tokens", "strain")


class Cell(msgspec.Struct, frozen=True):
    """One column of a table."""

    group: Group
    server: str
    workload: str
    jobs: int
    rpm: int = 50
    charging: Charging = Charging.ESTIMATE
    strain: Strain | None = None
    #: 429s say when to come back
    hints: bool = False
    #: so they do, and every answer says what is left of the limits
    headers: bool = False
    #: the account was used before, by another such file, and what was learned of its server is known
    later: bool = False

    @property
    def tpm(self) -> int:
        return self.rpm * TOKENS_PER_REQUEST

    @property
    def row(self) -> str:
        """What it shares with the other servers of its table."""
        told = " with limit headers" if self.headers else " with Retry-After" if self.hints else ""
        rows = {"small": f"{self.jobs} jobs", "tokens": f"{self.workload} {self.charging}"}
        return (self.strain or rows.get(self.group, self.workload)) + told + (" on a later run" if self.later else "")

    @property
    def policies(self) -> tuple[str, ...]:
        """Who is worth measuring: of all clients, ours alone knows on a later run what it did not know on the first."""
        return (OURS,) if self.later else POLICIES

    @property
    def name(self) -> str:
        return "/".join((self.group, self.row.replace(" ", "-"), self.server))

    @property
    def until_ns(self) -> int:
        """When the run is cut off."""
        return STRAINED_NS if self.strain else PATIENCE * self.jobs * 60 * NS_PER_SECOND // self.rpm + PATIENCE_NS

    def work(self, seed: int) -> Sequence[Work]:
        return jobs_of(self.workload, self.jobs, random.Random(f"{seed} {self.workload} jobs"), small=self.group == "small")

    def opened(self, seed: int, *, forgiving: bool = False) -> Server:
        """The server as it stands at first. `forgiving`: one that does not count what it turns away, for who need not ask."""
        model = SERVERS[self.server]
        if forgiving:
            model = msgspec.structs.replace(model, count_rejected=False)
        phase_ns = random.Random(f"{seed} {self.server} phase").randrange(60 * NS_PER_SECOND)
        return Server(model, self.rpm, self.tpm, self.charging, phase_ns=phase_ns, hints=self.hints, headers=self.headers)


class Run(msgspec.Struct, frozen=True):
    """What became of one cell with one seed."""

    jobs: Sequence[Work]
    sends: Sequence[Send]
    #: jobs that the client gave up
    lost: int


def run(cell: Cell, policy: str, seed: int) -> Run:
    """Send the cell's file by one client's rules, in virtual time."""
    if policy == AIOLIMITER:
        return _run_aiolimiter(cell, seed)
    timers = HeapTimers()
    network = _network(cell, seed, timers)
    rng = random.Random(f"{seed} client")
    client: Client | Crowd
    if policy == OURS:
        before = _run_ours(cell, seed + ANOTHER_DAY) if cell.later else None
        client = Client(timers, network, budget.Limits(cell.rpm, cell.tpm), rng, Stepped, before=before)
        step_through(timers, client)
    else:
        client = Crowd(timers, network, _CROWDS[policy](cell.rpm, cell.tpm, rng))
        client.turn()
    timers.run(cell.until_ns)
    return Run(network.jobs, network.sends, client.lost)


def _run_ours(cell: Cell, seed: int) -> Client:
    """One run of ours, for what it has learned."""
    timers = HeapTimers()
    network = _network(cell, seed, timers)
    client = Client(timers, network, budget.Limits(cell.rpm, cell.tpm), random.Random(f"{seed} client"), Stepped)
    step_through(timers, client)
    timers.run(cell.until_ns)
    return client


def _run_aiolimiter(cell: Cell, seed: int) -> Run:
    loop = aio.VirtualLoop()
    network = _network(cell, seed, aio.LoopTimers(loop))
    try:
        until = cell.until_ns / NS_PER_SECOND
        loop.run_until_complete(aio.client(network, cell.rpm, cell.tpm, random.Random(f"{seed} client"), until))
    finally:
        loop.close()
    return Run(network.jobs, network.sends, 0)


def _network(cell: Cell, seed: int, timers: Timers) -> Network:
    server = cell.opened(seed)
    if cell.strain:
        STRAINS[cell.strain](timers, server, cell.rpm)
    return Network(timers, server, cell.work(seed), random.Random(f"{seed} network"))


def all_cells() -> list[Cell]:
    """The study's tables."""
    steady = partial(Cell, "steady-50", workload="short", jobs=1_500)
    cells = [steady(server=server) for server in SERVERS]
    cells += [Cell("steady-600", server, "short", 6_000, rpm=600) for server in SERVERS]
    cells += [Cell("small", server, "short", jobs) for jobs in (40, 60, 120) for server in SERVERS]
    minutes = ("fixed", "sliding", "two-bucket", "bucket-full")
    tokens = partial(Cell, "tokens", rpm=50)
    for workload, jobs in (("heavy", 600), ("mixed", 800)):
        cells += [tokens(server=server, workload=workload, jobs=jobs) for server in minutes]
    for workload, jobs in (("bigmax", 600), ("bigout", 300)):
        for charging in (Charging.ESTIMATE, Charging.SETTLE, Charging.ACTUAL):
            cells += [tokens(server=server, workload=workload, jobs=jobs, charging=charging) for server in minutes]
    cells += [tokens(server=server, workload="bigmax-slow", jobs=600, charging=Charging.SETTLE) for server in minutes]
    for hints, headers in ((False, False), (True, False), (False, True)):
        strained = partial(Cell, "strain", workload="short", jobs=STRAINED_JOBS, hints=hints, headers=headers)
        for strain in ("halved", "stranger"):
            cells += [strained(server=server, strain=strain) for server in ("fixed", "sliding", "bucket-full")]
        cells.append(strained(server="sliding-counts", strain="stranger-gives-up"))
    again = [cell for cell in cells if _learns(cell)]
    return cells + [msgspec.structs.replace(cell, later=True) for cell in again]


def _learns(cell: Cell) -> bool:
    """Whether the first run has something to learn, and a goal for the next one stands on it."""
    match cell.group:
        case "steady-50":
            return cell.server in {"spacing", "two-bucket-strict", "ten-seconds"}
        case "small":
            return cell.server in WITH_BURST
        case "tokens":
            return cell.charging is Charging.ESTIMATE and cell.workload != "bigout"
    return False
