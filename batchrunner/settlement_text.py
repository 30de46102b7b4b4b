"""A reconciliation for people, and as one document. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from batchrunner.costs import Charge, timestamp
from batchrunner.events import Billing
from batchrunner.pricing import EXACT, json_number
from batchrunner.reconciliation import AttemptReason, EventReason, Settlement, Sum, Whose
from batchrunner.run_attempts import Known
from batchrunner.settlement import Change
from batchrunner.usage_event import UsageEvent
from batchrunner.wording import counted, escape_terminal, usd

#: differences that are named one by one; all of them stand in costs.jsonl
NAMED: Final = 20
_NAMES: Final = ("ours", "strangers'", "undecided", "theirs")
#: of the document
LISTED: Final = 1_000

_EVENT_REASONS: Final[dict[EventReason, str]] = {
    EventReason.BY_ID: "bear the id of an answer",
    EventReason.MATCHED: "each fit one attempt, and nothing else explains both",
    EventReason.ONE_OF_SEVERAL: "are of attempts so alike that it makes no difference which",
    EventReason.COUNTED_OTHERWISE: "count tokens otherwise than the answers did",
    EventReason.PLAYGROUND: "were made in the playground",
    EventReason.OTHER_MODEL: "are of a model and endpoint that the run never asked",
    EventReason.OTHER_TIME: "are of times when the run had nothing of that kind under way",
    EventReason.OTHER_TOKENS: "have tokens that nothing then under way can have taken and has no event for",
    EventReason.OTHER_OUTCOME: "failed when nothing of ours did",
    EventReason.TOO_MANY: "fit fewer attempts than they are",
    EventReason.COINCIDENCE: "fit an attempt that may not have been charged, and may be a stranger's by accident",
    EventReason.UNTOLD: "do not say when they were, or of which model",
}
_ATTEMPT_REASONS: Final[dict[AttemptReason, str]] = {
    AttemptReason.MATCHED: "",
    AttemptReason.ALIKE: "",
    AttemptReason.COUNTED_OTHERWISE: "the platform counted other tokens than the answer told",
    AttemptReason.NO_EVENT: "no event is its",
    AttemptReason.FAILED_EVENT: "the platform says that it failed",
    AttemptReason.TOO_MANY: "more events than attempts fit alike",
    AttemptReason.MIXED: "several attempts fit several events alike, which cost differently",
    AttemptReason.TOO_FEW: "fewer events than attempts that they fit alike",
    AttemptReason.COINCIDENCE: "what fits it may be a stranger's by accident",
    AttemptReason.NOT_OVER: "its event may still come",
    AttemptReason.FORGOTTEN: "the account's events begin later, as if older ones were not kept",
    AttemptReason.NO_EVENTS_AT_ALL: "none of the account's events is the run's: is it the right account?",
}


class Reconciled(msgspec.Struct):
    """One account's part in a run."""

    #: None where the run has no name for it
    account: str | None
    #: Unix time in ns, of the first and last moment from which events were asked for
    from_ns: int
    to_ns: int
    known: Sequence[Known]
    events: Sequence[UsageEvent]
    settlement: Settlement
    changes: Sequence[Change]

    @property
    def undecided_ours(self) -> int:
        """How many of the undecided events are ours, at the least: that an attempt has one of several is known all the same."""
        events = self.settlement.events
        return sum(
            claim.billing is Billing.BILLED
            and (
                claim.reason is AttemptReason.TOO_MANY
                or (claim.event is not None and events[claim.event].whose is Whose.UNDECIDED)
            )
            for claim in self.settlement.attempts
        )

    def open_attempts(self) -> Iterator[tuple[Known, AttemptReason]]:
        """Attempts of which it is still not known whether they were billed."""
        for one, claim in zip(self.known, self.settlement.attempts, strict=True):
            if claim.billing is Billing.MAYBE and not one.settled:
                yield one, claim.reason


def report(parts: Sequence[Reconciled], *, written: bool) -> Iterator[str]:
    """Lines for people: ours, theirs, strangers', undecided, each with its reasons; what was settled; what stays open."""
    for part in parts:
        name = "" if part.account is None else f" of account {escape_terminal(part.account)}"
        yield f"Events{name} from {timestamp(part.from_ns)} to {timestamp(part.to_ns)}:"
        yield ""
        yield from _sums(part)
        yield ""
    yield from _settled([change for part in parts for change in part.changes], written=written)
    yield from _open(parts)


def watched(parts: Sequence[Reconciled]) -> str:
    """How a run at work stands, in a line."""
    sums = [Sum(), Sum(), Sum(), Sum()]
    for part in parts:
        found = part.settlement
        for total, own in zip(sums, (found.ours, found.strangers, found.undecided, found.theirs), strict=True):
            total.count += own.count
            total.amount_usd = EXACT.add(total.amount_usd, own.amount_usd)
    words = [f"{name} {total.count:,} ({usd(total.amount_usd)})" for name, total in zip(_NAMES, sums, strict=True)]
    still = sum(1 for part in parts for _ in part.open_attempts())
    return f"events: {', '.join(words)}; {counted(still, 'attempt')} may have been billed"


def document(run_dir: str, parts: Sequence[Reconciled], *, written: bool) -> bytes:
    """The `--json` document: amounts are exact numbers in USD."""
    return msgspec.json.encode(
        {"run_dir": run_dir, "written": written, "currency": "USD", "accounts": [_account(part) for part in parts]}
    )


