"""Job file bytes to jobs or bad lines: streaming, bounded in memory, and never an exception that a line can choose.

A line is a job when it is a JSON object in UTF-8 of one of two shapes:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}     OpenAI batch input
    {"custom_id": "a", "params": {...}}                                                    Anthropic, for /v1/messages

`method` may be left out. `url` is a path below `/v1/` that answers a POST at once (`dialect.urls`). A `batchrun` key holds
the line's own wishes (`job.Extras`); other keys are ignored. Where a key stands twice, the last one counts, as in every
common JSON reader. The body is kept byte for byte as written.
Blank lines are counted as lines and otherwise skipped.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from batchrunner import dialect
from batchrunner.job import NO_EXTRAS, Extras
from batchrunner.streaming import STREAMED_URLS

#: a longer line, its end counted in, is a bad line: no server takes such a request, and the bound keeps memory constant
MAX_LINE_BYTES: Final = 32 << 20
#: in UTF-8; enough for any UUID, path or URL that people use as an id, and small enough to print and to put in every record
MAX_CUSTOM_ID_BYTES: Final = 512
#: bounds of a line's own `priority`; what is beyond `job.MAX_STEPS` counts as that
MAX_PRIORITY: Final = 1000

MESSAGES_URL: Final = "/v1/messages"
RESPONSES_URL: Final = "/v1/responses"

_LF: Final = 10
_CHUNK_BYTES: Final = 1 << 18
_FIRST_8_BYTES: Final = struct.Struct("<Q").unpack_from


class BadLineCode(enum.StrEnum):
    """Why a line is no job: a closed set."""

    INVALID_ENCODING = "invalid_encoding"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_CUSTOM_ID = "missing_custom_id"
    INVALID_CUSTOM_ID = "invalid_custom_id"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    INVALID_METHOD = "invalid_method"
    MISSING_URL = "missing_url"
    UNKNOWN_URL = "unknown_url"
    READ_ONLY_URL = "read_only_url"
    ASYNCHRONOUS_NOT_SUPPORTED = "asynchronous_not_supported"
    MISSING_BODY = "missing_body"
    INVALID_BODY = "invalid_body"
    STREAMING_NOT_SUPPORTED = "streaming_not_supported"
    INVALID_EXTRAS = "invalid_extras"
    LINE_TOO_LONG = "line_too_long"


class BadLineError(Exception):
    """A line is no job. `message` says why and what to do; it never quotes the body."""

    def __init__(self, code: BadLineCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Overlong(enum.Enum):
    """Stands for the text of a line over the limit, which is not kept."""

    OVERLONG = "overlong"


OVERLONG: Final = Overlong.OVERLONG
Line = bytes | Literal[Overlong.OVERLONG]


class ParsedLine(msgspec.Struct, frozen=True):
    """What a job line asks for."""

    custom_id: str
    url: str
    #: JSON object, byte for byte as written
    body: bytes
    extras: Extras = NO_EXTRAS


class Head(Protocol):
    """What is known of a job before it is loaded."""

    @property
    def custom_id(self) -> str: ...

    @property
    def batchrun(self) -> Extras | None: ...


class LineStream(Protocol):
    """A buffered binary stream; `io.BufferedReader` and `io.BytesIO` are such."""

    def readline(self, size: int, /) -> bytes:
        """Bytes up to and with the next LF, at most `size`; none only at the end."""
        ...


class LineReader:
    """Iterates over a stream's lines that are not blank, in constant memory.

    Yields (line number, offset, line): the number is 1-based plus `lines_before`; the offset is in bytes, counted from
    `offset`, and is where the line's text begins; the line comes without its end (LF or CRLF), or is OVERLONG. A byte order
    mark at the very start is passed over. After the iteration `lines` is the number of the last line, blank ones counted.
    """

    def __init__(
        self, stream: LineStream, *, offset: int = 0, lines_before: int = 0, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self.lines = lines_before
        self._stream = stream
        self._offset = offset
        self._max = max_line_bytes

    def __iter__(self) -> Iterator[tuple[int, int, Line]]:
        longest = self._max
        readline = self._stream.readline
        number = self.lines
        start = self._offset
        line = readline(longest + 1)
        rest = dialect.without_bom(line)
        if len(rest) < len(line):
            start += len(line) - len(rest)
            line = rest if rest.endswith(b"\n") else rest + readline(longest + 1 - len(rest))
        while line:
            number += 1
            size = len(line)
            if size > longest:
                yield number, start, OVERLONG
                if line[-1] != _LF:
                    size += self._skip_line()
            else:
                text = line.rstrip(b"\r\n")
                if text and not text.isspace():
                    yield number, start, text
            start += size
            line = readline(longest + 1)
        self.lines = number

    def _skip_line(self) -> int:
        """Pass over the rest of a line; its bytes."""
        skipped = 0
        while piece := self._stream.readline(_CHUNK_BYTES):
            skipped += len(piece)
            if piece[-1] == _LF:
                break
        return skipped


def fingerprint(raw: bytes) -> int:
    """64-bit hash of a line without its end: the same in every process and on every machine. SHA-256, cut."""
    first: int = _FIRST_8_BYTES(hashlib.sha256(raw).digest())[0]
    return first


def parse(raw: bytes) -> ParsedLine:
    """The job that a line holds.

    Raises: BadLineError where it holds none. Nothing else, whatever the bytes are.
    """
    custom_id = check(raw)
    line = _decode_slices(raw)
    params = bytes(line.params)
    body = bytes(line.body) if params == b"null" else params
    return ParsedLine(custom_id, line.url or MESSAGES_URL, body, line.batchrun or NO_EXTRAS)


def check(raw: bytes) -> str:
    """The custom_id of a line, found to be a job.

    Raises: BadLineError, exactly where `parse` does.
    """
    return head(raw).custom_id


def head(raw: bytes) -> Head:
    """What a line says beside its request, the line found to be a job; at about half the cost of `parse`.

    Raises: BadLineError, exactly where `parse` does.
    """
    try:
        if not raw.isascii():
            raw.decode()  # the decoder looks into no string that it is not asked for
        plain = _decode_plain(raw)
        _refuse_url(plain.url)
        if plain.body.stream or plain.body.background:
            _refuse_manner(plain.body, plain.url)
        if plain.batchrun is not None:
            _refuse_extras(plain.batchrun)
        return plain  # noqa: TRY300 - the hot path of indexing
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _head_closely(raw)


def _head_closely(raw: bytes) -> Head:
    """`head` for lines that are not of the plainest form, good or bad."""
    try:
        line = _decode_line(raw)
        raw.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _explain(raw) from None
    _refuse_nonsense(line)
    return line


class _Body(msgspec.Struct, gc=False):
    """As much of a body as says whether it can be run."""

    stream: Any = None
    background: Any = None


class _PlainLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A line as most files have it, held to its rules by the decoder itself."""

    #: characters; no encoding of so few takes more bytes than the limit
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOM_ID_BYTES // 4)]
    url: str
    body: _Body
    method: Literal["POST"] = "POST"
    batchrun: Extras | None = None


