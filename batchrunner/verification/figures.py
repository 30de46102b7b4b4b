"""What was shown to people against what is on disk: status.json, and the summary that a finished run keeps."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from batchrunner import status as status_file
from batchrunner.costs import timestamp
from batchrunner.journal.files import JOURNAL
from batchrunner.journal.records import Finished
from batchrunner.status import Status
from batchrunner.verification.ledger import Ledger
from batchrunner.verification.report import DEFECT, Findings, Place
from batchrunner.verification.sums import Sums

STATUS: Final = "status.json"
_REMEDY: Final = "The next start writes it anew; rely on the other files until then."


def check_status(directory: Path, run_id: str, ledger: Ledger, bad_lines: int, findings: Findings, *, live: bool) -> None:
    """Hold status.json against the sums. While a process is at work, and where one was killed, it may lag behind them."""
    place = Place(STATUS)
    try:
        found = status_file.decode((directory / STATUS).read_bytes())
    except FileNotFoundError:
        findings.note("no_status", place, "not there: the run has not got so far")
        return
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        findings.add("status_unreadable", place, "cannot be read", _REMEDY)
        return
    if found.run_id != run_id:
        findings.add("status_foreign", place, f"of run {found.run_id!r}, and this is run {run_id!r}", _REMEDY)
    elif live:
        return  # it may be newer than what was read of the journal
    elif ledger.started is None or found.at < timestamp(ledger.started[0]):
        findings.note("earlier_status", place, f"of {found.at}, before the newest start: not compared")
    else:
        _compare(place, found, ledger.sums, bad_lines, findings, exact=found.state in ("completed", "stopped"))


def check_summary(finished: Finished, offset: int, sums: Sums, bad_lines: int, findings: Findings) -> None:
    """Hold what a finished run would print again against the sums."""
    place = Place(JOURNAL, offset)
    try:
        found = status_file.decode(bytes(finished.summary))
    except msgspec.DecodeError:
        findings.note("other_summary", place, "the summary of another version: not compared")
        return
    _compare(place, found, sums, bad_lines, findings, exact=True)
    if found.done != found.total:
        findings.add("sum", place, f"{found.done:,} jobs done of {found.total:,}, in a run that has finished", DEFECT)


def _compare(place: Place, found: Status, sums: Sums, bad_lines: int, findings: Findings, *, exact: bool) -> None:
    """What was shown must be what the journal adds up to; no more than that, where it was taken before the end."""
    shown: dict[str, tuple[int | Decimal, int | Decimal]] = {
        "completed": (found.completed, sums.completed),
        "failed": (found.failed, sums.failed + bad_lines),
    }
    if found.removed:  # which of them had succeeded, nobody wrote down
        shown = {"done and removed": (found.done + found.removed, sums.completed + sums.failed + bad_lines)}
    shown |= {
        "attempts": (found.attempts + found.submitted, sums.attempts),
        "rate_limited": (found.rate_limited, sums.rate_limited),
        "usage.input_tokens": (found.usage.input_tokens, sums.input_tokens),
        "usage.cached_tokens": (found.usage.cached_tokens, sums.cached_tokens),
        "usage.output_tokens": (found.usage.output_tokens, sums.output_tokens),
        "billed_usd": (found.billed_usd, sums.billed_usd),
        "maybe_billed_usd": (found.maybe_billed_usd, sums.maybe_billed_usd),
        "unpriced_attempts": (found.unpriced_attempts, sums.unpriced_attempts),
        "finish_length": (found.finish_length, sums.finish_length),
        "finish_refusal": (found.finish_refusal, sums.finish_refusal),
        "finish_empty": (found.finish_empty, sums.finish_empty),
    }
    for name, (said, true) in shown.items():
        if said != true and (exact or said > true):
            findings.add("sum", place, f"{name} is {said}, and the journal comes to {true}", _REMEDY)
