"""D-rows: job files from somebody who did not mean well, or whose editor did not. Each in the middle of a file of good lines.

What is proved elsewhere stands in README.md beside this file.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from trio.testing import MockClock

from batchrunner import dialect
from batchrunner.inputs import Inputs, index_inputs
from batchrunner.job import BadLine
from batchrunner.jobfile import parse
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.sources import opened
from batchrunner.wording import escape_terminal
from tests.sim.nights import MakeNight, job

#: an escape of the terminal, a path, a line end, a right-to-left override, quotes, a shell's words, a spreadsheet's formula
HOSTILE_IDS = (
    "\x1b[2J\x07",
    "../../etc/passwd",
    "a\nb\r\nc",
    "\u202egpj.exe",
    '"}\\',
    "$(reboot) `id`",
    "=cmd|' /C calc'!A0",
    "\0",
    "é" * 256,
)


def body(inner: bytes, custom_id: bytes = b'"x"') -> bytes:
    """A job line around some JSON in its body."""
    start = b'{"custom_id":%b,"method":"POST","url":"/v1/chat/completions","body":{"model":"simulated-small",' % custom_id
    return start + b'"metadata":{"custom_id":"x"},"messages":[{"role":"user","content":"a"}],"max_tokens":9%b}}' % inner


DEEP = 1_000_000
#: name -> the line, and the code with which it is refused; None: it is a job
LINES: dict[str, tuple[bytes, str | None]] = {
    "D01 a byte that is no UTF-8": (body(b',"a":"\xff"'), "invalid_encoding"),
    "D01 no UTF-8 in a key": (body(b',"\xc3":1'), "invalid_encoding"),
    "D01 no UTF-8 in the id": (body(b"", b'"\xf8\x88"'), "invalid_encoding"),
    "D01 an overlong NUL": (body(b',"a":"\xc0\x80"'), "invalid_encoding"),
    "D01 a surrogate in UTF-8": (body(b',"a":"\xed\xa0\x80"'), "invalid_encoding"),
    "D01 past the last character": (body(b',"a":"\xf4\x90\x80\x80"'), "invalid_encoding"),
    "D01 a character cut in two": (body(b',"a":"\xe2\x82"'), "invalid_encoding"),
    "D01 latin-1": (body(b',"a":"caf\xe9"'), "invalid_encoding"),
    "D02 a byte order mark in the middle": (b"\xef\xbb\xbf" + body(b""), "invalid_json"),
    "D03 a NUL in a text": (body(b',"a":"\0"'), "invalid_encoding"),
    "D03 a NUL between tokens": (body(b',\0"a":1'), "invalid_encoding"),
    "D03 an escaped NUL": (body(b',"a":"\\u0000"'), None),
    "D03 nothing but NULs": (bytes(500), "invalid_encoding"),
    "D04 a carriage return between tokens": (body(b',\r"a":1'), None),
    "D04 a carriage return in a text": (body(b',"a":"\r"'), "invalid_json"),
    "D06 a tab before the line": (b"\t " + body(b""), None),
    "D06 blanks that JSON does not know": (b"\xc2\xa0" + body(b""), "invalid_json"),
    "D06 a form feed": (b"\x0c" + body(b""), "invalid_json"),
    "D08 a million open brackets": (body(b',"a":' + b"[" * DEEP), "invalid_json"),
    "D08 a million brackets": (body(b',"a":' + b"[" * DEEP + b"]" * DEEP), "invalid_json"),
    "D08 a million objects": (body(b',"a":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP), "invalid_json"),
    "D08 beside the body": (body(b"")[:-1] + b',"z":' + b"[" * DEEP + b"]" * DEEP + b"}", "invalid_json"),
    "D08 nothing else": (b"[" * DEEP, "not_an_object"),
    "D09 NaN": (body(b',"temperature":NaN'), "invalid_json"),
    "D09 Infinity": (body(b',"temperature":Infinity'), "invalid_json"),
    "D09 minus Infinity": (body(b',"temperature":-Infinity'), "invalid_json"),
    "D09 a number next to nothing": (body(b',"temperature":1e-999'), None),
    "D09 a hexadecimal number": (body(b',"a":0x10'), "invalid_json"),
    "D09 a plus": (body(b',"a":+1'), "invalid_json"),
    "D10 half a pair": (body(b',"a":"\\ud800"'), "invalid_json"),
    "D10 the other half": (body(b',"a":"\\udc00"'), "invalid_json"),
    "D10 half a pair in the id": (body(b"", b'"\\ud83d"'), "invalid_json"),
    "D10 a whole pair": (body(b',"a":"\\ud83d\\udc22"'), None),
    "D11 an integer of 400 digits": (body(b',"seed":' + b"9" * 400), None),
    "D11 a cap of 400 digits": (body(b',"max_completion_tokens":' + b"9" * 400), None),
    "D11 a priority of 400 digits": (body(b"")[:-1] + b',"batchrun":{"priority":' + b"9" * 400 + b"}}", "invalid_extras"),
    "D11 a timeout past every number": (body(b"")[:-1] + b',"batchrun":{"timeout":1e999}}', "invalid_extras"),
    "D12 an id twice": (body(b"", b'"y","custom_id":"x"'), None),
    "D12 an id twice, once of another type": (body(b"", b'7,"custom_id":"x"'), "invalid_json"),
    "D12 a model twice": (body(b',"model":"simulated-large"'), None),
    "D12 a stream behind none": (body(b',"stream":false,"stream":true'), None),
    "D13 an id that was there": (job("good-1").rstrip(), "duplicate_custom_id"),
    "D13 the same id, spelt otherwise": (body(b"", b'"\\u0067ood-1"'), "duplicate_custom_id"),
    "D14 an id of no length": (body(b"", b'""'), "invalid_custom_id"),
    "D14 an id that is too long": (body(b"", b'"' + b"x" * 513 + b'"'), "invalid_custom_id"),
    "D14 an id that is a list": (body(b"", b'["x"]'), "invalid_custom_id"),
    "D14 a raw escape in an id": (body(b"", b'"\x1b[2J"'), "invalid_json"),
    "D14 a url that climbs": (body(b"").replace(b"/v1/chat/completions", b"/v1/../admin"), "unknown_url"),
    "D14 a url that climbs in disguise": (body(b"").replace(b"/v1/chat/completions", b"/v1/%2e%2e/admin"), "unknown_url"),
    "D14 a url of another host": (body(b"").replace(b"/v1/chat/completions", b"//evil.example/v1/x"), "unknown_url"),
    "D14 a url that ends the request": (body(b"").replace(b"/v1/chat/completions", b"/v1/x\\r\\nX-A: b"), "unknown_url"),
}


@pytest.mark.parametrize("name", [pytest.param(name, id=name.replace(" ", "_")) for name in LINES])
async def test_D_a_line_is_refused_by_number_or_run(autojump_clock: MockClock, make_night: MakeNight, name: str) -> None:
    """One code of the closed set, the line's number, and nothing of it in the message; all others run; files stay JSON lines."""
    line, code = LINES[name]
    night = make_night([job("good-1"), line + b"\n", job("good-2")])
    status = await night.run()
    assert status.state == "completed"
    assert (status.total, status.failed) == (3, code is not None)
    assert {"good-1", "good-2"} <= set(night.succeeded())
    errors = [json.loads(raw) for raw in bytes(night.disk.files[ERRORS]).splitlines()]
    assert [(error["custom_id"], error["line"], error["error"]["code"]) for error in errors] == (
        [(None, 2, code)] if code else []
    )
    for error in errors:
        assert f"{night.path} line 2 " in error["error"]["message"]
        assert len(error["error"]["message"]) < 600
    for file in (RESULTS, ERRORS, COSTS, JOURNAL):
        data = bytes(night.disk.files.get(file, b""))
        assert not data or data.endswith(b"\n")
        for raw in data.splitlines():
            json.loads(raw, parse_int=str)


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param(b',"temperature":1e999', id="D09_past_every_number"),
        pytest.param(b',"max_completion_tokens":1e999', id="D09_a_cap_past_every_number"),
        pytest.param(b',"seed":' + b"9" * 10_000, id="D11_more_digits_than_python_reads"),
        pytest.param(b',"max_completion_tokens":-5', id="D11_a_negative_cap"),
    ],
)
def test_D_what_a_server_may_make_of_a_number_is_its_own_affair(inner: bytes) -> None:
    """It is JSON, and goes out as written; its size is guessed all the same, and no cap is taken from nonsense."""
    line = body(inner)
    parsed = parse(line)
    assert parsed.body in line
    assert inner in parsed.body
    size = dialect.for_url(parsed.url).size(parsed.body)
    assert size.input_tokens > 0
    assert size.output_cap_tokens in (None, 9)


