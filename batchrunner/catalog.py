"""The models on offer, as an answer of `GET /v1/models` tells of them. Nothing that stands in an entry raises.

Read tolerantly: a field of the wrong type counts as absent, spellings that real catalogs have are all taken, and an entry
without an id is left out.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from batchrunner.catalog_prices import ModelPrice, model_price, token_count
from batchrunner.errors import AccountError

#: words for a model that answers
AVAILABLE: Final = frozenset(
    {"available", "active", "online", "operational", "live", "ok", "up", "ready", "healthy", "stable", "ga", "beta", "preview"}
)
_STATUS: Final = ("status", "api_status", "availability")
#: of a number before or behind its point: one with more is no bound of anything, and can be too long to be shown
_MOST_DIGITS: Final = 40
_Scalar = str | int | float | Decimal | bool | None


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of requests that a model supports, as far as the catalog describes it."""

    name: str
    type: str | None = None
    #: the values that it may have; none where they are not listed
    options: tuple[_Scalar, ...] = ()
    min: Decimal | None = None
    max: Decimal | None = None
    default: _Scalar = None

    def problem(self, value: object) -> str | None:
        """What is wrong with a value of this parameter, in a few words; None where nothing is known to be."""
        if value is None or isinstance(value, dict):  # what stands in place of a word, a tool's name say, is described nowhere
            return None
        for one in value if isinstance(value, list) else [value]:
            if self.options and not any(_same(one, option) for option in self.options):
                return f"is none of {', '.join(map(str, self.options))}"
        number = None if isinstance(value, str) else _number(value)
        if number is None:
            return None
        if self.min is not None and number < self.min:
            return f"is below {self.min:f}"
        return f"is above {self.max:f}" if self.max is not None and number > self.max else None


