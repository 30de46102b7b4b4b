"""A platform that answers as a test says, in any provider's words, and else as the simulated one does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio

from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Settings
from tests.sim.nights import MODEL, Asked, Night, WatchedPlatform, job

REQUEST_ID = "req_scripted"
WORDS = "These are the server's own words."
HTML = b"<html><head><title>Error</title></head><body><h1>Error</h1><hr>nginx</body></html>\n"
#: what Anthropic calls an error of a status
ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Ask(NamedTuple):
    """A request for a model, before it is answered."""

    custom_id: str
    #: how often this job has been asked for, this time included
    times: int
    authorization: str


#: the answer to a request; None: the simulated platform's own
Script = Callable[[Ask], Answer | None]


class ScriptedPlatform(WatchedPlatform):
    """The simulated platform behind a script."""

    def __init__(self, script: Script) -> None:
        super().__init__(Settings(latency_median_seconds=1.0, latency_sigma=0.0))
        self.script = script
        self._times: Counter[str] = Counter()

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST":
            custom_id = msgspec.json.decode(body)["metadata"]["custom_id"]
            self._times[custom_id] += 1
            authorization = headers.get("authorization", "")
            scripted = self.script(Ask(custom_id, self._times[custom_id], authorization))
            if scripted is not None:
                self.asked.append(Asked(trio.current_time(), custom_id, authorization))
                await trio.sleep(1)
                return scripted
        return await super().answer(method, target, headers, body)


def night(tmp_path: Path, nursery: trio.Nursery, lines: list[bytes], script: Script) -> Night:
    """A night on a scripted platform."""
    return Night(tmp_path / "jobs.jsonl", nursery, lines, ScriptedPlatform(script))


def only(custom_id: str, answer: Answer, *, times: int = 0) -> Script:
    """One job gets this answer, so often; 0: always."""
    return lambda ask: answer if ask.custom_id == custom_id and (not times or ask.times <= times) else None


class Spelling(NamedTuple):
    """A way in which servers say what is wrong, and the jobs of a client that would hear it so."""

    name: str
    #: status, code of the platform -> what comes
    error: Callable[[int, str], Answer]
    #: the same -> the code that errors.jsonl gets
    code: Callable[[int, str], str]
    job: Callable[[str], bytes]
    #: what it says is kept as the message
    words: bool = True

    def jobs(self, count: int) -> list[bytes]:
        return [self.job(f"job-{number}") for number in range(count)]


def messages_job(custom_id: str) -> bytes:
    """A line of Anthropic's batches."""
    params = {
        "model": MODEL,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "How high is the moon?"}],
        "metadata": {"custom_id": custom_id},
    }
    return msgspec.json.encode({"custom_id": custom_id, "params": params}) + b"\n"


def _json(status: int, body: Any) -> Answer:
    return Answer(status, msgspec.json.encode(body), REQUEST_ID)


def openai_error(status: int, code: str) -> Answer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json(status, {"error": {"message": WORDS, "type": kind, "param": None, "code": code}})


def anthropic_error(status: int, code: str) -> Answer:
    """The platform's code has no place in it."""
    error = {"type": anthropic_type(status, code), "message": WORDS}
    return _json(status, {"type": "error", "error": error, "request_id": REQUEST_ID})


def anthropic_type(status: int, code: str) -> str:
    return ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _html(status: int, code: str) -> Answer:
    return Answer(status, HTML, REQUEST_ID, content_type="text/html")


def _empty(status: int, code: str) -> Answer:
    return Answer(status, b"", REQUEST_ID, content_type="text/plain")


def _status_alone(status: int, code: str) -> str:
    return f"http_{status}"


OPENAI = Spelling("openai", openai_error, lambda _, code: code, job)
SPELLINGS = (
    OPENAI,
    Spelling("anthropic", anthropic_error, anthropic_type, messages_job),
    Spelling("html", _html, _status_alone, job, words=False),
    Spelling("empty", _empty, _status_alone, job, words=False),
)
in_every_spelling = pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.name)
