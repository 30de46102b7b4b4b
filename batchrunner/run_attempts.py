"""Every attempt of a run, as its journal tells of it: when it was sent and ended, what it came to, what it is believed to cost.

One pass over the journal; only reads, also of a run that is at work. Memory: some 700 bytes an attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.exchange import FailureKind
from batchrunner.job import Usage
from batchrunner.journal.records import Ended, Sent, Settled, Started, What
from batchrunner.reconciliation import Attempt
from batchrunner.verification.chain import Chain
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import Findings

IN_FLIGHT: Final = "in_flight"
#: after these the server may go on with a request: we stopped waiting, or what broke may have been the way and not its end
_LEFT: Final = frozenset(
    {
        "interrupted",
        "the process ended",
        FailureKind.WRITE,
        FailureKind.WRITE_TIMEOUT,
        FailureKind.STALE,
        FailureKind.READ,
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.BETWEEN_BYTES_TIMEOUT,
        FailureKind.ATTEMPT_TIMEOUT,
        FailureKind.TRUNCATED,
        IN_FLIGHT,
    }
)


class Known(msgspec.Struct):
    """An attempt, and what the books say of it now."""

    #: as it was when it ended: what was settled since changes nothing in that
    attempt: Attempt
    #: whose requests it counts among; None where the run has no name for it
    account: str | None
    #: what is believed to have been charged; None for nothing
    charge: Charge | None
    #: that is what the platform's own events say
    settled: bool = False

    @property
    def in_flight(self) -> bool:
        """Nothing is known to have come of it."""
        return self.attempt.why == IN_FLIGHT


def read_attempts(reader: RunReader, run_id: str, now_ns: int) -> tuple[list[Known], bool]:
    """All attempts in the order of their ends, those in flight last; and whether the journal is damaged, and may tell of more.

    `now_ns`: Unix time, up to which what is in flight has been so. Raises: InvalidInput where another version wrote the journal;
    DiskError.
    """
    chain = Chain(reader, run_id, Findings())
    teller = _Teller()
    for _, _, record in chain:
        teller.take(record)
    return teller.told(now_ns), chain.damaged


def by_account(known: Sequence[Known], names: Sequence[str | None]) -> tuple[list[list[Known]], list[Known]]:
    """The attempts of each of these accounts, and those of accounts that are not among them.

    An account's events say nothing of what another one was charged. Where one is asked, and the run knew no other, all are its.
    """
    used = {one.account for one in known}
    if len(names) == 1 and (used <= {None, names[0]} or (names[0] is None and len(used) == 1)):
        return [list(known)], []
    places = {name: place for place, name in reversed(list(enumerate(names)))}
    parts: list[list[Known]] = [[] for _ in names]
    others: list[Known] = []
    for one in known:
        place = places.get(one.account)
        (others if place is None else parts[place]).append(one)
    return parts, others


class _Teller:
    def __init__(self) -> None:
        self._known: list[Known] = []
        #: (custom_id, attempt) -> place in `_known`
        self._places: dict[tuple[str, int], int] = {}
        #: by custom_id: when it was sent, and the record
        self._flights: dict[str, tuple[int, Sent]] = {}
        self._process: Started | None = None
        #: the newest wall time that any record tells
        self._wall_ns = 0

    def take(self, record: object) -> None:
        match record:
            case Started():
                self._process = record
                self._wall_ns = record.wall_ns
            case Sent():
                self._flights[record.id] = self._sent_ns(record), record
            case Ended():
                self._wall_ns = record.wall_ns
                self._ended(record)
            case Settled():
                place = self._places.get((record.id, record.attempt))
                if place is not None:
                    self._known[place].charge = record.charge
                    self._known[place].settled = True

    def told(self, now_ns: int) -> list[Known]:
        for sent_ns, sent in self._flights.values():
            attempt = _attempt(
                sent.id, sent.fp, sent.attempt, sent.model, sent.endpoint, sent_ns, max(sent_ns, now_ns), IN_FLIGHT
            )
            attempt = msgspec.structs.replace(attempt, guessed_input_tokens=sent.input, cap_tokens=sent.cap)
            self._known.append(Known(attempt, sent.account, None))
        return self._known

    def _sent_ns(self, sent: Sent) -> int:
        """A monotonic time as wall time, by the process that sent. (While a machine sleeps, one goes on and the other does
        not: then it is too early, which makes a window longer and never wrong.)
        """
        if self._process is None or self._process.boot != sent.boot:
            return self._wall_ns
        return self._process.wall_ns + sent.mono_ns - self._process.mono_ns

    def _ended(self, ended: Ended) -> None:
        sent_ns, sent = self._flights.get(ended.id, (self._process.wall_ns if self._process else ended.wall_ns, None))
        if sent is not None and sent.attempt == ended.attempt:
            del self._flights[ended.id]
        elif not ended.spent and ended.what is not What.LOST:
            return  # a job that failed unsent names the attempt before
        else:
            sent = None
        place = self._places.get((ended.id, ended.attempt))
        if place is not None:  # it was counted as lost, and its reply has turned up
            sent_ns = self._known[place].attempt.sent_ns
        charge = ended.charge
        if sent is None and charge is None:
            return
        model, endpoint = (
            (sent.model, sent.endpoint) if sent is not None else (charge.model, charge.endpoint) if charge else ("", "")
        )
        attempt = _attempt(
            ended.id, ended.fp, ended.attempt, model, endpoint, min(sent_ns, ended.wall_ns), ended.wall_ns, ended.why, charge
        )
        if sent is not None:
            attempt = msgspec.structs.replace(attempt, guessed_input_tokens=sent.input, cap_tokens=sent.cap)
        account = sent.account if sent is not None else self._known[place].account if place is not None else None
        known = Known(attempt, account, charge)
        if place is not None:
            self._known[place] = known
            return
        self._places[ended.id, ended.attempt] = len(self._known)
        self._known.append(known)


def _attempt(
    custom_id: str,
    fp: str,
    number: int,
    model: str,
    endpoint: str,
    sent_ns: int,
    ended_ns: int,
    why: str | None,
    charge: Charge | None = None,
) -> Attempt:
    billing = Billing.NOT if charge is None else charge.billing
    if why == IN_FLIGHT:
        billing = Billing.MAYBE
    usage = None
    if charge is not None and billing is Billing.BILLED and charge.input is not None and charge.output is not None:
        usage = Usage(charge.input, charge.output, charge.cached or 0, charge.reasoning)
    return Attempt(
        custom_id=custom_id,
        number=number,
        request=fp,
        model=model,
        endpoint=endpoint,
        sent_ns=sent_ns,
        ended_ns=ended_ns,
        billing=billing,
        left=billing is Billing.MAYBE and why in _LEFT,
        why=why,
        usage=usage,
        amount_usd=None if charge is None else charge.amount,
    )
