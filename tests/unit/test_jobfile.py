from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect, jobfile
from batchrunner.job import NO_EXTRAS, Extras
from batchrunner.jobfile import OVERLONG, BadLineCode, BadLineError, LineReader, check, fingerprint, parse

CHAT = "/v1/chat/completions"


def line(**changes: Any) -> bytes:
    """A good line, with fields changed; None takes a field away."""
    fields = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def code_of(raw: bytes) -> str:
    """The code with which a line is refused, by `check` and `parse` alike."""
    with pytest.raises(BadLineError) as by_check:
        check(raw)
    with pytest.raises(BadLineError) as by_parse:
        parse(raw)
    assert by_check.value.code is by_parse.value.code
    assert by_check.value.message == str(by_check.value)
    return by_check.value.code


class ByteByByte(io.RawIOBase):
    """A file that gives as much at a time as the test says."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.turn = data, sizes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(self.sizes[self.turn % len(self.sizes)], len(buffer))
        self.turn += 1
        piece, self.data = self.data[:size], self.data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def read_all(data: bytes, **options: Any) -> list[tuple[int, int, Any]]:
    return list(LineReader(io.BytesIO(data), **options))


def test_an_openai_line_is_a_job() -> None:
    """custom_id, url and body come from the line."""
    parsed = parse(line(custom_id="job-1"))
    assert (parsed.custom_id, parsed.url, parsed.body, parsed.extras) == ("job-1", CHAT, b'{"model": "m"}', NO_EXTRAS)


def test_an_anthropic_line_is_a_messages_job() -> None:
    """`params` goes to /v1/messages."""
    parsed = parse(b'{"custom_id":"a","params":{"model":"m"}}')
    assert (parsed.url, parsed.body) == ("/v1/messages", b'{"model":"m"}')


def test_a_params_line_may_name_its_own_url_and_leave_body_null() -> None:
    """What says the same twice is no contradiction."""
    assert parse(b'{"custom_id":"a","url":"/v1/messages","body":null,"params":{"n":1}}').body == b'{"n":1}'


@pytest.mark.parametrize(
    "body",
    [
        b'{ "b" : 1,\t"a":[1.50, 1e3] , "c":"\\u00e9\\/"}',
        '{"text":"é 日本 😀"}'.encode(),
        b'{"n":1e999999,"big":' + b"9" * 5000 + b"}",
        b'{"a":1,"a":2}',
        b"{}",
    ],
)
def test_the_body_is_kept_byte_for_byte(body: bytes) -> None:
    """Spacing, escapes, number spellings and repeated keys stay as the user wrote them."""
    assert parse(b'{"custom_id":"a","url":"/v1/responses","body":  ' + body + b"  }").body == body


def test_the_method_may_be_left_out() -> None:
    """POST is the only one that a batch knows."""
    assert check(line(method=None)) == "a"


def test_unknown_keys_of_a_line_are_ignored() -> None:
    """Files carry notes of other tools."""
    assert check(line(note="x", params=None)) == "a"


def test_extras_are_read() -> None:
    """A line's own wishes stand under one key."""
    extras = {"account": "prod", "priority": 3, "max_attempts": 2, "timeout": 7.5}
    assert parse(line(batchrun=extras)).extras == Extras("prod", 3, 2, 7.5)


