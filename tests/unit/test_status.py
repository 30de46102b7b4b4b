"""status.json: written and read."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from batchrunner.status import MODEL_CHARACTERS, MODELS_NAMED, Status, TokenSums, decode, encode, less_than, named

MakeStatus = Callable[..., Status]


def test_round_trip(make_status: MakeStatus) -> None:
    """What is read is what was written, to the last digit of the money."""
    status = make_status(
        state="stopped",
        stopped_by="max_cost",
        usage=TokenSums(10, 5, 3, 2),
        billed_usd=Decimal("0.1234567890123456789012345678"),
        maybe_billed_usd=Decimal("1E-20"),
        elapsed_seconds=0.1,
        eta_seconds=12.5,
        binding="tokens",
    )
    assert decode(encode(status)) == status


def test_money_is_written_exactly(make_status: MakeStatus) -> None:
    """Amounts stand as decimal strings: no reader's float can spoil them."""
    document = json.loads(encode(make_status(billed_usd=Decimal("0.10"))))
    assert document["billed_usd"] == "0.10"


def test_a_document_for_people_and_programs(make_status: MakeStatus) -> None:
    """One JSON object with every field, indented, with a line end."""
    data = encode(make_status())
    assert data.endswith(b"}\n")
    assert data.count(b"\n") > 20
    assert set(json.loads(data)) == set(Status.__struct_fields__)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"run_dir": "x"}'])
def test_what_is_no_status_is_refused(data: bytes) -> None:
    """Half a file, or another one, is a decode error."""
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_an_unknown_state_is_refused(make_status: MakeStatus) -> None:
    """States and reasons are closed sets."""
    with pytest.raises(msgspec.ValidationError):
        decode(encode(make_status()).replace(b'"running"', b'"dreaming"'))


def test_done_and_pending(make_status: MakeStatus) -> None:
    """Every job is done, in flight, backing off, held back or pending."""
    status = make_status(total=10, completed=3, failed=1, in_flight=2, backing_off=1, held=1)
    assert (status.done, status.pending) == (4, 2)


def test_what_an_earlier_version_left_is_read(make_status: MakeStatus) -> None:
    """A run that ended before there were circuits and suspended keys still has its status."""
    document = json.loads(encode(make_status(completed=3)))
    for later in (
        "held",
        "models_offline",
        "models_offline_total",
        "keys_suspended",
        "keys_retired",
        "submitted",
        "paused",
        "max_cost_usd",
        "balance_usd",
        "without_credits",
    ):
        del document[later]
    assert decode(json.dumps(document).encode()) == make_status(completed=3)


def test_few_models_are_named_and_none_at_length() -> None:
    """A job file may hold thousands of names of any length; a status is read and written every few seconds."""
    assert named(["m" * MODEL_CHARACTERS]) == ("m" * MODEL_CHARACTERS,)
    names = named(["x" * 1_000_000, *(f"model-{number}" for number in range(1_000))])
    assert len(names) == MODELS_NAMED
    assert (names[0][-2:], len(names[0]), names[1]) == ("x…", MODEL_CHARACTERS, "model-0")


@pytest.mark.parametrize(
    ("limits", "effective", "together"),
    [
        ([50], [50], 0),
        ([50], [43], 43),
        ([50], [100], 0),
        ([0], [0], 0),
        ([50, 100], [50, 70], 120),
        ([50, 100], [50, 200], 0),
        ([50, 0], [43, 0], 0),
    ],
)
def test_what_is_in_effect_is_named_where_it_is_less(limits: list[int], effective: list[int], together: int) -> None:
    """Of all accounts together, none for more than its limit; where one has none, neither have they."""
    assert less_than(limits, effective) == together
