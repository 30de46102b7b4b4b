"""A request's body as the platform understands it: which model, how long a prompt, what cap, whose."""

from __future__ import annotations

import enum
import zlib
from decimal import Decimal
from typing import Any

import msgspec

from batchrunner.simulator.catalog import Catalog, Model
from batchrunner.simulator.model import AVAILABLE

BYTES_PER_TOKEN = 4
TOKENS_PER_TURN = 4
#: for a picture, a sound or a file, whatever its size
TOKENS_PER_OPAQUE_PART = 800
MAX_CHOICES = 16
#: of speech
CHARACTERS_PER_SECOND = 15
#: inputs of one embedding, prompts of one completion, documents of one rerank
MAX_PARTS = 2_048
#: of a vector, where the request asks for no other size: small, as nobody reads them
DIMENSIONS = 8
MAX_DIMENSIONS = 4_096
#: of a film, where the request asks for no other length
FILM_SECONDS = 5
MAX_FILM_SECONDS = 60
MAX_TAG_CHARACTERS = 512

_OPAQUE = {"image_url", "input_image", "image", "input_audio", "audio", "file", "input_file", "document"}
_NOT_PROMPT = {"type", "role", "id", "cache_control"}


class Dialect(enum.StrEnum):
    """The shape of a request and of its answer, by endpoint."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RERANKS = "/v1/reranks"
    IMAGES = "/v1/images/generations"
    SPEECH = "/v1/audio/speech"
    SEARCH = "/v1/search"
    DETECT = "/v1/detect"
    VIDEOS = "/v1/videos/generations"
    TRANSCRIPTIONS = "/v1/audio/transcriptions"


# Sets, as each request asks them, and to name a member of an enum costs more than to look it up in one.
#: take turns of a conversation
_TURNS = frozenset({Dialect.CHAT_COMPLETIONS, Dialect.RESPONSES, Dialect.MESSAGES})
#: take one input or many
_BATCHED = frozenset({Dialect.COMPLETIONS, Dialect.EMBEDDINGS})
#: have an `n`: so many answers to one prompt
_CHOOSERS = frozenset({Dialect.CHAT_COMPLETIONS, Dialect.COMPLETIONS, Dialect.IMAGES})
#: answered with the name of work that is asked for
WORKS = frozenset({Dialect.VIDEOS, Dialect.TRANSCRIPTIONS})
#: answered by addresses of files, at once
POINTERS = frozenset({Dialect.IMAGES, Dialect.SPEECH, Dialect.SEARCH, Dialect.DETECT})
#: write text: their answers have a length, and their requests a cap
WRITERS = _TURNS | {Dialect.COMPLETIONS}
#: the fields that may hold a cap; the first that is there counts
_CAPS: dict[Dialect, tuple[str, ...]] = {
    Dialect.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Dialect.RESPONSES: ("max_output_tokens",),
    Dialect.MESSAGES: ("max_tokens",),
    Dialect.COMPLETIONS: ("max_tokens",),
}
#: the fields that may hold what a request is about; the first that is there does
_PROMPTS: dict[Dialect, tuple[str, ...]] = {
    Dialect.CHAT_COMPLETIONS: ("messages",),
    Dialect.RESPONSES: ("input",),
    Dialect.MESSAGES: ("messages",),
    Dialect.COMPLETIONS: ("prompt",),
    Dialect.EMBEDDINGS: ("input",),
    Dialect.RERANKS: ("query",),
    Dialect.IMAGES: ("prompt",),
    Dialect.SPEECH: ("input",),
    Dialect.SEARCH: ("query", "input", "prompt"),
    Dialect.VIDEOS: ("prompt", "image", "image_url"),
    Dialect.TRANSCRIPTIONS: ("audio_url", "audio", "file", "input"),
    Dialect.DETECT: ("input", "text", "prompt", "image", "image_url"),
}


class Refusal(Exception):
    """The request is answered with an error. `code` is the platform's word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A request that can be served."""

    dialect: Dialect
    model: Model
    #: cached included
    input_tokens: int
    #: of one choice; None where the request names none
    cap_tokens: int | None
    choices: int
    #: what is answered one by one, as bytes: inputs, prompts; the query of a rerank, then its documents
    parts: tuple[bytes, ...]
    #: of a vector
    dimensions: int
    in_base64: bool
    #: those offered that the platform runs itself, and bills
    tools: tuple[str, ...]
    #: answered by a stream of events
    stream: bool
    #: which tells of usage, in a dialect that does so where it is asked for
    include_usage: bool
    #: how long the film will be, or the sound is
    seconds: int
    #: for joining the ledger with jobs: `metadata.tag`, else `metadata.custom_id`, else `user` or `metadata.user_id`
    tag: str | None
    custom_id: str | None
    #: what the answer will hold beside tokens, by the catalog's units
    units: dict[str, Decimal] = {}

    @property
    def limit_tokens(self) -> int:
        """The longest that one choice can get; 0 where no text is written."""
        if self.dialect not in WRITERS:
            return 0
        return min(self.cap_tokens or self.model.max_output_tokens, self.model.max_output_tokens)

    @property
    def estimate_tokens(self) -> int:
        """What a server that looks at the request alone takes it for."""
        return self.input_tokens + self.limit_tokens * self.choices