class Model(msgspec.Struct, frozen=True):
    """One model. None, or nothing listed: the catalog does not say."""

    id: str
    name: str
    provider: str | None = None
    #: the catalog's own word: text, image, audio, video, embedding ...
    category: str | None = None
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    #: None where the catalog lists none, which is not to say that there are none
    parameters: tuple[Parameter, ...] | None = None
    #: those that it has
    capabilities: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    #: where it runs
    region: str | None = None
    #: in the catalog's words, lower case
    status: str | None = None
    price: ModelPrice = ModelPrice()

    @property
    def is_available(self) -> bool:
        """Whether nothing is said against its answering."""
        return self.status is None or self.status in AVAILABLE

    @property
    def modality(self) -> str:
        """What goes in and what comes out: `text+image -> text`; the category where neither is said."""
        if not self.input_modalities and not self.output_modalities:
            return self.category or ""
        return f"{'+'.join(self.input_modalities) or '?'} -> {'+'.join(self.output_modalities) or '?'}"

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of a name; None where it is not listed."""
        return next((parameter for parameter in self.parameters or () if parameter.name == name), None)


def models(catalog: bytes | object) -> list[Model]:
    """The models of an answer of `GET /v1/models`, each id once. Raises: AccountError where it is no catalog."""
    return list({entry["id"]: _model(entry) for entry in entries(catalog)}.values())


def entries(catalog: bytes | object) -> list[dict[str, Any]]:
    """The entries of an answer of `GET /v1/models`: its `data`, or the bare array; those without an id are left out.

    Numbers that are no integers come out as Decimal. Raises: AccountError where the answer is no catalog.
    """
    if isinstance(catalog, (bytes, bytearray, memoryview)):
        catalog = decoded(catalog)
    found = catalog.get("data", catalog.get("models")) if isinstance(catalog, dict) else catalog
    if not isinstance(found, list):
        raise AccountError("the server's model catalog has no list of models; check --base-url, or try again later.")
    return [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]


def decoded(catalog: bytes | bytearray | memoryview) -> Any:
    """A catalog as JSON values, decimals exact. Raises: AccountError."""
    try:
        return msgspec.json.Decoder(float_hook=Decimal).decode(catalog)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, decimal.InvalidOperation) as error:
        raise AccountError("the server's model catalog is not JSON; check --base-url, or try again later.") from error


def _model(entry: Mapping[str, Any]) -> Model:
    architecture = entry.get("architecture")
    inside = architecture if isinstance(architecture, dict) else {}
    return Model(
        id=entry["id"],
        name=_text(entry.get("display_name")) or _text(entry.get("name")) or entry["id"],
        provider=_named(entry.get("provider")) or _text(entry.get("owned_by")),
        category=_text(entry.get("category")),
        input_modalities=_words(entry.get("input_modalities", inside.get("input_modalities"))),
        output_modalities=_words(entry.get("output_modalities", inside.get("output_modalities"))),
        context_tokens=token_count(entry.get("context_length")) or token_count(entry.get("context_window")),
        max_output_tokens=token_count(entry.get("max_output_tokens")),
        parameters=_parameters(entry.get("supported_parameters")),
        capabilities=_words(entry.get("capabilities")),
        features=_words(entry.get("features")),
        region=", ".join(_words(entry.get("served_from", entry.get("region")))) or None,
        status=_status(entry),
        price=model_price(entry),
    )


def _status(entry: Mapping[str, Any]) -> str | None:
    """The API status: a word, an object that holds one, or a flag."""
    for key in _STATUS:
        value = entry.get(key)
        word = _named(value.get("api", value)) if isinstance(value, dict) else _text(value)
        if word is None and isinstance(value, dict):
            word = _text(value.get("status"))
        if word is not None:
            return word.strip().lower()
    available = entry.get("available")
    return None if not isinstance(available, bool) else "available" if available else "unavailable"


def _parameters(value: object) -> tuple[Parameter, ...] | None:
    """A list of descriptions or of bare names, or an object of descriptions by name."""
    if isinstance(value, dict):
        value = [(description if isinstance(description, dict) else {}) | {"name": name} for name, description in value.items()]
    if not isinstance(value, list):
        return None
    return tuple(_described(value))


def _described(given: list[Any]) -> Iterator[Parameter]:
    for item in given:
        described = {"name": item} if isinstance(item, str) else item
        if not isinstance(described, dict) or (name := _text(described.get("name"))) is None:
            continue
        options = described.get("options", described.get("enum"))
        default = described.get("default")
        yield Parameter(
            name=name,
            type=_text(described.get("type")),
            options=tuple(option for option in map(_option, options) if _is_scalar(option)) if isinstance(options, list) else (),
            min=_bound(described.get("min", described.get("minimum"))),
            max=_bound(described.get("max", described.get("maximum"))),
            default=default if _is_scalar(default) else None,
        )


def _option(option: Any) -> Any:
    """An option's value, where it is an object that also has a label."""
    return option.get("value", option.get("id")) if isinstance(option, dict) else option


def _same(value: object, option: object) -> bool:
    """Whether a body's value is this option. A catalog may write a number as text."""
    return value == option or (not isinstance(value, (bool, list, dict)) and str(value) == str(option))


def _is_scalar(value: object) -> bool:
    return value is not None and isinstance(value, (str, int, float, Decimal))


def _number(value: object) -> Decimal | None:
    """A finite number, also where it is written as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    try:
        number = Decimal(str(value))
    except decimal.InvalidOperation:
        return None
    return number if number.is_finite() else None


def _bound(value: object) -> Decimal | None:
    """A number that a value can be held against, and that can be shown."""
    number = _number(value)
    return None if number is None or abs(number.adjusted()) > _MOST_DIGITS else number


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _named(value: object) -> str | None:
    """A text, or the name of an object that has one."""
    if isinstance(value, dict):
        return _text(value.get("name")) or _text(value.get("display_name")) or _text(value.get("id"))
    return _text(value)


def _words(value: object) -> tuple[str, ...]:
    """The texts of a list, the true ones of an object of flags, or one text."""
    if isinstance(value, dict):
        return tuple(key for key, flag in value.items() if flag)
    if isinstance(value, list):
        return tuple(word for item in value if (word := _named(item)) is not None)
    return (value,) if isinstance(value, str) and value else ()
