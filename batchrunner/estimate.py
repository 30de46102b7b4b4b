"""How many tokens a request will take, learned from those that were answered.

Input: a body's guess times the ratio of what servers reported to what was guessed, per model. Output: the mean that was seen
for jobs of the same model and about the same cap; while there are few, it leans to the cap. Errors of single jobs average
out: a budget needs the sum to be right.

All figures are integers, so that the state reads the same on every machine. The number of models is bounded; those past the
bound share one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from batchrunner.job import RequestSize, Usage
from batchrunner.moments import Moments

#: answers after which older ones begin to fade
WINDOW: Final = 500
#: answers from which a class stands on its own mean
ENOUGH: Final = 10
#: and from which it is known how much those of a kind differ, if not well
FEW: Final = 5
#: what an answer may take where neither body nor experience says anything, tokens
UNKNOWN_OUTPUT_TOKENS: Final = 1024
#: entries of each table; the shared one for all the rest comes on top
MAX_KEYS: Final = 1000
#: no request takes more than this today, tokens; one such figure would spoil a mean for hours
MOST_TOKENS: Final = 10_000_000
#: of these, each with a dozen sizes, later ones are not kept: they serve forecasts alone
MOST_KINDS: Final = 250
OTHER: Final = "(other)"
#: no answer takes longer; a mean of such stays below the bound of what was learned
LONGEST_SECONDS: Final = 43_200.0

_MAX_KEY_CHARACTERS: Final = 200
#: tokens at a ratio of one that stand beside what was learned: first answers of a few tokens say little
_PRIOR_TOKENS: Final = 1000
#: no model writes more at a stretch: a cap above says "no cap", and is no reason to reserve a whole minute's tokens
_LONGEST_PRIOR_TOKENS: Final = 1 << 17
_UNIT: Final = 1 << 16


#: no sum of what was learned comes near the bound: one that is beyond it was not learned
Learned = Annotated[int, msgspec.Meta(ge=0, le=1 << 42)]


class Ratio(msgspec.Struct):
    """Reported input to guessed input, as two sums that fade together."""

    guessed: Learned = 0
    reported: Learned = 0
    count: Learned = 0

    def add(self, guessed: int, reported: int) -> None:
        self.count += 1
        self.guessed += guessed
        self.reported += reported
        if self.count >= WINDOW:
            # Halving all keeps the ratio, and lets what comes weigh as much as what was.
            self.count //= 2
            self.guessed //= 2
            self.reported //= 2

    def of(self, guessed: int) -> int:
        return guessed * (self.reported + _PRIOR_TOKENS) // (self.guessed + _PRIOR_TOKENS)


class Mean(msgspec.Struct):
    """A running mean over about `WINDOW` values. Past the window the step no longer shrinks, so that it follows change."""

    #: in 1/65536 of a token
    value: Learned = 0
    count: Learned = 0

    def add(self, tokens: int) -> None:
        self.count = min(self.count + 1, WINDOW)
        self.value += (tokens * _UNIT - self.value) // self.count

    @property
    def tokens(self) -> int:
        return -(-self.value // _UNIT)


class Outputs(Mean):
    """What answers of one class have taken."""

    #: by the longest of all of them, tokens
    most: Learned = 0

    def add(self, tokens: int) -> None:
        Mean.add(self, tokens)
        self.most = max(self.most, tokens)


class Error(msgspec.Struct):
    """How far predictions were off, whichever way, and what was used, in tokens: two sums that fade together."""

    off: int = 0
    used: int = 0
    count: int = 0

    def add(self, predicted: int, used: int) -> None:
        self.count += 1
        self.off += abs(predicted - used)
        self.used += used
        if self.count >= WINDOW:
            self.count //= 2
            self.off //= 2
            self.used //= 2


class Errors(msgspec.Struct):
    """Of one model."""

    input: Error = msgspec.field(default_factory=Error)
    output: Error = msgspec.field(default_factory=Error)


class Share(msgspec.Struct, frozen=True):
    """Tokens that predictions were off by, of those that were used. Shares add up."""

    off: int = 0
    used: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.off + other.off, self.used + other.used)

    @property
    def ratio(self) -> float | None:
        """The mean relative error; None where nothing was used."""
        return self.off / self.used if self.used else None


class Latency(msgspec.Struct, frozen=True):
    """From requests to their answers, in seconds."""

    mean: float
    slowest: float
    #: on how many that rests
    answers: int


class Statistics(msgspec.Struct, frozen=True):
    """How good predictions were, by model, over about the last `WINDOW` answers of each."""

    input: Mapping[str, Share]
    output: Mapping[str, Share]


class Estimator(msgspec.Struct):
    """Learned lengths. A later run goes on with them: `encode`, `decode`."""

    #: by model
    ratios: dict[str, Ratio] = {}
    #: input tokens of a request's images, sounds and files together, by model
    parts: dict[str, Mean] = {}
    #: by model and class of cap
    outputs: dict[str, Outputs] = {}
    #: by model
    errors: dict[str, Errors] = {}
    #: how much requests of one kind differ: by model, class of cap and class of size
    kinds: dict[str, dict[int, Moments]] = {}
    #: from the request to its answer, milliseconds, by model and class of cap
    latencies: dict[str, Outputs] = {}

    def predict(self, size: RequestSize) -> Usage:
        """What a request will take. The output is never above the body's own cap."""
        tokens = self._text_tokens(size)
        if size.opaque_parts:
            parts = _find(self.parts, _model(size))
            tokens += size.opaque_tokens if parts is None else parts.tokens
        return Usage(tokens, self._output_tokens(size))

    def learn(self, size: RequestSize, usage: Usage, seconds: float | None = None) -> None:
        """Take in what a request was reported to have taken, and how long. A figure that no answer has is not learned from."""
        if usage.total_tokens > MOST_TOKENS or not usage.tokens_known:
            return
        model, predicted = _model(size), self.predict(size)
        errors = _entry(self.errors, model, Errors)
        errors.input.add(predicted.input_tokens, usage.input_tokens)
        errors.output.add(predicted.output_tokens, usage.output_tokens)
        if size.opaque_parts:
            _entry(self.parts, model, Mean).add(max(0, usage.input_tokens - self._text_tokens(size)))
        else:
            _entry(self.ratios, model, Ratio).add(size.input_tokens, usage.input_tokens)
        _entry(self.outputs, _output_class(size), Outputs).add(usage.output_tokens)
        kind = _kind(size)
        if size.input_tokens <= MOST_TOKENS and (kind in self.kinds or len(self.kinds) < MOST_KINDS):
            self.kinds.setdefault(kind, {}).setdefault(size_class(size), Moments()).add(size.input_tokens, usage)
        if seconds is not None and 0 <= seconds <= LONGEST_SECONDS:
            _entry(self.latencies, _output_class(size), Outputs).add(round(seconds * 1000))

    def outputs_of(self, size: RequestSize) -> Outputs | None:
        """What answers to requests like this one have taken; None where there were none, or they share an entry with others."""
        return self.outputs.get(_output_class(size))

    def moments_of(self, size: RequestSize) -> Moments | None:
        """What is known of requests like this one, else of those with about its cap that are longer or shorter."""
        known = self.kinds.get(_kind(size), {})
        own = known.get(size_class(size))
        if own is not None and own.count >= ENOUGH:
            return own
        together = sum(known.values(), Moments())
        return together if together.count >= FEW else None

    def latency_of(self, size: RequestSize) -> Latency | None:
        """How long answers to requests like this one have taken."""
        known = self.latencies.get(_output_class(size))
        return None if known is None else Latency(known.tokens / 1000, known.most / 1000, known.count)

    def statistics(self) -> Statistics:
        """Only reads, so that another thread may look too."""
        errors = list(self.errors.items())
        return Statistics(
            input={model: Share(of.input.off, of.input.used) for model, of in errors},
            output={model: Share(of.output.off, of.output.used) for model, of in errors},
        )

    def _text_tokens(self, size: RequestSize) -> int:
        ratio = _find(self.ratios, _model(size))
        return size.input_tokens if ratio is None else max(1, ratio.of(size.input_tokens))

    def _output_tokens(self, size: RequestSize) -> int:
        """The mean of the class; of its first few answers each replaces a tenth of the cap."""
        cap = size.output_cap_tokens
        prior = UNKNOWN_OUTPUT_TOKENS if cap is None else min(cap, _LONGEST_PRIOR_TOKENS)
        mean = _find(self.outputs, _output_class(size))
        if mean is None:
            return prior
        missing = max(0, ENOUGH - mean.count)
        tokens = -(-(mean.tokens * (ENOUGH - missing) + prior * missing) // ENOUGH)
        return tokens if cap is None else min(tokens, cap)


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What a later run goes on with. How far predictions were off is each run's own affair, and is not among it."""

    #: another number for each change that older or newer programs cannot read
    version: Literal[1]
    ratios: dict[str, Ratio]
    parts: dict[str, Mean]
    outputs: dict[str, Outputs]
    #: older programs did not keep these
    kinds: dict[str, dict[int, Moments]] = {}
    latencies: dict[str, Outputs] = {}


_KEPT: Final = msgspec.msgpack.Decoder(_Kept)


def encode(lengths: Estimator) -> bytes:
    """What was learned, for `decode`."""
    return msgspec.msgpack.encode(_Kept(1, lengths.ratios, lengths.parts, lengths.outputs, lengths.kinds, lengths.latencies))


def decode(data: bytes) -> Estimator | None:
    """Go on with what `encode` wrote; None for anything else, what another version wrote among it."""
    try:
        kept = _KEPT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Estimator(kept.ratios, kept.parts, kept.outputs, kinds=kept.kinds, latencies=kept.latencies)


def _model(size: RequestSize) -> str:
    return size.model[:_MAX_KEY_CHARACTERS]


def _output_class(size: RequestSize) -> str:
    """Jobs of one model whose caps have the same power of two are taken to write about as much."""
    cap = size.output_cap_tokens
    return f"{'-' if cap is None else cap.bit_length()} {_model(size)}"


def size_class(size: RequestSize) -> int:
    """Prompts of one class are of a size within a factor of four."""
    return (size.input_tokens.bit_length() + 1) // 2


def _kind(size: RequestSize) -> str:
    return f"{'+' if size.opaque_parts else ''}{_output_class(size)}"


_Entry = TypeVar("_Entry")


def _entry(table: dict[str, _Entry], key: str, new: Callable[[], _Entry]) -> _Entry:
    """The entry to learn into; past the bound new keys share one."""
    if key not in table and len(table) >= MAX_KEYS:
        key = OTHER
    return table.setdefault(key, new())


def _find(table: dict[str, _Entry], key: str) -> _Entry | None:
    """The entry to predict from; there is a shared one only where the bound was reached."""
    return table.get(key) or table.get(OTHER)
