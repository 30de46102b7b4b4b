"""The run's books held against the platform's ledger: no job lost or doubled, no bill missing or made up.

Everything is read as plain JSON, by none of the program's own readers; then the program's own check must agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container
from decimal import Decimal
from typing import Any, NamedTuple

from batchrunner.inputs import Inputs
from batchrunner.sources import opened
from batchrunner.verification import verify
from tests.e2e.harness import Outcome, Simulated, Submit
from tests.e2e.mixed_jobs import UNKNOWN_MODEL
from tests.e2e.whole_mix import UNCOUNTED

Json = dict[str, Any]
#: tokens of input with cached, of cached, of output; and USD
Bill = tuple[int, int, int, Decimal]


class Books(NamedTuple):
    """A run that has ended, and what the platform says of it."""

    run: Submit
    results: list[Json]
    errors: list[Json]
    #: custom_id -> attempt -> its valid line, which is the last one
    costs: dict[str, dict[int, Json]]
    #: custom_id -> what the platform billed for it
    ledger: dict[str, list[Json]]
    #: (custom_id, attempt) of all requests that the journal says were sent
    sent: list[tuple[str, int]]
    #: why (custom_id, attempt) came to nothing, in the journal's words; `lost` are those that a stop found in flight
    failed: dict[tuple[str, int], str]
    lost: set[tuple[str, int]]
    #: attempts of which the server has said that nothing came
    in_vain: set[tuple[str, int]]
    summary: Json
    statistics: Json
    #: nobody else was the platform's customer
    alone: bool

    def lines(self) -> list[Json]:
        """The valid cost lines."""
        return [line for lines in self.costs.values() for line in lines.values()]

    def lines_in(self, state: str) -> list[Json]:
        """Those of one state."""
        return [line for line in self.lines() if line["state"] == state]

    def entries(self) -> list[Json]:
        """The whole ledger."""
        return [entry for entries in self.ledger.values() for entry in entries]

    def figures(self) -> str:
        """What was measured, in a line."""
        paid = [entry for entry in self.entries() if not entry["replay"]]
        return (
            f"{len(self.results)} results, {len(self.errors)} errors; {len(self.sent)} sent, {len(self.lost)} lost; cost lines: "
            f"{len(self.lines_in('billed'))} billed, {len(self.lines_in('maybe_billed'))} maybe; {len(paid)} bills, "
            f"{len(paid) - len(self.ledger)} of them repeats, and {len(self.entries()) - len(paid)} replays; "
            f"{self.summary['rate_limited']} refused with 429"
        )


def read_books(
    run: Submit, platform: Simulated, outcome: Outcome, account: str = "default", ids: Container[str] | None = None
) -> Books:
    """The books of a run whose last start ended so, and what the platform says of its account; where others share that account,
    of these jobs.
    """
    ledger: dict[str, list[Json]] = defaultdict(list)
    entries = platform.ledger()
    statistics = platform.statistics()
    for entry in entries:
        if entry["account"] == account and (ids is None or entry["tag"] in ids):
            ledger[entry["tag"]].append({"replay": False} | entry)
    ended = {(record["id"], record["attempt"]): record for record in run.records("ended")}
    return Books(
        run=run,
        results=run.lines("results.jsonl"),
        errors=run.lines("errors.jsonl"),
        costs=costs_of(run),
        ledger=ledger,
        sent=[(record["id"], record["attempt"]) for record in run.records("sent")],
        failed={attempt: record.get("why") or "" for attempt, record in ended.items() if record["what"] != "done"},
        lost={attempt for attempt, record in ended.items() if record["what"] == "lost"},
        in_vain={attempt for attempt, record in ended.items() if record.get("in_vain")},
        summary=outcome.summary,
        statistics=statistics,
        alone=ids is None and len(statistics["accounts"]) == 1,
    )


def costs_of(run: Submit) -> dict[str, dict[int, Json]]:
    """custom_id -> attempt -> its valid cost line, which is the last one, as they stand."""
    costs: dict[str, dict[int, Json]] = defaultdict(dict)
    for line in run.lines("costs.jsonl"):
        costs[line["custom_id"]][line["attempt"]] = line
    return costs


def prove(books: Books, ids: list[str]) -> None:
    """All that must be true of every run that has ended, whatever went wrong in it."""
    prove_each_job_ended_once(books, ids)
    prove_results_are_billed(books)
    for custom_id in ids:
        prove_ledger_is_covered(books, custom_id)
    prove_summary(books, ids)
    if books.alone:
        prove_sends([books])
    prove_verified(books.run)


def prove_each_job_ended_once(books: Books, ids: list[str]) -> None:
    """Each custom_id stands once in results.jsonl or errors.jsonl, and nothing else does."""
    ended = Counter(line["custom_id"] for line in (*books.results, *books.errors))
    assert not ended.keys() - set(ids), "lines of jobs that are not in the input"
    assert not set(ids) - ended.keys(), "jobs that are in neither file"
    assert not {custom_id: times for custom_id, times in ended.items() if times > 1}, "jobs that ended more than once"
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in books.results)
    assert all(line["error"]["code"] for line in books.errors)


def prove_results_are_billed(books: Books) -> None:
    """`billed` are the attempts whose replies stand in results.jsonl, at these replies' usage, and no others."""
    committed = {attempt_of(line): usage_of(line) for line in books.results}
    billed = {(line["custom_id"], line["attempt"]): bill_of(line)[:3] for line in books.lines_in("billed")}
    assert billed == committed


