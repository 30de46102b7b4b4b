"""Programs of other people: the official clients against `batchrun simulate`, and `submit` against a server that is not ours."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from batchrunner.simulator.settings import TEST_KEY
from tests.e2e.cli_support import batchrun, started, until, write_jobs
from tests.e2e.harness import read_lines

MODEL = "simulated-small"
TURNS: Any = [{"role": "user", "content": "How high is the moon?"}]
#: faults by `user` or `metadata.user_id`
FAULTS = ("rate_limited", "no_credits", "model_unavailable", "error403", "error422", "html", "truncated")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A platform that answers at once, and badly whoever is named after a fault."""
    faults = [word for kind in FAULTS for word in ("--fault-on", f"{kind}={kind}*0")]
    with started(tmp_path_factory.mktemp("home"), "simulate", "--latency", "0", *faults) as process:
        assert process.stdout is not None
        yield msgspec.json.decode(process.stdout.readline())["url"]


@pytest.fixture
def theirs(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    """OpenAI's client, without its own retries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TEST_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client, without its own retries. It sends the key as x-api-key."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with anthropic.Anthropic(base_url=url, api_key=TEST_KEY, max_retries=0) as client:
        yield client


def test_openai_chat(theirs: openai.OpenAI) -> None:
    """A completion with choices and usage that add up."""
    got = theirs.chat.completions.create(model=MODEL, messages=TURNS, max_tokens=5, n=2)
    assert [choice.finish_reason for choice in got.choices] == ["length", "length"]
    assert all(choice.message.content for choice in got.choices)
    assert got.usage is not None
    assert got.usage.total_tokens == got.usage.prompt_tokens + 10


def test_openai_responses(theirs: openai.OpenAI) -> None:
    """`output_text` is found, and reasoning stands apart."""
    got = theirs.responses.create(model="simulated-reasoner", input="How high is the moon?")
    assert got.status == "completed"
    assert got.output_text
    assert got.usage is not None
    assert 0 < got.usage.output_tokens_details.reasoning_tokens < got.usage.output_tokens


def test_openai_legacy_completions(theirs: openai.OpenAI) -> None:
    """A text for each prompt."""
    got = theirs.completions.create(model=MODEL, prompt=["The moon is", "The sun is"], max_tokens=5)
    assert [len(choice.text) > 0 for choice in got.choices] == [True, True]
    assert got.usage is not None
    assert got.usage.completion_tokens == 10


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai_embeddings(theirs: openai.OpenAI, encoding: Any) -> None:
    """The client asks for base64 unless it is told otherwise, and reads vectors of length 1 either way."""
    got = theirs.embeddings.create(model="simulated-embedding", input=["moon", "sun"], dimensions=16, **encoding)
    assert [len(item.embedding) for item in got.data] == [16, 16]
    assert [math.hypot(*item.embedding) for item in got.data] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert got.usage.prompt_tokens == got.usage.total_tokens == 2


def test_openai_models(theirs: openai.OpenAI) -> None:
    """All of them can be listed, and each one had alone."""
    listed = [model.id for model in theirs.models.list()]
    assert {MODEL, "simulated-embedding", "simulated-rerank"} <= set(listed)
    assert [theirs.models.retrieve(model).id for model in listed] == listed


@pytest.mark.parametrize(
    ("kind", "error", "status", "code"),
    [
        ("rate_limited", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("no_credits", openai.APIStatusError, 402, "insufficient_credits"),
        ("model_unavailable", openai.InternalServerError, 503, "model_unavailable"),
        ("error403", openai.PermissionDeniedError, 403, "permission_denied"),
        ("error422", openai.UnprocessableEntityError, 422, "unprocessable"),
        ("html", openai.InternalServerError, 502, None),
    ],
)
def test_openai_errors(
    theirs: openai.OpenAI, kind: str, error: type[openai.APIStatusError], status: int, code: str | None
) -> None:
    """Each status has its own exception, which knows the platform's code; a proxy's page has none."""
    with pytest.raises(error) as caught:
        theirs.chat.completions.create(model=MODEL, messages=TURNS, user=kind)
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_openai_knows_a_wrong_key_and_a_wrong_model(theirs: openai.OpenAI) -> None:
    """401 with invalid_api_key, 404 with model_not_found."""
    with pytest.raises(openai.NotFoundError) as missing:
        theirs.embeddings.create(model="nobody", input="moon")
    with pytest.raises(openai.AuthenticationError) as refused:
        theirs.with_options(api_key="sk-empiriolabs-test-other").completions.create(model=MODEL, prompt="moon")
    assert (missing.value.code, refused.value.code) == ("model_not_found", "invalid_api_key")


def test_openai_sees_a_body_cut_short(theirs: openai.OpenAI) -> None:
    """Half an answer is a failed connection and no answer."""
    with pytest.raises(openai.APIConnectionError):
        theirs.chat.completions.create(model=MODEL, messages=TURNS, user="truncated")


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    """Text, a reason to stop, and usage with the cached tokens apart."""
    got = claude.messages.create(model=MODEL, max_tokens=5, messages=TURNS)
    assert (got.stop_reason, got.content[0].type) == ("max_tokens", "text")
    assert (got.usage.output_tokens, got.usage.cache_read_input_tokens is not None) == (5, True)


@pytest.mark.parametrize(
    ("kind", "error", "word"),
    [
        ("rate_limited", anthropic.RateLimitError, "rate_limit_error"),
        ("no_credits", anthropic.APIStatusError, "billing_error"),
        ("error403", anthropic.PermissionDeniedError, "permission_error"),
        ("model_unavailable", anthropic.InternalServerError, "api_error"),
    ],
)
def test_anthropic_errors(claude: anthropic.Anthropic, kind: str, error: type[anthropic.APIStatusError], word: str) -> None:
    """Each status has its own exception, and the body is in Anthropic's shape."""
    with pytest.raises(error) as caught:
        claude.messages.create(model=MODEL, max_tokens=5, messages=TURNS, metadata={"user_id": kind})
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", word)


def test_anthropic_knows_a_wrong_key_and_a_wrong_model(claude: anthropic.Anthropic) -> None:
    """401 and 404 have exceptions of their own."""
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=5, messages=TURNS)
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="sk-empiriolabs-test-other").messages.create(model=MODEL, max_tokens=5, messages=TURNS)