class _Body(msgspec.Struct):
    model: str
    messages: list[Any] | None = None
    input: str | list[Any] | None = None
    prompt: str | list[Any] | None = None
    query: str | None = None
    documents: list[Any] | None = None
    text: str | None = None
    image: str | dict[str, Any] | None = None
    image_url: str | dict[str, Any] | None = None
    audio: str | dict[str, Any] | None = None
    audio_url: str | None = None
    file: str | None = None
    seconds: int | None = None
    system: str | list[Any] | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    top_n: int | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
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
    if model.status != AVAILABLE:
        raise Refusal(503, "model_unavailable", f"The worker of '{model.id}' is offline.")
    if asked.stream and dialect not in WRITERS:
        raise _invalid("stream", "only texts are streamed")
    prompt = _prompt(dialect, asked)
    parts: tuple[bytes, ...] = ()
    choices = _between("n", asked.n, 1, MAX_CHOICES) if dialect in _CHOOSERS else 1
    if dialect in _TURNS:
        input_tokens = prompt_tokens([prompt, asked.system, asked.instructions, asked.tools])
    elif dialect in _BATCHED:
        texts, parts, token_ids = _split(_PROMPTS[dialect][0], prompt)
        input_tokens = token_ids + (prompt_tokens(texts) if texts else 0)
        choices *= len(parts)
    elif dialect is Dialect.RERANKS:
        parts = _documents(asked)
        input_tokens = prompt_tokens([prompt, asked.documents])
        choices = min(_between("top_n", asked.top_n, MAX_PARTS, MAX_PARTS), len(parts) - 1)
    else:
        parts = (msgspec.json.encode(prompt),)
        input_tokens = prompt_tokens([prompt])
    if input_tokens > model.context_length:
        raise Refusal(400, "context_length_exceeded", f"{input_tokens} tokens are more than the model's {model.context_length}.")
    seconds = _seconds(dialect, asked, parts)
    tag, custom_id = _tags(asked)
    return Ask(
        dialect=dialect,
        model=model,
        input_tokens=input_tokens,
        cap_tokens=_cap(dialect, asked),
        choices=choices,
        parts=parts,
        dimensions=_between("dimensions", asked.dimensions, DIMENSIONS, MAX_DIMENSIONS),
        in_base64=asked.encoding_format == "base64",
        tools=_tools(asked.tools, model) if asked.tools else (),
        stream=asked.stream or False,
        seconds=seconds,
        include_usage=(asked.stream_options or {}).get("include_usage") is True,
        tag=tag,
        custom_id=custom_id,
        units=_units(dialect, model, prompt, choices, seconds) if model.units else {},
    )