def event_lines(part: Reconciled) -> Iterator[bytes]:
    """A JSON line for each event: whose it is, why, and which attempts it can be of."""
    for event, claim in zip(part.events, part.settlement.events, strict=True):
        attempts = [
            {"custom_id": part.known[place].attempt.custom_id, "attempt": part.known[place].attempt.number}
            for place in claim.attempts
        ]
        line = {
            "event": event.id,
            "at": None if event.at_ns is None else timestamp(event.at_ns),
            "model": event.model,
            "endpoint": event.endpoint,
            "amount": _number(event.cost_usd),
            "whose": claim.whose,
            "reason": claim.reason,
            "attempts": attempts,
        }
        yield msgspec.json.encode(line) + b"\n"


def _sums(part: Reconciled) -> Iterator[str]:
    settlement = part.settlement
    rows = (
        ("ours", settlement.ours, Whose.OURS),
        ("strangers'", settlement.strangers, Whose.STRANGERS),
        ("undecided", settlement.undecided, Whose.UNDECIDED),
    )
    for name, total, whose in rows:
        ours = part.undecided_ours if whose is Whose.UNDECIDED else 0
        yield f"  {name:<11} {_total(total)}{f', at least {ours:,} of them ours' if ours else ''}"
        reasons = Counter(claim.reason for claim in settlement.events if claim.whose is whose)
        for reason, count in reasons.most_common():
            yield f"  {'':<11}   {count:,} {_EVENT_REASONS[reason]}"
    yield f"  {'theirs':<11} {_total(settlement.theirs)}"
    believed = [one.charge for one in part.known if one.charge is not None]
    billed = _amount(charge for charge in believed if charge.billing is Billing.BILLED)
    maybe = _amount(charge for charge in believed if charge.billing is Billing.MAYBE)
    yield f"  {'our books':<11} {usd(billed)} billed, up to {usd(maybe)} maybe billed, before this"
    clocks = settlement.clocks
    if clocks.anchors:
        ahead = (clocks.least_ns + clocks.most_ns) / 2e9
        yield f"  {'clocks':<11} theirs is {abs(ahead):.3f} s {'ahead' if ahead >= 0 else 'behind'}, by {clocks.anchors:,} events"


def _settled(found: Sequence[Change], *, written: bool) -> Iterator[str]:
    if not found:
        yield "The books say what the events do: nothing to settle."
        return
    where = "written to costs.jsonl" if written else "not written"
    yield f"Settled {counted(len(found), 'attempt')}, {where}:"
    for change in found[:NAMED]:
        attempt = change.known.attempt
        why = _ATTEMPT_REASONS[change.claim.reason]
        yield (
            f"  {escape_terminal(attempt.custom_id)}, attempt {attempt.number}: {_charge(change.known.charge)}, is "
            f"{_charge(change.charge)}{why and f' ({why})'}"
        )
    if len(found) > NAMED:
        yield f"  and {len(found) - NAMED:,} more."


def _open(parts: Sequence[Reconciled]) -> Iterator[str]:
    reasons = Counter(reason for part in parts for _, reason in part.open_attempts())
    for reason, count in reasons.most_common():
        yield f"{counted(count, 'attempt')} may have been billed still: {_ATTEMPT_REASONS[reason]}."


def _total(total: Sum) -> str:
    unpriced = f" + unknown for {total.unpriced:,}" if total.unpriced else ""
    return f"{total.count:>9,} {'event ' if total.count == 1 else 'events'}  {usd(total.amount_usd)}{unpriced}"


def _charge(charge: Charge | None) -> str:
    if charge is None or charge.billing is Billing.NOT:
        return "not billed"
    amount = "at an unknown price" if charge.amount is None else usd(charge.amount)
    return f"{'billed' if charge.billing is Billing.BILLED else 'maybe billed, up to'} {amount}"


def _amount(charges: Iterable[Charge]) -> Decimal:
    total = Decimal(0)
    for charge in charges:
        total = EXACT.add(total, charge.amount or Decimal(0))
    return total


def _account(part: Reconciled) -> dict[str, object]:
    settlement = part.settlement
    sums = {
        "ours": settlement.ours,
        "strangers": settlement.strangers,
        "undecided": settlement.undecided,
        "theirs": settlement.theirs,
    }
    still = Counter(reason for _, reason in part.open_attempts())
    return {
        "account": part.account,
        "from": timestamp(part.from_ns),
        "to": timestamp(part.to_ns),
        **{
            name: {"events": total.count, "amount": _number(total.amount_usd), "unpriced": total.unpriced}
            for name, total in sums.items()
        },
        "undecided_ours": part.undecided_ours,
        "event_reasons": Counter(f"{claim.whose}:{claim.reason}" for claim in settlement.events),
        "settled": len(part.changes),
        "open": still.total(),
        "open_reasons": still,
        "differences": [
            {
                "custom_id": change.known.attempt.custom_id,
                "attempt": change.known.attempt.number,
                "reason": change.claim.reason,
                "event": change.event,
                "was": _books(change.known.charge),
                "is": _books(change.charge),
            }
            for change in part.changes[:LISTED]
        ],
    }


def _books(charge: Charge | None) -> dict[str, object]:
    if charge is None:
        return {"state": Billing.NOT, "amount": _number(Decimal(0))}
    return {"state": charge.billing, "amount": _number(charge.amount)}


def _number(amount: Decimal | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if amount is None else json_number(amount).encode())
