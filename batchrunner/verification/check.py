"""Checks a run directory from outside: only reads, takes no lock, needs no job file.

The journal is read first, up to the size that it has then, the other files after it: whatever its records speak of is
in them by then, also while a process is at work. What these hold beyond is not committed yet, and is a note.
"""

from __future__ import annotations

from pathlib import Path

from batchrunner.errors import InvalidInput, RunDirectoryInUse
from batchrunner.inputs import Inputs
from batchrunner.journal import is_locked
from batchrunner.journal.files import ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import Started
from batchrunner.lifecycle import State
from batchrunner.run_directory import read_manifest
from batchrunner.verification.bills import Bills
from batchrunner.verification.chain import Chain
from batchrunner.verification.figures import check_status, check_summary
from batchrunner.verification.finals import Finals
from batchrunner.verification.jobfiles import check_inputs
from batchrunner.verification.ledger import Ledger
from batchrunner.verification.prices import Prices
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import RESUME, Checked, Findings, Place, Report


def verify(path: Path, inputs: Inputs | None = None) -> Report:
    """Check a run directory; against the job files too, where they are given.

    Raises: InvalidInput where it is no run directory or another version's; RunDirectoryInUse where a start is changing files
    just now, so that what was found may not be so; DiskError.
    """
    manifest = read_manifest(path)
    findings, checked = Findings(), Checked()
    live = is_locked(path)
    with RunReader(path) as reader:
        if not reader.size(JOURNAL) and any(reader.size(name) for name in (RESULTS, ERRORS)):
            raise InvalidInput(f"{path / JOURNAL}: missing, and there are results. Restore the run directory from a copy.")
        chain = Chain(reader, manifest.run_id, findings)
        ledger = Ledger(reader, findings)
        ledger.read(chain)
        prices = Prices(manifest.prices, ledger, findings)
        finals = Finals(reader, manifest.run_id, ledger, chain.synced, prices, findings, checked)
        for name in (RESULTS, ERRORS):
            finals.check(name)
        finals.missing()
        Bills(reader, manifest.run_id, ledger, chain.synced, prices, findings, checked).check()
        _note_in_flight(ledger, findings, live=live)
        sums = ledger.sums
        sums.completed = ledger.standing.count(State.SUCCEEDED)
        sums.failed = ledger.standing.count(State.FAILED)
        check_status(path, manifest.run_id, ledger, checked.bad_lines, findings, live=live)
        if ledger.finished is not None:
            check_summary(ledger.finished, ledger.finished_at, sums, checked.bad_lines, findings)
        if inputs is not None:
            check_inputs(inputs, ledger, findings, checked)
        checked.records, checked.jobs, checked.amounts = chain.records, len(ledger.index), prices.computed
        checked.bytes += chain.end
        if findings.count:
            _refuse_while_starting(path, reader, manifest.run_id, chain, ledger)
    return Report(
        run_dir=str(path),
        run_id=manifest.run_id,
        live=live,
        finished=ledger.finished is not None,
        checked=checked,
        sums=sums,
        count=findings.count,
        findings=findings.listed,
        notes=findings.notes,
    )


def _note_in_flight(ledger: Ledger, findings: Findings, *, live: bool) -> None:
    for number in ledger.in_flight():
        what = "attempts in flight" if live else f"attempts that were in flight when the last process ended. {RESUME}"
        findings.note("in_flight", Place(JOURNAL, ledger.index.offsets[number]), what)


def _refuse_while_starting(path: Path, reader: RunReader, run_id: str, chain: Chain, ledger: Ledger) -> None:
    """A start sets files right and replaces some: what is read of them meanwhile may be neither the old nor the new.

    It has done so once something was sent or ended after its first commit.
    """
    starting = ledger.started is not None and not ledger.at_work and ledger.finished is None and is_locked(path)
    if starting or _started_since(reader, run_id, chain.end):
        raise RunDirectoryInUse(
            f"{path}: a start was setting its files right while they were read, so that what was found may not be so. "
            "Try again in a moment."
        )


def _started_since(reader: RunReader, run_id: str, end: int) -> bool:
    """Whether a process began behind this byte of the journal."""
    if reader.size(JOURNAL) <= end:
        return False
    records = Chain(reader, run_id, Findings())
    return any(isinstance(record, Started) and (place.offset or 0) >= end for place, _, record in records)