@pytest.mark.parametrize("stream", [False, None])
def test_a_stream_switched_off_is_no_stream(stream: bool | None) -> None:
    """Only what would come as a stream is refused."""
    assert check(json.dumps({"custom_id": "a", "url": CHAT, "body": {"stream": stream}}).encode()) == "a"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"not json", "invalid_json"),
        (b'{"custom_id":"a"} {}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":NaN}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":Infinity}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":"\\ud800 and more"}}', "invalid_json"),
        (b'{"custom_id":"\\ud800 and more","url":"/v1/responses","body":{}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":01}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":"\\q"}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":1,}}', "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":"\x01"}}', "invalid_json"),
        (b'{"custom_id":1,"custom_id":"a","url":"/v1/responses","body":{}}', "invalid_json"),
        (b'{"custom_id":"a","params":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "invalid_json"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":"\xff"}}', "invalid_encoding"),
        (b'{"custom_id":"a","url":"/v1/responses","body":{"a":"\xed\xa0\x80"}}', "invalid_encoding"),
        (b'{"custom_id":"a","\xff":1,"url":"/v1/responses","body":{}}', "invalid_encoding"),
        (b'{"custom_id":"\xff","url":"/v1/responses","body":{}}', "invalid_encoding"),
        ('{"custom_id":"a"}'.encode("utf-16"), "invalid_encoding"),
        (b"\0" * 100, "invalid_encoding"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"custom_id"', "not_an_object"),
        (b"{}", "missing_custom_id"),
        (b'{"url":"/v1/responses","body":{}}', "missing_custom_id"),
        (line(custom_id=""), "invalid_custom_id"),
        (line(custom_id=7), "invalid_custom_id"),
        (b'{"custom_id":null,"url":"/v1/responses","body":{}}', "invalid_custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id"),
        (line(custom_id="é" * 257), "invalid_custom_id"),
        (line(method="GET"), "invalid_method"),
        (line(method=1), "invalid_method"),
        (line(url=None), "missing_url"),
        (line(url="/v2/embeddings"), "unknown_url"),
        (line(url=""), "unknown_url"),
        (line(url="/v1/../x"), "unknown_url"),
        (line(url="/v1/search?q=a"), "unknown_url"),
        (line(url="/v1/é"), "unknown_url"),
        (line(url="/v1/" + "x" * 300), "unknown_url"),
        (line(url="/v1/models"), "read_only_url"),
        (line(url="/v1/models/m"), "read_only_url"),
        (line(url="/v1/account/usage"), "read_only_url"),
        (line(url="/v1/jobs/job-1"), "read_only_url"),
        (line(url="/v1/playground/conversations"), "read_only_url"),
        (line(url="/v1/responses", body={"background": True}), "asynchronous_not_supported"),
        (line(url="/v1/responses", body={"background": True}, note="x"), "asynchronous_not_supported"),
        (line(url="/v1/chat/completions/"), "unknown_url"),
        (line(url=["x"]), "unknown_url"),
        (b'{"custom_id":"a","url":"/v1/responses","params":{}}', "unknown_url"),
        (line(body=None), "missing_body"),
        (b'{"custom_id":"a"}', "missing_body"),
        (line(body="text"), "invalid_body"),
        (line(body=[{}]), "invalid_body"),
        (b'{"custom_id":"a","params":[]}', "invalid_body"),
        (line(params={}), "invalid_body"),
        (b'{"custom_id":"a","params":{"stream":1e999}}', "invalid_body"),
        (line(url="/v1/embeddings", body={"stream": True}), "streaming_not_supported"),
        (line(url="/v1/audio/speech", body={"stream": True}), "streaming_not_supported"),
        (line(url="/v1/any/thing", body={"stream": True}), "streaming_not_supported"),
        (b'{"custom_id":"a","url":"/v1/search","body":{"\\u0073tream":true}}', "streaming_not_supported"),
        (line(batchrun={"max_attempts": 0}), "invalid_extras"),
        (line(batchrun={"timeout": 0}), "invalid_extras"),
        (line(batchrun={"priority": 1001}), "invalid_extras"),
        (line(batchrun={"account": ""}), "invalid_extras"),
        (line(batchrun={"retries": 3}), "invalid_extras"),
        (line(batchrun={"timeout": True}), "invalid_extras"),
        (line(batchrun=[]), "invalid_extras"),
    ],
)
def test_a_bad_line_is_named_by_its_code(raw: bytes, code: str) -> None:
    """Each way of being wrong has one code of the closed set."""
    assert code_of(raw) == code


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [True, False, 1, None])
def test_a_text_may_be_asked_for_as_a_stream(url: str, stream: object) -> None:
    """It is put together again; the body goes out as it is written."""
    raw = line(url=url, body={"stream": stream})
    assert check(raw) == "a"
    assert parse(raw).body in raw
    assert check(b'{"custom_id":"a","params":{"stream":true}}') == "a"


@pytest.mark.parametrize(
    ("url", "background"), [("/v1/responses", False), ("/v1/images/generations", "transparent"), ("/v1/any/thing", True)]
)
def test_a_background_that_is_no_wish_to_wait_is_let_through(url: str, background: object) -> None:
    """The word means something else in other shapes."""
    assert check(line(url=url, body={"background": background})) == "a"


@pytest.mark.parametrize(
    "url",
    [
        *("/v1/embeddings", "/v1/completions", "/v1/reranks", "/v1/images/generations", "/v1/any/thing"),
        *sorted(dialect.ASYNCHRONOUS_URLS),
    ],
)
def test_any_sound_url_makes_a_job(url: str) -> None:
    """Below /v1/ whatever a server answers can be asked."""
    assert parse(line(url=url)).url == url
    assert check(line(url=url)) == "a"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://api.example.com/v1/chat/completions", ["--base-url", "/v1/chat/completions"]),
        ("/v1/models", ["read with GET", "take the line out"]),
    ],
)
def test_a_refused_url_is_told_with_a_remedy(url: str, words: list[str]) -> None:
    """What is wrong with it, and what to do."""
    with pytest.raises(BadLineError) as caught:
        parse(line(url=url))
    assert [word for word in [url, *words] if word not in caught.value.message] == []


def test_a_long_url_is_cut_in_the_message() -> None:
    """A message stays readable whatever the line holds."""
    with pytest.raises(BadLineError) as caught:
        parse(line(url="/v1/" + "x" * 10_000))
    assert len(caught.value.message) < 400


def test_control_characters_in_a_custom_id_are_allowed() -> None:
    """They are data; whoever prints them escapes them."""
    assert check(line(custom_id="a\x00\x1b[31m\n")) == "a\x00\x1b[31m\n"


def test_a_custom_id_may_fill_its_limit() -> None:
    """The cap is 512 bytes of UTF-8, whatever the script."""
    assert check(line(custom_id="é" * 256)) == "é" * 256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("custom_id", "url", "method", "body", "params", "batchrun")


