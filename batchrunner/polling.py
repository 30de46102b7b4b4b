"""Work that a server takes on and is asked for: its id, what it says of it each time, and when to ask next. Pure.

A submission's answer names the job (`job_id`) and, as a rule, where to ask (a polling URL). Only that URL's path is used, and
only where it is the same server's: a key never goes to another. Else it is asked at the documented `/v1/jobs/{job_id}`.

Of the answer to a question, `completed` and `succeeded` are final, with the result under `result`, `output` or `data`; so is
`failed`; every other word means that it is being worked on. A result is kept for an hour.

    2xx, final                                 as an answer; what failed is judged by its error's code, as if it had come with it
    2xx, any other status                      Waiting
    404, 410                                   Missing: for a minute it has expired, and what was paid for is lost
    401 402 429                                as for any request
    408 409 5xx, no whole answer, no JSON      Unanswered: asked again, at no attempt's cost
    other 3xx and 4xx                          Failed, perhaps billed
"""

from __future__ import annotations

import json
import random
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from batchrunner import dialect, outcome
from batchrunner.dialect import Dialect
from batchrunner.dialect.facts import mapping, read_object, string
from batchrunner.dialect.media import RESULTS
from batchrunner.events import AttemptResult, Billing
from batchrunner.exchange import Failure, Reply
from batchrunner.outcome import Again, Blame, Done, Failed, Refused, StopAccount, SuspendKey, Tries
from batchrunner.retry_after import retry_after_ns

NS: Final = 1_000_000_000
FIRST_NS: Final = 2 * NS
LONGEST_NS: Final = 60 * NS
#: however many there are, each is asked for this often, well within the hour that its result is kept
RAREST_NS: Final = 15 * 60 * NS
#: Of an account's requests, at most this part are questions while there is other work.
SHARE: Final = 2
#: without a limit on requests: as many as may be submitted at a time
MOST_SUBMITTED: Final = 10_000
#: what is still being worked on by then is given up
PATIENCE_NS: Final = 24 * 3600 * NS
#: for so long an id must be unknown: a server in several places may learn of it late in some, or forget it for a moment
MISSING_NS: Final = 60 * NS
#: and of what another account has submitted, so long since: it may not be told to this one, and its own may come back for it
FOREIGN_NS: Final = 2 * 3600 * NS
MAX_ID_CHARACTERS: Final = 256

_SUCCEEDED: Final = frozenset({"completed", "succeeded"})
_FAILED: Final = "failed"
_URLS: Final = ("polling_url", "poll_url", "status_url")
#: what says that there is work to be asked for; an `id` alone does not, answers have one too
_NAMES_WORK: Final = ("job_id", "job", *_URLS)
#: what a result holds that stands in the answer itself
_ITSELF: Final = ("text", "url")


class Submission(msgspec.Struct, frozen=True):
    """What the server calls the work, and where it is asked for it: a path below `/v1/`."""

    name: str
    path: str


class Waiting(msgspec.Struct, frozen=True):
    """It is being worked on. `after_ns`: not to be asked for before, says the server."""

    after_ns: int = 0


class Missing(msgspec.Struct, frozen=True):
    """The server does not know the id."""


class Unanswered(msgspec.Struct, frozen=True):
    """The question failed; nothing is known of the work."""

    again: Again


Polled = Waiting | Missing | Unanswered | Done | Again | Failed | Refused | StopAccount | SuspendKey


def submission(body: bytes, server: str) -> Submission | None:
    """What the answer to a submission names; None where that is the result itself, or names nothing.

    `server`: scheme, host and port, as in `https://api.example.com`, and the base URL's own path behind it.
    """
    reply = read_object(body)
    if reply is None or _is_final(reply):
        return None
    job = mapping(reply.get("job"))
    name = next((text for value in (reply.get("job_id"), job.get("id"), reply.get("id")) if (text := _name(value))), None)
    said = next((text for field in _URLS if (text := string(reply.get(field)))), "")
    path = _own_path(said, server)
    if name is None:
        return None if path is None else Submission(path[:MAX_ID_CHARACTERS], path)
    documented = f"/v1/jobs/{quote(name, safe='')}"
    return Submission(name, path or documented) if path or dialect.is_sound(documented) else None


def opened(
    reply: Reply, shape: Dialect, server: str, attempts: Tries, rng: random.Random, wall_ns: int
) -> Submission | Done | Failed | Again:
    """What a success means that a submission was answered with: work taken on, as a rule, or its result at once."""
    found = submission(reply.body, server)
    if found is not None:
        return found
    verdict = judge(reply, shape, attempts, rng, wall_ns)
    if isinstance(verdict, Done | Failed | Again):
        return verdict
    message = "the answer names neither a job that could be asked for nor a result"
    return Failed("unreadable_reply", message, AttemptResult.INVALID, Billing.MAYBE, permanent=False)