def prompt_tokens(prompt: list[Any]) -> int:
    """About a token for four bytes of text, some for each turn, and a flat number for parts that are no text."""
    tokens = text_bytes = 0
    # A stack and no recursion: how deep a body is nested is the client's choice. (`type` and no isinstance: each request
    # comes this way, and all of it was read from JSON.)
    rest = prompt
    while rest:
        part = rest.pop()
        kind = type(part)
        if kind is str:
            text_bytes += len(part) if part.isascii() else len(part.encode())
        elif kind is list:
            rest += part
        elif kind is dict:
            tokens += TOKENS_PER_TURN if "role" in part else 0
            label = part.get("type")
            if type(label) is str and label in _OPAQUE:
                tokens += TOKENS_PER_OPAQUE_PART
            else:
                rest += [part[key] for key in part if key not in _NOT_PROMPT]
    return tokens + max(1, -(-text_bytes // BYTES_PER_TOKEN))


def _decode(body: bytes) -> _Body:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_request", f"The body does not fit: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "invalid_json", "The body is not valid JSON.") from error


def _prompt(dialect: Dialect, asked: _Body) -> Any:
    fields = _PROMPTS[dialect]
    for field in fields:
        if value := getattr(asked, field):
            return value
    raise _invalid(" or ".join(fields), "required, and not empty")


def _units(dialect: Dialect, model: Model, prompt: str | list[Any], choices: int, seconds: int) -> dict[str, Decimal]:
    """What an answer holds that this model is billed by: pictures and films as asked for, speech as long as its text, what was
    listened to, or one of a kind.
    """
    held = {"custom": Decimal(1)}
    if dialect is Dialect.IMAGES:
        held["image"] = Decimal(choices)
    if dialect is Dialect.SPEECH:
        held["audio-second"] = Decimal(-(-len(str(prompt)) * 10 // CHARACTERS_PER_SECOND)) / 10
    if dialect is Dialect.VIDEOS:
        held["video-second"] = Decimal(seconds)
    if dialect is Dialect.TRANSCRIPTIONS:
        held["audio-second"] = Decimal(seconds)
    return {unit: quantity for unit, quantity in held.items() if unit in model.units}


def _split(field: str, prompt: str | list[Any]) -> tuple[list[Any], tuple[bytes, ...], int]:
    """The texts among the inputs, all inputs as bytes, and how many tokens the inputs have that came as token ids.

    An input is a text or an array of token ids; a request has one, or an array of them.
    """
    items = [prompt] if isinstance(prompt, str) or all(type(item) is int for item in prompt) else prompt
    if len(items) > MAX_PARTS:
        raise _invalid(field, f"no more than {MAX_PARTS} at once")
    texts: list[Any] = []
    parts: list[bytes] = []
    token_ids = 0
    for item in items:
        if isinstance(item, str) and item:
            texts.append(item)
            parts.append(item.encode())
        elif isinstance(item, list) and item and all(type(token) is int for token in item):
            token_ids += len(item)
            parts.append(msgspec.json.encode(item))
        else:
            raise _invalid(field, "texts or arrays of token ids, none of them empty")
    return texts, tuple(parts), token_ids


def _documents(asked: _Body) -> tuple[bytes, ...]:
    """The query, then the documents: texts, or objects of whatever kind."""
    documents = asked.documents or []
    if not 1 <= len(documents) <= MAX_PARTS:
        raise _invalid("documents", f"must be from 1 to {MAX_PARTS}")
    texts = (document.encode() if isinstance(document, str) else msgspec.json.encode(document) for document in documents)
    return ((asked.query or "").encode(), *texts)


def _cap(dialect: Dialect, asked: _Body) -> int | None:
    for name in _CAPS.get(dialect, ()):
        cap: int | None = getattr(asked, name)
        if cap is not None and cap < 1:
            raise _invalid(name, "must be at least 1")
        if cap is not None:
            return cap
    if dialect is Dialect.MESSAGES:
        raise _invalid("max_tokens", "required")
    return None


def _between(field: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise _invalid(field, f"must be from 1 to {most}")
    return value


def _tools(offered: list[Any], model: Model) -> tuple[str, ...]:
    """By type, as the providers write their own (a function of the client's has the type `function`)."""
    named = [tool.get("type") for tool in offered if isinstance(tool, dict)]
    return tuple(tool for tool in model.tools if tool in named)


def _seconds(dialect: Dialect, asked: _Body, parts: tuple[bytes, ...]) -> int:
    """A film is as long as it was asked for. Nobody listens to a sound: how long it is follows from its address."""
    if dialect is Dialect.TRANSCRIPTIONS:
        return 10 + zlib.crc32(parts[0]) % 50
    return _between("seconds", asked.seconds, FILM_SECONDS, MAX_FILM_SECONDS)


def _tags(asked: _Body) -> tuple[str | None, str | None]:
    metadata = asked.metadata or {}
    custom_id = _text(metadata.get("custom_id"))
    tag = _text(metadata.get("tag")) or custom_id or _text(asked.user) or _text(metadata.get("user_id"))
    return tag, custom_id


def _text(value: object) -> str | None:
    return value[:MAX_TAG_CHARACTERS] if isinstance(value, str) and value else None


def _invalid(field: str, what: str) -> Refusal:
    return Refusal(400, "invalid_request", f"{field}: {what}.")
