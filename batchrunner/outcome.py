"""What an exchange means for its job, its key and its account. Pure; first by `error.code`, then by status.

    2xx, whole JSON                           Done; an error in place of an answer: as below, by its code
    2xx, anything else                        Failed: paid for perhaps, and repeating would pay again
    429, rate_limit_exceeded                  Refused: the account's wait, no attempt spent
    401                                       SuspendKey
    402, insufficient_quota, no credits       StopAccount
    408 409 5xx, no whole response            Again, with full-jitter exponential backoff; `exhausted` once attempts are spent
    400 403 404 413 422, other 3xx and 4xx    Failed, in the server's words

`Again.blames` says whose circuit breaker a row counts for; `Failed.permanent` is what `SameError` halts a run by.
"""

from __future__ import annotations

import enum
import random

import msgspec

from batchrunner.dialect import Dialect, ReplyFacts, without_bom
from batchrunner.dialect.facts import mapping, read_object
from batchrunner.events import AttemptResult, Billing
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.retry_after import retry_after_ns

NS = 1_000_000_000
BACKOFF_BASE_NS = 1 * NS
BACKOFF_CAP_NS = 60 * NS
#: a server that fails may say for how long; what is longer is asked again
LONGEST_HINT_NS = 300 * NS
#: Words of a server are kept up to this length in messages; the whole answer stands in `errors.jsonl`.
MESSAGE_MAX_CHARACTERS = 500

NO_CREDITS_CODES = frozenset({"insufficient_credits", "insufficient_quota", "billing_hard_limit_reached"})
NO_CREDITS_WORDS = "credit balance is too low"
KEY_CODES = frozenset({"missing_api_key", "invalid_api_key"})
RATE_CODES = frozenset({"rate_limit_exceeded"})
MODEL_CODES = frozenset({"model_unavailable", "upstream_error"})
#: Limits that no waiting of ours lifts, and what does not exist: these fail the job, also where they come as a 429.
PERMANENT_CODES = frozenset({"gpu_limit_exceeded", "agent_limit_reached", "model_not_found"})
#: What a limit of the account means that shows as an error and nowhere else.
LIMITS_OF_THE_ACCOUNT = {
    "gpu_limit_exceeded": "the account has all the GPUs of GPU Cloud that it may have, 10 unless support has raised it",
    "agent_limit_reached": "the account has all the hosted agents that it may have, 3 unless support has raised it",
}
_FREE_ONE = "waiting does not lift it: free one, then --retry-failed"
#: An earlier request under the same Idempotency-Key is still being worked on: its answer is there for the asking later on.
IN_USE_CODES = frozenset({"idempotency_key_in_use"})
IN_USE_WAIT_NS = 10 * NS
#: Statuses after which the work may have been done, and billed, all the same.
PERHAPS_WORKED_STATUSES = frozenset({408, 504})
RETRIED_STATUSES = frozenset({408, 409})
#: What Anthropic's words for an error, which are all that its envelope has for a code, mean where the status does not say it.
STATUSES_OF_TYPES = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

TIMEOUTS = frozenset(
    {
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.WRITE_TIMEOUT,
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.BETWEEN_BYTES_TIMEOUT,
        FailureKind.ATTEMPT_TIMEOUT,
    }
)
NO_CONNECTION = frozenset({FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT})
#: Failures that another attempt will not mend.
PERMANENT_FAILURES = frozenset({FailureKind.TOO_LARGE, FailureKind.COMPRESSED})


class Blame(enum.Enum):
    """Whose breaker a failure counts for."""

    MODEL = "model"
    SERVER = "server"
    NOBODY = "nobody"


class ServerError(msgspec.Struct, frozen=True):
    """What an error body says: either may be missing."""

    code: str | None = None
    message: str | None = None


class Done(msgspec.Struct, frozen=True):
    """The job has its answer."""

    facts: ReplyFacts


class Failed(msgspec.Struct, frozen=True):
    """The job ends without an answer that can be used."""

    code: str
    message: str
    result: AttemptResult
    billing: Billing
    #: the server would say the same to every job like it; spent attempts are not
    permanent: bool


class Again(msgspec.Struct, frozen=True):
    """Another attempt after a backoff."""

    after_ns: int
    code: str
    message: str
    result: AttemptResult
    billing: Billing
    blames: Blame
    #: counts toward the job's attempts
    spends: bool = True
    #: waits for the retry budget; what is sent back through no fault of its own does not
    repeats: bool = True
    #: the server has said that nothing came of its work. 429, 401 and the like say nothing of the work, which an earlier
    #: request may have begun
    in_vain: bool = False
    #: need not count if it proves to have been part of an outage. A timeout may have been billed, and be the job's own doing:
    #: it would be paid for without end.
    refundable: bool = True


