"""What attempts cost, and the spend cap."""

from __future__ import annotations

import sys
from decimal import Decimal

import msgspec
import pytest

from batchrunner.costs import Charge, Totals
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.events import Billing
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.pricing import PriceTable
from batchrunner.spending import Spending
from batchrunner.tickets import Candidate

URL = "/v1/chat/completions"
#: a dollar for a token read, two for one written, at most 100 written; `endless` has no bound, `unread` no price
PRICES = PriceTable.from_catalog(
    {
        "data": [
            {"id": "m", "max_output_tokens": 100, "pricing": {"prompt": "1", "completion": "2"}},
            {"id": "endless", "pricing": {"prompt": "1", "completion": "2"}},
            {"id": "unread", "max_output_tokens": 100, "pricing": {"prompt": "ask us"}},
        ]
    },
    fetched_at="2026-01-01T00:00:00Z",
)
JOB = Job(0, 1, "a", URL, b"{}", 1)


def candidate(model: str = "m", *, cap: int | None = 10, predicted: Usage | None = None, number: int = 0) -> Candidate:
    """Predicted to cost 10 + 2 * 5 = 20 dollars, and at most 10 + 2 * cap."""
    job = msgspec.structs.replace(JOB, number=number)
    return Candidate(job, RequestSize(model, 10, cap), predicted or Usage(10, 5))


def asked(candidate: Candidate) -> tuple[RequestSize, Usage]:
    return candidate.size, candidate.predicted


def spending(cap_usd: str | None, *, billed: str = "0", maybe: str = "0") -> Spending:
    totals = Totals(billed=Decimal(billed), maybe_billed=Decimal(maybe))
    return Spending(PRICES, totals, None if cap_usd is None else Decimal(cap_usd))


def test_without_a_cap_everything_is_allowed() -> None:
    """No --max-cost: unknown prices and any sums are no reason to hold a job back."""
    free = spending(None, billed="1000000")
    assert free.verdict(*asked(candidate("nobody-knows"))) == "allowed"
    free.sent(candidate("nobody-knows"))
    free.ended(candidate("nobody-knows"))
    assert free.verdict(*asked(candidate("endless", cap=None))) == "allowed"


@pytest.mark.parametrize(
    ("cap", "verdict"), [("20", "allowed"), ("19.999999999999999999", "cap_reached"), ("0", "cap_reached"), ("1E9", "allowed")]
)
def test_the_cap_may_be_met_and_not_passed(cap: str, verdict: str) -> None:
    """A job may go whose prediction just fits."""
    assert spending(cap).verdict(*asked(candidate())) == verdict


@pytest.mark.parametrize(("billed", "maybe"), [("81", "0"), ("0", "81"), ("40.5", "40.5")])
def test_what_was_and_what_may_have_been_billed_count(billed: str, maybe: str) -> None:
    """Both sums stand against the cap."""
    assert spending("100", billed=billed, maybe=maybe).verdict(*asked(candidate())) == "cap_reached"
    assert spending("101", billed=billed, maybe=maybe).verdict(*asked(candidate())) == "allowed"


def test_what_was_billed_at_an_unknown_amount_counts_at_its_bound() -> None:
    """A reply without usage was paid for: under a cap it counts as the most that it can have cost. It is shown as unknown."""
    capped = spending("100")
    charge = capped.billed(JOB, candidate().size, ReplyFacts(None, Finish.STOP))
    assert charge.amount is None
    assert charge.bound == 30
    capped._totals.add(charge)
    capped._totals.add(charge)
    assert capped.verdict(*asked(candidate())) == "allowed"
    capped._totals.add(charge)
    assert capped.verdict(*asked(candidate())) == "cap_reached"
    assert capped._totals.billed == 0
    assert capped._totals.unpriced == 3


def test_a_request_that_costs_the_same_whatever_its_length() -> None:
    """Where tokens are free the price of a request is known without its usage."""
    prices = PriceTable.from_catalog({"data": [{"id": "flat", "pricing": {"request": "3"}}]}, fetched_at="2026-01-01T00:00:00Z")
    charge = Spending(prices, Totals(), None).billed(JOB, RequestSize("flat", 10, 10), ReplyFacts(None, Finish.STOP))
    assert charge.amount == 3
    assert charge.bound is None
    assert charge.input is None


