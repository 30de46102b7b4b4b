"""A report in words."""

from __future__ import annotations

from decimal import Decimal

from batchrunner.verification import Place, Repair, Report, repair_text, report_text
from batchrunner.verification.repair import Change
from batchrunner.verification.report import LISTED, RESTORE, Checked, Findings
from batchrunner.verification.sums import Sums
from batchrunner.verification.words import SHOWN


def report(findings: Findings, *, live: bool = False) -> Report:
    sums = Sums(completed=3, failed=1, attempts=5, rate_limited=1, billed_usd=Decimal("0.10"), unpriced_attempts=1)
    return Report(
        "chat.run", "r1", live, False, Checked(jobs=5, records=9), sums, findings.count, findings.listed, findings.notes
    )


def test_nothing_is_wrong() -> None:
    """The first line says so, and for a live run how far that goes."""
    assert report_text(report(Findings())).startswith("chat.run: nothing is wrong.\n")
    text = report_text(report(Findings(), live=True))
    assert text.startswith("chat.run: nothing is wrong, as far as it is committed: a process is at work on it.\n")
    assert "5 in the journal, 3 succeeded, 1 failed, 1 open" in text
    assert "$0.1 billed + unknown for 1 attempt" in text
    assert "5, 1 refused with 429" in text


def test_findings_name_their_place_and_what_to_do() -> None:
    """File, line, byte and job, escaped; then the remedy."""
    findings = Findings()
    findings.add("altered", Place("results.jsonl", 12_345, 678), "its checksum is another", RESTORE, "a\x1b[2J")
    text = report_text(report(findings))
    assert "results.jsonl, line 678, byte 12,345, job a\\x1b[2J: its checksum is another. [altered]\n" in text
    assert f"    {RESTORE}\n" in text


def test_many_findings_are_counted() -> None:
    """A wholly foreign file of millions of lines takes neither the memory nor the screen."""
    findings = Findings()
    for offset in range(LISTED + 500):
        findings.add("foreign", Place("results.jsonl", offset), "not a line of this run", RESTORE)
    assert len(findings.listed) == LISTED
    text = report_text(report(findings))
    assert text.count("[foreign]") == SHOWN
    assert f"chat.run: {LISTED + 500:,} findings." in text
    assert f"... and {LISTED + 500 - SHOWN:,} more.\n" in text


def test_notes_are_counted_by_kind() -> None:
    """What a crash leaves is said once, with the place of the first."""
    findings = Findings()
    for offset in (7, 8, 9):
        findings.note("in_flight", Place("journal.jsonl", offset), "attempts in flight")
    findings.note("no_status", Place("status.json"), "not there")
    text = report_text(report(findings))
    assert "  3 x attempts in flight  (first: journal.jsonl, byte 7)\n" in text
    assert "  not there  (status.json)\n" in text
    assert report(findings).clean
    assert report(findings).unsettled


def test_a_repair_in_words() -> None:
    """What was done, and each file's bytes before and after."""
    text = repair_text(Repair(["journal.jsonl: a torn end of 40 bytes was cut."], [Change("journal.jsonl", 1_040, 1_200)]))
    assert "  journal.jsonl: a torn end of 40 bytes was cut.\n" in text
    assert "  journal.jsonl: 1,040 -> 1,200 bytes (+160)\n" in text
