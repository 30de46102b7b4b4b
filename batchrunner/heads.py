"""How a job goes out: its head, with the account's key in it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batchrunner import __version__
from batchrunner.account_table import Auth
from batchrunner.exchange import Failure, Reply
from batchrunner.job import Job
from batchrunner.keyring import KeyRing, Use
from batchrunner.secret import Blotter, Secret
from batchrunner.transport import Origin, request_head

VERSION_HEADER = "anthropic-version"
#: The version that the Messages shape wants named, unless the account names another.
ANTHROPIC_VERSION = "2023-06-01"
MESSAGES_URL = "/v1/messages"

_COMMON = (("accept", "application/json"), ("user-agent", f"batchrun/{__version__}"))


class Heads:
    """Heads for one account's jobs. `keys` says which of its keys goes out.

    The only caller of `Secret.reveal`: a key goes from here to the wire and nowhere else.
    """

    def __init__(
        self, origin: Origin, keys: Sequence[Secret], *, auth: Auth = "bearer", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        #: a server that wants none is asked without one, as if that were a key
        self.keys = KeyRing(max(1, len(keys)))
        self._origin = origin
        self._names_version = any(name == VERSION_HEADER for name, _ in headers)
        # All keys, those retired included: what was in flight with one is answered after.
        self._keys = tuple(keys)
        self._blotter = Blotter(key.reveal() for key in keys)
        #: by key: who we are, as the account wants it said, and what else it wants with every request
        self._own = [(_authentication(key, auth), *headers) for key in keys] or [tuple(headers)]

    def head(self, job: Job, key: Use, idempotency_key: str | None = None) -> bytes:
        """The request's head. (That replies come uncompressed, the connection asks for itself.)

        `idempotency_key`: by which a server that honours it knows a repeat of a request whose end was not seen.
        """
        headers = [("content-type", "application/json"), *_COMMON, *self._own[key.number]]
        if not self._names_version and (job.url == MESSAGES_URL or job.url.startswith(f"{MESSAGES_URL}/")):
            headers.append((VERSION_HEADER, ANTHROPIC_VERSION))
        if idempotency_key is not None:
            headers.append(("idempotency-key", idempotency_key))
        return request_head("POST", self._origin.target(job.url), self._origin.authority, headers, len(job.body))

    @property
    def key_count(self) -> int:
        """How many keys there are to ask with; a server that wants none is asked without one, and that is one."""
        return len(self._own)

    def get(self, path: str, key: int = 0) -> bytes:
        """The head of a question to the control plane, with the key of that number; `path` begins with `/v1/`."""
        headers = [*_COMMON, *self._own[key]]
        return request_head("GET", self._origin.target(path), self._origin.authority, headers, None)

    def fingerprint(self, number: int) -> str:
        """Eight hex digits by which people tell one of the account's keys from another; none for no key."""
        return self._keys[number].fingerprint(self._origin.authority) if self._keys else ""

    def without_keys(self, reply: Reply) -> Reply:
        """The reply, with our keys blotted out: some servers spell out the key that they refuse, some echo what they were sent.

        Nothing of a reply is looked at before, so that no key can come into a result, a message, a record or a label.
        """
        body = self._blotter.clean(reply.body)
        headers = tuple((name, self._blotter.clean_text(value)) for name, value in reply.headers)
        if body is reply.body and headers == reply.headers:
            return reply
        return msgspec.structs.replace(reply, body=body, headers=headers)

    def failure_without_keys(self, failure: Failure) -> Failure:
        """The failure, with our keys blotted out of its message, which may hold words of the server."""
        return msgspec.structs.replace(failure, message=self._blotter.clean_text(failure.message))


def _authentication(key: Secret, auth: Auth) -> tuple[str, str]:
    return ("authorization", f"Bearer {key.reveal()}") if auth == "bearer" else ("x-api-key", key.reveal())
