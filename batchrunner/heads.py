"""How a job goes out: its head, with the account's key in it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batchrunner import __version__
from batchrunner.exchange import Reply
from batchrunner.job import Job
from batchrunner.secret import Secret
from batchrunner.transport import Origin, request_head

#: The version that the Messages shape wants named.
ANTHROPIC_VERSION = "2023-06-01"
MESSAGES_URL = "/v1/messages"

_COMMON = (("accept", "application/json"), ("user-agent", f"batchrun/{__version__}"))


class Heads:
    """Heads for one account's jobs. The first live key is used, the others stand by.

    The only caller of `Secret.reveal`: a key goes from here to the wire and nowhere else.
    """

    def __init__(self, origin: Origin, keys: Sequence[Secret]) -> None:
        self._origin = origin
        self._keys = list(keys)
        #: of all keys, those retired included: what was in flight with one is answered after
        self._never_shown = [key.reveal().encode() for key in keys]
        self._authentication = self._headers()

    def head(self, job: Job) -> bytes:
        """The request's head. (That replies come uncompressed, the connection asks for itself.)"""
        headers = [("content-type", "application/json"), *_COMMON, *self._authentication]
        if job.url == MESSAGES_URL or job.url.startswith(f"{MESSAGES_URL}/"):
            headers.append(("anthropic-version", ANTHROPIC_VERSION))
        return request_head("POST", self._origin.target(job.url), self._origin.authority, headers, len(job.body))

    def get(self, path: str) -> bytes:
        """The head of a question to the control plane; `path` begins with `/v1/`."""
        headers = [*_COMMON, *self._authentication]
        return request_head("GET", self._origin.target(path), self._origin.authority, headers, None)

    @property
    def key_number(self) -> int:
        """Tells keys apart without showing them: how many are left."""
        return len(self._keys)

    def retire_key(self, key_number: int) -> bool:
        """Stop using the key that `key_number` was the number of. False where none is left."""
        if self._keys and len(self._keys) == key_number:
            del self._keys[0]
            self._authentication = self._headers()
        return bool(self._keys)

    def without_keys(self, reply: Reply) -> Reply:
        """The reply, with our keys blotted out of its body: some servers spell out the key that they refuse, some echo."""
        body = reply.body
        for key in self._never_shown:
            if key in body:
                body = body.replace(key, b"***")
        return reply if body is reply.body else msgspec.structs.replace(reply, body=body)

    def _headers(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._keys[0].reveal()}")] if self._keys else []
