"""A request's body as the platform understands it: which model, how long a prompt, what cap, whose."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from batchrunner.simulator.catalog import Catalog, Model

BYTES_PER_TOKEN = 4
TOKENS_PER_TURN = 4
#: for a picture, a sound or a file, whatever its size
TOKENS_PER_OPAQUE_PART = 800
MAX_CHOICES = 16
MAX_TAG_CHARACTERS = 512

_OPAQUE = {"image_url", "input_image", "image", "input_audio", "audio", "file", "input_file", "document"}
_NOT_PROMPT = {"type", "role", "id", "cache_control"}


class Dialect(enum.Enum):
    """The shape of a request and of its answer, by endpoint."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"


class Refusal(Exception):
    """The request is answered with an error. `code` is the platform's word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Ask(msgspec.Struct, frozen=True):
    """A request that can be served."""

    dialect: Dialect
    model: Model
    #: cached included
    input_tokens: int
    #: of one choice; None where the request names none
    cap_tokens: int | None
    choices: int
    #: for joining the ledger with jobs: `metadata.tag`, else `metadata.custom_id`, else `user` or `metadata.user_id`
    tag: str | None
    custom_id: str | None

    @property
    def limit_tokens(self) -> int:
        """The longest that one choice can get."""
        return min(self.cap_tokens or self.model.max_output_tokens, self.model.max_output_tokens)

    @property
    def estimate_tokens(self) -> int:
        """What a server that looks at the request alone takes it for."""
        return self.input_tokens + self.limit_tokens * self.choices


class _Body(msgspec.Struct):
    model: str
    messages: list[Any] | None = None
    input: str | list[Any] | None = None
    system: str | list[Any] | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Body)


def read(dialect: Dialect, body: bytes, catalog: Catalog) -> Ask:
    """Make sense of a body.

    Raises: Refusal, 400 where it is no JSON or lacks what its dialect requires, 404 where the model does not exist.
    """
    asked = _decode(body)
    model = catalog.get(asked.model)
    if model is None:
        raise Refusal(404, "model_not_found", f"The model '{asked.model[:100]}' does not exist or is not available.")
    if asked.stream:
        raise _invalid("stream", "streaming is not simulated")
    cap_tokens = _cap(dialect, asked)
    choices = 1 if asked.n is None else asked.n
    if not 1 <= choices <= MAX_CHOICES:
        raise _invalid("n", f"must be from 1 to {MAX_CHOICES}")
    prompt = asked.input if dialect is Dialect.RESPONSES else asked.messages
    if not prompt:
        raise _invalid("input" if dialect is Dialect.RESPONSES else "messages", "required, and not empty")
    input_tokens = prompt_tokens([prompt, asked.system, asked.instructions, asked.tools])
    if input_tokens > model.context_length:
        raise Refusal(400, "context_length_exceeded", f"{input_tokens} tokens are more than the model's {model.context_length}.")
    tag, custom_id = _tags(asked)
    return Ask(dialect, model, input_tokens, cap_tokens, choices if dialect is Dialect.CHAT_COMPLETIONS else 1, tag, custom_id)


def prompt_tokens(prompt: list[Any]) -> int:
    """About a token for four bytes of text, some for each turn, and a flat number for parts that are no text."""
    tokens = text_bytes = 0
    # A stack and no recursion: how deep a body is nested is the client's choice.
    rest = prompt
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            text_bytes += len(part) if part.isascii() else len(part.encode())
        elif isinstance(part, list):
            rest.extend(part)
        elif isinstance(part, dict):
            tokens += TOKENS_PER_TURN if "role" in part else 0
            kind = part.get("type")
            if isinstance(kind, str) and kind in _OPAQUE:
                tokens += TOKENS_PER_OPAQUE_PART
            else:
                rest.extend(value for key, value in part.items() if key not in _NOT_PROMPT)
    return tokens + max(1, -(-text_bytes // BYTES_PER_TOKEN))


def _decode(body: bytes) -> _Body:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_request", f"The body does not fit: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "invalid_json", "The body is not valid JSON.") from error


def _cap(dialect: Dialect, asked: _Body) -> int | None:
    if dialect is Dialect.RESPONSES:
        name, cap = "max_output_tokens", asked.max_output_tokens
    elif dialect is Dialect.CHAT_COMPLETIONS and asked.max_completion_tokens is not None:
        name, cap = "max_completion_tokens", asked.max_completion_tokens
    else:
        name, cap = "max_tokens", asked.max_tokens
    if cap is None and dialect is Dialect.MESSAGES:
        raise _invalid(name, "required")
    if cap is not None and cap < 1:
        raise _invalid(name, "must be at least 1")
    return cap


def _tags(asked: _Body) -> tuple[str | None, str | None]:
    metadata = asked.metadata or {}
    custom_id = _text(metadata.get("custom_id"))
    tag = _text(metadata.get("tag")) or custom_id or _text(asked.user) or _text(metadata.get("user_id"))
    return tag, custom_id


def _text(value: object) -> str | None:
    return value[:MAX_TAG_CHARACTERS] if isinstance(value, str) and value else None


def _invalid(field: str, what: str) -> Refusal:
    return Refusal(400, "invalid_request", f"{field}: {what}.")