SPEC = """
openapi: 3.1.0
info: {title: chat, version: "1"}
servers: [{url: "http://127.0.0.1/v1"}]
paths:
  /chat/completions:
    post:
      responses:
        "200":
          description: a completion
          content:
            application/json:
              schema:
                type: object
                properties:
                  id: {type: string}
                  choices:
                    type: array
                    items:
                      type: object
                      properties:
                        finish_reason: {type: string, enum: [stop]}
                        message: {type: object, properties: {role: {type: string}, content: {type: string}}}
"""
#: 10 requests in any 2 seconds, which is 300 a minute kept strictly
LIMITS = """
policies:
  chat:
    strategy: sliding_window
    limits:
      - dimension: requests
        limit: 10
        window_seconds: 2
        headers:
          limit: x-ratelimit-limit-requests
          remaining: x-ratelimit-remaining-requests
          reset: x-ratelimit-reset-requests
    scope: api_key
    format: {reset: go_duration, retry_after: {header: retry-after-ms, unit: milliseconds}}
    error_template: {provider: openai}
endpoints:
  /chat/completions:
    methods: [POST]
    policy: chat
    resources:
      requests: {input: {strategy: fixed, value: 1}, output: {strategy: fixed, value: 0}}
"""


@pytest.fixture
def mocklimit(tmp_path: Path) -> Iterator[str]:
    """The base URL of a mocklimit server: FastAPI and uvicorn, with limits of its own making."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "limits.yaml").write_text(LIMITS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mocklimit", "serve", "--port", str(port)]
    command += ["--spec", str(tmp_path / "spec.yaml"), "--rate-config", str(tmp_path / "limits.yaml")]
    with open(tmp_path / "mocklimit.log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: process.poll() is not None or _listens(port), "mocklimit to listen")
            assert process.poll() is None, (tmp_path / "mocklimit.log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_submit_against_a_server_that_is_not_ours(mocklimit: str, tmp_path: Path) -> None:
    """Every job ends with that server's own answer, and both sides count the same requests and the same 429s."""
    ids = [f"job-{number:02}" for number in range(45)]
    jobs = write_jobs(tmp_path, ids)
    env = {"BATCHRUN_API_KEY": TEST_KEY}
    ended = batchrun(
        tmp_path, "submit", jobs, "--base-url", mocklimit, "--rpm", 300, "--tpm", 0, "--json", "--progress", "none", env=env
    )
    assert ended.code == 0, ended.stderr
    results = read_lines(tmp_path / "jobs.run" / "results.jsonl")
    assert Counter(line["custom_id"] for line in results) == Counter(ids)
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in results} == {"mock_string"}
    with urllib.request.urlopen(f"{mocklimit}/mocklimit/stats", timeout=30) as reply:
        ((_, counted),) = msgspec.json.decode(reply.read())["POST /chat/completions"].items()
    print(f"{counted} of mocklimit, {ended.summary['rate_limited']} x 429 in {ended.summary['wall_seconds']} s")
    assert counted == {"total_requests": ended.summary["attempts"], "total_429s": ended.summary["rate_limited"]}
    assert ended.summary["attempts"] == len(ids) + ended.summary["rate_limited"]
