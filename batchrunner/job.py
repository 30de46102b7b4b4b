"""Records about jobs: what was asked, how large it is, what it used."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

#: Each step of priority doubles a job's share of the account. More steps than this, up or down, count as this many.
MAX_STEPS = 10


class Extras(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job line's own wishes, under its `batchrun` key."""

    account: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    #: seconds, for one attempt
    timeout: float | None = None


NO_EXTRAS = Extras()


class Job(msgspec.Struct, frozen=True):
    """One line of the job file that asks for something."""

    #: position in the index: 0 for the first job; bad and blank lines take none
    number: int
    #: 1-based line in the input, all files counted on
    line: int
    custom_id: str
    #: path below the server, e.g. `/v1/chat/completions`
    url: str
    #: JSON object, byte for byte as written
    body: bytes
    #: 64-bit hash of the whole line without its line end
    fingerprint: int
    extras: Extras = NO_EXTRAS


class BadLine(msgspec.Struct, frozen=True):
    """A line that is no job."""

    #: 1-based, all files counted on
    line: int
    #: closed set, see `jobfile`
    code: str
    #: file and line in it, why it is none, and what to do about it
    message: str


class RequestSize(msgspec.Struct, frozen=True):
    """What a request's body says about what it may take."""

    model: str
    #: prompt tokens guessed from bytes; parts that bytes say nothing about (images, audio, files) are left out
    input_tokens: int
    #: the body's own cap on output, times the choices asked for; None where it sets none, 0 where nothing is written
    output_cap_tokens: int | None
    #: holds parts whose tokens bytes cannot tell
    opaque_parts: bool = False
    #: answers asked for, each of which may be as long as the model allows
    choices: int = 1
    #: what these parts may take, by rules of thumb: an estimate until answers have told
    opaque_tokens: int = 0
    #: its answer may hold what no usage counts and some models are billed by: pictures, seconds of sound
    opaque_output: bool = False
    #: quantities beside tokens that it asks for, by the catalog's names of their units; those that it does not tell are missing
    units: Mapping[str, Decimal] = {}

    @property
    def guessed_tokens(self) -> int:
        """All of its input, as far as it can be guessed."""
        return self.input_tokens + self.opaque_tokens


class Usage(msgspec.Struct, frozen=True):
    """What a reply says it took, in one spelling for all dialects."""

    #: includes cached
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    #: part of output
    reasoning_tokens: int = 0
    #: quantities beside tokens, by the catalog's names of its units: `image`, `video-second`, `audio-second`
    units: dict[str, Decimal] = {}
    #: False: the reply says nothing of tokens, which stand as 0 here
    tokens_known: bool = True

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens
