"""What can be said against a job before anything is spent on it: by its body and the catalog. Pure.

An error is what is certain to fail. All else is a warning: catalogs lag behind, and the sizes of prompts are guessed.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from batchrunner import dialect
from batchrunner.advice import is_generous
from batchrunner.catalog import Model
from batchrunner.estimate import Outputs
from batchrunner.job import RequestSize, Usage

#: Parts of a request's shape, which no catalog lists; spellings of a cap stand for each other.
_SHAPE: Final = frozenset(
    {"model", "messages", "input", "prompt", "query", "documents", "system", "instructions", "text", "file", "url", "image"}
    | {"image_url", "audio", "audio_url", "video", "video_url", "metadata", "user", "safety_identifier", "store"}
    | {"disable_formatting", "stream", "stream_options"}
)
_CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")

#: all that the platform documents
_URLS: Final = frozenset(dialect.URLS)

Level = Literal["error", "warning"]
Code = Literal[
    "unknown_url",
    "no_model",
    "unknown_model",
    "unknown_account",
    "model_unavailable",
    "unknown_parameter",
    "parameter_value",
    "context_exceeded",
    "cap_above_model",
    "cap_above_context",
    "generous_cap",
    "above_tpm",
    "tools_billed",
    "price_unknown",
]


class Problem(msgspec.Struct, frozen=True):
    """Something about one job. Two of the same code, model and parameter are the same thing twice."""

    level: Level
    code: Code
    model: str
    parameter: str | None
    #: without a file or line
    message: str


class Looked(msgspec.Struct, frozen=True):
    """A job as the checks see it."""

    url: str
    size: RequestSize
    #: the body's fields, not decoded
    fields: Mapping[str, msgspec.Raw]
    predicted: Usage
    #: what answers to its like have taken; None where nothing is known
    outputs: Outputs | None


def problems(job: Looked, catalog: Mapping[str, Model] | None, *, rpm: int, tpm: int) -> Iterator[Problem]:
    """What speaks against a job. `catalog`: by id; None where it cannot be had. Limits: 0 is none."""
    size = job.size
    if job.url not in _URLS:
        yield Problem("warning", "unknown_url", size.model, job.url, _undocumented(job.url))
    yield from _limits(job, rpm, tpm)
    if catalog is None:
        return
    if not size.model:
        yield Problem("warning", "no_model", "", "model", "no model is named: the server must have one of its own.")
        return
    model = catalog.get(size.model)
    if model is None:
        message = "the catalog has no such model: the server will answer model_not_found. `batchrun models` lists all."
        yield Problem("error", "unknown_model", size.model, "model", message)
        return
    if not model.is_available:
        message = f"the catalog says of this model: {model.status}. Jobs may wait for it, and fail if it does not come back."
        yield Problem("warning", "model_unavailable", size.model, None, message)
    if model.price.tools and "tools" in job.fields:
        message = f"tools that are billed by the call ({', '.join(model.price.tools)}) are in no forecast but a sample's."
        yield Problem("warning", "tools_billed", size.model, "tools", message)
    yield from _sizes(job, model)
    if model.parameters is not None:
        yield from _parameters(job, model)


@functools.lru_cache(maxsize=64)  # a file asks few urls, on many lines
def _undocumented(url: str) -> str:
    near = "".join(f" Did you mean {one}?" for one in difflib.get_close_matches(url, sorted(_URLS), n=1))
    return f"{url} is none of the platform's documented paths.{near}"


def _limits(job: Looked, rpm: int, tpm: int) -> Iterator[Problem]:
    size, tokens = job.size, job.predicted.total_tokens
    if 0 < tpm < tokens:
        message = f"expected to take more tokens ({tokens:,}) than a minute has ({tpm:,}): goes alone, and may never fit."
        yield Problem("warning", "above_tpm", size.model, None, message)
    if job.outputs is not None and is_generous(size, job.outputs, rpm=rpm, tpm=tpm):
        message = (
            f"the output cap is {size.output_cap_tokens:,}, and no answer has taken more than {job.outputs.most:,}: lower it."
        )
        yield Problem("warning", "generous_cap", size.model, None, message)


def _sizes(job: Looked, model: Model) -> Iterator[Problem]:
    size, most, read = job.size, model.context_tokens, job.predicted.input_tokens
    cap, longest = size.output_cap_tokens, model.max_output_tokens
    if most is not None and read > most:
        message = f"the prompt is taken for {read:,} tokens, and the model reads {most:,}."
        yield Problem("warning", "context_exceeded", size.model, None, message)
    elif most is not None and cap is not None and read + cap // size.choices > most:
        message = (
            f"a prompt of about {read:,} tokens and an output cap of {cap // size.choices:,} are more than the model's context "
            f"of {most:,}: it may be refused, or its answer cut."
        )
        yield Problem("warning", "cap_above_context", size.model, None, message)
    if cap is not None and longest is not None and cap > longest * size.choices:
        message = f"the output cap is {cap:,}, and the model writes {longest * size.choices:,} at the most."
        yield Problem("warning", "cap_above_model", size.model, None, message)


def _parameters(job: Looked, model: Model) -> Iterator[Problem]:
    """What the body says under names that the catalog does not list, and values that it rules out."""
    listed = {parameter.name: parameter for parameter in model.parameters or ()}
    has_cap = not listed.keys().isdisjoint(_CAPS)
    for name, raw in job.fields.items():
        parameter = listed.get(name)
        if parameter is None:
            if name not in _SHAPE and not (has_cap and name in _CAPS):
                message = f"the catalog does not list {name!r} among the model's parameters: it may be ignored or refused."
                yield Problem("warning", "unknown_parameter", model.id, name, message)
        elif (wrong := parameter.problem(value(raw))) is not None:
            yield Problem("warning", "parameter_value", model.id, name, f"{name!r} {wrong}, as the catalog has it.")


def value(raw: msgspec.Raw) -> Any:
    """A field of a body, decoded; None where it cannot be."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
