"""What the platform billed, against what the run wrote down: attempt by attempt, to the last digit."""

from __future__ import annotations

from collections.abc import Mapping

from batchrunner.costs import CostLine
from batchrunner.disk import MemoryDisk
from batchrunner.events import Billing
from batchrunner.journal.files import RESULTS
from batchrunner.results import parse_id, read_line
from tests.nights.platform import Bill, NightPlatform
from tests.nights.promises import Key, Promises


def check_books(costs: Mapping[Key, CostLine], promises: Promises, platform: NightPlatform) -> None:
    """Each bill has its line, and each line that says `billed` its bill. For when nothing is in flight; what the server has taken
    on gets its line when it ends.

    The server may still be at work on what a process left behind: what it bills later must be listed now all the same, which
    is seen the next time.
    """
    for key, send in promises.sends.items():
        bill = platform.bills.get(send.number)
        line = costs.get(key)
        if line is None:
            assert bill is None or key in promises.works, f"{key} was billed and is not listed"
        else:
            _check_line(key, line, bill)
    for key in costs.keys() - promises.sends.keys():
        assert key in promises.known, f"{key} is listed, and was never sent"
        assert costs[key].state is Billing.MAYBE, f"{key} is listed as billed, and did not get as far as the network"


def _check_line(key: Key, line: CostLine, bill: Bill | None) -> None:
    if line.state is Billing.BILLED:
        assert bill is not None, f"{key} is listed as billed, and was not"
        tokens = (bill.tokens.input, bill.tokens.cached, bill.tokens.output)
        assert (line.tokens.input, line.tokens.cached, line.tokens.output) == tokens, f"{key} is listed with other tokens"
        assert line.cost.amount == bill.amount, f"{key} cost {bill.amount}, and is listed at {line.cost.amount}"
    elif bill is not None:
        assert line.cost.amount is not None, key
        assert line.cost.amount >= bill.amount, f"{key} cost {bill.amount}, and is listed at no more than {line.cost.amount}"


def check_results(disk: MemoryDisk, costs: Mapping[Key, CostLine], promises: Promises, platform: NightPlatform) -> None:
    """Each result is the answer of the very attempt that it names, and that attempt is listed as billed."""
    for raw in bytes(disk.files[RESULTS]).splitlines(keepends=True):
        line = read_line(raw)
        assert line is not None
        assert line.custom_id is not None
        identity = parse_id(line.id)
        assert identity is not None
        key = (line.custom_id, identity.attempt)
        send = promises.sends[key]
        assert costs[key].state is Billing.BILLED, key
        answer = line.answer()
        assert answer is not None
        assert platform.said(send.number, answer), f"{key} has another answer than was sent"
