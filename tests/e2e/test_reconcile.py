"""`batchrun reconcile` on killed runs, with strangers on the account, judged by what the platform's ledger alone knows."""

from __future__ import annotations

import json
import random
import select
from collections import Counter, defaultdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import canary
from tests.e2e.books import costs_of, prove_sums, prove_verified
from tests.e2e.cli_support import Ended, batchrun
from tests.e2e.harness import Submit, simulated, wait_until
from tests.e2e.test_books import TRANSIENT
from tests.e2e.whole_mix import whole_lines

Json = dict[str, Any]

#: what may keep an attempt open in the end: nothing that an event could settle
UNDECIDABLE = {"coincidence", "too_many", "too_few", "mixed"}
#: the embedded platform is done with a request within a few seconds, whoever has left, also on a machine with much else to do
SETTLE_AFTER = "20"
LIMITS = ("--rpm", "0", "--tpm", "0")
PLATFORM = ("--latency", "0.08", "--output-tokens", "20", "--jitter", "0.02", "--work-seconds", "1", *LIMITS)


class Size(NamedTuple):
    jobs: int
    rpm: int
    #: requests of strangers, for each of ours
    strangers: float
    #: of requests, to each transient fault
    faults: float
    #: further options of the platform
    more: tuple[str, ...] = ()

    @property
    def platform(self) -> tuple[str, ...]:
        faults = ",".join(f"{kind}={self.faults}" for kind in sorted(TRANSIENT - {"html429", "rate_limited"}))
        return (*PLATFORM, *self.more, "--strangers", str(self.strangers), "--playground-share", "0.1", "--faults", faults)


SMALL = Size(600, 3_000, 0.2, 0.002)
REPLAYS = Size(600, 3_000, 0.15, 0.002, ("--idempotency",))
WHOLE = Size(5_000, 4_500, 0.3, 0.002)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("size", "seed"),
    [
        # By real clocks no two runs are the same, and a stranger's event can be ours by accident: nights that are drawn from a
        # seed, in unit/reconciliation, are what every test run judges.
        pytest.param(SMALL, 1, id="600-jobs", marks=pytest.mark.campaign),
        pytest.param(REPLAYS, 3, id="600-jobs-told-again", marks=pytest.mark.campaign),
        pytest.param(WHOLE, 2, id="5000-jobs", marks=pytest.mark.campaign),
    ],
)
def test_a_killed_run_with_strangers_on_its_account_is_settled(tmp_path: Path, size: Size, seed: int) -> None:
    """No event is assigned wrongly, few are undecided, the parts are the whole, and nothing stays open that an event could
    settle; what is settled stands through a resume, and is settled once.
    """
    lines = whole_lines(size.jobs, seed)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_bytes(b"".join(lines.values()))
    with simulated(tmp_path, "--seed", str(seed), *size.platform) as platform:
        run = Submit(
            tmp_path,
            jobs,
            platform.url,
            "--rpm",
            str(size.rpm),
            "--tpm",
            "0",
            "--timeout",
            "3",
            "--max-attempts",
            "10",
            "--max-in-flight",
            "16",
        )
        killed_run(run, size.jobs, seed)
        before = costs_of(run)
        report = settled(tmp_path, run)
        claims = claims_of(tmp_path, run)
        ledger = platform.ledger()
        print_figures(report, claims, ledger, before)
        prove_parts(report)
        assert sum(claim["whose"] == "undecided" for claim in claims) <= 0.05 * len(claims)
        prove_claims(run, claims, ledger)
        prove_open(run, claims, ledger, report)
        prove_groups(run, claims, ledger)
        prove_settled_once(tmp_path, run)
        prove_verified(run)
        again = run.run()
        prove_sums(again.summary, costs_of(run))
        assert again.summary["attempts"] == len(run.records("sent"))
    assert before != costs_of(run)


