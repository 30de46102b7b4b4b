"""What a reconciliation says to people."""

from __future__ import annotations

import json
from decimal import Decimal

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation import Attempt, reconcile
from batchrunner.run_attempts import Known
from batchrunner.settlement import changes
from batchrunner.settlement_text import NAMED, Reconciled, document, event_lines, report, watched
from batchrunner.usage_event import UsageEvent
from tests.unit.reconciliation.few import OVER, START, background, billed, event, unseen


def part(attempts: list[Attempt], events: list[UsageEvent], *, settled: bool = False, account: str | None = None) -> Reconciled:
    more_attempts, more_events = background()
    attempts, events = [*attempts, *more_attempts], [*events, *more_events]
    known = [
        Known(
            attempt,
            account,
            None
            if attempt.billing is Billing.NOT
            else Charge(attempt.model, attempt.endpoint, attempt.billing, *_tokens(attempt.usage), amount=Decimal(1)),
            settled,
        )
        for attempt in attempts
    ]
    settlement = reconcile(attempts, events, complete_until_ns=OVER)
    return Reconciled(account, START, OVER, known, events, settlement, changes(known, events, settlement))


def _tokens(usage: Usage | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if usage is None else (usage.input_tokens, usage.cached_tokens, usage.output_tokens)


def text(*parts: Reconciled, written: bool = True) -> str:
    return "\n".join(report(parts, written=written))


def test_each_part_has_its_sum_and_its_reasons() -> None:
    one = part([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6)), event(4, Usage(1, 1), model="other")], account="prod")
    said = text(one)
    assert "Events of account prod from 2023-11-14T22:13:20.000Z" in said
    assert "ours              201 events  $201" in said
    assert "1 are of a model and endpoint that the run never asked" in said
    assert "strangers'          1 event   $1" in said
    assert "theirs            202 events  $202" in said
    assert "our books   $201 billed, up to $0 maybe billed, before this" in said
    assert "The books say what the events do: nothing to settle." in said


def test_differences_are_named_with_what_was_and_what_is() -> None:
    costly = event(3.9, Usage(5, 6), cost_usd=Decimal("1.5"))
    said = text(part([billed("a", 3, Usage(5, 6)), unseen("b\x1b[1m", 13)], [costly]))
    assert "Settled 2 attempts, written to costs.jsonl:" in said
    assert "a, attempt 1: billed $1, is billed $1.5" in said
    assert "attempt 1: maybe billed, up to $1, is not billed (no event is its)" in said
    assert "\x1b" not in said


def test_many_differences_are_counted() -> None:
    attempts = [unseen(f"u-{number}", 10.0 * number + 3) for number in range(NAMED + 5)]
    said = text(part(attempts, []), written=False)
    assert f"Settled {NAMED + 5} attempts, not written:" in said
    assert "and 5 more." in said


def test_what_is_undecided_and_ours_all_the_same_is_counted() -> None:
    """Of two events for one answer, one is ours: which one nobody knows."""
    unpriced = billed("a", 3, Usage(5, 6), amount_usd=None)
    one = part([unpriced], [event(3.9, Usage(5, 6)), event(3.8, Usage(5, 6), cost_usd=Decimal(2))])
    assert "undecided           2 events  $3, at least 1 of them ours" in text(one)
    alike = part([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6)), event(3.8, Usage(5, 6))])
    assert "at least 1 of them ours" in text(alike)


def test_events_without_a_cost_and_attempts_that_stay_open_are_told_of() -> None:
    again = billed("a", 33, Usage(5, 6), number=2)
    events = [
        event(3.9, Usage(5, 6)),
        event(3.8, Usage(5, 6)),
        event(33.9, Usage(5, 6)),
        event(9, None, cost_usd=None, model="x"),
    ]
    one = part([unseen("a", 3), again], events)
    said = text(one)
    assert "+ unknown for 1" in said
    still = list(one.open_attempts())
    assert (f"{len(still)} attempt may have been billed still" in said) is (len(still) == 1)


def test_the_document_adds_up_and_is_exact() -> None:
    one = part([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6), cost_usd=Decimal("0.000000015"))])
    found = json.loads(document("r.run", [one], written=True), parse_float=Decimal)
    (account,) = found["accounts"]
    assert account["theirs"]["amount"] == Decimal("200.000000015")
    (difference,) = account["differences"]
    assert (difference["custom_id"], difference["was"]["amount"], difference["is"]["amount"]) == ("a", 1, Decimal("0.000000015"))
    assert account["event_reasons"] == {"ours:matched": 200, "ours:counted_otherwise": 1}


def test_an_event_line_names_whose_it_is_why_and_which_attempts_it_can_be_of() -> None:
    one = part([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6)), event(-1, Usage(1, 1), cost_usd=None)])
    first, second, *_ = [json.loads(line) for line in event_lines(one)]
    assert (first["whose"], first["reason"], first["attempts"]) == ("ours", "matched", [{"custom_id": "a", "attempt": 1}])
    assert (second["whose"], second["at"], second["amount"], second["attempts"]) == ("undecided", None, None, [])


def test_an_error_that_was_charged_was_not_billed_before() -> None:
    errors = [billed(f"e-{n}", 10.0 * n + 3, Usage(1, 1)) for n in range(1)]
    one = part(errors, [event(3.9, Usage(1, 1))])
    known = Known(one.known[0].attempt, None, None)
    found = changes([known, *one.known[1:]], one.events, one.settlement)
    said = text(Reconciled(None, START, OVER, one.known, one.events, one.settlement, found))
    assert "e-0, attempt 1: not billed, is billed $1" in said
    listed = json.loads(
        document("r", [Reconciled(None, START, OVER, one.known, one.events, one.settlement, found)], written=False)
    )
    assert listed["accounts"][0]["differences"][0]["was"] == {"state": "not_billed", "amount": 0}


def test_a_live_run_is_told_of_in_a_line() -> None:
    one = part([billed("a", 3, Usage(5, 6))], [event(3.9, Usage(5, 6))])
    assert watched([one, one]) == (
        "events: ours 402 ($402), strangers' 0 ($0), undecided 0 ($0), theirs 402 ($402); 0 attempts may have been billed"
    )
