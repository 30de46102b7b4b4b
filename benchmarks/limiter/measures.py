"""What one run comes to, and many runs together: sums that add up, and the shares that are read off them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.settings import Charging
from benchmarks.limiter.cells import Cell, Run
from benchmarks.limiter.clairvoyant import LOOK_AHEAD, Passage, left_of, passage
from benchmarks.limiter.network import Send
from benchmarks.limiter.servers import SERVERS
from benchmarks.limiter.strain import STRAIN_BEGINS_NS, STRAIN_ENDS_NS

MINUTE_NS = 60 * NS_PER_SECOND
#: the share of a file that counts as its steady state
STEADY = (0.20, 0.95)
#: a strained run's first minutes are its start-up
SETTLED_NS = 200 * NS_PER_SECOND
#: the full rate is back where a minute's accepted requests are this share of the limit
RECOVERED = 0.9


class Strained(msgspec.Struct):
    """Requests accepted before, during and after a strain, and as many as the rest of the limit would have been."""

    before: float = 0
    before_most: float = 0
    during: float = 0
    during_most: float = 0
    after: float = 0
    after_most: float = 0
    during_refused: int = 0
    outside: int = 0
    outside_refused: int = 0
    #: after its end, the longest of all runs; None: never again
    recovery_seconds: float | None = 0.0


class Figures(msgspec.Struct):
    """Sums over runs of one cell by one client."""

    runs: int = 0
    jobs: int = 0
    refused: int = 0
    lost: int = 0
    #: runs that were cut off
    stuck: int = 0
    #: of the dominant resource in the steady state, and as much as the limit would have allowed
    steady: float = 0
    steady_most: float = 0
    #: until the last job was accepted, and the same of the clairvoyant client, for the share of jobs that were
    seconds: float = 0
    best_seconds: float = 0
    #: sum of makespans in multiples of the best that keeps to the limit itself; the worst
    makespan: float = 0
    makespan_worst: float = 0
    #: most sends in any 60 s, in multiples of the limit
    peak: float = 0
    strained: Strained | None = None

    @property
    def steady_share(self) -> float:
        return self.steady / self.steady_most if self.steady_most else 0.0

    @property
    def used_share(self) -> float:
        return self.best_seconds / self.seconds if self.seconds else 0.0

    @property
    def refused_per_1000(self) -> float:
        return 1_000 * self.refused / self.jobs

    @property
    def lost_per_1000(self) -> float:
        return 1_000 * self.lost / self.jobs

    @property
    def mean_makespan(self) -> float:
        return self.makespan / self.runs


def measure(cell: Cell, seed: int, run: Run, best: Passage, promised: Passage | None) -> Figures:
    """One run's figures, beside what the clairvoyant client makes of the cell (`promised`: keeping to the limit itself)."""
    accepted = sorted((send for send in run.sends if send.accepted), key=lambda send: send.arrived_ns)
    figures = Figures(runs=1, refused=sum(send.replied_ns >= 0 and not send.accepted for send in run.sends), lost=run.lost)
    figures.peak = most_per_minute(send.sent_ns for send in run.sends) / cell.rpm
    if cell.strain:
        figures.jobs = max(1, len(accepted))
        figures.strained = strained(cell, seed, run.sends, accepted)
        return figures
    figures.jobs = len(run.jobs)
    figures.stuck = int(len(accepted) + run.lost < len(run.jobs))
    figures.steady, figures.steady_most = steady(cell, run, accepted)
    end_ns = cell.until_ns if figures.stuck else max((send.arrived_ns for send in accepted), default=cell.until_ns)
    figures.seconds = end_ns / NS_PER_SECOND
    figures.best_seconds = best.admitted_ns / NS_PER_SECOND * len(accepted) / len(run.jobs)
    if promised:
        finished_ns = cell.until_ns if figures.stuck else max(send.replied_ns for send in run.sends)
        figures.makespan = figures.makespan_worst = finished_ns / promised.finished_ns
    return figures


def steady(cell: Cell, run: Run, accepted: Sequence[Send]) -> tuple[float, float]:
    """What was accepted between 20 % and 95 % of the file, of the resource that binds it; and what its limit would allow."""
    first, last = (int(share * len(accepted)) for share in STEADY)
    if last <= first:
        return 0.0, 0.0
    rpm = SERVERS[cell.server].sustained_rpm(cell.rpm)
    tokens = [run.jobs[send.number].charged(cell.charging) for send in accepted]
    minutes = (accepted[last].arrived_ns - accepted[first].arrived_ns) / MINUTE_NS
    if sum(tokens) * rpm > len(tokens) * cell.tpm:
        return sum(tokens[first + 1 : last + 1]), minutes * cell.tpm
    return last - first, minutes * rpm


