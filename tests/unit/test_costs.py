from __future__ import annotations

import json
import random
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.costs import Charge, Source, Totals, cost_line, read_cost_line, timestamp
from batchrunner.events import Billing
from batchrunner.job import Usage

AT_NS = 1_795_302_698_123_456_789
AMOUNTS = st.decimals(min_value=0, max_value=10**6, places=12, allow_nan=False)


def test_a_cost_line_is_the_contracts() -> None:
    """Every field, in its place, with the amount as a plain number."""
    charge = Charge.billed("m-1", "/v1/responses", Usage(10, 5, 4), Decimal("1.50E-7"))
    assert cost_line("job-1", 2, charge, AT_NS) == (
        b'{"custom_id":"job-1","attempt":2,"model":"m-1","endpoint":"/v1/responses",'
        b'"tokens":{"input":10,"cached":4,"output":5,"total":15},"cost":{"amount":0.00000015,"currency":"USD"},'
        b'"source":"catalog","state":"billed","at":"2026-11-21T23:11:38.123Z"}\n'
    )


def test_an_unknown_price_is_null_and_not_nothing() -> None:
    """Where no price is known the line says so."""
    document = json.loads(cost_line("j", 1, Charge.maybe("m", "/e", 10, None, None), AT_NS))
    assert document["cost"] == {"amount": None, "currency": "USD"}
    assert document["tokens"] == {"input": 10, "cached": None, "output": None, "total": None}
    assert (document["source"], document["state"]) == ("unknown", "maybe_billed")


def test_a_settled_line_names_its_source() -> None:
    """`reconcile` writes the platform's own figure over ours."""
    line = read_cost_line(cost_line("j", 1, Charge("m", "/e", Billing.NOT, amount=Decimal(0)), AT_NS, Source.USAGE_EVENT))
    assert line is not None
    assert (line.source, line.state, line.cost.amount) == (Source.USAGE_EVENT, Billing.NOT, Decimal(0))


def test_a_line_says_what_was_asked_for_beside_tokens() -> None:
    """As plain numbers, and only where there is any; a line from before there was the field reads as one without."""
    charge = Charge.maybe("m", "/e", 10, None, Decimal("0.6"), {"video-second": Decimal("1.2E1")})
    raw = cost_line("j", 1, charge, AT_NS)
    assert raw.endswith(b'"state":"maybe_billed","at":"2026-11-21T23:11:38.123Z","units":{"video-second":12}}\n')
    line = read_cost_line(raw)
    assert line is not None
    assert line.charge == charge
    old = read_cost_line(raw.replace(b',"units":{"video-second":12}', b""))
    assert old is not None
    assert old.charge == msgspec.structs.replace(charge, units={})


@given(AMOUNTS, st.text(max_size=20))
def test_a_line_reads_back_exactly(amount: Decimal, custom_id: str) -> None:
    """No digit of an amount is lost on its way through the file."""
    charge = Charge.billed("m", "/e", Usage(3, 4), amount)
    line = read_cost_line(cost_line(custom_id, 1, charge, AT_NS))
    assert line is not None
    assert line.charge == charge
    assert (line.custom_id, line.attempt) == (custom_id, 1)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9))
def test_an_amount_is_a_number_without_exponent(amount: Decimal) -> None:
    """Whatever a Decimal's form, its number in the file is exact and plain."""
    line = cost_line("j", 1, Charge("m", "/e", Billing.BILLED, amount=amount), 0)
    text = line.split(b'"amount":')[1].split(b",")[0]
    assert b"e" not in text.lower()
    assert Decimal(text.decode()) == amount


def test_bytes_that_are_no_cost_line_are_none() -> None:
    """Torn, foreign or undecodable lines say no and nothing else."""
    good = cost_line("j", 1, Charge.maybe("m", "/e", 1, 1, None), AT_NS)
    for data in (b"", good[:-9], b"\x00" * 40, b'{"custom_id":"\xff"}', b"{}\n", b"[" * 100_000):
        assert read_cost_line(data) is None


