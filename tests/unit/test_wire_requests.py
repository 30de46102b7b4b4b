"""How requests are written: byte by byte what was asked for, and nothing that could be read as more."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.errors import UsageError
from batchrunner.transport.wire import Head, request_head


def test_a_head_is_exactly_these_bytes() -> None:
    """Request line, Host, identity encoding, the caller's headers in order, the length."""
    head = request_head("POST", "/v1/x?a=%20", "h:8443", [("Authorization", "Bearer k"), ("X-B", "ü\t2")], 7)
    assert head == (
        b"POST /v1/x?a=%20 HTTP/1.1\r\nHost: h:8443\r\nAccept-Encoding: identity\r\n"
        b"Authorization: Bearer k\r\nX-B: \xfc\t2\r\nContent-Length: 7\r\n\r\n"
    )


def test_a_request_without_a_body_has_no_length() -> None:
    """None means that there is no body; 0 is an empty one."""
    assert b"Content-Length" not in request_head("GET", "/", "h", [], None)
    assert request_head("POST", "/", "h", [], 0).endswith(b"Content-Length: 0\r\n\r\n")


def test_a_head_encoded_again_takes_the_headers_of_each_request() -> None:
    """What stays is encoded once; a request's own headers do not leak into the next."""
    head = Head("POST", "/v1/x", "h", [("X-A", "1")])
    assert b"X-A: 1\r\nIdempotency-Key: k\r\nContent-Length: 1\r\n" in head.encode(1, [("Idempotency-Key", "k")])
    assert b"Idempotency-Key" not in head.encode(1)


BAD_CHARACTERS = ["\r", "\n", "\0", "\r\nX-Evil: 1", "\x7f", "\x1b", "\u2028", "€"]


@pytest.mark.parametrize("bad", BAD_CHARACTERS)
def test_a_value_that_could_start_another_header_is_refused_and_not_shown(bad: str) -> None:
    """CR, LF, NUL and their like never go out; the message names the header, not its value."""
    with pytest.raises(UsageError) as caught:
        request_head("POST", "/", "h", [("Authorization", f"Bearer sk-empiriolabs-test-1{bad}")], 0)
    assert "'Authorization'" in str(caught.value)
    assert "sk-empiriolabs" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "X A", "X:", "X\r\nY", "Ü", "X\0", "Bearer sk-empiriolabs-test-1"])
def test_a_name_that_is_no_name_is_refused_and_not_shown(name: str) -> None:
    """Where somebody swapped name and value, the name is the key."""
    with pytest.raises(UsageError, match="header number 2") as caught:
        request_head("POST", "/", "h", [("X", "1"), (name, "x")], 0)
    assert "sk-empiriolabs" not in str(caught.value)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "HOST", "Accept-Encoding", "Connection", "Expect"])
def test_headers_that_frame_a_message_cannot_be_set(name: str) -> None:
    """A caller cannot smuggle a second request or ask for what the parser refuses."""
    with pytest.raises(UsageError, match="sets it itself"):
        request_head("POST", "/", "h", [(name, "1")], 0)


@pytest.mark.parametrize("target", ["", "x", "http://h/", "/a b", "/a\r\nX: 1", "/\0", "/ü", "*"])
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    """The request line holds a path and nothing that could end it early."""
    with pytest.raises(UsageError, match="path"):
        Head("POST", target, "h")


@pytest.mark.parametrize(("method", "host"), [("PO ST", "h"), ("", "h"), ("GET", "h\r\nX: 1"), ("GET", ""), ("GET", "u@h")])
def test_a_method_or_host_that_is_none_is_refused(method: str, host: str) -> None:
    """Neither can carry a line break into the head."""
    with pytest.raises(UsageError):
        Head(method, "/", host)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_whatever_is_accepted_reads_back_as_one_request(target: str, name: str, value: str) -> None:
    """An independent parser sees the very target, name and value, and nothing else."""
    try:
        head = request_head("POST", target, "h", [(name, value)], 3)
    except UsageError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(head + b"abc")
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert request.target == target.encode()
    assert len(request.headers) == 4
    assert request.headers[2] == (name.lower().encode(), value.strip(" \t").encode("latin-1"))
