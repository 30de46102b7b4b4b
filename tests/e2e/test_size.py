"""Size: ten million lines, a million jobs under fifty kills, and what a process holds while it runs.

Each prints its figures, and has a small share in every run of the tests. On a machine that is short of time or disk,
SIZE_LINES, SIZE_RUN, SIZE_JOBS, SIZE_KILLS, SIZE_WARM and SIZE_SOAK make the whole of a proof smaller.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.cli_support import until
from tests.e2e.harness import Submit, simulated
from tests.e2e.long_runs import (
    MIB,
    PATIENCE_SECONDS,
    Follower,
    Vitals,
    counted,
    needs_proc,
    scratch,
    size,
    slope,
    until_it_sends,
    until_sent,
    vitals,
    whole,
    working,
    write_lines,
)

IN_FLIGHT = 64
#: so long that a process at work has something in flight whenever it is killed
LATENCY = ("--latency", "0.04")
#: what goes wrong with two requests of a hundred; half of it may have been billed
FAULTS = "error500=0.005,model_unavailable=0.005,error504=0.004,reset_body=0.003,truncated=0.003"
#: of `submit` with no job: the interpreter and its libraries
BASE_BYTES = 60 * MIB
BYTES_A_JOB = 48
#: a run's files, its job file, what trio waits on
OTHER_DESCRIPTORS = 24
#: a page here and there: what is in flight and what garbage waits differ from one look to the next
NOISE_BYTES = MIB // 2


@needs_proc
@pytest.mark.parametrize(
    ("lines", "sends"),
    [(20_000, 300), whole(size("lines", 10_000_000), size("run", 100_000), minutes=40)],
    ids=["share", "whole"],
)
def test_ten_million_lines_are_indexed_and_resumed(lines: int, sends: int) -> None:
    """Every line is found before anything is sent, in 48 bytes a job; killed and started again, the run goes on where it was."""
    with scratch(lines, sends) as directory:
        write_lines(directory / "jobs.jsonl", lines)
        with simulated(directory, *LATENCY) as platform:
            run = _submit(directory, platform.url)
            follower = Follower(run)
            with working(run) as process:
                fresh_seconds = until_it_sends(run, process, follower)
                fresh = vitals(process)
                until_sent(run, process, follower, sends)
                at_work = vitals(process)
                run.kill(process)
            follower.catch_up()
            in_flight, journal_bytes = follower.in_flight, run.size("journal.jsonl")
            sent = follower.sent
            with working(run) as process:
                resumed_seconds = until_it_sends(run, process, follower)
                resumed = vitals(process)
                run.kill(process)
            follower.catch_up()
        said = json.loads((run.run_dir / "status.json").read_text())
    print(
        f"\n{lines:,} lines: first request after {fresh_seconds:.1f} s ({lines / fresh_seconds:,.0f} lines/s), "
        f"{fresh.peak_bytes / MIB:,.0f} MiB at its peak; {at_work.peak_bytes / MIB:,.0f} MiB after {sent:,} requests; "
        f"resumed with a journal of {journal_bytes / MIB:,.0f} MiB: first request after {resumed_seconds:.1f} s, "
        f"{resumed.peak_bytes / MIB:,.0f} MiB"
    )
    assert said["total"] == lines
    assert 0 < follower.lost <= in_flight
    for held in (fresh, at_work, resumed):
        assert held.peak_bytes <= BASE_BYTES + BYTES_A_JOB * lines


@pytest.mark.parametrize(
    ("count", "kills"), [(3_000, 4), whole(size("jobs", 1_000_000), size("kills", 50), minutes=150)], ids=["share", "whole"]
)
def test_a_million_jobs_killed_fifty_times(count: int, kills: int) -> None:
    """With two faults in a hundred and kills anywhere: each job ends once, each bill is owned up to, `verify` finds nothing."""
    rng = random.Random(41)
    with scratch(count, count) as directory:
        write_lines(directory / "jobs.jsonl", count)
        began = time.monotonic()
        with simulated(directory, *LATENCY, "--seed", "41", "--faults", FAULTS) as platform:
            run = _submit(directory, platform.url)
            follower = Follower(run)
            in_flight = 0
            starts: list[float] = []
            # The last tenth is left out, so that no process ends before it is killed.
            for target in sorted(rng.randrange(count * 9 // 10) for _ in range(kills)):
                with working(run) as process:
                    # One in five is hit wherever a start then is: as a rule in its recovery.
                    if rng.random() < 0.2 and starts:
                        until_sent(run, process, follower, follower.sent + count, seconds=rng.uniform(0, 1.5 * starts[-1]))
                    else:
                        starts.append(until_it_sends(run, process, follower))
                        until_sent(run, process, follower, max(target, follower.sent))
                    run.kill(process)
                follower.catch_up()
                in_flight += follower.in_flight
            with working(run) as process:
                process.wait(PATIENCE_SECONDS)
                outcome = run.finish(process, codes=(0,))
            follower.catch_up()
            until(lambda: platform.statistics()["in_flight"] == 0, "the platform to be done")
            requests = platform.statistics()["requests"]
        seconds = time.monotonic() - began
        found = counted(run, directory / "ledger.jsonl", count)
        verified = _verify(run, directory)
    repeats = sum(found.bills) - count
    print(
        f"\n{count:,} jobs, {kills} kills, {seconds:,.0f} s ({count / seconds:,.0f} jobs/s, starts included); starts took "
        f"{starts[0]:.1f} s at first and {starts[-1]:.1f} s at last; {follower.sent:,} sent, {follower.lost:,} lost of "
        f"{in_flight:,} in flight at kills; {repeats:,} bills beyond one for each job; billed {found.billed_usd} USD, "
        f"maybe {found.maybe_usd}, paid {found.paid_usd}; {verified}"
    )
    assert outcome.summary["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert found.finals == bytes([1]) * count, "jobs that ended never, or more than once"
    assert 0 < follower.lost <= in_flight
    assert follower.in_flight == 0
    assert requests <= follower.sent
    unowned = [number for number in range(count) if not 1 <= found.bills[number] <= found.charged[number].bit_count()]
    assert not unowned, f"{len(unowned)} jobs with more bills than cost lines, or none, like job-{unowned[0]:08d}"
    assert found.billed_usd <= found.paid_usd <= found.billed_usd + found.maybe_usd


@needs_proc
@pytest.mark.parametrize(
    ("warm", "soak"), [(1_000, 3_000), whole(size("warm", 200_000), size("soak", 400_000), minutes=45)], ids=["share", "whole"]
)
def test_L01_memory_and_descriptors_stay(warm: int, soak: int) -> None:
    """Once the index is built and 200,000 jobs are done, memory grows by 1 MiB a million jobs at most; descriptors by none."""
    with scratch(warm + soak, warm + soak) as directory:
        write_lines(directory / "jobs.jsonl", warm + soak)
        with simulated(directory, "--latency", "0.005", "--faults", FAULTS) as platform:
            run = _submit(directory, platform.url)
            follower = Follower(run)
            looks: list[tuple[int, Vitals]] = []
            near_end = warm + soak - 6 * IN_FLIGHT
            with working(run) as process:
                until_sent(run, process, follower, warm)
                while follower.sent < near_end:
                    looks.append((follower.ended, vitals(process)))
                    until_sent(run, process, follower, min(follower.sent + soak // 100, near_end))
                process.wait(PATIENCE_SECONDS)
                run.finish(process, codes=(0,))
    grown = slope([(done, held.own_bytes) for done, held in looks])
    later = slope([(done, held.own_bytes) for done, held in looks[len(looks) // 2 :]])
    descriptors = sorted({held.descriptors for _, held in looks})
    first, last = looks[0][1].own_bytes / MIB, looks[-1][1].own_bytes / MIB
    print(
        f"\n{warm:,} jobs, then {soak:,}: memory {first:.2f} -> {last:.2f} MiB; slope {grown * 1e6 / MIB:+.2f} MiB a million "
        f"jobs, {later * 1e6 / MIB:+.2f} over the second half; descriptors {descriptors[0]} to {descriptors[-1]}"
    )
    assert later * (soak / 2) <= MIB * soak / 2 / 1e6 + NOISE_BYTES
    assert descriptors[-1] <= IN_FLIGHT + OTHER_DESCRIPTORS


def _submit(directory: Path, url: str) -> Submit:
    return Submit(directory, directory / "jobs.jsonl", url, *f"--rpm 0 --tpm 0 --max-in-flight {IN_FLIGHT}".split())


def _verify(run: Submit, directory: Path) -> str:
    """`batchrun verify` of everything, job file included: it must find nothing. What that took, in words."""
    command = [sys.executable, "-m", "batchrunner", "verify", str(run.run_dir), "--jobs", str(directory / "jobs.jsonl"), "--json"]
    began = time.monotonic()
    with (directory / "verified.json").open("wb") as stdout, subprocess.Popen(command, stdout=stdout) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    document = (directory / "verified.json").read_text()
    assert process.returncode == 0, document[:2_000]
    assert json.loads(document)["clean"]
    return f"verified in {time.monotonic() - began:.0f} s, {usage.ru_maxrss / 1024:,.0f} MiB"
