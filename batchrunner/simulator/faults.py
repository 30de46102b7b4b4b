"""What can go wrong with a request, and whether it is billed all the same.

| kind | what the client sees | billed |
| --- | --- | --- |
| ok | the answer | yes |
| slow, drip | the answer: after ten times the latency; in small pieces with pauses between them | yes |
| **refused at the door** | | |
| rate_limited, html429 | 429, though the windows had room; the same from a proxy, as bare HTML | no |
| overloaded | 529 | no |
| error400, error403, error413, error422 | 400, 403, 413, 422 | no |
| error409 | 409: another request is in the way | no |
| html413 | 413 from a proxy, as bare HTML | no |
| missing_key, invalid_key | 401 `missing_api_key`, 401 `invalid_api_key` | no |
| no_credits | 402 `insufficient_credits` | no |
| unknown_model | 404 `model_not_found` | no |
| gpu_limit, agent_limit | 429 `gpu_limit_exceeded`, 403 `agent_limit_reached` | no |
| **failed at work** | | |
| error500 | 500 | no |
| upstream_error, model_unavailable | 502 `upstream_error`, 503 `model_unavailable` | no |
| html, html503 | 502, 503 from a proxy, as bare HTML | no |
| error408, error504, html504 | 408, 504, 504 as bare HTML: the work may have been done | one in two |
| **no answer** | | |
| silent | nothing, ever, until one side hangs up | one in two |
| reset_before | the connection is reset before any byte of the answer | one in two |
| closed_before | the request is read, and the connection closed in order without a byte | one in two |
| **half an answer** | | |
| reset_headers, reset_body | the connection is reset within the head, within the body | yes |
| truncated | half of the body that `content-length` promised, then an orderly end | yes |
| long_length | all of the body, though `content-length` promised more, then nothing | yes |
| short_length | all of the body, though `content-length` promised half: the rest stands in the next answer's place | yes |
| stream_cut | half of a stream's events (of the body, where it is none) in chunks, then an end as if that were all | yes |
| stream_stalls | the same, then nothing | yes |
| stream_error | half of a stream's events, then an error's, `upstream_error`; of what is no stream all | yes |
| **an answer without end** | | |
| endless, endless_length | a body in chunks as fast as it is read; one that `content-length` calls a terabyte | yes |
| endless_drip | a body in chunks of a byte every second | yes |
| oversize, oversize_chunked | the answer, and blanks up to one byte more than 64 MiB: with a length, in chunks | yes |
| **work that is asked for** | | |
| job_failed | it ends as `failed`, with `upstream_error`; of what is answered at once, nothing | yes |
| job_gone | it is forgotten the moment that it ends: 404; of what is answered at once, nothing | yes |
| **no sense** | | |
| garbage, empty, html200 | 200 with a body that is no JSON, with none, with a page of HTML | yes |
| gzip | 200 with a body that was not to be compressed: a megabyte that unpacks to a gigabyte | yes |
| garbage_headers | a status line, then headers that are none | yes |
| **a connection that does not last** | | |
| closes_idle | the answer; then the connection is closed, though it was to be kept | yes |
| stale | the answer; the connection is reset at the first byte of the next request, which is not read | yes |

What is refused at the door comes at once, and no window counts it. All others take the usual time, and count as accepted.
"""

from __future__ import annotations

import enum

import msgspec


class Delivery(enum.Enum):
    """How an answer leaves the server."""

    WHOLE = enum.auto()
    DRIP = enum.auto()
    CLOSES_IDLE = enum.auto()
    STALE = enum.auto()
    OVERSIZE = enum.auto()
    OVERSIZE_CHUNKED = enum.auto()
    SILENT = enum.auto()
    RESET_BEFORE = enum.auto()
    RESET_HEADERS = enum.auto()
    RESET_BODY = enum.auto()
    CLOSED_BEFORE = enum.auto()
    TRUNCATED = enum.auto()
    LONG_LENGTH = enum.auto()
    SHORT_LENGTH = enum.auto()
    ENDLESS = enum.auto()
    ENDLESS_DRIP = enum.auto()
    ENDLESS_LENGTH = enum.auto()
    GARBAGE_HEADERS = enum.auto()
    STREAM_CUT = enum.auto()
    STREAM_STALLS = enum.auto()
    STREAM_ERROR = enum.auto()


#: ways in which all of an answer comes
WHOLE = frozenset(
    {Delivery.WHOLE, Delivery.DRIP, Delivery.CLOSES_IDLE, Delivery.STALE, Delivery.OVERSIZE, Delivery.OVERSIZE_CHUNKED}
)


class Content(enum.Enum):
    """What an answer consists of."""

    COMPLETION = enum.auto()
    ERROR = enum.auto()
    GARBAGE = enum.auto()
    EMPTY = enum.auto()
    HTML = enum.auto()
    GZIP = enum.auto()


class Fate(enum.Enum):
    """What becomes of work that is asked for later."""

    SUCCEEDS = enum.auto()
    FAILS = enum.auto()
    FORGOTTEN = enum.auto()