class Refused(msgspec.Struct, frozen=True):
    """429. The job keeps its place."""

    retry_after_ns: int | None
    message: str


class StopAccount(msgspec.Struct, frozen=True):
    """No credits: nothing of this account can succeed until somebody pays."""

    message: str


class SuspendKey(msgspec.Struct, frozen=True):
    """The key is refused; another one of the account may be good."""

    message: str


Outcome = Done | Failed | Again | Refused | StopAccount | SuspendKey


class Tries(msgspec.Struct, frozen=True):
    """How often a job has been tried: `spent` counts the attempt being judged."""

    spent: int
    max: int
    #: it was sent again already because a kept-alive connection had gone stale
    stale_before: bool = False


#: The same permanent error as each of the first answers, or so many in a row, says that something is wrong with all jobs.
HALT_AT_FIRST = 20
HALT_IN_A_ROW = 100


class SameError:
    """Sees when every answer is the same permanent error: a wrong model must not burn a file of a million lines."""

    def __init__(self) -> None:
        self._answers = 0
        self._code: str | None = None
        self._in_a_row = 0

    def note(self, verdict: Done | Failed) -> bool:
        """Take in what came of a job; whether the run should stop. What is not permanent says nothing either way."""
        if isinstance(verdict, Failed) and not verdict.permanent:
            return False
        code = verdict.code if isinstance(verdict, Failed) else None
        self._answers += 1
        self._in_a_row = self._in_a_row + 1 if code is not None and code == self._code else int(code is not None)
        self._code = code
        return self._in_a_row >= HALT_IN_A_ROW or self._in_a_row == self._answers == HALT_AT_FIRST


def let_in(reply: Reply | None) -> bool:
    """Whether the limiter let a request pass: an answer to the request itself shows it; an overload or silence does not."""
    return reply is not None and reply.status < 500 and reply.status != 408


def classify(result: Reply | Failure, dialect: Dialect, attempts: Tries, rng: random.Random, wall_ns: int) -> Outcome:
    """Judge one exchange.

    `rng` draws the backoff's jitter; `wall_ns` turns a Retry-After date into a duration where the reply has no Date.
    """
    if isinstance(result, Failure):
        return _judge_failure(result, attempts, rng)
    if 200 <= result.status < 300:
        facts = dialect.read(result.body)
        if facts is not None and facts.usage is None and _is_error(result.body):
            return _judge_error(result, attempts, rng, wall_ns)
        if facts is not None:
            return Done(facts)
        message = f"the answer (status {result.status}, {len(result.body)} bytes) is not JSON"
        return Failed("unreadable_reply", message, AttemptResult.INVALID, Billing.MAYBE, permanent=False)
    return _judge_error(result, attempts, rng, wall_ns)


def _judge_error(reply: Reply, attempts: Tries, rng: random.Random, wall_ns: int) -> Outcome:
    """The server answered, and not with success. Where its status promised one, the attempt may have been billed."""
    error = read_error(reply.body)
    message = error.message or f"the server answered with status {reply.status}"
    promised = 200 <= reply.status < 300
    status = _status_meant(error.code or "", reply.status) if promised else reply.status
    billing = Billing.MAYBE if promised or status in PERHAPS_WORKED_STATUSES else Billing.NOT
    if status == 402 or error.code in NO_CREDITS_CODES or NO_CREDITS_WORDS in message.lower():
        return StopAccount(message)
    if status == 401 or error.code in KEY_CODES:
        return SuspendKey(message)
    code = error.code or f"http_{reply.status}"
    if error.code in PERMANENT_CODES:
        if error.code in LIMITS_OF_THE_ACCOUNT:
            message = f"{message} ({LIMITS_OF_THE_ACCOUNT[error.code]}; {_FREE_ONE})"
        return Failed(code, message, AttemptResult.INVALID, billing, permanent=True)
    if status == 429 or error.code in RATE_CODES:
        return Refused(retry_after_ns(reply, wall_ns), message)
    if error.code in IN_USE_CODES:
        after_ns = int(rng.uniform(0.5, 1.5) * IN_USE_WAIT_NS)
        return Again(
            after_ns,
            code,
            message,
            AttemptResult.SERVER_ERROR,
            billing,
            Blame.NOBODY,
            spends=False,
            repeats=False,
            refundable=False,
        )
    if status in RETRIED_STATUSES or status >= 500 or error.code in MODEL_CODES:
        blames = Blame.MODEL if error.code in MODEL_CODES else Blame.SERVER
        if status == 409:
            blames = Blame.NOBODY
        result = AttemptResult.TIMEOUT if status == 408 else AttemptResult.SERVER_ERROR
        after_ns = max(backoff_ns(attempts.spent, rng), min(retry_after_ns(reply, wall_ns) or 0, LONGEST_HINT_NS))
        nothing_done = billing is Billing.NOT
        in_vain = nothing_done and status != 409
        return Again(after_ns, code, message, result, billing, blames, refundable=nothing_done, in_vain=in_vain)
    return Failed(code, message, AttemptResult.INVALID, billing, permanent=True)