def prove_ledger_is_covered(books: Books, custom_id: str) -> None:
    """Each `billed` line is a ledger entry to the last digit; each other entry has a `maybe_billed` line of no less.

    Both are of the same attempt, or of attempts that nobody can tell apart: those that went out under one Idempotency-Key,
    since what had become of the earlier one was not known.
    """
    lines, entries = repeats_of(books, custom_id), defaultdict(list)
    for entry in books.ledger.get(custom_id, []):
        entries[int(entry["idempotency_key"].rpartition("-")[2])].append(entry)
    assert entries.keys() <= lines.keys(), f"{custom_id!r}: bills for attempts that no cost line owns up to"
    for known, own in lines.items():
        _prove_lines_cover(custom_id, own, entries[known])


def repeats_of(books: Books, custom_id: str) -> dict[int, list[Json]]:
    """A job's cost lines by how many of its earlier attempts are known to have come to nothing: those share a name."""
    lines = books.costs.get(custom_id, {})
    groups: dict[int, list[Json]] = defaultdict(list)
    for attempt in sorted(lines):
        groups[sum((custom_id, earlier) in books.in_vain for earlier in range(1, attempt))].append(lines[attempt])
    return groups


def _prove_lines_cover(custom_id: str, lines: list[Json], entries: list[Json]) -> None:
    unseen = [bill_of(entry) for entry in entries]
    for line in lines:
        assert line["source"] == ("catalog" if is_priced(line) else "unknown"), line
        assert line["tokens"]["total"] is None or line["tokens"]["total"] == line["tokens"]["input"] + line["tokens"]["output"]
        if line["state"] == "billed":
            assert bill_of(line) in unseen, f"{custom_id!r}: {bill_of(line)} is billed, and the ledger holds {unseen}"
            unseen.remove(bill_of(line))
    reserved = sorted(
        (Decimal(line["cost"]["amount"]) for line in lines if line["state"] == "maybe_billed" and is_priced(line)), reverse=True
    )
    paid = sorted((bill[3] for bill in unseen), reverse=True)
    assert len(paid) <= len(reserved), f"{custom_id!r}: {len(paid)} unseen bills, {len(reserved)} lines that own up to one"
    too_low = [(at_most, cost) for at_most, cost in zip(reserved, paid, strict=False) if at_most < cost]
    assert not too_low, f"{custom_id!r}: maybe_billed below the true cost: {too_low}"


def prove_summary(books: Books, ids: list[str]) -> None:
    """The `--json` document adds up to what the files say, to the last digit."""
    summary = books.summary
    counts = {"total": len(ids), "completed": len(books.results), "failed": len(books.errors)}
    assert (summary["status"], summary["stopped_by"], summary["request_counts"]) == ("completed", None, counts)
    prove_sums(summary, books.costs)
    assert summary["attempts"] == len(set(books.sent)) == len(books.sent)


def prove_sends(everybody: list[Books]) -> None:
    """No request reached the platform that the journals of all its customers know nothing of."""
    assert everybody[0].statistics["requests"] <= sum(len(books.sent) for books in everybody)


def prove_sums(summary: Json, costs: dict[str, dict[int, Json]]) -> None:
    """Tokens and money of a summary are those of the valid cost lines, to the last digit."""
    lines = [line for own in costs.values() for line in own.values()]
    billed = [line for line in lines if line["state"] == "billed"]
    maybe = [line for line in lines if line["state"] == "maybe_billed"]
    for name in ("input", "cached", "output"):
        assert summary["usage"][f"{name}_tokens"] == sum(line["tokens"][name] or 0 for line in billed), name
    assert Decimal(summary["cost"]["amount"]) == sum(amounts_of(billed))
    assert Decimal(summary["cost"]["maybe_billed"]) == sum(amounts_of(maybe))
    assert summary["cost"]["unpriced_attempts"] == len(billed) + len(maybe) - len(amounts_of(billed + maybe))


def is_priced(line: Json) -> bool:
    """All are but attempts at a model that does not exist, where nobody saw that it does not; and those whose answers nobody can
    count: by a unit of the platform's own, or streamed without a word of what they took.
    """
    if line["cost"]["amount"] is not None:
        return True
    told = line["model"] not in UNCOUNTED and line["tokens"]["output"] is not None
    return line["model"] != UNKNOWN_MODEL and told


def prove_verified(run: Submit) -> None:
    """`batchrun verify` finds nothing wrong with the directory, nor with the job files beside it."""
    with opened(run.job_files()) as sources:
        report = verify(run.run_dir, Inputs([plain for source in sources if (plain := source.as_it_is()) is not None]))
    assert report.clean, "\n".join(map(str, report.findings[:5]))
    assert report.finished
    assert report.notes == []


def amounts_of(lines: list[Json]) -> list[Decimal]:
    return [Decimal(line["cost"]["amount"]) for line in lines if is_priced(line)]


def bill_of(line: Json) -> Bill:
    """Of a cost line or a ledger entry."""
    tokens = line["tokens"]
    return tokens["input"], tokens["cached"], tokens["output"], Decimal(line["cost"]["amount"])


def attempt_of(line: Json) -> tuple[str, int]:
    """Which attempt, as (custom_id, ordinal), a line of results.jsonl or errors.jsonl is of."""
    return line["custom_id"], int(line["id"].rpartition("-")[2])


def usage_of(line: Json) -> tuple[int, int, int]:
    """What the reply in a line of results.jsonl says that it took, in whichever shape it is."""
    usage = line["response"]["body"]["usage"]
    if "cache_read_input_tokens" in usage:
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, cached, usage["output_tokens"]
    read, written = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    cached = usage.get(f"{read}_tokens_details", {}).get("cached_tokens", 0)
    return usage[f"{read}_tokens"], cached, usage.get(f"{written}_tokens", 0)
