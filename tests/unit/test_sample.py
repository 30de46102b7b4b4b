"""What a sample took, as the run's own files tell it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from batchrunner.cli.part import Part
from batchrunner.cli.sample import _measured, measured_of
from batchrunner.costs import Charge, cost_line
from batchrunner.errors import InvalidInput
from batchrunner.events import Billing
from batchrunner.index import ASIDE, Index
from batchrunner.job import Usage
from batchrunner.lifecycle import State
from batchrunner.plan import Measured, Stratum
from batchrunner.survey import Drawn

URL = "/v1/chat/completions"


def billed(custom_id: str, attempt: int, usd: str | None) -> bytes:
    amount = None if usd is None else Decimal(usd)
    return cost_line(custom_id, attempt, Charge.billed("m", URL, Usage(10, 5), amount), 0)


def test_all_attempts_of_a_job_count_each_by_its_last_line(tmp_path: Path) -> None:
    """Also those that may have been billed; another job's do not, nor what is no line of ours."""
    maybe = cost_line("a", 2, Charge("m", URL, Billing.MAYBE, input=20, output=None, amount=Decimal("0.5")), 0)
    (tmp_path / "costs.jsonl").write_bytes(
        billed("a", 1, "9") + billed("a", 1, "1") + maybe + billed("other", 1, "7") + b"nonsense\n" + billed("b", 1, "2")
    )
    assert _measured(tmp_path, {"a", "b"}) == {"a": Measured(30.0, 5.0, 1.5), "b": Measured(10.0, 5.0, 2.0)}


def test_a_failure_that_cost_nothing_is_measured_and_an_unknown_price_is_not(tmp_path: Path) -> None:
    """Nothing is an amount; null is none."""
    (tmp_path / "costs.jsonl").write_bytes(billed("a", 1, None) + billed("a", 2, "1"))
    (tmp_path / "errors.jsonl").write_bytes(b'{"custom_id":"f"}\n{"custom_id":null}\n{"custom_id":"other"}\n')
    assert _measured(tmp_path, {"a", "f", "open"}) == {"f": Measured(0.0, 0.0, 0.0)}


def test_a_line_that_was_torn_is_passed_over(tmp_path: Path) -> None:
    """A finished run is not recovered: its files are read as they are."""
    (tmp_path / "errors.jsonl").write_bytes(b'{"custom_id":"f"}\n{"custom_id":"a","resp')
    assert _measured(tmp_path, {"a", "f"}) == {"f": Measured(0.0, 0.0, 0.0)}


def test_a_run_without_files_has_measured_nothing(tmp_path: Path) -> None:
    """What cannot be read is said, with its name."""
    assert _measured(tmp_path, {"a"}) == {}
    (tmp_path / "costs.jsonl").mkdir()
    with pytest.raises(InvalidInput, match=r"costs\.jsonl: cannot be read"):
        _measured(tmp_path, {"a"})


def test_a_part_is_told_by_ids() -> None:
    """Lines that came or went since it was drawn must not put other jobs in the place of those that were meant."""
    ids = ["new", "a", "b", "done"]
    index = Index(ids.__getitem__)
    for number, custom_id in enumerate(ids):
        index.add(custom_id, number, 0, 0, number + 1)
    index.state[3] = State.SUCCEEDED
    Part(["a", "gone"]).set_others_aside(index)
    assert [wish == ASIDE for wish in index.wish] == [True, False, True, False]


def test_what_was_measured_goes_to_its_stratum() -> None:
    """Jobs of which nothing is known are missing there."""
    first = Stratum("one", 10, (Drawn(0, "a"), Drawn(1, "b")))
    took = Measured(1.0, 2.0, 3.0)
    assert measured_of([first], {"b": took}) == [(first, [took])]
