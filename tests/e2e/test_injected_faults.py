"""Each system call that a run makes on its files fails in turn, or is the process's last; strace sees to it.

Every N of each kind of call, in three settings: a run's first start up to the end of its recovery, that of a run which was
killed with everything open, and the work itself. A seeded sample of it in each test run, all of it in the campaign.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import straced
from tests.e2e.faulty_runs import IN_FLIGHT, Faulty, carried_on, prove_books, small_run, wrong_with
from tests.e2e.harness import PATIENCE_SECONDS, Simulated, Submit
from tests.e2e.many_runs import Pair, two_at_a_time
from tests.e2e.preforked import Launcher
from tests.e2e.straced import OPENS, READS, RENAMES, SYNCS, WRITES, Call, Fault, calls, counted, traced

pytestmark = pytest.mark.skipif(straced.why_not() is not None, reason=str(straced.why_not()))

#: enough for the failing job, and for some to be done and some in flight
KILLED_AT = Fault("live", "write", 14, "signal=SIGKILL")
SEED = 6

#: calls, and what befalls each of them in turn
KILLED = ((*WRITES, *SYNCS, *RENAMES, *OPENS), ("signal=SIGKILL",))
WRITE_FAILS = (WRITES, ("error=ENOSPC", "error=EIO"))
SYNC_FAILS = (SYNCS, ("error=EIO",))
OPENING_FAILS = ((*OPENS, *RENAMES), ("error=EMFILE", "error=EACCES", "error=EROFS"))
READING_FAILS = (READS, ("error=EIO",))
FAILED = (WRITE_FAILS, SYNC_FAILS, OPENING_FAILS, READING_FAILS)

#: (the run was killed before, phase) -> how often it makes each call
Counts = dict[tuple[bool, str], dict[str, int]]


class Case(NamedTuple):
    """What befalls one run; `resumed`: not its first start, but that after a kill."""

    resumed: bool
    fault: Fault

    def __str__(self) -> str:
        return f"{self.fault} of a {'killed' if self.resumed else 'new'} run"


#: a run, and what it did in the phase that the fault befell
Hit = tuple[Faulty, list[Call]]
CarryOut = Callable[[Sequence[Case]], list[Hit]]


@pytest.fixture(scope="module")
def counts(platform: Simulated, launchers: Pair, tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """How many calls of each kind there are in each setting."""
    home = tmp_path_factory.mktemp("counts")
    found = {}
    for resumed, phase in ((False, "start"), (True, "start"), (False, "live")):
        run, _ = small_run(home, platform, f"count-{resumed}-{phase}")
        if resumed:
            kill(run, launchers[0])
        found[resumed, phase] = dict(counted(run, launchers[0], phase))
    return found


def kill(run: Submit, mine: Launcher) -> None:
    """Leave a run with attempts in flight, and with torn ends in all of its files."""
    with traced(run, mine, KILLED_AT) as child:
        assert child.wait(PATIENCE_SECONDS) == -9
    for name in ("journal", "results", "errors", "costs"):
        with open(run.run_dir / f"{name}.jsonl", "ab") as file:
            file.write(b'{"torn')


def cases(counts: Counts, names: Sequence[str], whats: Sequence[str]) -> list[Case]:
    return [
        Case(resumed, Fault(phase, name, nth, what))
        for (resumed, phase), found in counts.items()
        for name in names
        for nth in range(1, found.get(name, 0) + 1)
        for what in whats
        if not (resumed and name == "mkdir")  # of a directory that is there already: it fails anyway
    ]


@pytest.fixture
def carry_out(tmp_path: Path, platform: Simulated, launchers: Pair) -> CarryOut:
    """Let each case's fault befall a run, then let it go on to its end. Those that no fault befell are left out."""

    def one(case: Case, mine: Launcher) -> Hit:
        run, ids = small_run(tmp_path, platform, str(case))
        if case.resumed:
            kill(run, mine)
        with traced(run, mine, case.fault) as child:
            child.wait(PATIENCE_SECONDS)
        return carried_on(str(case), run, ids, child, mine), calls(run)

    def carry_out(which: Sequence[Case]) -> list[Hit]:
        found = two_at_a_time(one, which, launchers).values()
        hits = [(faulty, seen) for faulty, seen in found if faulty.code == -9 or any(call.injected for call in seen)]
        # A run commits when it comes to it: now and then there is one sync, or one record, fewer.
        assert len(hits) >= len(found) * 0.8, f"{len(found) - len(hits)} of {len(found)} faults never came"
        return hits

    return carry_out


