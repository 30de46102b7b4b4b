"""How a job goes out: the right headers, and the key nowhere but in the head."""

from __future__ import annotations

import pytest

from batchrunner import __version__
from batchrunner.account_table import Auth
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.heads import ANTHROPIC_VERSION, Heads
from batchrunner.job import Job
from batchrunner.keyring import Use
from batchrunner.secret import Secret
from batchrunner.transport import Origin

FIRST, SECOND = "sk-empiriolabs-test-first", "sk-empiriolabs-test-second"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def heads(
    *keys: str, base_url: str = "https://api.example.com", auth: Auth = "bearer", extra: tuple[tuple[str, str], ...] = ()
) -> Heads:
    return Heads(Origin.parse(base_url), [Secret(key) for key in keys], auth=auth, headers=extra)


def job(url: str = CHAT, body: bytes = b'{"model":"m"}') -> Job:
    return Job(0, 1, "a", url, body, 1)


def read(head: bytes) -> tuple[str, dict[str, str]]:
    """The request line, and the headers by lower-case name."""
    assert head.endswith(b"\r\n\r\n")
    first, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    names = [name.lower() for name, _ in pairs]
    assert len(names) == len(set(names))
    return first, dict(zip(names, (value for _, value in pairs), strict=True))


def test_a_job_as_a_post() -> None:
    """A POST to the job's url, of the body's length, in JSON both ways, with the key as a bearer token."""
    first, headers = read(heads(FIRST).head(job(), Use(0)))
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert headers == {
        "host": "api.example.com",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "accept": "application/json",
        "user-agent": f"batchrun/{__version__}",
        "authorization": f"Bearer {FIRST}",
        "content-length": "13",
    }


def test_messages_name_their_version() -> None:
    """The Messages endpoint is told which version of its shape is meant; the others are not."""
    assert read(heads(FIRST).head(job(MESSAGES), Use(0)))[1]["anthropic-version"] == ANTHROPIC_VERSION
    assert read(heads(FIRST).head(job(MESSAGES + "/count_tokens"), Use(0)))[1]["anthropic-version"] == ANTHROPIC_VERSION
    for url in (CHAT, "/v1/messagesmith", "/v1/search"):
        assert "anthropic-version" not in read(heads(FIRST).head(job(url), Use(0)))[1]


def test_an_account_may_name_another_version() -> None:
    """Its own header stands in for ours, once, and goes to every endpoint as its other headers do."""
    made = heads(FIRST, extra=(("anthropic-version", "2024-10-22"), ("anthropic-beta", "x")))
    for head in (made.head(job(MESSAGES), Use(0)), made.head(job(), Use(0)), made.get("/v1/models")):
        headers = read(head)[1]
        assert (headers["anthropic-version"], headers["anthropic-beta"]) == ("2024-10-22", "x")


def test_a_key_as_x_api_key() -> None:
    """Where an account wants it so: bare, and not as a bearer token too; the next key goes the same way."""
    made = heads(FIRST, SECOND, auth="x-api-key")
    for key, head in ((FIRST, made.head(job(), Use(0))), (SECOND, made.head(job(), Use(1))), (FIRST, made.get("/v1/models"))):
        headers = read(head)[1]
        assert headers["x-api-key"] == key
        assert "authorization" not in headers


def test_headers_go_out_without_a_key_too() -> None:
    """A server on loopback that wants no key may want a header."""
    headers = read(heads(extra=(("x-title", "night"),)).head(job(), Use(0)))[1]
    assert headers["x-title"] == "night"
    assert "authorization" not in headers


def test_the_base_urls_own_path() -> None:
    """A base URL with a path of its own replaces the leading /v1 of a job's url."""
    assert read(heads(FIRST, base_url="https://api.example.com/api/v3").head(job(), Use(0)))[0].startswith(
        "POST /api/v3/chat/completions "
    )


def test_a_question_as_a_get() -> None:
    """The control plane is asked with the key and without a body."""
    first, headers = read(heads(FIRST).get("/v1/models"))
    assert first == "GET /v1/models HTTP/1.1"
    assert headers["authorization"] == f"Bearer {FIRST}"
    assert "content-length" not in headers
    assert "content-type" not in headers


def test_no_key_no_header() -> None:
    """A server on loopback that wants no key gets no header of an empty one."""
    for head in (heads().head(job(), Use(0)), heads().get("/v1/models")):
        assert "authorization" not in read(head)[1]