def _status_meant(code: str, status: int) -> int:
    """What an error would have come with, had success not been promised: some servers say it in the place of a code."""
    if len(code) == 3 and code.isdecimal() and 400 <= int(code) < 600:
        return int(code)
    return STATUSES_OF_TYPES.get(code, status)


def _judge_failure(failure: Failure, attempts: Tries, rng: random.Random) -> Outcome:
    """No whole response came."""
    code = failure.kind.value
    billing = Billing.MAYBE if failure.sent else Billing.NOT
    result = AttemptResult.TIMEOUT if failure.kind in TIMEOUTS else AttemptResult.NETWORK
    if failure.kind in PERMANENT_FAILURES:
        return Failed(code, failure.message, AttemptResult.INVALID, billing, permanent=False)
    if failure.kind is FailureKind.STALE and not attempts.stale_before:
        # The server closed an idle connection just as we used it: as a rule it never read the request.
        return Again(0, code, failure.message, result, billing, Blame.NOBODY, spends=False, repeats=False)
    if failure.kind in NO_CONNECTION:
        # The server was away, and the job had nothing to do with it: nothing was sent, and no attempt is spent.
        after_ns = backoff_ns(attempts.spent, rng)
        return Again(after_ns, code, failure.message, result, billing, Blame.SERVER, spends=False, repeats=False)
    refundable = failure.kind not in TIMEOUTS
    after_ns = backoff_ns(attempts.spent, rng)
    return Again(after_ns, code, failure.message, result, billing, Blame.SERVER, refundable=refundable)


def exhausted(verdict: Again, attempts: Tries) -> Failed | None:
    """The end of a job whose attempt was its last; None where it has more."""
    if attempts.spent < attempts.max:
        return None
    over = attempts.spent > attempts.max
    count = f"after {attempts.spent} attempts" if over else f"attempt {attempts.spent} of {attempts.max}"
    return Failed(verdict.code, f"{verdict.message} ({count})", verdict.result, verdict.billing, permanent=False)


def backoff_ns(spent: int, rng: random.Random) -> int:
    """Full jitter: uniform between nothing and 1 s doubled with each attempt, 60 s at most. `spent` >= 1."""
    ceiling = min(BACKOFF_CAP_NS, BACKOFF_BASE_NS << min(spent - 1, 16))
    return int(rng.random() * ceiling)


#: what may stand beside an error that is a text, and is no answer
_OF_AN_ERROR = frozenset(
    {"error", "message", "detail", "code", "type", "status", "status_code", "request_id", "path", "timestamp"}
)


class _ErrorBody(msgspec.Struct):
    error: dict[str, object] | str | None = None
    message: object = None
    detail: object = None
    id: object = None


_ERROR_BODY = msgspec.json.Decoder(_ErrorBody)


def read_error(body: bytes) -> ServerError:
    """Code and message of an error body, in OpenAI's, Anthropic's or a proxy's spelling. Empty where it is none of them."""
    decoded = _envelope(body)
    match decoded.error:
        case dict() as error:
            code = _text(error.get("code")) or _text(error.get("type"))
            return ServerError(code, _text(error.get("message")))
        case str() as message:
            return ServerError(None, _text(message))
        case _:
            return ServerError(None, _text(decoded.message) or _text(decoded.detail))


def _is_error(body: bytes) -> bool:
    """Whether this is an error's envelope and no answer: what some proxies send once they have promised 200.

    An answer has an `id` of its own, also one that tells of an error in it (a response whose status is `failed`). An error that
    is a text may be a part of any answer, unless there is nothing else.
    """
    decoded = _envelope(body)
    if decoded.id is not None:
        return False
    if isinstance(decoded.error, str):
        return bool(decoded.error) and mapping(read_object(body)).keys() <= _OF_AN_ERROR
    words = decoded.error or {}
    return any(_text(words.get(name)) for name in ("code", "type", "message"))


def _envelope(body: bytes) -> _ErrorBody:
    """An error's body; an empty one where it is nothing of the kind."""
    try:
        return _ERROR_BODY.decode(without_bom(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ErrorBody()


def _text(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value[:MESSAGE_MAX_CHARACTERS] if isinstance(value, str) and value else None
