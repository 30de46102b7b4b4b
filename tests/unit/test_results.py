from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.dialect import is_json, without_bom
from batchrunner.exchange import Reply
from batchrunner.job import BadLine
from batchrunner.results import (
    LineId,
    bad_line,
    bad_line_id,
    failure_line,
    make_id,
    parse_id,
    read_line,
    success_line,
)

RUN = "run-2026-a"


def body_in(line: bytes) -> object:
    return json.loads(line)["response"]["body"]


def test_a_success_is_openais_batch_output_line() -> None:
    """Readers of batch output find what they know, in that order."""
    reply = Reply(200, (("x-request-id", "req-1"),), b'{"a":1}')
    line = success_line(RUN, "job-1", 255, 2, reply)
    expected = (
        b'{"id":"run-2026-a-00000000000000ff-2","custom_id":"job-1",'
        b'"response":{"status_code":200,"request_id":"req-1","body":{"a":1}},"error":null}\n'
    )
    assert line == expected


def test_a_body_stands_byte_for_byte() -> None:
    """Numbers, spacing, order and repeated keys of a body are the server's."""
    body = b'{"x": 1.10,  "x":1e2, "y":"\\u00e9 \xc3\xa9"}'
    assert body in success_line(RUN, "j", 1, 1, Reply(200, (), body))


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_line_breaks_between_tokens_become_spaces(ends: bytes) -> None:
    """A body on many lines stands on one, and says the same."""
    body = b'{"a":' + ends + b"1}" + ends
    line = success_line(RUN, "j", 1, 1, Reply(200, (), body))
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert body_in(line) == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>\n</html>",
        b'{"a":',
        b'{"a":1} x',
        b"NaN",
        b'{"a":"\xff"}',
        b"{\x00}\x00",
        b'{"a":"x\ny"}',
        b"[" * 100_000,
    ],
    ids=["empty", "html", "cut", "trailing", "nan", "not utf-8", "utf-16", "break in string", "deep"],
)
def test_an_answer_that_is_no_json_stands_as_a_string(body: bytes) -> None:
    """Whatever a server answers, the line is valid JSON on one line and holds the answer's text."""
    line = failure_line(RUN, "j", 1, 1, code="not_json", message="no", reply=Reply(502, (), body))
    assert line.count(b"\n") == 1
    assert body_in(line) == body.decode("utf-8", "replace")
    assert not is_json(body)


def test_a_byte_order_mark_does_not_come_along() -> None:
    """It is no part of the JSON that stands behind it, and would make the line none."""
    line = success_line(RUN, "j", 1, 1, Reply(200, (), b'\xef\xbb\xbf{"a":1}'))
    assert body_in(line) == {"a": 1}


def test_of_two_byte_order_marks_the_second_is_text() -> None:
    """Such an answer is no JSON: it stands as a string, and its line is valid."""
    body = b"\xef\xbb\xbf\xef\xbb\xbf{}"
    assert not is_json(without_bom(body))
    for line in (
        success_line(RUN, "j", 1, 1, Reply(200, (), body)),
        failure_line(RUN, "j", 1, 1, code="not_json", message="no", reply=Reply(200, (), body)),
    ):
        assert is_json(line)
        assert body_in(line) == "\ufeff{}"


def test_an_escaped_lone_surrogate_is_json() -> None:
    """JSON's grammar allows it, and so does a model: the body stays as it is, and the line can be read again."""
    body = b'{"text":"\\ud800"}'
    line = success_line(RUN, "j", 1, 1, Reply(200, (), body))
    assert body in line
    assert is_json(line)
    read = read_line(line)
    assert read is not None
    assert read.answer() == body


def test_a_failure_without_an_answer_has_no_response() -> None:
    """Where nothing came, `response` is null and `error` says why."""
    document = json.loads(failure_line(RUN, "j", 1, 0, code="timeout", message="no answer"))
    assert document["response"] is None
    assert document["error"] == {"code": "timeout", "message": "no answer"}


def test_a_failure_with_an_answer_keeps_it() -> None:
    """The server's words stand in `response`, our code beside them."""
    line = failure_line(RUN, "j", 1, 1, code="bad", message="m", reply=Reply(400, (("request-id", "r"),), b'{"error":{}}'))
    assert json.loads(line)["response"] == {"status_code": 400, "request_id": "r", "body": {"error": {}}}
    read = read_line(line)
    assert read is not None
    assert (read.status_code(), read.error_code(), read.answer()) == (400, "bad", None)


def test_a_message_with_half_a_character_is_written_anyway() -> None:
    """Text that no UTF-8 file can hold does not stop a run."""
    line = failure_line(RUN, "j", 1, 1, code="bad", message="\ud800!")
    assert json.loads(line)["error"]["message"] == "?!"


def test_a_line_that_is_no_job_names_its_number() -> None:
    """Lines of the input that are no job stand in errors.jsonl without a custom_id."""
    line = bad_line(RUN, BadLine(7, "not_json", "cut"))
    assert json.loads(line) == {
        "id": bad_line_id(RUN, 7),
        "custom_id": None,
        "line": 7,
        "response": None,
        "error": {"code": "not_json", "message": "cut"},
    }
    assert parse_id(bad_line_id(RUN, 7)) is None


@given(st.text(min_size=1, max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_an_id_says_what_it_was_made_of(run_id: str, fingerprint: int, attempt: int) -> None:
    """Run, fingerprint and attempt come back out of every id."""
    if "\n" not in run_id:
        assert parse_id(make_id(run_id, fingerprint, attempt)) == LineId(run_id, fingerprint, attempt)


@pytest.mark.parametrize(
    "text", ["", "run", "run-1-2", "run-00000000000000FF-1", "run-00000000000000ff-01", "run-00000000000000ff-1 "]
)
def test_an_id_that_is_not_ours_is_none(text: str) -> None:
    """No other spelling passes for one of ours."""
    assert parse_id(text) is None


@given(st.text(max_size=30))
def test_any_custom_id_comes_back_out_of_its_line(custom_id: str) -> None:
    """Quotes, backslashes, breaks and other scripts in an id change nothing."""
    line = success_line(RUN, custom_id, 1, 1, Reply(200, (), b'{"custom_id":"other"}'))
    read = read_line(line)
    assert read is not None
    assert read.custom_id == custom_id
    assert read.answer() == b'{"custom_id":"other"}'


@given(st.binary(max_size=80))
def test_bytes_that_are_no_line_are_none(data: bytes) -> None:
    """Whatever stands in the file, reading it says no and nothing else."""
    assert read_line(data) is None


@pytest.mark.parametrize(
    "altered", [b'{"id":"a","custom_id":1,', b'{"id": "a","custom_id":"b",', b'{"id":"\\x","custom_id":"b",']
)
def test_a_beginning_that_is_not_ours_is_none(altered: bytes) -> None:
    """A line is ours only if it begins as we write it."""
    assert read_line(altered + b'"response":null,"error":null}\n') is None
