"""A report for people."""

from __future__ import annotations

from batchrunner.verification.repair import Repair
from batchrunner.verification.report import Finding, Report
from batchrunner.wording import counted, escape_terminal, usd

#: findings that are shown; `--json` has more of them
SHOWN = 50


def report_text(report: Report) -> str:
    """What was checked, what is wrong and where, what a start would settle. Ends with a line end."""
    lines = [_headline(report), "", *(f"  {name:<9} {text}" for name, text in _facts(report))]
    if report.findings:
        lines.append("")
        for finding in report.findings[:SHOWN]:
            lines += _finding(finding)
        if report.count > SHOWN:
            lines.append(f"... and {report.count - min(SHOWN, len(report.findings)):,} more.")
    if report.notes:
        lines += ["", "No fault:"]
        for note in report.notes:
            job = "" if note.custom_id is None else f", job {escape_terminal(note.custom_id)}"
            times, first = (f"{note.count:,} x ", "first: ") if note.count > 1 else ("", "")
            lines.append(f"  {times}{escape_terminal(note.what)}  ({first}{_escaped(note.place)}{job})")
    return "\n".join(lines) + "\n"


def _headline(report: Report) -> str:
    live = ", as far as it is committed: a process is at work on it" if report.live else ""
    where = escape_terminal(report.run_dir)
    if report.clean:
        return f"{where}: nothing is wrong{live}."
    return f"{where}: {counted(report.count, 'finding')}{live}."


def _facts(report: Report) -> list[tuple[str, str]]:
    checked, sums = report.checked, report.sums
    open_jobs = checked.jobs - sums.completed - sums.failed
    jobs = [f"{checked.jobs:,} in the journal", f"{sums.completed:,} succeeded", f"{sums.failed:,} failed"]
    attempts = [f"{sums.attempts:,}", *([f"{sums.rate_limited:,} refused with 429"] if sums.rate_limited else [])]
    bills = [
        f"{usd(sums.billed_usd)} billed",
        *([f"up to {usd(sums.maybe_billed_usd)} maybe billed"] if sums.maybe_billed_usd else []),
        *([f"unknown for {counted(sums.unpriced_attempts, 'attempt')}"] if sums.unpriced_attempts else []),
    ]
    facts = [
        ("journal", f"{counted(checked.records, 'record')}{', of a run that has finished' if report.finished else ''}"),
        ("jobs", ", ".join(jobs + ([f"{open_jobs:,} open"] if open_jobs else []))),
        ("lines", f"{checked.results:,} results, {checked.errors:,} errors, {checked.bad_lines:,} bad lines of the input"),
        ("attempts", ", ".join(attempts)),
        (
            "costs",
            f"{counted(checked.cost_lines, 'line')}: {' + '.join(bills)}; {counted(checked.amounts, 'amount')} computed again",
        ),
        ("tokens", f"{sums.input_tokens:,} input ({sums.cached_tokens:,} cached), {sums.output_tokens:,} output"),
        ("read", f"{checked.bytes:,} bytes"),
    ]
    return facts if checked.input_lines is None else [*facts, ("job files", f"{checked.input_lines:,} lines")]


def _finding(finding: Finding) -> list[str]:
    job = "" if finding.custom_id is None else f", job {escape_terminal(finding.custom_id)}"
    return [f"{_escaped(finding.place)}{job}: {escape_terminal(finding.what)}. [{finding.code}]", f"    {finding.remedy}"]


def _escaped(place: object) -> str:
    return escape_terminal(str(place))


def repair_text(repair: Repair) -> str:
    """What a repair did. Ends with a line end."""
    lines = [f"  {escape_terminal(done)}" for done in repair.done]
    lines += [
        f"  {change.file}: {change.before:,} -> {change.after:,} bytes ({change.after - change.before:+,})"
        for change in repair.changes
    ]
    return "\n".join(["Repaired, as a start would have:", *lines]) + "\n"
