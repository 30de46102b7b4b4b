"""The wire parser beside h11, which shares no code with it: on damaged responses ours gives no answer that h11 would not.

Where both accept, status, headers and body are the same. Where ours refuses, h11 may do as it likes: we are the stricter.
Where h11 refuses and ours accepts, the reason stands in `LENIENT`, and nothing else does.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import h11
import pytest

from batchrunner.exchange import Reply
from batchrunner.transport.wire import ReplyParser, WireError
from tests.hostile import seeds
from tests.hostile.mutation import mutations

SEEDED = 20_000
CAMPAIGN = 1_000_000
_IN_ONE_HEAD = rb"(?:(?!\n\r?\n).)*"
#: why we take what h11 refuses -> h11's words, and how the bytes look
LENIENT: dict[str, tuple[str, re.Pattern[bytes]]] = {
    # Some servers end a body with a line end too many. On a connection of ours it could only come before the first answer,
    # or after an interim one: bytes behind a whole reply condemn the connection.
    "blank lines before a status line": (
        "no response line received",
        re.compile(rb"(\A|\r?\n\r?\n)[\r\n]+HTTP/1\.[01] "),
    ),
    "a carriage return before a status line": ("illegal status line", re.compile(rb"(\A|\n)\r+HTTP/1\.[01] ")),
    # Zeros before a number say nothing; a number past 64 bits is refused.
    "a chunk's size with more than 20 digits": ("illegal chunk header", re.compile(rb"\n0[0-9A-Fa-f]{20,}")),
    # An interim response has no body, and its headers are dropped with it.
    "an interim response that names a transfer coding": (
        "Only Transfer-Encoding: chunked is supported",
        re.compile(rb"HTTP/1\.[01] 1\d\d" + _IN_ONE_HEAD + rb"transfer-encoding:", re.DOTALL | re.IGNORECASE),
    ),
    # Trailers are dropped, whatever they say: they come behind the body that they could frame.
    "a trailer that names a transfer coding": (
        "Only Transfer-Encoding: chunked is supported",
        re.compile(rb"\n0+[^\n]*\n" + _IN_ONE_HEAD + rb"transfer-encoding:", re.DOTALL | re.IGNORECASE),
    ),
}


def ours(data: bytes, cut: int) -> Reply | None:
    """The reply, in pieces of `cut` bytes, and then the server closes; None where it is refused."""
    parser = ReplyParser(max_body_bytes=1 << 20)
    try:
        for at in range(0, len(data), cut):
            if parser.feed(data[at : at + cut]):
                break
        parser.eof()
    except WireError:
        return None
    return parser.reply


def theirs(data: bytes) -> Reply | str:
    """h11's reply to a POST, or why it refuses."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    try:
        event = client.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = client.next_event()
        if not isinstance(event, h11.Response):
            return f"no response: {event}"
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        status, body = event.status_code, b""
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError as refused:
        return str(refused)
    return Reply(status, headers, body) if isinstance(event, h11.EndOfMessage) else f"no end: {event}"


def disagreements(seed: int, count: int, tally: Counter[str]) -> Iterator[str]:
    """What the two make of damaged responses, where it is not the same."""
    chance = random.Random(seed)
    for data in mutations(seeds.RESPONSES, seeds.WIRE_WORDS, seed, count):
        found = ours(data, chance.choice((1, 7, 1 << 20)))
        if found is None:
            tally["refused"] += 1
            continue
        other = theirs(data)
        if isinstance(other, Reply):
            tally["the same"] += 1
            if _plain(other) != _plain(found):
                yield f"{data!r}: ours {found}, h11's {other}"
            continue
        reason = next((why for why, (words, form) in LENIENT.items() if words in other and form.search(data)), None)
        tally[reason or "unexplained"] += 1
        if reason is None:
            yield f"{data!r}: ours {found}, h11 refuses: {other}"


def _plain(reply: Reply) -> Reply:
    """h11 writes the one transfer coding that there is in small letters."""
    headers = tuple((name, value.lower() if name == "transfer-encoding" else value) for name, value in reply.headers)
    return Reply(reply.status, headers, reply.body)


def compare(seed: int, count: int) -> Counter[str]:
    tally: Counter[str] = Counter()
    found = list(disagreements(seed, count, tally))
    assert not found, f"seed {seed}, {len(found)} of {count}: " + "\n".join(found[:20])
    return tally


def test_no_answer_that_h11_would_not_give() -> None:
    """Seeded damage, enough of it that both kinds of end are common."""
    tally = compare(1, SEEDED)
    assert tally["the same"] > SEEDED / 20
    assert tally["refused"] > SEEDED / 4


@pytest.mark.campaign
def test_no_answer_that_h11_would_not_give_to_a_million() -> None:
    """A million of another seed."""
    tally = compare(2, CAMPAIGN)
    print("\n".join(f"{number:9,} {end}" for end, number in tally.most_common()))
    assert tally.keys() >= LENIENT.keys(), "a reason that nothing shows is none"