def judge(result: Reply | Failure, shape: Dialect, attempts: Tries, rng: random.Random, wall_ns: int) -> Polled:
    """What the answer to a question means. `attempts`: how often the job has been tried, the attempt asked for included."""
    if isinstance(result, Reply):
        if result.status in (404, 410):
            return Missing()
        reply = read_object(result.body) if 200 <= result.status < 300 else None
        if reply is not None and _status(reply) == _FAILED:
            return _judge_failed(result, reply, shape, attempts, rng)
        if reply is not None and not _is_final(reply) and not (reply.get("status") is None and reply.get("error")):
            return Waiting(min(retry_after_ns(result, wall_ns) or 0, outcome.LONGEST_HINT_NS))
    verdict = outcome.classify(result, shape, attempts, rng, wall_ns)
    match verdict:
        case Again():
            return Unanswered(verdict)
        case Failed(code="unreadable_reply"):
            message = f"asked for its result: {verdict.message}"
            return Unanswered(Again(0, verdict.code, message, AttemptResult.SERVER_ERROR, Billing.NOT, Blame.NOBODY))
        case Failed():
            message = f"asked for its result, the server answered: {verdict.message}"
            return msgspec.structs.replace(verdict, message=message, billing=Billing.MAYBE)
    return verdict


def next_ns(asked: int, submitted: int, rpm: int, rng: random.Random) -> int:
    """How long to wait before work is asked for again: the longer the older it is, and the more there is of it.

    `asked`: how often it was; `submitted`: how many works of the account are out; `rpm`: its limit, 0 for none.
    """
    grown_ns = min(LONGEST_NS, FIRST_NS * 3 ** min(asked, 9) >> min(asked, 9))
    crowd_ns = submitted * SHARE * 60 * NS // rpm if rpm else 0
    return int(max(grown_ns, min(crowd_ns, RAREST_NS)) * rng.uniform(0.9, 1.1))


def most_submitted(rpm: int) -> int:
    """How many works may be out at a time, so that each can be asked for every quarter of an hour."""
    return max(1, rpm * RAREST_NS // (60 * NS)) if rpm else MOST_SUBMITTED


def expired(name: str) -> Failed:
    """What becomes of a job whose result is not there any more."""
    message = (
        f"the server took it on as {name!r} and does not know it any more: results are kept for an hour. It may have been "
        "billed; --retry-failed sends it again."
    )
    return Failed("job_expired", message, AttemptResult.INVALID, Billing.MAYBE, permanent=False)


def given_up(name: str) -> Failed:
    """What becomes of a job whose work does not end."""
    hours = PATIENCE_NS // (3600 * NS)
    message = f"the server took it on as {name!r} and has not ended it in {hours} hours. --retry-failed sends it again."
    return Failed("job_never_ended", message, AttemptResult.TIMEOUT, Billing.MAYBE, permanent=False)


def _is_final(reply: dict[str, object]) -> bool:
    """Whether this is a result: by its status, or because it has none and holds one."""
    status = reply.get("status")
    if isinstance(status, str):
        return _status(reply) in (*_SUCCEEDED, _FAILED)
    if any(reply.get(name) is not None for name in RESULTS):
        return True
    return not any(reply.get(name) for name in _NAMES_WORK) and any(string(reply.get(name)) for name in _ITSELF)


def _status(reply: dict[str, object]) -> str:
    return (string(reply.get("status")) or "").lower()


def _judge_failed(result: Reply, reply: dict[str, object], shape: Dialect, attempts: Tries, rng: random.Random) -> Failed | Again:
    """Judge failed work by its error, which no status of its own came with. It may have been billed, and is no outage.

    Nothing will come of it any more: asked for under the same Idempotency-Key, the server would name the same work again.
    """
    error = reply.get("error")
    words = error if isinstance(error, dict) else {"code": "job_failed", "message": string(error) or "the server gave no reason"}
    envelope = msgspec.structs.replace(result, headers=(), body=json.dumps({"error": words}).encode())
    verdict = outcome.classify(envelope, shape, attempts, rng, 0)
    if isinstance(verdict, Again):
        # Under the same Idempotency-Key the server would name the work that has failed once more.
        return msgspec.structs.replace(verdict, blames=Blame.NOBODY, in_vain=True)
    found = outcome.read_error(envelope.body)  # whatever it says of limits, keys or credits it says of the work alone
    message = found.message or "the server gave no reason"
    return Failed(found.code or "job_failed", message, AttemptResult.INVALID, Billing.MAYBE, permanent=False)


def _name(value: object) -> str | None:
    text = str(value) if type(value) is int else string(value)
    return text if text and len(text) <= MAX_ID_CHARACTERS and text.isprintable() else None


def _own_path(url: str, server: str) -> str | None:
    """The path below `/v1/` of a URL of the same server, with its query; None where it is another's, or no path that we ask."""
    try:
        base, parts = urlsplit(server), urlsplit(url)
        same = (parts.scheme, parts.hostname, parts.port) == (base.scheme, base.hostname, base.port)
    except ValueError:
        return None
    if (parts.scheme or parts.netloc) and (not same or "@" in parts.netloc):
        return None
    path = parts.path
    if base.path.rstrip("/") and path.startswith(f"{base.path.rstrip('/')}/"):
        path = "/v1" + path[len(base.path.rstrip("/")) :]
    query = f"?{parts.query}" if parts.query else ""
    if (
        not dialect.is_sound(path)
        or not query.isascii()
        or not query.isprintable()
        or " " in query
        or len(query) > MAX_ID_CHARACTERS
    ):
        return None
    return path + query
