"""The catalog's answer, read: what each model is, and what it costs. Fetching it is done elsewhere."""

from __future__ import annotations

from typing import Any, Final, Self

import msgspec

from batchrunner.pricing import PriceTable, catalog_entries, model_price, token_count

#: words of an API status that say that a model answers; any other word says that it may not
_AVAILABLE: Final = frozenset(
    {"available", "active", "online", "operational", "ok", "live", "ready", "healthy", "up", "stable", "beta"}
)


class ModelFacts(msgspec.Struct, frozen=True):
    """What the catalog says about a model. None or empty: it says nothing that can be read."""

    id: str
    name: str | None = None
    provider: str | None = None
    category: str | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    supported_parameters: tuple[str, ...] = ()
    served_from: str | None = None
    #: the API status in the catalog's own word
    status: str | None = None

    @property
    def available(self) -> bool:
        """Whether the model is likely to answer: its status says so, or it has none."""
        return self.status is None or self.status.lower() in _AVAILABLE


class Catalog(msgspec.Struct, frozen=True):
    """All models on offer, by id, in the server's order."""

    models: dict[str, ModelFacts]
    prices: PriceTable

    @classmethod
    def parse(cls, answer: bytes | object, *, fetched_at: str) -> Self:
        """Read an answer of `GET /v1/models`, as bytes or decoded; `fetched_at` is an ISO date and time.

        Unknown fields are ignored, and fields of a wrong type count as absent.
        Raises: AccountError where the answer is no catalog.
        """
        entries = catalog_entries(answer)
        prices = PriceTable({entry["id"]: model_price(entry) for entry in entries}, fetched_at)
        return cls({entry["id"]: facts(entry) for entry in entries}, prices)


def facts(entry: dict[str, Any]) -> ModelFacts:
    """One entry of the catalog, as far as it can be read."""
    return ModelFacts(
        id=entry["id"],
        name=_text(entry, "display_name", "name"),
        provider=_text(entry, "provider", "owned_by"),
        category=_text(entry, "category"),
        context_length=token_count(entry.get("context_length")) or token_count(entry.get("context_window")),
        max_output_tokens=token_count(entry.get("max_output_tokens")),
        input_modalities=_words(entry.get("input_modalities")),
        output_modalities=_words(entry.get("output_modalities")),
        features=_words(entry.get("features")),
        supported_parameters=_words(entry.get("supported_parameters")),
        served_from=_text(entry, "served_from", "region"),
        status=_text(entry, "api_status", "status"),
    )


def _text(entry: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := entry.get(name), str) and value), None)


def _words(value: object) -> tuple[str, ...]:
    """The strings of an array; of objects in it, their `name`."""
    items = value if isinstance(value, list) else []
    words = [item.get("name") if isinstance(item, dict) else item for item in items]
    return tuple(word for word in words if isinstance(word, str) and word)