@pytest.mark.parametrize(
    ("data", "succeeded"),
    [
        pytest.param(b"\xef\xbb\xbf" + job("a") + job("b"), 2, id="D02_a_byte_order_mark_at_the_start"),
        pytest.param(b"\r\n".join([job("a").strip(), job("b").strip(), b""]), 2, id="D04_line_ends_of_another_system"),
        pytest.param(b"\r".join([job("a").strip(), job("b").strip()]), 0, id="D04_line_ends_of_a_system_long_gone"),
        pytest.param(job("a") + job("b").rstrip(), 2, id="D05_no_end_of_the_last_line"),
        pytest.param(b"\n \n\t\r\n" + job("a") + b"\n\n" + job("b") + b"\n\n", 2, id="D06_blank_lines"),
        pytest.param(b"", 0, id="D15_an_empty_file"),
        pytest.param(b"\xef\xbb\xbf", 0, id="D15_a_byte_order_mark_and_no_more"),
    ],
)
async def test_D_a_file_of_another_make(autojump_clock: MockClock, make_night: MakeNight, data: bytes, succeeded: int) -> None:
    """Marks, line ends and blanks of editors make no job and lose none."""
    night = make_night([data])
    status = await night.run()
    assert len(night.succeeded()) == succeeded
    assert status.failed == data.count(b"\r{")


