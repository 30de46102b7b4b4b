"""What a reconciliation changes in a run's books, and how that is written: a record, then a line of costs.jsonl, for each.

The record goes first: it is what a resume sums, and recovery writes the line again where it was not reached. Nothing is written
for an attempt of which the platform says what our books say already, so that to reconcile again changes nothing; and what is
undecided never takes the place of what was settled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from batchrunner import __version__, status
from batchrunner.clock import Clock
from batchrunner.costs import Charge, Source, Totals, cost_line, timestamp
from batchrunner.disk import Disk, SystemDisk
from batchrunner.events import Billing
from batchrunner.journal import Recovered, read_finished
from batchrunner.journal.records import Finished, Settled
from batchrunner.reconciliation import AttemptClaim, EventReason, Settlement
from batchrunner.run_attempts import Known
from batchrunner.run_directory import Manifest
from batchrunner.usage_event import UsageEvent
from batchrunner.verification.reader import RunReader
from batchrunner.verification.repair import recover_by_journal

STATUS: Final = "status.json"
#: records between two commits
_GROUP: Final = 1_000
_NOTHING: Final = Decimal(0)


class Change(msgspec.Struct, frozen=True):
    """A charge that is not what it was believed to be."""

    known: Known
    charge: Charge
    claim: AttemptClaim
    #: the id of the usage event, where it can be told which it is
    event: str | None


def changes(known: Sequence[Known], events: Sequence[UsageEvent], settlement: Settlement) -> list[Change]:
    """What the books of one account must say now, where they say otherwise. All go by the places of what was reconciled."""
    found = []
    for one, claim in zip(known, settlement.attempts, strict=True):
        charge = _charge(one, claim, events)
        if charge is None or one.in_flight or not _differs(charge, one.charge):
            continue
        told = claim.event is not None and settlement.events[claim.event].reason is not EventReason.ONE_OF_SEVERAL
        found.append(Change(one, charge, claim, events[claim.event].id if told and claim.event is not None else None))
    return found


def _charge(known: Known, claim: AttemptClaim, events: Sequence[UsageEvent]) -> Charge | None:
    """What an attempt was charged; None where that is not decided, or the platform does not tell."""
    attempt = known.attempt
    if claim.billing is Billing.NOT:
        return Charge(attempt.model, attempt.endpoint, Billing.NOT, amount=_NOTHING)
    if claim.billing is Billing.MAYBE or claim.event is None:
        return None
    event = events[claim.event]
    if event.cost_usd is None:
        return None
    believed = known.charge
    seen = believed if believed is not None and believed.billing is Billing.BILLED else None
    tokens = event.tokens or attempt.usage
    return Charge(
        attempt.model,
        attempt.endpoint,
        Billing.BILLED,
        input=None if tokens is None else tokens.input_tokens,
        cached=None if tokens is None else tokens.cached_tokens,
        output=None if tokens is None else tokens.output_tokens,
        amount=event.cost_usd,
        reasoning=0 if seen is None else seen.reasoning,
    )


def _differs(charge: Charge, believed: Charge | None) -> bool:
    if believed is None:
        return charge.billing is not Billing.NOT
    facts = ("billing", "amount", "input", "cached", "output")
    return any(getattr(charge, fact) != getattr(believed, fact) for fact in facts)


def write(path: Path, manifest: Manifest, found: Iterable[Change], clock: Clock) -> list[str]:
    """Settle a run that nobody is at work on, whose lock is held: what a start would have to say of it, for people.

    A run that had ended has ended still: the same submit answers at once, with the figures as they are now.

    Raises: JournalDamaged and InvalidInput with nothing touched; DiskError.
    """
    disk = SystemDisk(path)
    finished = read_finished(disk, manifest.run_id)
    with RunReader(path) as reader:
        recovered = recover_by_journal(reader, disk, manifest, clock, pid=os.getpid(), version=__version__)
    files = recovered.files
    try:
        for number, change in enumerate(found, 1):
            attempt, charge, now_ns = change.known.attempt, change.charge, clock.wall_ns()
            record = Settled(
                attempt.custom_id, attempt.request, attempt.number, now_ns, charge, was=change.known.charge, event=change.event
            )
            files.record(record)
            files.cost_line(cost_line(attempt.custom_id, attempt.number, charge, now_ns, Source.USAGE_EVENT))
            recovered.totals.take_back(change.known.charge)
            recovered.totals.add(charge)
            if number % _GROUP == 0:
                files.commit()
        files.commit()
        last = _show(disk, recovered, clock)
        if finished is not None and last is not None:
            files.record(Finished(files.marks(), finished.identity, msgspec.Raw(msgspec.json.encode(last))))
            files.sync_journal()
    finally:
        files.close()
    return recovered.warnings


def _show(disk: Disk, recovered: Recovered, clock: Clock) -> status.Status | None:
    """Bring the figures that were left for people up to date; None where there are none."""
    try:
        last = status.decode(b"".join(disk.chunks(STATUS)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    last = _with_totals(last, recovered.totals, timestamp(clock.wall_ns()))
    disk.replace(STATUS, [status.encode(last)])
    return last


def _with_totals(last: status.Status, totals: Totals, at: str) -> status.Status:
    usage = msgspec.structs.replace(
        last.usage,
        input_tokens=totals.input_tokens,
        cached_tokens=totals.cached_tokens,
        output_tokens=totals.output_tokens,
    )
    return msgspec.structs.replace(
        last,
        at=at,
        usage=usage,
        attempts=totals.attempts,
        billed_usd=totals.billed,
        maybe_billed_usd=totals.maybe_billed,
        unpriced_attempts=totals.unpriced,
    )