def test_what_is_in_flight_counts_at_its_prediction() -> None:
    """While something is in flight that stands in the way, the next job waits: it may turn out cheaper."""
    cap = spending("50")
    cap.sent(candidate())
    assert cap.verdict(*asked(candidate())) == "allowed"
    cap.sent(candidate(number=1))
    assert cap.verdict(*asked(candidate())) == "wait"
    cap.ended(candidate())
    assert cap.verdict(*asked(candidate())) == "allowed"
    cap.ended(candidate(number=1))
    assert cap.verdict(*asked(candidate())) == "allowed"


def test_a_charge_takes_the_place_of_a_prediction() -> None:
    """The totals are the journal's own: what is counted there counts here at once."""
    totals = Totals()
    cap = Spending(PRICES, totals, Decimal(50))
    cap.sent(candidate())
    cap.ended(candidate())
    totals.add(Charge("m", URL, Billing.BILLED, amount=Decimal(31)))
    assert cap.verdict(*asked(candidate())) == "cap_reached"


def test_the_body_of_what_is_out_is_let_go() -> None:
    """A server works on some jobs for hours, and on many of them: only what they are predicted to cost is kept."""
    body = bytes(1000)
    known = sys.getrefcount(body)
    capped = spending("50")
    out = candidate()
    capped.sent(msgspec.structs.replace(out, job=msgspec.structs.replace(out.job, body=body)))
    assert sys.getrefcount(body) == known


def test_a_cap_that_is_changed_counts_all_that_is_in_flight() -> None:
    """Given, raised, lowered or taken away at any time: what went out before counts as if the cap had always been there."""
    live = spending(None, billed="10")
    live.sent(candidate())
    live.sent(candidate(number=1))
    live.adopt(Decimal(70))
    assert live.verdict(*asked(candidate())) == "allowed"
    live.adopt(Decimal(69))
    assert live.verdict(*asked(candidate())) == "wait"
    live.ended(candidate())
    assert live.verdict(*asked(candidate())) == "allowed"
    live.adopt(None)
    live.ended(candidate(number=1))
    live.sent(candidate(number=2))
    live.ended(candidate(number=2))
    live.adopt(Decimal(29))
    assert live.max_cost_usd == 29
    assert live.verdict(*asked(candidate())) == "cap_reached"
    live.adopt(Decimal(30))
    assert live.verdict(*asked(candidate())) == "allowed"


@pytest.mark.parametrize("model", ["nobody-knows", "unread"])
def test_an_unknown_price_under_a_cap(model: str) -> None:
    """A job whose bill cannot be bounded is not sent under a cap, in whatever state the sums are."""
    assert spending("1E9").verdict(*asked(candidate(model))) == "price_unknown"
    assert spending("0").verdict(*asked(candidate(model))) == "price_unknown"


def test_an_output_without_a_bound_under_a_cap() -> None:
    """Neither the body's cap nor the catalog's: no bound, no send. Either will do."""
    assert spending("1E9").verdict(*asked(candidate("endless", cap=None))) == "price_unknown"
    assert spending("1E9").verdict(*asked(candidate("endless", cap=10))) == "allowed"
    assert spending("1E9").verdict(*asked(candidate("m", cap=None))) == "allowed"


def test_billed() -> None:
    """A reply's charge is exact, from its usage."""
    facts = ReplyFacts(Usage(7, 3, 2), Finish.STOP)
    assert spending(None).billed(JOB, RequestSize("m", 10, 10), facts) == Charge("m", URL, Billing.BILLED, 7, 2, 3, Decimal(13))


def test_billed_without_usage_or_price() -> None:
    """What a reply does not tell, or the catalog does not price, is unknown: never nothing."""
    silent = spending(None).billed(JOB, RequestSize("m", 10, 10), ReplyFacts(None, Finish.STOP))
    unpriced = spending(None).billed(JOB, RequestSize("nobody-knows", 10, 10), ReplyFacts(Usage(7, 3), Finish.STOP))
    tool = spending(None).billed(JOB, RequestSize("m", 10, 10), ReplyFacts(Usage(7, 3), Finish.STOP, tool_usage={"search": 1}))
    assert [charge.amount for charge in (silent, unpriced, tool)] == [None, None, None]
    assert {charge.billing for charge in (silent, unpriced, tool)} == {Billing.BILLED}