def test_the_key_appears_in_the_head_alone() -> None:
    """Neither the object's picture nor its fields' show a key, and a head shows it once."""
    made = heads(FIRST, SECOND)
    assert made.head(job(), Use(0)).count(FIRST.encode()) == 1
    assert SECOND.encode() not in made.head(job(), Use(0))
    shown = [repr(made), str(made), repr(vars(made.keys))]
    assert not [text for text in shown if FIRST in text or SECOND in text]


def test_a_request_goes_out_with_the_key_that_was_chosen_for_it() -> None:
    """Keys go by number, in the order in which they were given."""
    made = heads(FIRST, SECOND)
    assert read(made.head(job(), Use(1)))[1]["authorization"] == f"Bearer {SECOND}"
    assert read(made.head(job(), made.keys.choose(0)))[1]["authorization"] == f"Bearer {FIRST}"


def test_a_repeat_is_known_by_its_name() -> None:
    """The idempotency key goes out where there is one."""
    assert read(heads(FIRST).head(job(), Use(0), "run-1-0"))[1]["idempotency-key"] == "run-1-0"
    assert "idempotency-key" not in read(heads(FIRST).head(job(), Use(0)))[1]


@pytest.mark.parametrize("retired", [False, True])
def test_a_key_that_a_server_repeats_is_blotted_out(retired: bool) -> None:
    """A reply that spells out a key of ours, also one that was retired meanwhile, loses it; nothing else is changed."""
    made = heads(FIRST, SECOND)
    if retired:
        made.keys.refused(Use(0), 0)
    reply = Reply(401, (("x-request-id", "r"),), f'{{"error":"bad key {FIRST}, {SECOND}, {FIRST}"}}'.encode())
    assert made.without_keys(reply) == Reply(401, reply.headers, b'{"error":"bad key ***, ***, ***"}')


def test_a_reply_without_a_key_is_the_very_same() -> None:
    """A large answer is not copied for nothing."""
    reply = Reply(200, (), b"{}")
    assert heads(FIRST).without_keys(reply) is reply
    assert heads().without_keys(reply) is reply


@pytest.mark.parametrize(
    "spelt",
    [
        FIRST.encode(),
        FIRST.encode().replace(b"s", rb"\u0073"),
        b"".join(rb"\u00%02X" % byte for byte in FIRST.encode()),
    ],
)
def test_a_key_that_json_spells_out_is_blotted_out(spelt: bytes) -> None:
    """Whoever decodes the reply finds no key in it, however its characters were written."""
    cleaned = heads(FIRST).without_keys(Reply(401, (), b'{"error":"a \\\\' + spelt + b' is refused"}'))
    assert cleaned.body == b'{"error":"a \\\\*** is refused"}'


def test_an_escaped_backslash_is_no_escape() -> None:
    """What only looks spelt out stands in the text as it is, and stays: the reply must not cease to be JSON."""
    reply = Reply(200, (), rb'{"text":"\\u0073' + FIRST[1:].encode() + b'"}')
    assert heads(FIRST).without_keys(reply) is reply


def test_a_key_in_a_header_is_blotted_out() -> None:
    """Results name the server's request id, and hints are shown: a header is a server's text like any other."""
    reply = Reply(200, (("x-request-id", f"req-{FIRST}"), ("x-other", "a")), b"{}")
    assert heads(FIRST).without_keys(reply).headers == (("x-request-id", "req-***"), ("x-other", "a"))


def test_a_key_in_a_failures_words_is_blotted_out() -> None:
    """What the connection quotes of a server is written down too."""
    failure = Failure(FailureKind.COMPRESSED, f"the server compressed its answer ({FIRST!r})", sent=True)
    assert heads(FIRST).failure_without_keys(failure).message == "the server compressed its answer ('***')"


@pytest.mark.parametrize("key", ["EMPTY", "test", "", "lm-studio"])
def test_a_word_that_is_no_real_key_is_left_in_answers(key: str) -> None:
    """Servers that want no key are given one of these: what was paid for comes as it was written."""
    reply = Reply(200, (), b'{"text":"EMPTY the test of lm-studio, \\u0045MPTY"}')
    assert heads(key, FIRST).without_keys(reply) is reply


def test_a_question_goes_out_with_the_key_that_is_named() -> None:
    """Each key has its turn; a server that wants none counts as one that is asked with nothing."""
    made = heads(FIRST, SECOND)
    assert [read(made.get("/v1/models", key))[1]["authorization"] for key in range(made.key_count)] == [
        f"Bearer {FIRST}",
        f"Bearer {SECOND}",
    ]
    assert heads().key_count == 1
    assert "authorization" not in read(heads().get("/v1/models"))[1]
