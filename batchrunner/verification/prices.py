"""Amounts computed once more, from usage and the price table in run.json."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge
from batchrunner.dialect import ReplyFacts
from batchrunner.journal.records import Ended
from batchrunner.pricing import PriceTable
from batchrunner.verification.ledger import Ledger
from batchrunner.verification.report import DEFECT, Findings, Place


class Prices:
    """Prices attempts again. `table` is None where the run never had one.

    run.json keeps the table of the newest start alone. What was priced under an earlier one may differ, and is a note; what
    ended under this one may not.
    """

    def __init__(self, table: PriceTable | None, ledger: Ledger, findings: Findings) -> None:
        self.computed = 0
        self._table = table
        self._findings = findings
        self._since_ns, self._since_offset = _in_force(table, ledger)

    def check_success(self, place: Place, ended: Ended, charge: Charge, facts: ReplyFacts | None, recorded_at: int) -> None:
        """Hold the amount of a success against what its reply says that it took."""
        if self._table is None:
            return
        amount = None if facts is None else self._table.cost(charge.model, facts.usage, facts.tool_usage, opaque=facts.opaque)
        self._compare(place, ended, charge, amount, recorded_at)

    def check_worst(self, place: Place, ended: Ended, charge: Charge) -> None:
        """Hold the amount of an attempt whose end was not seen against the most that it can have cost."""
        if self._table is None:
            return
        amount = None if charge.input is None else self._table.ceiling(charge.model, charge.input, charge.output, charge.units)
        self._compare(place, ended, charge, amount, place.offset or 0)

    def _compare(self, place: Place, ended: Ended, charge: Charge, amount: Decimal | None, recorded_at: int) -> None:
        self.computed += 1
        if amount == charge.amount:
            return
        what = f"attempt {ended.attempt} was charged {_usd(charge.amount)}; by run.json's prices it comes to {_usd(amount)}"
        if recorded_at > self._since_offset and ended.wall_ns >= self._since_ns:
            self._findings.add("amount", place, what, DEFECT, ended.id)
        else:
            what = "amounts that run.json's prices do not explain, of attempts that ended under an earlier start's prices"
            self._findings.note("earlier_prices", place, what, ended.id)


def _in_force(table: PriceTable | None, ledger: Ledger) -> tuple[int, int]:
    """From which wall time, and behind which byte of the journal, attempts were priced by this table for sure."""
    offset = 0 if ledger.started is None else ledger.started[1]
    try:
        fetched = datetime.fromisoformat((table and table.fetched_at) or "")
    except ValueError:
        return 1 << 63, offset
    return int(fetched.timestamp() * NS_PER_SECOND), offset


def _usd(amount: Decimal | None) -> str:
    return "an unknown amount" if amount is None else f"{amount:f} USD"