@pytest.mark.parametrize(
    ("model", "cap", "amount"), [("m", 10, 30), ("m", None, 210), ("endless", None, None), ("unread", 10, None)]
)
def test_maybe_is_the_most_that_it_can_have_been(model: str, cap: int | None, amount: int | None) -> None:
    """An attempt that nobody saw the end of stands at its input and all the output that it may have had."""
    charge = spending(None).maybe(JOB, RequestSize(model, 10, cap))
    assert (charge.billing, charge.input) == (Billing.MAYBE, 10)
    assert charge.amount == (None if amount is None else Decimal(amount))


#: as a catalog prices what embeds, what makes pictures at a price each, and at a price a call
SHAPES = PriceTable.from_catalog(
    {
        "data": [
            {"id": "vectors", "pricing": {"prompt": "1"}},
            {"id": "pictures", "pricing": {"prompt": "0", "completion": "0", "image": "5"}},
            {"id": "calls", "pricing": {"request": "5"}},
        ]
    },
    fetched_at="2026-01-01T00:00:00Z",
)


def shapes(cap_usd: str) -> Spending:
    return Spending(SHAPES, Totals(), Decimal(cap_usd))


def test_an_embedding_is_capped_by_its_input() -> None:
    """A price of prompts is all that it takes: it may be sent, is billed by what was read, and at most costs what was guessed."""
    embedding = Candidate(JOB, RequestSize("vectors", 10, 0), Usage(10, 0))
    assert shapes("10").verdict(*asked(embedding)) == "allowed"
    assert shapes("9.99").verdict(*asked(embedding)) == "cap_reached"
    assert shapes("9").maybe(JOB, embedding.size) == Charge("vectors", URL, Billing.MAYBE, input=10, output=0, amount=Decimal(10))
    billed = shapes("9").billed(JOB, embedding.size, ReplyFacts(Usage(7, 0), Finish.STOP))
    assert billed.amount == billed.total == 7
    assert shapes("9").billed(JOB, embedding.size, ReplyFacts(None, Finish.OTHER)).bound == 10


def test_pictures_whose_number_is_told_are_capped_by_it() -> None:
    """Three at five dollars each: sent where they fit, counted while they are made, and perhaps billed where nobody saw them."""
    size = RequestSize("pictures", 10, None, opaque_output=True, units={"image": Decimal(3)})
    pictures = Candidate(JOB, size, Usage(10, 1024))
    assert shapes("14.99").verdict(*asked(pictures)) == "cap_reached"
    capped = shapes("29")
    assert capped.verdict(*asked(pictures)) == "allowed"
    capped.sent(pictures)
    assert capped.verdict(*asked(pictures)) == "wait"
    capped.adopt(Decimal(30))
    assert capped.verdict(*asked(pictures)) == "allowed"
    capped.ended(pictures)
    capped.adopt(Decimal(15))
    assert capped.verdict(*asked(pictures)) == "allowed"
    lost = capped.maybe(JOB, size)
    assert lost == Charge("pictures", URL, Billing.MAYBE, input=10, amount=Decimal(15), units={"image": Decimal(3)})
    silent = capped.billed(JOB, size, ReplyFacts(None, Finish.STOP, opaque=True))
    assert silent.amount is None
    assert silent.bound == 15
    fewer = ReplyFacts(Usage(0, 0, units={"image": Decimal(2)}, tokens_known=False), Finish.STOP)
    assert capped.billed(JOB, size, fewer).amount == 10


def test_pictures_whose_number_is_not_told_are_not_sent_under_a_cap() -> None:
    """Nothing says how many an answer holds: no bound, and an amount that is unknown and not 0."""
    picture = Candidate(JOB, RequestSize("pictures", 10, None, opaque_output=True), Usage(10, 1024))
    assert shapes("1000").verdict(*asked(picture)) == "price_unknown"
    charge = shapes("1000").billed(JOB, picture.size, ReplyFacts(Usage(10, 0), Finish.STOP, opaque=True))
    assert charge.amount is None
    assert charge.bound is None
    assert shapes("1000").maybe(JOB, picture.size).amount is None


def test_pictures_at_a_price_a_call_are_capped_by_calls() -> None:
    """No word about its output is needed."""
    picture = Candidate(JOB, RequestSize("calls", 10, None, opaque_output=True), Usage(10, 1024))
    assert shapes("5").verdict(*asked(picture)) == "allowed"
    assert shapes("4.99").verdict(*asked(picture)) == "cap_reached"
    assert shapes("5").billed(JOB, picture.size, ReplyFacts(None, Finish.OTHER, opaque=True)).amount == 5
    assert shapes("5").maybe(JOB, picture.size).amount == 5
