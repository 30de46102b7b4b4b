"""`batchrun models`: what a server offers, at what price, and which parameters a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import click
import msgspec

from batchrunner.catalog import Model, Parameter, models
from batchrunner.cli import catalog
from batchrunner.cli.control_plane import account_of, account_options
from batchrunner.cli.output import print_json, print_text, say
from batchrunner.cli.submit import Usd
from batchrunner.clock import SystemClock
from batchrunner.errors import UsageError
from batchrunner.platform.catalog_cache import Kept
from batchrunner.price_words import UNKNOWN, Rate, dollars, highest, price_text, rates
from batchrunner.pricing import json_number
from batchrunner.wording import counted, escape_terminal

_HEADINGS = ("model", "provider", "modality", "context", "output", "region", "status", "price")


class _Rate(msgspec.Struct):
    """A price in the `--json` document: an exact number, null where it is not known."""

    what: str
    per: str
    usd: msgspec.Raw
    from_tokens: int
    to_tokens: int | None


class _Shown(msgspec.Struct):
    """A model in the `--json` document."""

    id: str
    name: str
    provider: str | None
    category: str | None
    input_modalities: tuple[str, ...]
    output_modalities: tuple[str, ...]
    context_tokens: int | None
    max_output_tokens: int | None
    region: str | None
    status: str | None
    available: bool
    capabilities: tuple[str, ...]
    features: tuple[str, ...]
    parameters: tuple[Parameter, ...] | None
    #: null where the catalog's price cannot be understood
    prices: list[_Rate] | None


class _Document(msgspec.Struct):
    server: str
    fetched_at: str
    #: it was not asked for now, but is that of `fetched_at`
    from_cache: bool
    models: list[_Shown]


_encoder = msgspec.json.Encoder(decimal_format="number")


@click.command(name="models", short_help="What the server offers, and at what price.")
@click.argument("model", required=False)
@click.option("--provider", metavar="NAME", help="Models of this provider.")
@click.option("--modality", metavar="NAME", help="Models that take or make this: text, image, audio, video ...")
@click.option("--category", metavar="NAME", help="Models of this category of the catalog.")
@click.option("--region", metavar="NAME", help="Models that run there.")
@click.option("--status", metavar="WORD", help="Models of this API status; `available`: whatever word says so.")
@click.option("--supports", metavar="PARAMETER", multiple=True, help="Models that list this parameter, capability or feature.")
@click.option("--search", metavar="TEXT", help="Models with this in id, name or provider.")
@click.option(
    "--max-price", type=Usd(), metavar="USD", help="Models none of whose prices (per 1M tokens, image, second ...) is above."
)
@account_options
@click.option("--offline", is_flag=True, help="Show what the server offered when it was last asked; ask nobody.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models_command(**given: Any) -> None:
    """List the models of a server, or show MODEL with its parameters. Needs no key where the catalog is public.

    Prices are in USD: per million tokens, and each per request, image, second or call. What the catalog bills by a unit that
    nobody can count is unknown. The catalog is kept on this machine with its date, for --offline and for runs that start
    while it cannot be had.

    \b
    Exit codes:
      0   shown
      2   an option makes no sense, there is no such model, or with --offline no catalog
      69  the server gives none
    """  # noqa: D301 - click reads the backspace: the table stays a table
    found, server = _catalog(given)
    offered = models(found.body)
    if given["model"] is not None:
        chosen = [_named(offered, given["model"])]
    else:
        chosen = sorted((model for model in offered if _is_wanted(model, given)), key=lambda model: model.id)
    if given["as_json"]:
        print_json(_encoder.encode(_Document(server, found.fetched_at, given["offline"], [_shown(model) for model in chosen])))
        return
    print_text("\n".join(_table(chosen) if given["model"] is None else _details(chosen[0])) + "\n")
    say(f"{counted(len(chosen), 'model')} of {len(offered):,}; catalog of {found.fetched_at} from {server}.")


def _catalog(given: dict[str, Any]) -> tuple[Kept, str]:
    """The catalog, and whose it is. It is asked for with a key where there is one: other servers may want it."""
    account = account_of(given, needs_key=False)
    found = catalog.kept(account) if given["offline"] else catalog.fetch(account, SystemClock())
    return found, account.base_url


def _named(offered: list[Model], name: str) -> Model:
    found = next((model for model in offered if model.id == name), None)
    if found is None:
        near = [model.id for model in offered if name.lower() in model.id.lower()][:5]
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise UsageError(f"{name}: the catalog has no such model.{hint} `batchrun models` lists all.")
    return found


def _is_wanted(model: Model, given: dict[str, Any]) -> bool:
    """Whether a model passes all filters that were given."""
    texts = {"provider": model.provider, "category": model.category, "region": model.region}
    if any(given[name] is not None and given[name].lower() not in (text or "").lower() for name, text in texts.items()):
        return False
    modality, status, search = given["modality"], given["status"], given["search"]
    if modality is not None and modality.lower() not in map(str.lower, (*model.input_modalities, *model.output_modalities)):
        return False
    if status is not None and not (model.is_available if status.lower() == "available" else status.lower() == model.status):
        return False
    if search is not None and search.lower() not in f"{model.id} {model.name} {model.provider or ''}".lower():
        return False
    listed = {*model.capabilities, *model.features, *(parameter.name for parameter in model.parameters or ())}
    if not set(given["supports"]) <= listed:
        return False
    price = highest(model.price)
    return given["max_price"] is None or (price is not None and price <= given["max_price"])


def _shown(model: Model) -> _Shown:
    of_price = [_Rate(rate.what, rate.per, _number(rate.usd), rate.from_tokens, rate.to_tokens) for rate in rates(model.price)]
    fields = {name: getattr(model, name) for name in Model.__struct_fields__ if name != "price"}
    return _Shown(**fields, available=model.is_available, prices=of_price or None)


def _number(amount: Decimal | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if amount is None else json_number(amount).encode())


def _table(chosen: list[Model]) -> Iterator[str]:
    rows = [_HEADINGS, *map(_row, chosen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = [
            f"{text:>{width}}" if heading in ("context", "output") else f"{text:{width}}"
            for heading, text, width in zip(_HEADINGS, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _row(model: Model) -> tuple[str, ...]:
    texts = (
        model.id,
        model.provider or "",
        model.modality,
        _count(model.context_tokens),
        _count(model.max_output_tokens),
        model.region or "",
        model.status or "",
        price_text(model.price),
    )
    return tuple(map(escape_terminal, texts))


def _count(tokens: int | None) -> str:
    return "" if tokens is None else f"{tokens:,}"


def _details(model: Model) -> Iterator[str]:
    """A model with its parameters, one thing a line."""
    yield f"{escape_terminal(model.id)}  {escape_terminal(model.name)}"
    yield ""
    facts = dict(zip(_HEADINGS[1:-1], _row(model)[1:-1], strict=True))
    facts |= {"category": model.category or "", "can": ", ".join(model.capabilities), "features": ", ".join(model.features)}
    for name, text in facts.items():
        if text:
            yield f"  {name:<9} {escape_terminal(text)}"
    for number, line in enumerate([_rate(rate) for rate in rates(model.price)] or [UNKNOWN]):
        yield f"  {'' if number else 'price':<9} {escape_terminal(line)}"
    yield ""
    if model.parameters is None:
        yield "The catalog lists no parameters."
        return
    for parameter in model.parameters:
        yield f"  {escape_terminal(parameter.name):<24} {escape_terminal(_described(parameter))}".rstrip()


def _rate(rate: Rate) -> str:
    """`$0.60 per 1M output tokens, from 200,000 input tokens on`."""
    per = {"1M tokens": f"1M {rate.what} tokens", "call": f"call of {rate.what}"}.get(rate.per, rate.what)
    start = f", from {rate.from_tokens:,} input tokens on" if rate.from_tokens else ""
    end = f", up to {rate.to_tokens:,} input tokens" if rate.to_tokens is not None else ""
    return f"{dollars(rate.usd)} per {per}{start}{end}"


def _described(parameter: Parameter) -> str:
    """What a parameter takes: `number, 0 to 2, default 0.7`."""
    low, high = (None if bound is None else f"{bound:f}" for bound in (parameter.min, parameter.max))
    reach = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}" if high else ""
    options = ", ".join(map(str, parameter.options))
    default = "" if parameter.default is None else f"default {parameter.default}"
    return ", ".join(text for text in (parameter.type or "", reach, options and f"one of {options}", default) if text)