async def test_D14_hostile_ids_are_ids(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Each ends once under the very id, and no file is named after one; on a terminal each would be harmless."""
    night = make_night([job(custom_id) for custom_id in HOSTILE_IDS])
    names = set(night.disk.files)
    status = await night.run()
    assert (status.completed, status.failed) == (len(HOSTILE_IDS), 0)
    assert sorted(night.succeeded()) == sorted(HOSTILE_IDS)
    assert {name for name in set(night.disk.files) - names if "." not in name or "/" in name} == set()
    assert all(escape_terminal(custom_id).isprintable() for custom_id in HOSTILE_IDS)


def test_D07_a_line_of_100_megabytes_is_passed_over(tmp_path: Path) -> None:
    """It is told by its number, the lines around it are jobs, and memory holds no more than one line may have."""
    path = tmp_path / "jobs.jsonl"
    with open(path, "wb") as file:
        file.write(job("before") + b'{"custom_id":"')
        file.writelines(b"x" * (1 << 20) for _ in range(100))
        file.write(b'"}\n' + job("after"))
    bad: list[BadLine] = []
    with opened((str(path),)) as sources:
        inputs = Inputs([plain for source in sources if (plain := source.as_it_is()) is not None])
        tracemalloc.start()
        try:
            index = index_inputs(inputs, bad.append)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [inputs.load(index, number).custom_id for number in range(len(index))] == ["before", "after"]
    assert [(line.line, line.code) for line in bad] == [(2, "line_too_long")]
    assert peak_bytes < 80 << 20
