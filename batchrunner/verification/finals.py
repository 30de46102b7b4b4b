"""results.jsonl and errors.jsonl against the journal: each job that has ended has its line once, as it was written."""

from __future__ import annotations

import zlib
from typing import Final

from batchrunner import dialect
from batchrunner.job import Usage
from batchrunner.journal.files import ERRORS, RESULTS
from batchrunner.journal.records import Ended, Synced, What, fingerprint_text
from batchrunner.lifecycle import State
from batchrunner.results import FinalLine, LineId, bad_line_id, parse_id, read_line
from batchrunner.verification.ledger import LINE, Ledger
from batchrunner.verification.prices import Prices
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import DEFECT, PUT_BY, RESTORE, RESUME, Checked, Findings, Place

_WHAT: Final = {RESULTS: What.DONE, ERRORS: What.FAILED}
#: an answer with another status that is no success is known to have cost nothing
_PERHAPS_BILLED: Final = (408, 504)


class Finals:
    """Reads both files once. `check` marks in the ledger the jobs whose line it found; `missing` tells of the others."""

    def __init__(
        self, reader: RunReader, run_id: str, ledger: Ledger, synced: Synced, prices: Prices, findings: Findings, checked: Checked
    ) -> None:
        self._reader = reader
        self._run_id = run_id
        self._ledger = ledger
        self._synced = synced
        # A start may have replaced either file after its first commit, which named its size before.
        replaced = ledger.commits < 2
        self._marks = {RESULTS: 0 if replaced else synced.results, ERRORS: 0 if replaced else synced.errors}
        self._prices = prices
        self._findings = findings
        self._checked = checked
        self._last_bad_line = 0

    def check(self, name: str) -> None:
        """Go through one of the files."""
        size = self._reader.size(name)
        if size < self._marks[name]:
            what = f"it is {size:,} bytes long, and {self._marks[name]:,} were safely on disk once"
            self._findings.add("cut_short", Place(name, size), what, RESTORE)
        for number, (offset, raw) in enumerate(self._reader.lines(name, end=size), 1):
            place = Place(name, offset, number)
            if raw.endswith(b"\n"):
                self._check_line(place, raw)
            elif offset >= self._marks[name]:
                self._findings.note(f"torn_{name}", place, f"a torn last line of {len(raw):,} bytes. {RESUME}")
            else:
                self._findings.add("torn", place, "the last line has no end, and was safely on disk once", RESTORE)
        self._checked.bytes += size

    def missing(self) -> None:
        """Tell of jobs that the journal says have ended, and that have no line."""
        ledger = self._ledger
        for number, state in enumerate(ledger.standing):
            if state not in (State.SUCCEEDED, State.FAILED) or ledger.marks[number] & LINE:
                continue
            ended = ledger.ended(number)
            if ended is None:
                continue
            file = RESULTS if state == State.SUCCEEDED else ERRORS
            place = ledger.place(number)
            if (place.offset or 0) >= self._synced.journal:
                self._findings.note("unsynced_line", place, f"its line in {file} did not reach the disk. {RESUME}", ended.id)
            else:
                what = f"the journal says that it is {ended.what} with a line in {file}, and there is none"
                self._findings.add("missing_line", place, what, RESTORE, ended.id)

    def _check_line(self, place: Place, raw: bytes) -> None:
        line = read_line(raw)
        identity = None if line is None else parse_id(line.id)
        if line is not None and line.custom_id is None:
            self._check_bad_line(place, line)
            return
        if place.file == RESULTS:
            self._checked.results += 1
        else:
            self._checked.errors += 1
        if line is None or identity is None or identity.run_id != self._run_id:
            custom_id = None if line is None else line.custom_id
            self._findings.add("foreign", place, "not a line of this run", PUT_BY, custom_id)
            return
        assert line.custom_id is not None
        number = self._ledger.find(line.custom_id, identity.fingerprint)
        if number is None:
            self._unheard_of(place, line.custom_id)
        else:
            self._hold_against(place, raw, line, identity, number)

    def _check_bad_line(self, place: Place, line: FinalLine) -> None:
        """Lines of the input that are no job come in their order. Their words are sealed by nothing: only the input has them."""
        self._checked.bad_lines += 1
        tail = line.id.removeprefix(bad_line_id(self._run_id, 0)[:-1])
        number = int(tail) if tail.isascii() and tail.isdigit() else 0
        if place.file != ERRORS or number == 0 or not line.raw.startswith(b'"line":%d,' % number, line.rest):
            self._findings.add("foreign", place, "neither a job's line nor that of a bad line of this run's input", PUT_BY)
        elif not dialect.is_json(line.raw):
            self._findings.add("not_json", place, "not JSON", "The next start writes these lines anew.")
        elif number <= self._last_bad_line:
            what = f"line {number} of the input is listed again, or out of order"
            self._findings.add("bad_line_order", place, what, "The next start writes these lines anew.")
        self._last_bad_line = max(self._last_bad_line, number)

    def _unheard_of(self, place: Place, custom_id: str) -> None:
        if (place.offset or 0) < self._marks[place.file]:
            self._findings.add("unknown_job", place, "the journal has never heard of this job", DEFECT, custom_id)
        else:
            self._findings.note("uncommitted_line", place, f"a line that the journal does not know yet. {RESUME}", custom_id)

    def _hold_against(self, place: Place, raw: bytes, line: FinalLine, identity: LineId, number: int) -> None:
        """Compare a line with what the journal says of its job."""
        ledger, custom_id = self._ledger, line.custom_id
        ended = ledger.ended(number)
        if ended is None:
            self._of_open_job(place, identity, number, custom_id)
            return
        if ended.what is not _WHAT[place.file]:
            what = f"the journal says that this job is {ended.what}, and its line belongs in {ended.line and ended.line.file}"
            self._findings.add("wrong_file", place, what, PUT_BY, custom_id)
            return
        again = ledger.marks[number] & LINE
        ledger.marks[number] |= LINE
        if again:
            self._findings.add("twice", place, "this job has a line before", PUT_BY, custom_id)
        elif (identity.attempt, fingerprint_text(identity.fingerprint)) != (ended.attempt, ended.fp):
            what = f"it is of attempt {identity.attempt} of job line {identity.fingerprint:016x}; the journal has attempt "
            self._findings.add("wrong_attempt", place, f"{what}{ended.attempt} of {ended.fp}", RESTORE, custom_id)
        elif ended.line is None or (len(raw), zlib.crc32(raw)) != (ended.line.length, ended.line.crc):
            self._findings.add("altered", place, "not as it was written: its checksum is another", RESTORE, custom_id)
        else:
            self._check_content(place, raw, line, ended, ledger.place(number).offset or 0)

    def _of_open_job(self, place: Place, identity: LineId, number: int, custom_id: str | None) -> None:
        if number in self._ledger.reopened:
            what = "lines of jobs that run again, not yet taken out"
            self._findings.note("stale_line", place, f"{what}. {RESUME}", custom_id)
        elif self._ledger.is_open(number, identity.attempt):
            self._findings.note("uncommitted_line", place, f"a line that the journal does not know yet. {RESUME}", custom_id)
        else:
            what = f"a final line of attempt {identity.attempt}, and the journal says that the job has not ended"
            self._findings.add("not_ended", place, what, DEFECT, custom_id)

    def _check_content(self, place: Place, raw: bytes, line: FinalLine, ended: Ended, recorded_at: int) -> None:
        """A line as it was written: whether it should have been written so."""
        if not dialect.is_json(raw):
            self._findings.add("not_json", place, "not JSON", DEFECT, ended.id)
        if place.file == ERRORS:
            self._check_failure(place, line, ended)
            return
        body = line.answer()
        charge = ended.charge
        if body is None or charge is None:
            self._findings.add("no_success", place, "no line of a success", DEFECT, ended.id)
            return
        facts = dialect.for_url(charge.endpoint).read(body)
        usage = None if facts is None else facts.usage
        if _tokens(usage) != (charge.input, charge.cached, charge.output):
            what = f"the reply names {_tokens(usage)} input, cached and output tokens; charged were "
            self._findings.add("usage", place, f"{what}{(charge.input, charge.cached, charge.output)}", DEFECT, ended.id)
        else:
            self._prices.check_success(place, ended, charge, facts, recorded_at)

    def _check_failure(self, place: Place, line: FinalLine, ended: Ended) -> None:
        """An answer tells whether the attempt may have been billed; where none came, that depends on what was sent."""
        status = line.status_code()
        if status is None or ended.attempt == 0:
            return
        perhaps = status in _PERHAPS_BILLED or 200 <= status < 300
        if perhaps and ended.charge is None:
            what = f"answered with {status}, an attempt may have been billed, and this one is not listed so"
            self._findings.add("billing", place, what, DEFECT, ended.id)


def _tokens(usage: Usage | None) -> tuple[int | None, int | None, int | None]:
    if usage is None or not usage.tokens_known:
        return None, None, None
    return usage.input_tokens, usage.cached_tokens, usage.output_tokens