def strained(cell: Cell, seed: int, sends: Sequence[Send], accepted: Sequence[Send]) -> Strained:
    """Before, during and after, by when requests reached the server.

    What is left of a limit that is halved is what the server's own window then lets in: what was sent before is still in it.
    Beside a stranger it is half of the limit.
    """
    half = cell.rpm / 2 / MINUTE_NS
    spans = (
        ("before", SETTLED_NS, STRAIN_BEGINS_NS, 2 * half),
        ("during", STRAIN_BEGINS_NS, STRAIN_ENDS_NS, half),
        ("after", STRAIN_ENDS_NS + 5 * MINUTE_NS, cell.until_ns, 2 * half),
    )
    found = Strained()
    for name, from_ns, to_ns, per_ns in spans:
        setattr(found, name, sum(from_ns <= send.arrived_ns < to_ns for send in accepted))
        setattr(found, f"{name}_most", (to_ns - from_ns) * per_ns)
    if cell.strain == "halved":
        server = cell.opened(seed, forgiving=True)
        found.during_most = left_of(server, accepted, cell.rpm // 2, STRAIN_BEGINS_NS, STRAIN_ENDS_NS)
    refused_ns = [send.arrived_ns for send in sends if send.arrived_ns >= 0 and not send.accepted]
    found.during_refused = sum(STRAIN_BEGINS_NS <= at_ns < STRAIN_ENDS_NS for at_ns in refused_ns)
    found.outside_refused = len(refused_ns) - found.during_refused
    found.outside = len(accepted) - int(found.during)
    found.recovery_seconds = recovery_seconds(cell, [send.arrived_ns for send in accepted])
    return found


def recovery_seconds(cell: Cell, accepted_ns: Sequence[int]) -> float | None:
    """How long after the strain's end the first minute begins in which the rate is the full one again; None: never."""
    wanted = round(RECOVERED * cell.rpm)
    after = [at_ns for at_ns in accepted_ns if at_ns >= STRAIN_ENDS_NS]
    for first, last in zip(after, after[wanted - 1 :], strict=False):
        if last - first <= MINUTE_NS:
            return (first - STRAIN_ENDS_NS) / NS_PER_SECOND
    return None


def most_per_minute(times_ns: Iterable[int]) -> int:
    """The most moments (in order) within any 60 s."""
    recent: deque[int] = deque()
    most = 0
    for at_ns in times_ns:
        while recent and recent[0] + MINUTE_NS <= at_ns:
            recent.popleft()
        recent.append(at_ns)
        most = max(most, len(recent))
    return most


def best_of(cell: Cell, seed: int) -> tuple[Passage, Passage | None]:
    """What the clairvoyant client makes of a cell: with all that the server takes, and (small files) by the limit itself."""
    jobs = cell.work(seed)
    if cell.strain:
        return Passage(0, 0), None
    if cell.charging is Charging.ACTUAL:
        # What is only charged afterwards could be overdrawn without bound: the limit itself is the measure.
        minutes = max(len(jobs) / cell.rpm, sum(work.used for work in jobs) / cell.tpm)
        return Passage(round(minutes * MINUTE_NS), 0), None
    reaches = (1,) if cell.workload == "short" else (1, LOOK_AHEAD)
    passages = [passage(cell.opened(seed, forgiving=True), jobs, look_ahead=reach) for reach in reaches]
    best = min(passages, key=lambda one: one.admitted_ns)
    promised = passage(cell.opened(seed, forgiving=True), jobs, own_rpm=cell.rpm) if cell.group == "small" else None
    return best, promised


def pooled(runs: Iterable[Figures]) -> Figures:
    """Add up runs of one cell and client."""
    total = Figures()
    for run in runs:
        both = Figures(**{name: getattr(total, name) + getattr(run, name) for name in _SUMS})
        both.makespan_worst = max(total.makespan_worst, run.makespan_worst)
        both.peak = max(total.peak, run.peak)
        both.strained = _pooled_strains(total.strained, run.strained)
        total = both
    return total


_SUMS = ("runs", "jobs", "refused", "lost", "stuck", "steady", "steady_most", "seconds", "best_seconds", "makespan")


def _pooled_strains(one: Strained | None, other: Strained | None) -> Strained | None:
    if one is None or other is None:
        return one or other
    longest = None
    if one.recovery_seconds is not None and other.recovery_seconds is not None:
        longest = max(one.recovery_seconds, other.recovery_seconds)
    names = [name for name in Strained.__struct_fields__ if name != "recovery_seconds"]
    return Strained(**{name: getattr(one, name) + getattr(other, name) for name in names}, recovery_seconds=longest)