@given(st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(["POST", CHAT]), max_size=6), st.booleans())
def test_any_object_is_a_job_or_a_bad_line(fields: dict[str, Any], ascii_only: bool) -> None:
    """No JSON object makes parse raise anything but BadLineError, and check agrees with it."""
    raw = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        parsed = parse(raw)
    except BadLineError as error:
        assert code_of(raw) == error.code  # noqa: PT017 - both ways must agree
    else:
        assert check(raw) == parsed.custom_id == fields["custom_id"]
        assert msgspec.json.decode(parsed.body) == fields["body" if parsed.url == CHAT else "params"]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_job_or_a_bad_line(raw: bytes) -> None:
    """Garbage is refused, never a crash."""
    with pytest.raises(BadLineError):
        parse(raw)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_damaged_line_never_crashes(at: int, damage: bytes) -> None:
    """Any bytes in any place of a good line leave a job or a bad line."""
    good = line(body={"messages": [{"content": "héllo"}]})
    try:
        parse(good[:at] + damage + good[at:])
    except BadLineError as error:
        assert error.code in BadLineCode  # noqa: PT017 - most damage is refused, some leaves a job


def test_lines_come_with_number_and_offset() -> None:
    """LF and CRLF end lines, blank ones count, and the last needs no end."""
    assert read_all(b"a\r\n\n  \r\nbb\nc") == [(1, 0, b"a"), (4, 8, b"bb"), (5, 11, b"c")]


def test_a_byte_order_mark_is_passed_over_at_the_start_alone() -> None:
    """The offset is where the text begins."""
    assert read_all(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n") == [(1, 3, b"a"), (2, 5, b"\xef\xbb\xbfb")]


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_text_has_no_jobs(data: bytes) -> None:
    """Empty input is zero jobs."""
    assert read_all(data) == []


def test_counting_goes_on_from_what_came_before() -> None:
    """Several files make one space of numbers and offsets."""
    reader = LineReader(io.BytesIO(b"a\n\nb\n\n"), offset=100, lines_before=7)
    assert list(reader) == [(8, 100, b"a"), (10, 103, b"b")]
    assert reader.lines == 11


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_line_over_the_limit_is_told_and_passed(bom: bytes) -> None:
    """Its number and offset are known, and the next line is whole."""
    data = bom + b"x" * 9 + b"\n" + b"y" * 10 + b"\n" + b"z" * 1_000_000 + b"\nend"
    start = len(bom)
    assert read_all(data, max_line_bytes=10) == [
        (1, start, b"x" * 9),
        (2, start + 10, OVERLONG),
        (3, start + 21, OVERLONG),
        (4, start + 1_000_022, b"end"),
    ]


def test_an_overlong_last_line_without_end_is_told() -> None:
    """The end of the file ends it."""
    assert read_all(b"x" * 30, max_line_bytes=10) == [(1, 0, OVERLONG)]


LINES = st.lists(st.sampled_from([b"", b" ", b"a", b"abc\r", b"\r", b"0123456789", b"0123456789\r", b"x" * 40, b"\xef\xbb\xbf"]))


@given(LINES, st.booleans(), st.lists(st.integers(1, 50), min_size=1), st.integers(8, 30))
def test_how_the_stream_is_cut_does_not_matter(pieces: list[bytes], ended: bool, sizes: list[int], longest: int) -> None:
    """Any chunking of the same bytes gives the same lines, and each is found again at its offset."""
    data = b"\n".join(pieces) + (b"\n" if ended else b"")
    stream = io.BufferedReader(ByteByByte(data, sizes), 16)
    found = list(LineReader(stream, max_line_bytes=longest))
    assert found == read_all(data, max_line_bytes=longest)

    mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    expected: list[tuple[int, int, Any]] = []
    offset = mark
    for number, whole in enumerate(split(data[mark:]), 1):
        text = whole.rstrip(b"\r\n")
        if len(whole) > longest:
            expected.append((number, offset, OVERLONG))
        elif text.strip():
            expected.append((number, offset, text))
        offset += len(whole)
    assert found == expected


def split(data: bytes) -> list[bytes]:
    """Lines by LF alone, with their ends."""
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def test_a_fingerprint_is_the_same_everywhere() -> None:
    """A resume on another day, in another process, on another machine knows the line again."""
    assert fingerprint(b'{"custom_id":"a"}') == 0x85C1CC878A7CDA07
    program = "from batchrunner.jobfile import fingerprint; print(fingerprint(b'line'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    answer = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, env=environment)
    assert int(answer.stdout) == fingerprint(b"line")


def test_a_fingerprint_has_64_bits_and_sees_any_byte() -> None:
    """Small changes do not go unseen."""
    prints = {fingerprint(b"x" * at + b"y" + b"x" * (99 - at)) for at in range(100)}
    assert len(prints) == 100
    assert all(0 <= value < 1 << 64 for value in prints)


def test_the_limits_are_as_documented() -> None:
    """Other tools prepare files by them."""
    assert (jobfile.MAX_LINE_BYTES, jobfile.MAX_CUSTOM_ID_BYTES) == (33_554_432, 512)