class _Line(msgspec.Struct, gc=False):
    """Any line whose fields have the right types."""

    custom_id: str
    body: _Body | None = None
    url: str | None = None
    method: str = "POST"
    params: _Body | None = None
    batchrun: Extras | None = None


_NULL: Final = msgspec.Raw(b"null")


class _Slices(msgspec.Struct, gc=False):
    """The same line once more, for the bytes of its body."""

    url: str | None = None
    body: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = _NULL
    batchrun: Extras | None = None


_decode_plain = msgspec.json.Decoder(_PlainLine).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_slices = msgspec.json.Decoder(_Slices).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CUSTOM_ID_REMEDY: Final = f"custom_id must be a string of 1 to {MAX_CUSTOM_ID_BYTES} bytes; give the job a short id of its own."
_URL_REMEDY: Final = f"a path below /v1/, such as /v1/chat/completions, at most {dialect.MAX_URL_BYTES} bytes long"
_EXTRAS_REMEDY: Final = (
    '"batchrun" takes account (a name), priority (an integer, '
    f"-{MAX_PRIORITY} to {MAX_PRIORITY}), max_attempts (1 or more) and timeout (seconds, above 0), and nothing else."
)
#: for a line that is an object but does not fit: field, its type, and what to say where it is of another type
_FIELDS: Final[tuple[tuple[str, Any, BadLineCode, str], ...]] = (
    ("custom_id", msgspec.json.Decoder(str), BadLineCode.INVALID_CUSTOM_ID, _CUSTOM_ID_REMEDY),
    ("method", msgspec.json.Decoder(str), BadLineCode.INVALID_METHOD, 'method must be "POST".'),
    (
        "url",
        msgspec.json.Decoder(str | None),
        BadLineCode.UNKNOWN_URL,
        f"url must be a string: {_URL_REMEDY}.",
    ),
    ("body", msgspec.json.Decoder(_Body | None), BadLineCode.INVALID_BODY, "body must be a JSON object: the request to send."),
    (
        "params",
        msgspec.json.Decoder(_Body | None),
        BadLineCode.INVALID_BODY,
        "params must be a JSON object: the request to send.",
    ),
    ("batchrun", msgspec.json.Decoder(Extras | None), BadLineCode.INVALID_EXTRAS, _EXTRAS_REMEDY),
)


