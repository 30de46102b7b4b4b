"""The run's books held against the platform's ledger: no job lost or doubled, no bill missing or made up.

Everything is read as plain JSON, by none of the program's own readers; then the program's own check must agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any, NamedTuple

from batchrunner.inputs import Inputs
from batchrunner.sources import opened
from batchrunner.verification import verify
from tests.e2e.harness import Outcome, Simulated, Submit

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
    summary: Json
    statistics: Json

    def lines_in(self, state: str) -> list[Json]:
        """The valid cost lines of one state."""
        return [line for lines in self.costs.values() for line in lines.values() if line["state"] == state]

    def entries(self) -> list[Json]:
        """The whole ledger."""
        return [entry for entries in self.ledger.values() for entry in entries]

    def figures(self) -> str:
        """What was measured, in a line."""
        return (
            f"{len(self.results)} results, {len(self.errors)} errors; cost lines: {len(self.lines_in('billed'))} billed, "
            f"{len(self.lines_in('maybe_billed'))} maybe; {len(self.entries())} ledger entries; {len(self.sent)} sent, "
            f"{self.statistics['requests']} arrived; faults {self.statistics['faults']}"
        )


def read_books(run: Submit, platform: Simulated, outcome: Outcome) -> Books:
    """The books of a run whose last start ended so."""
    ledger: dict[str, list[Json]] = defaultdict(list)
    for entry in platform.ledger():
        ledger[entry["tag"]].append(entry)
    costs: dict[str, dict[int, Json]] = defaultdict(dict)
    for line in run.lines("costs.jsonl"):
        costs[line["custom_id"]][line["attempt"]] = line
    return Books(
        run=run,
        results=run.lines("results.jsonl"),
        errors=run.lines("errors.jsonl"),
        costs=costs,
        ledger=ledger,
        sent=[(record["id"], record["attempt"]) for record in run.records("sent")],
        summary=outcome.summary,
        statistics=platform.statistics(),
    )


def prove(books: Books, ids: list[str]) -> None:
    """All that must be true of every run that has ended, whatever went wrong in it."""
    prove_each_job_ended_once(books, ids)
    prove_results_are_billed(books)
    for custom_id in ids:
        prove_ledger_is_covered(books, custom_id)
    prove_summary(books, ids)
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
    """Each `billed` line is a ledger entry to the last digit; each other entry has a `maybe_billed` line of no less."""
    lines = books.costs.get(custom_id, {}).values()
    unseen = [bill_of(entry) for entry in books.ledger.get(custom_id, [])]
    for line in lines:
        assert line["source"] == "catalog", line
        assert line["tokens"]["total"] is None or line["tokens"]["total"] == line["tokens"]["input"] + line["tokens"]["output"]
        if line["state"] == "billed":
            assert bill_of(line) in unseen, f"{custom_id!r}: {bill_of(line)} is billed, and the ledger holds {unseen}"
            unseen.remove(bill_of(line))
    reserved = sorted((Decimal(line["cost"]["amount"]) for line in lines if line["state"] == "maybe_billed"), reverse=True)
    paid = sorted((bill[3] for bill in unseen), reverse=True)
    assert len(paid) <= len(reserved), f"{custom_id!r}: {len(paid)} unseen bills, {len(reserved)} lines that own up to one"
    too_low = [(at_most, cost) for at_most, cost in zip(reserved, paid, strict=False) if at_most < cost]
    assert not too_low, f"{custom_id!r}: maybe_billed below the true cost: {too_low}"


def prove_summary(books: Books, ids: list[str]) -> None:
    """The `--json` document adds up to what the files say, to the last digit."""
    summary, billed = books.summary, books.lines_in("billed")
    counts = {"total": len(ids), "completed": len(books.results), "failed": len(books.errors)}
    assert (summary["status"], summary["stopped_by"], summary["request_counts"]) == ("completed", None, counts)
    for name in ("input", "cached", "output"):
        assert summary["usage"][f"{name}_tokens"] == sum(line["tokens"][name] for line in billed), name
    assert Decimal(summary["cost"]["amount"]) == sum(amounts_of(billed))
    assert Decimal(summary["cost"]["maybe_billed"]) == sum(amounts_of(books.lines_in("maybe_billed")))
    assert summary["cost"]["unpriced_attempts"] == 0
    assert summary["attempts"] == len(set(books.sent)) == len(books.sent)
    assert books.statistics["requests"] <= len(books.sent), "requests reached the platform that the journal knows nothing of"


def prove_verified(run: Submit) -> None:
    """`batchrun verify` finds nothing wrong with the directory, nor with the job file beside it."""
    with opened([run.jobs]) as sources:
        report = verify(run.run_dir, Inputs([plain for source in sources if (plain := source.as_it_is()) is not None]))
    assert report.clean, "\n".join(map(str, report.findings[:5]))
    assert report.finished
    assert report.notes == []


def amounts_of(lines: list[Json]) -> list[Decimal]:
    return [Decimal(line["cost"]["amount"]) for line in lines]


def bill_of(line: Json) -> Bill:
    """Of a cost line or a ledger entry."""
    tokens = line["tokens"]
    return tokens["input"], tokens["cached"], tokens["output"], Decimal(line["cost"]["amount"])


def attempt_of(line: Json) -> tuple[str, int]:
    """Which attempt, as (custom_id, ordinal), a line of results.jsonl or errors.jsonl is of."""
    return line["custom_id"], int(line["id"].rpartition("-")[2])


def usage_of(line: Json) -> tuple[int, int, int]:
    """What the reply in a line of results.jsonl says that it took, in whichever dialect it is."""
    usage = line["response"]["body"]["usage"]
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"]
    if "input_tokens_details" in usage:
        return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], usage["output_tokens"]
    cached = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + cached, cached, usage["output_tokens"]
