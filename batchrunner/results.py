r"""The lines of results.jsonl and errors.jsonl: OpenAI's batch output lines, one for each job that has ended.

    {"id":"RUN-FINGERPRINT-ATTEMPT","custom_id":"...","response":{"status_code","request_id","body"},"error":null}

`id` carries what recovery needs to know a line by itself: the run, the 64-bit fingerprint of the job's line in 16 hex
digits, and the ordinal of the send (0: never sent). A server's body stands in it byte for byte where it is JSON, with line
breaks between tokens turned to spaces; any other answer stands there as a JSON string, so that every line is valid JSON.

Lines are read by their own fixed beginning and not by a parser: a body may hold what strict parsers refuse (`"\ud800"`),
and reading must not cost more than the disk does.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from batchrunner.dialect import is_json, on_one_line, without_bom
from batchrunner.exchange import Reply
from batchrunner.job import BadLine

REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id")

_ID = re.compile(r"(?P<run>.+)-(?P<fingerprint>[0-9a-f]{16})-(?P<attempt>0|[1-9][0-9]{0,17})")
_STRING = rb'"(?:[^"\\\x00-\x1f]|\\.)*"'
_BEGINNING = re.compile(rb'\{"id":(?P<id>' + _STRING + rb'),"custom_id":(?P<custom_id>' + _STRING + rb"|null),")
_RESPONSE = re.compile(rb'"response":\{"status_code":(?P<status>[0-9]{3}),"request_id":(?:' + _STRING + rb'|null),"body":')
_SUCCESS_END = b'},"error":null}\n'

_encode = msgspec.json.Encoder().encode


class LineId(msgspec.Struct, frozen=True):
    """What a line's `id` says."""

    run_id: str
    fingerprint: int
    attempt: int


class _ErrorOnly(msgspec.Struct):
    error: dict[str, object] | None = None


class FinalLine(msgspec.Struct, frozen=True):
    """The beginning of a whole line of results.jsonl or errors.jsonl, and the line itself."""

    id: str
    #: None for a line of the input that is no job
    custom_id: str | None
    raw: bytes
    #: where `response` begins in `raw`
    rest: int

    def status_code(self) -> int | None:
        """The status of the server's answer; None where none came."""
        found = _RESPONSE.match(self.raw, self.rest)
        return None if found is None else int(found["status"])

    def answer(self) -> bytes | None:
        """The body of a success, as written; None where the line is not one."""
        found = _RESPONSE.match(self.raw, self.rest)
        if found is None or not self.raw.endswith(_SUCCESS_END):
            return None
        return self.raw[found.end() : -len(_SUCCESS_END)]

    def error_code(self) -> str | None:
        """The code under `error`, where there is one."""
        try:
            error = msgspec.json.decode(self.raw, type=_ErrorOnly).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return str(error["code"]) if error and "code" in error else None


def make_id(run_id: str, fingerprint: int, attempt: int) -> str:
    """The `id` of a job's final line."""
    return f"{run_id}-{fingerprint:016x}-{attempt}"


def parse_id(text: str) -> LineId | None:
    """What an `id` says, or None where it is not a job's."""
    found = _ID.fullmatch(text)
    return None if found is None else LineId(found["run"], int(found["fingerprint"], 16), int(found["attempt"]))


def bad_line_id(run_id: str, line: int) -> str:
    """The `id` of a line that is no job. `parse_id` does not take it for a job's: `line` is not hexadecimal."""
    return f"{run_id}-line-{line}"


def success_line(run_id: str, custom_id: str, fingerprint: int, attempt: int, reply: Reply) -> bytes:
    """The line of results.jsonl for a success, with its end."""
    return _line(make_id(run_id, fingerprint, attempt), custom_id, _response(reply), b"null")


def failure_line(
    run_id: str, custom_id: str, fingerprint: int, attempt: int, *, code: str, message: str, reply: Reply | None = None
) -> bytes:
    """The line of errors.jsonl for a failure, with its end. With the server's answer in `response`, where one came."""
    response = b"null" if reply is None else _response(reply)
    return _line(make_id(run_id, fingerprint, attempt), custom_id, response, _error(code, message))


def bad_line(run_id: str, bad: BadLine) -> bytes:
    """The line of errors.jsonl for a line of the input that is no job, with its end."""
    identity = _encode(bad_line_id(run_id, bad.line))
    error = _error(bad.code, bad.message)
    return b'{"id":%b,"custom_id":null,"line":%d,"response":null,"error":%b}\n' % (identity, bad.line, error)


def read_line(raw: bytes) -> FinalLine | None:
    """Read a whole line (with its end) by its beginning; None where it is not one of ours. The rest is not looked at."""
    if not raw.endswith(b"}\n"):
        return None
    found = _BEGINNING.match(raw)
    if found is None:
        return None
    try:
        identity = msgspec.json.decode(found["id"], type=str)
        custom_id = msgspec.json.decode(found["custom_id"], type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return FinalLine(identity, custom_id, raw, found.end())


def request_id(reply: Reply) -> str | None:
    """The server's own name for the exchange, from its headers."""
    return next((value for name in REQUEST_ID_HEADERS if (value := reply.header(name)) is not None), None)


def clean(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()


def _line(identity: str, custom_id: str, response: bytes, error: bytes) -> bytes:
    return b'{"id":%b,"custom_id":%b,"response":%b,"error":%b}\n' % (_encode(identity), _encode(custom_id), response, error)


def _response(reply: Reply) -> bytes:
    server_id = request_id(reply)
    named = b"null" if server_id is None else _encode(clean(server_id))
    return b'{"status_code":%d,"request_id":%b,"body":%b}' % (reply.status, named, _embedded(reply.body))


def _embedded(body: bytes) -> bytes:
    body = without_bom(body)
    return on_one_line(body) if is_json(body) else _encode(body.decode("utf-8", "replace"))


def _error(code: str, message: str) -> bytes:
    return _encode({"code": clean(code), "message": clean(message)})