@given(st.lists(st.tuples(AMOUNTS, st.booleans()), max_size=50))
def test_sums_are_exact(amounts: list[tuple[Decimal, bool]]) -> None:
    """Totals equal the sums of rational numbers, apart for billed and maybe billed."""
    totals = Totals()
    for amount, billed in amounts:
        totals.add(Charge("m", "/e", Billing.BILLED if billed else Billing.MAYBE, amount=amount))
    assert Fraction(totals.billed) == sum((Fraction(amount) for amount, billed in amounts if billed), Fraction())
    assert Fraction(totals.maybe_billed) == sum((Fraction(amount) for amount, billed in amounts if not billed), Fraction())


def test_C01_a_million_records_sum_exactly() -> None:
    """No rounding, however long the night: counted in whole units of the smallest price, to the last one."""
    rng = random.Random(1)
    totals = Totals()
    units = dict.fromkeys((Billing.BILLED, Billing.MAYBE), 0)
    kinds = [(billing, amount) for billing in units for amount in (rng.randrange(10**11) for _ in range(500))]
    charges = [Charge("m", "/e", billing, amount=Decimal(amount).scaleb(-12)) for billing, amount in kinds]
    for _ in range(1_000):
        for (billing, amount), charge in zip(kinds, charges, strict=True):
            totals.add(charge)
            units[billing] += amount
    assert (totals.billed, totals.maybe_billed) == tuple(Decimal(sum_).scaleb(-12) for sum_ in units.values())


def test_a_tiny_amount_is_not_lost_beside_a_huge_one() -> None:
    """Thirty digits apart, both still count."""
    totals = Totals()
    for amount in ("1000000000000000", "0.00000000000000000001"):
        totals.add(Charge("m", "/e", Billing.BILLED, amount=Decimal(amount)))
    assert totals.billed == Decimal("1000000000000000.00000000000000000001")


def test_only_billed_attempts_count_as_usage() -> None:
    """Estimates of what may have been billed are no usage; what was not billed is nothing."""
    totals = Totals()
    totals.add(Charge.billed("m", "/e", Usage(10, 5, 4), Decimal("0.2")))
    totals.add(Charge.maybe("m", "/e", 100, 50, None))
    totals.add(Charge("m", "/e", Billing.NOT, 7, 7, 7, Decimal(7)))
    totals.add(None)
    assert (totals.input_tokens, totals.cached_tokens, totals.output_tokens) == (10, 4, 5)
    assert (totals.billed, totals.maybe_billed, totals.unpriced) == (Decimal("0.2"), Decimal(0), 1)


def test_totals_do_not_share_their_counts() -> None:
    """Each run's finishes are its own."""
    Totals().add_finish("stop")
    totals = Totals()
    totals.add_finish("length")
    totals.add_finish(None)
    assert totals.finishes == {"length": 1}


def test_times_are_utc_to_the_millisecond() -> None:
    """Midnight of the epoch, and the last nanosecond of a second."""
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(999_999_999) == "1970-01-01T00:00:00.999Z"


@pytest.mark.parametrize("billing", Billing)
@pytest.mark.parametrize("amount", [None, Decimal("0.1")])
def test_taking_back_undoes_adding(billing: Billing, amount: Decimal | None) -> None:
    """Whatever a charge added to the sums, taking it back leaves them as they were."""
    totals = Totals(billed=Decimal(1), maybe_billed=Decimal(2), input_tokens=5)
    before = msgspec.json.encode(totals)
    charge = Charge("m", "/e", billing, 10, 2, 30, amount, bound=Decimal(7), reasoning=4)
    totals.add(charge)
    totals.take_back(charge)
    after = msgspec.json.decode(msgspec.json.encode(totals), type=Totals)
    assert after == msgspec.json.decode(before, type=Totals)
