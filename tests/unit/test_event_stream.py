"""`text/event-stream` as bytes: lines, events, and the same events however the bytes are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.streaming.event_stream import EventStream, ServerEvent


def events_of(pieces: list[bytes], *, ended: bool = True) -> list[tuple[str, bytes]]:
    stream = EventStream()
    found: list[ServerEvent] = [event for piece in pieces for event in stream.feed(piece)]
    last = stream.end() if ended else None
    return [(event.type, event.data) for event in (*found, *([last] if last else []))]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
        (b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
        (b"data:a\r\n\r\ndata:  b\r\r", [("", b"a"), ("", b" b")]),
        (b"data: a\ndata: b\ndata\n\n", [("", b"a\nb\n")]),
        (b": a comment\n\nid: 7\nretry: 10\nevent: alone\n\ndata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"data: \xef\xbb\xbf\n\n", [("", b"\xef\xbb\xbf")]),
        (b"data: a\n", [("", b"a")]),
        (b"data: a", [("", b"a")]),
        (b"event: \xff\ndata: a", [("\ufffd", b"a")]),
        (b"nonsense\n\n", []),
        (b"", []),
    ],
)
def test_a_stream_is_read_as_its_format_says(body: bytes, expected: list[tuple[str, bytes]]) -> None:
    """Three line ends, fields in any order, comments, several lines of data; what only the end delimits counts too."""
    assert events_of([body]) == expected
    assert events_of([body[at : at + 1] for at in range(len(body))]) == expected


STREAMS = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"data", b"event: ", b"id: 1", b":", b"a", b"{}", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]
    ),
    max_size=40,
).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 120)))
def test_any_split_gives_the_same_events(body: bytes, cuts: list[int]) -> None:
    """Pieces are the network's affair."""
    places = sorted({0, *(min(cut, len(body)) for cut in cuts), len(body)})
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    assert events_of(pieces) == events_of([body])


def test_what_is_held_is_what_has_not_ended() -> None:
    """Memory for one event at a time, told so that it can be bounded."""
    stream = EventStream()
    assert list(stream.feed(b"data: " + b"a" * 1000)) == []
    assert stream.held_bytes == 1006
    assert list(stream.feed(b"\ndata: b")) == []
    assert stream.held_bytes > 1006
    assert len(list(stream.feed(b"\n\n"))) == 1
    assert stream.held_bytes == 0