def some(found: list[Case], number: int) -> list[Case]:
    return random.Random(SEED).sample(found, number)


def prove_stopped(hits: Sequence[Hit]) -> None:
    """Each said what failed, and what to do; it ended with 74; nothing was sent any more; no job failed over it."""
    wrong = [f"{one.what}: {problem}\n{one.said}" for one, seen in hits for problem in (*wrong_with(one), *went_on(seen))]
    assert not wrong, f"{len(wrong)} times:\n" + "\n".join(wrong)


def went_on(seen: list[Call]) -> Iterator[str]:
    """What a process did behind a failed call that it should not have."""
    at = next(number for number, call in enumerate(seen) if call.injected)
    broken, behind = seen[at], seen[at + 1 :]
    sent = [call for call in behind if call.file == "journal.jsonl" and r"\"t\":\"sent\"" in call.text]
    # A sync fails in a thread of its own: a request may go out until the other one hears of it.
    if len(sent) > (IN_FLIGHT if broken.name in SYNCS else 0):
        yield f"sent behind it: {sent}"
    again = [call for call in behind if (call.name, call.file) == (broken.name, broken.file)]
    if broken.name in SYNCS and broken.file.endswith(".jsonl") and again:
        yield f"synced again: {again}"


def test_R04_to_R07_a_few_of_each(platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
    """A seeded share of what the campaign does to every call."""
    kills, failures = some(cases(counts, *KILLED), 6), [case for which in FAILED for case in some(cases(counts, *which), 5)]
    hits = carry_out([*kills, *failures])
    prove_stopped([(one, seen) for one, seen in hits if one.code != -9])
    print(f"R-04 to R-07: {len(kills)} kills, {len(failures)} failures:", prove_books(platform, [one for one, _ in hits]))


@pytest.mark.campaign
class TestEachCall:
    def test_R06_killed_at(self, platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
        """kill -9 in each write, sync, rename and opening: the run goes on to its end, and every bill is in its books."""
        hits = carry_out(found := cases(counts, *KILLED))
        print(f"R-06: killed at {len(hits)} of {len(found)} calls:", prove_books(platform, [one for one, _ in hits]))

    def test_R04_write_fails(self, platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
        """No space, or a broken disk, at each write and truncation: 74, by its name, and the run goes on with room again."""
        hits = carry_out(found := cases(counts, *WRITE_FAILS))
        prove_stopped(hits)
        print(f"R-04: {len(hits)} of {len(found)} writes failed:", prove_books(platform, [one for one, _ in hits]))

    def test_R05_sync_fails(self, platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
        """EIO at each sync: 74, and that file is never synced again; what was written is there for the next start."""
        hits = carry_out(found := cases(counts, *SYNC_FAILS))
        prove_stopped(hits)
        print(f"R-05: {len(hits)} of {len(found)} syncs failed:", prove_books(platform, [one for one, _ in hits]))

    def test_R07_opening_fails(self, platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
        """No descriptor, no permission or a read-only disk at each opening and renaming: as a write that fails."""
        hits = carry_out(found := cases(counts, *OPENING_FAILS))
        prove_stopped(hits)
        print(f"R-07: {len(hits)} of {len(found)} openings failed:", prove_books(platform, [one for one, _ in hits]))

    def test_R07_reading_fails(self, platform: Simulated, counts: Counts, carry_out: CarryOut) -> None:
        """EIO at each reading: the same."""
        hits = carry_out(found := cases(counts, *READING_FAILS))
        prove_stopped(hits)
        print(f"R-07: {len(hits)} of {len(found)} readings failed:", prove_books(platform, [one for one, _ in hits]))