class Bill(enum.Enum):
    """Whether the platform charges for a request that ended so."""

    NEVER = enum.auto()
    ALWAYS = enum.auto()
    HALF = enum.auto()  # one in two, drawn by seed and order of arrival


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One way for a request to end; see the table above."""

    kind: str
    bill: Bill = Bill.NEVER
    content: Content = Content.COMPLETION
    delivery: Delivery = Delivery.WHOLE
    status: int = 200
    code: str = ""
    message: str = ""
    at_door: bool = False
    fate: Fate = Fate.SUCCEEDS
    latency_factor: float = 1.0


def _refused(kind: str, status: int, code: str, message: str) -> Fault:
    return Fault(kind=kind, content=Content.ERROR, status=status, code=code, message=message, at_door=True)


def _failed(kind: str, status: int, code: str, message: str, bill: Bill = Bill.NEVER) -> Fault:
    return Fault(kind=kind, content=Content.ERROR, status=status, code=code, message=message, bill=bill)


def _html(kind: str, status: int, *, at_door: bool = False, bill: Bill = Bill.NEVER) -> Fault:
    return Fault(kind=kind, content=Content.HTML, status=status, at_door=at_door, bill=bill)


def _paid(kind: str, delivery: Delivery = Delivery.WHOLE, content: Content = Content.COMPLETION) -> Fault:
    return Fault(kind=kind, content=content, delivery=delivery, bill=Bill.ALWAYS)


def _unanswered(kind: str, delivery: Delivery) -> Fault:
    return Fault(kind=kind, delivery=delivery, bill=Bill.HALF)


OK = _paid("ok")

_ALL = (
    OK,
    Fault(kind="slow", bill=Bill.ALWAYS, latency_factor=10.0),
    _paid("drip", Delivery.DRIP),
    _refused("rate_limited", 429, "rate_limit_exceeded", "Rate limit exceeded. Try again later."),
    _html("html429", 429, at_door=True),
    _refused("overloaded", 529, "overloaded", "Overloaded. Try again later."),
    _refused("error400", 400, "invalid_request", "The request is not valid."),
    _refused("error403", 403, "permission_denied", "This key must not do that."),
    _refused("error409", 409, "conflict", "Another request is in the way. Try again."),
    _refused("error413", 413, "request_too_large", "The request is too large."),
    _refused("error422", 422, "unprocessable", "The request cannot be processed."),
    _html("html413", 413, at_door=True),
    _refused("missing_key", 401, "missing_api_key", "Send the API key as a bearer token or as x-api-key."),
    _refused("invalid_key", 401, "invalid_api_key", "The API key is not valid."),
    _refused("no_credits", 402, "insufficient_credits", "The account needs credits."),
    _refused("unknown_model", 404, "model_not_found", "The model does not exist or is not available."),
    _refused("gpu_limit", 429, "gpu_limit_exceeded", "All GPUs of the account are in use."),
    _refused("agent_limit", 403, "agent_limit_reached", "The account has all the agents that it may have."),
    _failed("error500", 500, "internal_error", "Something went wrong."),
    _failed("upstream_error", 502, "upstream_error", "The model's provider failed."),
    _failed("model_unavailable", 503, "model_unavailable", "The model is offline. Try again shortly."),
    _html("html", 502),
    _html("html503", 503),
    _failed("error408", 408, "request_timeout", "The request took too long.", Bill.HALF),
    _failed("error504", 504, "gateway_timeout", "The model took too long.", Bill.HALF),
    _html("html504", 504, bill=Bill.HALF),
    _unanswered("silent", Delivery.SILENT),
    _unanswered("reset_before", Delivery.RESET_BEFORE),
    _unanswered("closed_before", Delivery.CLOSED_BEFORE),
    _paid("reset_headers", Delivery.RESET_HEADERS),
    _paid("reset_body", Delivery.RESET_BODY),
    _paid("truncated", Delivery.TRUNCATED),
    _paid("long_length", Delivery.LONG_LENGTH),
    Fault(kind="job_failed", bill=Bill.ALWAYS, fate=Fate.FAILS),
    Fault(kind="job_gone", bill=Bill.ALWAYS, fate=Fate.FORGOTTEN),
    _paid("stream_cut", Delivery.STREAM_CUT),
    _paid("stream_stalls", Delivery.STREAM_STALLS),
    _paid("stream_error", Delivery.STREAM_ERROR),
    _paid("short_length", Delivery.SHORT_LENGTH),
    _paid("endless", Delivery.ENDLESS),
    _paid("endless_length", Delivery.ENDLESS_LENGTH),
    _paid("endless_drip", Delivery.ENDLESS_DRIP),
    _paid("oversize", Delivery.OVERSIZE),
    _paid("oversize_chunked", Delivery.OVERSIZE_CHUNKED),
    _paid("garbage", content=Content.GARBAGE),
    _paid("empty", content=Content.EMPTY),
    _paid("html200", content=Content.HTML),
    _paid("gzip", content=Content.GZIP),
    _paid("garbage_headers", Delivery.GARBAGE_HEADERS),
    _paid("closes_idle", Delivery.CLOSES_IDLE),
    _paid("stale", Delivery.STALE),
)

KINDS: dict[str, Fault] = {fault.kind: fault for fault in _ALL}


def kind_named(kind: str) -> Fault:
    """Raises: ValueError, naming the kinds that there are."""
    if kind not in KINDS:
        raise ValueError(f"no such kind of fault: {kind!r}. There are: {', '.join(KINDS)}.")
    return KINDS[kind]


def check_rates(rates: dict[str, float]) -> None:
    """Raises: ValueError where a kind does not exist or the probabilities are none."""
    for kind, rate in rates.items():
        kind_named(kind)
        if not 0 <= rate <= 1:
            raise ValueError(f"{kind}={rate}: a probability lies between 0 and 1.")
    if sum(rates.values()) > 1 + 1e-9:
        raise ValueError("the probabilities of all faults add up to more than 1.")
