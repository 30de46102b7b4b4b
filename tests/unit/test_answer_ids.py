"""Answers that bear the id of a usage event."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from batchrunner.answer_ids import attempts_by_event
from batchrunner.exchange import Reply
from batchrunner.journal.files import RESULTS
from batchrunner.results import success_line
from batchrunner.verification.reader import RunReader


def results(tmp_path: Path, bodies: list[bytes], request_id: str = "req_0") -> RunReader:
    lines = [
        success_line("run", f"job-{number}", number, 1, Reply(200, (("x-request-id", f"{request_id}{number}"),), body))
        for number, body in enumerate(bodies)
    ]
    (tmp_path / RESULTS).write_bytes(b"".join(lines))
    return RunReader(tmp_path)


def test_by_the_answers_own_id(tmp_path: Path) -> None:
    with results(tmp_path, [b'{"id":"ue_1"}', b'{"id":"ue_2"}', b'{"id":"other"}']) as reader:
        assert attempts_by_event(reader, {"ue_1", "ue_2", "ue_3"}) == {"ue_1": ("job-0", 1), "ue_2": ("job-1", 1)}


def test_by_the_requests_id(tmp_path: Path) -> None:
    with results(tmp_path, [b"{}", b"{}"], request_id="ue_") as reader:
        assert attempts_by_event(reader, {"ue_1"}) == {"ue_1": ("job-1", 1)}


def test_none_where_the_first_answers_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most servers' ids have nothing to do with events: then the file is not read to its end."""
    monkeypatch.setattr("batchrunner.answer_ids._TRIED", 2)
    with results(tmp_path, [b"{}", b"{}", b'{"id":"ue_1"}']) as reader:
        assert attempts_by_event(reader, {"ue_1"}) == {}


def test_lines_that_cannot_be_read_and_bodies_of_any_shape_are_passed_over(tmp_path: Path) -> None:
    with results(tmp_path, [b"[1]", b'{"id":7}', b'"x"', b'{"id":"ue_1"}']) as reader:
        pass
    with (tmp_path / RESULTS).open("ab") as file:
        file.write(b"nonsense\n" + msgspec.json.encode({"id": "x", "custom_id": None}) + b"\n{")
    with RunReader(tmp_path) as reader:
        assert attempts_by_event(reader, {"ue_1"}) == {"ue_1": ("job-3", 1)}


def test_no_results_no_ids(tmp_path: Path) -> None:
    with RunReader(tmp_path) as reader:
        assert attempts_by_event(reader, {"ue_1"}) == {}
