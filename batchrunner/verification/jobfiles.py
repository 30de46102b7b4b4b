"""The job files against the journal: each job as it ran, and each of a finished run ended."""

from __future__ import annotations

import io
from typing import Final

from batchrunner import jobfile
from batchrunner.inputs import Inputs, regions
from batchrunner.jobfile import OVERLONG, BadLineError, LineReader
from batchrunner.lifecycle import FINAL, State
from batchrunner.verification.ledger import ASKED, Ledger
from batchrunner.verification.report import Checked, Findings, Place

_BUFFER_BYTES: Final = 1 << 18


def check_inputs(inputs: Inputs, ledger: Ledger, findings: Findings, checked: Checked) -> None:
    """Read the job files once. Memory: a bit a job, in the ledger."""
    bad = 0
    checked.input_lines = 0
    for file, region in zip(inputs.files, regions(inputs), strict=True):
        for line, offset, raw in LineReader(io.BufferedReader(region, _BUFFER_BYTES)):
            checked.input_lines += 1
            place = Place(file.name, offset, line)
            try:
                custom_id = None if raw is OVERLONG else jobfile.check(raw)
            except BadLineError:
                custom_id = None
            if custom_id is None or raw is OVERLONG:
                bad += 1
            else:
                bad += not _check_job(place, custom_id, jobfile.fingerprint(raw), ledger, findings)
    if ledger.finished is not None and bad != checked.bad_lines:
        what = f"{bad:,} lines are no jobs or repeat an id, and errors.jsonl lists {checked.bad_lines:,}"
        remedy = "Where the job files were changed since, submit them again; errors.jsonl is then written anew."
        findings.add("bad_lines", Place(inputs.files[0].name), what, remedy)
    gone = sum(not marks & ASKED for marks in ledger.marks)
    if gone:
        what = f"{gone:,} jobs of this run are not in these files; their lines stay"
        findings.note("removed", Place(inputs.files[0].name), what)


def _check_job(place: Place, custom_id: str, fingerprint: int, ledger: Ledger, findings: Findings) -> bool:
    """Whether the line is a job's, and no second one of an id."""
    number = ledger.find(custom_id, fingerprint)
    if number is None:
        _check_ended(place, custom_id, ledger, findings)
        return True
    if ledger.marks[number] & ASKED:
        return False
    ledger.marks[number] |= ASKED
    state = ledger.standing[number]
    if ledger.index.fingerprints[number] != fingerprint:
        if state == State.SUCCEEDED:
            findings.note(
                "changed_line", place, "lines that were changed since they succeeded; the result is that of the old", custom_id
            )
        else:
            remedy = "Restore the line, or run it as it is now: submit with --accept-changes."
            findings.add("changed_line", place, "the line was changed since it ran", remedy, custom_id)
    if state not in FINAL:
        _check_ended(place, custom_id, ledger, findings)
    return True


def _check_ended(place: Place, custom_id: str, ledger: Ledger, findings: Findings) -> None:
    if ledger.finished is None:
        findings.note("open", place, "jobs that have not ended", custom_id)
    else:
        remedy = "Where the line was added since, submit the files again and it runs."
        findings.add("no_end", place, "the run has finished, and this job has no final line", remedy, custom_id)
