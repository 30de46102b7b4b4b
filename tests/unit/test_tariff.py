"""What recovery charges for attempts that nobody was there to charge: by the record of their sending, else by their job."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec
import pytest

from batchrunner.costs import Charge
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.events import Billing
from batchrunner.exchange import Reply
from batchrunner.job import Usage
from batchrunner.journal import Tariff
from batchrunner.journal.records import Sent
from batchrunner.results import FinalLine, failure_line, read_line, success_line

SENT = Sent("job-7", "0" * 16, 2, "boot", 1, reserve=30, input=11, cap=13, model="sent-model", endpoint="/v1/sent")
PICTURES = msgspec.structs.replace(SENT, cap=None, units={"image": Decimal(3)})
FACTS = ReplyFacts(Usage(3, 5), Finish.LENGTH)
PRICE, CEILING = Decimal("0.25"), Decimal("0.75")
BODY = b'{"answer":42}'


class Asked(msgspec.Struct):
    """What a tariff asked of those who know prices, jobs and dialects."""

    requests: list[int] = []
    facts: list[tuple[str, bytes]] = []
    prices: list[tuple[str, object]] = []
    ceilings: list[tuple[str, int, int | None, Mapping[str, Decimal]]] = []


def tariff(*, price: Decimal | None = PRICE, readable: bool = True) -> tuple[Tariff, Asked]:
    asked = Asked()

    def request(number: int) -> tuple[str, str]:
        asked.requests.append(number)
        return "/v1/job", "job-model"

    def facts(endpoint: str, body: bytes) -> ReplyFacts | None:
        asked.facts.append((endpoint, body))
        return FACTS if readable else None

    def cost(model: str, facts: object) -> Decimal | None:
        asked.prices.append((model, facts))
        return price

    def ceiling(model: str, input_tokens: int, cap: int | None, units: Mapping[str, Decimal]) -> Decimal:
        asked.ceilings.append((model, input_tokens, cap, units))
        return CEILING

    return Tariff(request, facts, cost, ceiling), asked


def success(body: bytes = BODY) -> FinalLine:
    return read(success_line("run", "job-7", 7, 2, Reply(200, (), body)))


def failure(status: int | None) -> FinalLine:
    reply = None if status is None else Reply(status, (), b"{}")
    return read(failure_line("run", "job-7", 7, 2, code="c", message="m", reply=reply))


def read(raw: bytes) -> FinalLine:
    line = read_line(raw)
    assert line is not None
    return line


def test_a_success_is_priced_as_it_was_sent() -> None:
    """Endpoint and model stand in the record; the job file is not asked."""
    by, asked = tariff()
    assert by.success(7, SENT, success()) == (
        Charge("sent-model", "/v1/sent", Billing.BILLED, 3, 0, 5, PRICE),
        "length",
    )
    assert (asked.requests, asked.facts, asked.prices) == ([], [("/v1/sent", BODY)], [("sent-model", FACTS)])


def test_a_success_whose_sending_went_with_the_power_is_priced_by_its_job() -> None:
    """The line proves that it was sent; how much it was allowed to write is not known."""
    by, asked = tariff(price=None)
    charge = Charge("job-model", "/v1/job", Billing.BILLED, 3, 0, 5, None)
    assert by.success(7, None, success()) == (charge, "length")
    assert (asked.requests, asked.facts, asked.ceilings) == ([7], [("/v1/job", BODY)], [])


@pytest.mark.parametrize("readable", [True, False])
def test_a_success_without_a_price_counts_at_its_bound(readable: bool) -> None:
    """Unknown is null; a spend cap counts the most that the request allowed."""
    by, asked = tariff(price=None, readable=readable)
    charge, finish = by.success(7, SENT, success())
    assert (charge.amount, charge.bound) == (None, CEILING)
    assert (charge.input, finish) == ((3, "length") if readable else (None, None))
    assert asked.ceilings == [("sent-model", 11, 13, {})]


def test_a_line_that_is_no_success_has_no_answer_to_price() -> None:
    """What stands there is not taken for a body."""
    by, asked = tariff()
    by.success(7, SENT, failure(200))
    assert asked.facts == [("/v1/sent", b"")]


@pytest.mark.parametrize("status", [408, 504, 200, 299, None])
def test_a_failure_behind_which_work_may_have_been_done_may_have_been_billed(status: int | None) -> None:
    """No answer, a timeout of the server's, a success that could not be read: the most that it can have cost."""
    by, asked = tariff()
    assert by.failure(7, SENT, failure(status)) == by.worst(SENT)
    assert asked.requests == []


@pytest.mark.parametrize("status", [199, 300, 400, 407, 409, 429, 500, 503, 505])
def test_any_other_error_status_costs_nothing(status: int) -> None:
    by, _ = tariff()
    assert by.failure(7, SENT, failure(status)) is None
    assert by.failure(7, None, failure(status)) is None


def test_a_failure_of_which_no_sending_is_known_was_sent_if_it_was_answered() -> None:
    """What it may have cost is then unknown; without an answer nothing says that it ever went out."""
    by, asked = tariff()
    assert by.failure(7, None, failure(504)) == Charge("job-model", "/v1/job", Billing.MAYBE)
    assert asked.requests == [7]
    assert by.failure(7, None, failure(None)) is None


def test_the_worst_is_all_that_was_asked_and_all_that_was_allowed() -> None:
    by, asked = tariff()
    assert by.worst(SENT) == Charge("sent-model", "/v1/sent", Billing.MAYBE, input=11, output=13, amount=CEILING)
    assert asked.ceilings == [("sent-model", 11, 13, {})]


def test_what_was_asked_for_beside_tokens_counts_as_it_was_sent() -> None:
    """Pictures that nobody saw may have been made, all of them; so may those of an answer without a price."""
    by, asked = tariff(price=None)
    lost = by.worst(PICTURES)
    assert (lost.amount, lost.output, lost.units) == (CEILING, None, PICTURES.units)
    by.success(7, PICTURES, success())
    assert asked.ceilings == 2 * [("sent-model", 11, None, PICTURES.units)]
