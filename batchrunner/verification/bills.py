"""costs.jsonl against the journal: the last line of each attempt says what the journal does, and no attempt lacks one."""

from __future__ import annotations

import itertools

from batchrunner.costs import Charge, CostLine, Source, read_cost_line
from batchrunner.events import Billing
from batchrunner.journal.files import COSTS
from batchrunner.journal.records import Synced, marks_of
from batchrunner.lifecycle import State
from batchrunner.verification.chain import Chain
from batchrunner.verification.ledger import BILL, Key, Ledger, key_of, parts_of
from batchrunner.verification.prices import Prices
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import DEFECT, RESTORE, RESUME, Checked, Findings, Place


class Bills:
    """Reads costs.jsonl once; more often only where it is not what was synced.

    Memory: as the ledger's for attempts that did not end their job; and for each line that differs from the journal until a
    later one corrects it.
    """

    def __init__(
        self, reader: RunReader, run_id: str, ledger: Ledger, synced: Synced, prices: Prices, findings: Findings, checked: Checked
    ) -> None:
        self._reader = reader
        self._run_id = run_id
        self._ledger = ledger
        self._synced = synced
        self._prices = prices
        self._findings = findings
        self._checked = checked
        #: of `Ledger.others`, those whose bill was found
        self._listed: set[Key] = set()
        #: of `Ledger.settled`, those whose line was found
        self._settled: set[Key] = set()
        #: whose newest line is not what the journal says -> where that is, and what is wrong
        self._wrong: dict[Key, tuple[Place, str]] = {}

    def check(self) -> None:
        """Go through the file, then through the charges that it should hold."""
        size = self._reader.size(COSTS)
        self._checked.bytes += size
        self._check_marks(size)
        for number, (offset, raw) in enumerate(self._reader.lines(COSTS, end=size), 1):
            place = Place(COSTS, offset, number)
            line = read_cost_line(raw) if raw.endswith(b"\n") else None
            if line is not None:
                self._checked.cost_lines += 1
                self._check_line(place, line)
            elif offset >= self._synced.costs:
                what = f"a torn end of {size - offset:,} bytes. {RESUME}"
                self._findings.note("torn_costs", place, what)
                break
            else:
                self._findings.add("no_cost_line", place, "no line of costs", RESTORE)
        for key, (place, what) in self._wrong.items():
            self._findings.add("cost", place, what, RESTORE, self._id_of(key))
        self._missing()

    def _check_marks(self, size: int) -> None:
        """The file begins with the bytes that were synced: its lines have no seal of their own."""
        if size < self._synced.costs:
            what = f"it is {size:,} bytes long, and {self._synced.costs:,} were safely on disk once"
            self._findings.add("cut_short", Place(COSTS, size), what, RESTORE)
        (crc,) = self._reader.prefix_crcs(COSTS, [self._synced.costs])
        if crc == self._synced.costs_crc or size < self._synced.costs:
            return
        good = 0
        again = Chain(self._reader, self._run_id, Findings())  # what is wrong with the journal has been told
        marks, same = itertools.tee(mark for _, _, record in again if (mark := marks_of(record)) is not None)
        for mark, found in zip(marks, self._reader.prefix_crcs(COSTS, (mark.costs for mark in same)), strict=True):
            if found != mark.costs_crc:
                what = f"bytes {good:,} to {mark.costs:,} are not what was synced"
                self._findings.add("costs_altered", Place(COSTS, good), what, RESTORE)
                return
            good = mark.costs

    def _check_line(self, place: Place, line: CostLine) -> None:
        number = self._ledger.find(line.custom_id)
        charged = None if number is None else self._ledger.charged(number, line.attempt)
        settled = None if number is None else self._ledger.settlement(key_of(number, line.attempt))
        if number is None or (charged is None and settled is None):
            self._stray(place, line, number)
            return
        key = key_of(number, line.attempt)
        if settled is not None and line.source is Source.USAGE_EVENT:
            if self._is_as_recorded(place, line, key, settled[0].charge, Source.USAGE_EVENT):
                self._settled.add(key)
            return
        self._settled.discard(key)  # of an attempt the last line is the valid one
        charge = None if charged is None else charged[0].charge
        if charge is None:
            self._stray(place, line, number)
        elif line.source is Source.USAGE_EVENT and _difference(line, charge, Source.USAGE_EVENT) is not None:
            what = "bills by usage events that the journal does not know; `batchrun reconcile` settles it again"
            self._findings.note("unrecorded_settlement", place, what, line.custom_id)
        elif line.source is Source.USAGE_EVENT or self._is_as_recorded(place, line, key, charge):
            if key in self._ledger.others:
                self._listed.add(key)
            else:
                self._ledger.marks[number] |= BILL

    def _is_as_recorded(self, place: Place, line: CostLine, key: Key, charge: Charge, source: Source | None = None) -> bool:
        """Whether a line says what the journal does; where not, it is kept in mind until a later one corrects it."""
        differs = _difference(line, charge, source)
        if differs is None:
            self._wrong.pop(key, None)
        else:
            self._wrong[key] = place, f"attempt {line.attempt}: {differs}"
        return differs is None

    def _stray(self, place: Place, line: CostLine, number: int | None) -> None:
        """A bill that the journal knows no charge for."""
        if (place.offset or 0) >= self._synced.costs:
            self._findings.note("uncommitted_bill", place, f"a bill that the journal does not know yet. {RESUME}", line.custom_id)
            return
        if number is not None and self._ledger.is_open(number, line.attempt):
            what = (
                f"a bill from before a power cut that the end of this attempt, which the server works on, will replace. {RESUME}"
            )
            self._findings.note("uncommitted_bill", place, what, line.custom_id)
            return
        known = number is not None and line.attempt <= self._ledger.sends[number]
        what = "cost nothing, says the journal" if known else "is not in the journal"
        self._findings.add("stray_bill", place, f"attempt {line.attempt} {what}", DEFECT, line.custom_id)

    def _missing(self) -> None:
        """Tell of charges that no line lists; and hold the others' amounts against the prices, where the journal alone can."""
        ledger = self._ledger
        for key in ledger.others:
            number, attempt = parts_of(key)
            charged = ledger.charged(number, attempt)
            assert charged is not None
            ended, place = charged
            if key not in self._listed and key not in self._wrong:
                self._unlisted(place, ended.id, attempt)
            if ended.charge is not None and ended.charge.billing is Billing.MAYBE:
                self._prices.check_worst(place, ended, ended.charge)
        for key in ledger.settled.keys() - self._settled - self._wrong.keys():
            settled = ledger.settlement(key)
            assert settled is not None
            self._unlisted(settled[1], settled[0].id, settled[0].attempt)
        for number, state in enumerate(ledger.standing):
            if state == State.FAILED or (state == State.SUCCEEDED and not ledger.marks[number] & BILL):
                self._check_last(number)

    def _check_last(self, number: int) -> None:
        """The bill of the attempt that ended a job, where it is missing or uncertain."""
        ledger = self._ledger
        ended = ledger.ended(number)
        if ended is None or ended.charge is None or ended.charge.billing is Billing.NOT:
            return
        if ended.charge.billing is Billing.MAYBE:
            self._prices.check_worst(ledger.place(number), ended, ended.charge)
        if not ledger.marks[number] & BILL and key_of(number, ended.attempt) not in self._wrong:
            self._unlisted(ledger.place(number), ended.id, ended.attempt)

    def _unlisted(self, place: Place, custom_id: str, attempt: int) -> None:
        if (place.offset or 0) >= self._synced.journal:
            self._findings.note("unsynced_bill", place, f"its bill did not reach the disk. {RESUME}", custom_id)
        else:
            what = f"attempt {attempt} was charged, and {COSTS} has no line for it"
            self._findings.add("missing_bill", place, what, RESTORE, custom_id)

    def _id_of(self, key: Key) -> str | None:
        number, attempt = parts_of(key)
        charged = self._ledger.charged(number, attempt) or self._ledger.settlement(key)
        return None if charged is None else charged[0].id


def _difference(line: CostLine, charge: Charge, source: Source | None = None) -> str | None:
    """How a line differs from what the journal says of its attempt; None where it does not."""
    if source is None:
        source = Source.UNKNOWN if charge.amount is None else Source.CATALOG
    pairs = {
        "state": (line.state, charge.billing),
        "model": (line.model, charge.model),
        "endpoint": (line.endpoint, charge.endpoint),
        "tokens.input": (line.tokens.input, charge.input),
        "tokens.cached": (line.tokens.cached, charge.cached),
        "tokens.output": (line.tokens.output, charge.output),
        "tokens.total": (line.tokens.total, charge.total),
        "cost.amount": (line.cost.amount, charge.amount),
        "cost.currency": (line.cost.currency, charge.currency),
        "source": (line.source, source),
        "units": (line.units, charge.units),
    }
    for name, (found, recorded) in pairs.items():
        if found != recorded:
            return f"{name} is {found}, and {recorded} in the journal"
    return None