def killed_run(run: Submit, jobs: int, seed: int) -> None:
    """Killed three times, somewhere, then to its end."""
    shares = sorted(random.Random(seed).uniform(0.1, 0.9) for _ in range(3))
    for share in shares:
        process = run.start()
        try:
            wait_until(process, partial(has_lines, run, share * jobs), "jobs to end", 0.05)
        finally:
            run.kill(process)
    run.run()


def has_lines(run: Submit, count: float) -> bool:
    files = (run.run_dir / name for name in ("results.jsonl", "errors.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in files if path.exists()) >= count


def reconciled(home: Path, run: Submit, *options: str) -> Ended:
    return batchrun(
        home, "reconcile", run.run_dir, "--settle-after", SETTLE_AFTER, *options, env={"BATCHRUN_API_KEY": canary.KEY}
    )


def settled(home: Path, run: Submit) -> Json:
    """The report of the first reconciliation that has nothing left to wait for."""
    for _ in range(60):
        ended = reconciled(home, run, "--json")
        assert ended.code == 0, ended.stderr
        (account,) = json.loads(ended.stdout, parse_float=Decimal)["accounts"]
        if "not_over" not in account["open_reasons"]:
            report: Json = account
            return report
        pause()
    raise AssertionError("attempts stay open as if they could still be charged")


def claims_of(home: Path, run: Submit) -> list[Json]:
    ended = reconciled(home, run, "--events")
    assert ended.code == 0, ended.stderr
    return [json.loads(line, parse_float=Decimal) for line in ended.stdout.splitlines()]


def prove_parts(report: Json) -> None:
    """Ours, strangers' and undecided are theirs exactly."""
    parts = [report[name] for name in ("ours", "strangers", "undecided")]
    assert sum(part["events"] for part in parts) == report["theirs"]["events"]
    assert sum(Decimal(part["amount"]) for part in parts) == Decimal(report["theirs"]["amount"])


def prove_claims(run: Submit, claims: list[Json], ledger: list[Json]) -> None:
    """Each event that is decided is whose the ledger says that it is; of which job, and of which of its requests."""
    owners = {entry["event"]: entry for entry in ledger if entry.get("event")}
    groups = groups_of(run)
    wrong = []
    for claim in claims:
        entry = owners.get(claim["event"])  # the ledger has no line for what failed and cost us nothing
        strange = entry is not None and entry.get("owner") is not None
        if claim["whose"] == "undecided":
            continue
        claimed = {groups[attempt["custom_id"], attempt["attempt"]] for attempt in claim["attempts"]}
        if (claim["whose"] == "strangers") != strange or (not strange and entry and group_of(entry) not in claimed):
            wrong.append((claim, entry, records_of(run, claim, entry)))
    assert not wrong, wrong[:3]
    assert {"strangers", "ours"} <= {claim["whose"] for claim in claims}


def records_of(run: Submit, claim: Json, entry: Json | None) -> list[Json]:
    """What the journal tells of the jobs that an event was claimed for, and of that which it is of."""
    ids = {attempt["custom_id"] for attempt in claim["attempts"]} | ({entry["tag"]} if entry and entry.get("tag") else set())
    return [record for kind in ("sent", "ended", "settled") for record in run.records(kind) if record["id"] in ids]


def groups_of(run: Submit) -> dict[tuple[str, int], tuple[str, int]]:
    """(custom_id, attempt) -> what tells requests of a job apart for the platform: how many were known to be in vain before."""
    ended = {(record["id"], record["attempt"]): record for record in run.records("ended")}
    vain: dict[str, int] = defaultdict(int)
    groups = {}
    for record in sorted(run.records("sent"), key=lambda record: record["attempt"]):
        key = record["id"], record["attempt"]
        groups[key] = record["id"], vain[record["id"]]
        vain[record["id"]] += bool(ended[key].get("in_vain"))
    return groups


def group_of(entry: Json) -> tuple[str, int]:
    return entry["tag"], int(entry["idempotency_key"].rpartition("-")[2])


def prove_open(run: Submit, claims: list[Json], ledger: list[Json], report: Json) -> None:
    """What stays `maybe_billed` has no event of its own that was decided."""
    lines = [line for own in costs_of(run).values() for line in own.values()]
    left = [line for line in lines if line["state"] == "maybe_billed"]
    assert len(left) <= report["open"]  # strangers that came since may have shown an accident to be unlikely
    assert report["open_reasons"].keys() <= UNDECIDABLE
    decided = {claim["event"] for claim in claims if claim["whose"] != "undecided" and claim["reason"] != "one_of_several"}
    groups = groups_of(run)
    open_groups = Counter(groups[line["custom_id"], line["attempt"]] for line in left)
    closed = Counter(groups[line["custom_id"], line["attempt"]] for line in lines if line["state"] == "billed")
    own = Counter(group_of(entry) for entry in ledger if not entry.get("owner") and entry.get("event") in decided)
    assert not [group for group in open_groups if own[group] > closed[group]], "an event was decided, and its attempt left open"


def prove_groups(run: Submit, claims: list[Json], ledger: list[Json]) -> None:
    """Where nothing of a job's requests is open, its cost lines come to what the platform took for them, to the last digit."""
    whose = {claim["event"]: claim["whose"] for claim in claims}
    groups = groups_of(run)
    taken: dict[tuple[str, int], Decimal] = defaultdict(Decimal)
    uncertain = set()
    for entry in ledger:
        if not entry.get("owner"):
            taken[group_of(entry)] += Decimal(entry["cost"]["amount"])
            if "event" in entry and whose[entry["event"]] == "undecided":  # what was told again has none, and cost nothing
                uncertain.add(group_of(entry))
    billed: dict[tuple[str, int], Decimal] = defaultdict(Decimal)
    for custom_id, lines in costs_of(run).items():
        for attempt, line in lines.items():
            if line["cost"]["amount"] is None or line["state"] == "maybe_billed":
                uncertain.add(groups[custom_id, attempt])
            elif line["state"] == "billed":
                billed[groups[custom_id, attempt]] += Decimal(line["cost"]["amount"])
    certain = (taken.keys() | billed.keys()) - uncertain
    assert len(certain) > 0.9 * len(taken)
    assert not {group: (taken[group], billed[group]) for group in certain if taken[group] != billed[group]}


def prove_settled_once(home: Path, run: Submit) -> None:
    """Another reconciliation by the same events changes no byte. (Strangers are at it still: their events are more each time.)"""
    names = ("costs.jsonl", "journal.jsonl", "status.json")
    for _ in range(60):
        told = [events_told(home, run)]
        files = {name: (run.run_dir / name).read_bytes() for name in names}
        told.append(events_told(home, run))
        if told[0] == told[1]:
            assert {name: (run.run_dir / name).read_bytes() for name in names} == files
            return
        pause()
    raise AssertionError("strangers never came to an end")


def pause() -> None:
    """Strangers come, and what was left goes on, for half a minute at the most."""
    select.select([], [], [], 1.0)


def events_told(home: Path, run: Submit) -> int:
    ended = reconciled(home, run, "--json")
    assert ended.code == 0, ended.stderr
    count: int = json.loads(ended.stdout)["accounts"][0]["theirs"]["events"]
    return count


def print_figures(report: Json, claims: list[Json], ledger: list[Json], before: dict[str, dict[int, Json]]) -> None:
    maybe = sum(line["state"] == "maybe_billed" for own in before.values() for line in own.values())
    strangers = sum(bool(entry.get("owner")) for entry in ledger)
    shares = {name: report[name]["events"] for name in ("ours", "strangers", "undecided", "theirs")}
    print(f"\n{shares}, {shares['undecided'] / len(claims):.2%} undecided; {strangers} strangers' events in the ledger")
    print(f"{maybe} were maybe_billed, {report['open']} are: {report['open_reasons']}; {report['settled']} in the last round")
    print(dict(Counter(f"{claim['whose']}:{claim['reason']}" for claim in claims)))
