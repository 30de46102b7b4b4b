"""Records of one HTTP exchange: the reply that came, or the way in which none did."""

from __future__ import annotations

import enum

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """A whole HTTP response: its body complete as the framing promised. Header names are lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header (lower-case name), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class FailureKind(enum.StrEnum):
    """How an exchange ended without a whole response."""

    CONNECT = "connect"  # no connection: refused, unreachable, name not found, TLS refused; nothing was sent
    CONNECT_TIMEOUT = "connect_timeout"
    WRITE = "write"  # the connection broke while the request was being written
    WRITE_TIMEOUT = "write_timeout"
    STALE = "stale"  # a connection that had stood idle was closed with no answer: the request may never have been read
    READ = "read"  # the connection broke before the response was whole (reset, closed early)
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    BETWEEN_BYTES_TIMEOUT = "between_bytes_timeout"
    ATTEMPT_TIMEOUT = "attempt_timeout"
    TRUNCATED = "truncated"  # closed before content-length or the last chunk
    PROTOCOL = "protocol"  # not HTTP, or framing that contradicts itself
    COMPRESSED = "compressed"  # though it was asked for as it is: somebody on the way does that to every reply
    TOO_LARGE = "too_large"  # over the cap on one reply


class Failure(msgspec.Struct, frozen=True):
    """No whole response came."""

    kind: FailureKind
    #: for people; names the server's address, never a header or body of ours
    message: str
    #: whether any byte of the request may have reached the server: only then can it have been billed
    sent: bool
    #: the status line, where at least that much arrived
    status: int | None = None