def _refuse_nonsense(line: _Line) -> None:
    """Raise BadLineError where a line of the right types asks for what cannot be done."""
    if not line.custom_id or len(line.custom_id.encode()) > MAX_CUSTOM_ID_BYTES:
        raise BadLineError(BadLineCode.INVALID_CUSTOM_ID, _CUSTOM_ID_REMEDY)
    if line.method != "POST":
        raise BadLineError(BadLineCode.INVALID_METHOD, f'method is {_short(line.method)}; only "POST" can be run.')
    body = line.params or line.body
    if body is None:
        raise BadLineError(
            BadLineCode.MISSING_BODY,
            'the line has no request: add it under "body" (with a "url"), or under "params" for messages.',
        )
    if line.params is not None:
        if line.body is not None:
            raise BadLineError(BadLineCode.INVALID_BODY, "the line has both body and params; keep the one that is meant.")
        if line.url not in (None, MESSAGES_URL):
            raise BadLineError(
                BadLineCode.UNKNOWN_URL, f"params goes with {MESSAGES_URL} alone; use body for {_short(line.url or '')}."
            )
    elif line.url is None:
        raise BadLineError(BadLineCode.MISSING_URL, f"the line has no url; add {_URL_REMEDY}.")
    else:
        _refuse_url(line.url)
    _refuse_manner(body, line.url)
    if line.batchrun is not None:
        _refuse_extras(line.batchrun)


def _refuse_extras(extras: Extras) -> None:
    """Raise BadLineError where a line's own wishes cannot be met by anyone."""
    if not (
        extras.account != ""
        and abs(extras.priority or 0) <= MAX_PRIORITY
        and (extras.max_attempts is None or extras.max_attempts >= 1)
        and (extras.timeout is None or extras.timeout > 0)
    ):
        raise BadLineError(BadLineCode.INVALID_EXTRAS, _EXTRAS_REMEDY)


@functools.lru_cache(maxsize=64)  # a file asks few urls, on many lines; a refusal is not kept
def _refuse_url(url: str) -> None:
    """Raise BadLineError where no batch can be made of a url."""
    if not dialect.is_sound(url):
        message = (
            f"url {_short(url)} cannot be asked; it must be {_URL_REMEDY}: no host (--base-url names it), no query, no "
            'fragment, no part that is empty, "." or "..", and percent-encoded where it is not plain ASCII.'
        )
        raise BadLineError(BadLineCode.UNKNOWN_URL, message)
    if dialect.is_read_only(url):
        message = f"{url} is read with GET, and takes no request as a batch sends them; take the line out."
        raise BadLineError(BadLineCode.READ_ONLY_URL, message)


def _refuse_manner(body: _Body, url: str | None) -> None:
    """Raise BadLineError where a body asks to be answered in pieces, or later."""
    if body.stream and (url or MESSAGES_URL) not in STREAMED_URLS:
        message = f'the body asks for a stream, which {_short(url or "")} has none of that we can read; remove "stream" from it.'
        raise BadLineError(BadLineCode.STREAMING_NOT_SUPPORTED, message)
    if body.background is True and url == RESPONSES_URL:
        message = (
            'the body asks for an answer in the background, and would be given an id to poll; remove "background" from it: '
            "results are whole answers."
        )
        raise BadLineError(BadLineCode.ASYNCHRONOUS_NOT_SUPPORTED, message)


def _explain(raw: bytes) -> BadLineError:
    """Why a line could not be decoded."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return BadLineError(
            BadLineCode.INVALID_ENCODING, f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8."
        )
    if "\0" in text:
        return BadLineError(
            BadLineCode.INVALID_ENCODING,
            "holds NUL bytes: the file is UTF-16, or was damaged; save it as UTF-8, or restore it.",
        )
    try:
        fields = _decode_fields(raw)
    except msgspec.ValidationError:
        return BadLineError(BadLineCode.NOT_AN_OBJECT, 'a job is a JSON object on one line: {"custom_id": ..., "body": {...}}.')
    except msgspec.DecodeError as error:
        return BadLineError(BadLineCode.INVALID_JSON, f"{error}; write each job as one line of strict JSON.")
    except RecursionError:
        return BadLineError(BadLineCode.INVALID_JSON, "nests too deeply to be read; flatten the request.")
    if "custom_id" not in fields:
        return BadLineError(BadLineCode.MISSING_CUSTOM_ID, "the line has no custom_id; give each job an id of its own.")
    for name, decoder, code, remedy in _FIELDS:
        if name in fields:
            try:
                decoder.decode(fields[name])
            except (msgspec.DecodeError, RecursionError):
                return BadLineError(code, remedy)
    return BadLineError(BadLineCode.INVALID_JSON, "says the same key more than once, with values that differ in type; keep one.")


def _short(text: str) -> str:
    """Text of a line for a message: escaped, and not long."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
