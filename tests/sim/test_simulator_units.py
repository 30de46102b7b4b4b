"""The embedded platform bills in every unit of its catalog: pictures, seconds, and a unit that nobody can count."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner.catalog import models
from batchrunner.job import Usage
from batchrunner.pricing import PriceTable
from batchrunner.simulator.catalog import MODELS, Catalog
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.settings import TEST_KEY, Settings

HEADERS = {"authorization": f"Bearer {TEST_KEY}"}
PRICES = PriceTable.from_catalog(Catalog().list_body(), fetched_at="1970-01-01T00:00:00Z")


async def ask(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], Decimal]:
    """Status and reply of one request, and what the account was charged for it."""
    platform = Platform(Settings(output_sigma=0.0))
    before = platform.account.balance_usd
    answer = await platform.answer("POST", path, HEADERS, msgspec.json.encode(body))
    return answer.status, msgspec.json.decode(answer.body), before - platform.account.balance_usd


async def test_pictures_are_billed_each(autojump_clock: MockClock) -> None:
    """As many as were asked for, and as stand in the reply; the prompt beside them where the model says so."""
    status, reply, charged = await ask("/v1/images/generations", {"model": "simulated-image", "prompt": "a moon", "n": 3})
    assert (status, len(reply["data"]), charged) == (200, 3, Decimal("0.12"))
    _, reply, charged = await ask("/v1/images/generations", {"model": "simulated-image-tokens", "prompt": "a moon" * 100, "n": 2})
    usage = Usage(reply["usage"]["input_tokens"], 0, units={"image": Decimal(len(reply["data"]))})
    assert (
        charged
        == PRICES.cost("simulated-image-tokens", usage, opaque=True)
        == Decimal("0.022") + usage.input_tokens * Decimal("0.000005")
    )


async def test_speech_is_billed_by_the_second(autojump_clock: MockClock) -> None:
    """The reply says how many it holds."""
    _, reply, charged = await ask("/v1/audio/speech", {"model": "simulated-speech", "input": "x" * 100})
    seconds = Decimal(str(reply["usage"]["audio_seconds"]))
    assert seconds == Decimal("6.7")
    assert charged == seconds * Decimal("0.00025")


async def test_a_custom_unit_is_billed_and_unknown(autojump_clock: MockClock) -> None:
    """The platform charges for it; nothing in the reply says how much, so that our price is none."""
    body = {"model": "simulated-custom", "messages": [{"role": "user", "content": "hello"}]}
    _, reply, charged = await ask("/v1/chat/completions", body)
    assert charged == Decimal("0.003")
    assert PRICES.cost("simulated-custom", Usage(reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"])) is None


async def test_a_model_that_is_offline_says_so_in_the_catalog_too(autojump_clock: MockClock) -> None:
    """503 with the documented code, and a status that is no word for available."""
    status, reply, charged = await ask("/v1/chat/completions", {"model": "simulated-offline", "messages": ["hello"]})
    assert (status, reply["error"]["code"], charged) == (503, "model_unavailable", Decimal(0))
    assert [model.id for model in models(Catalog().list_body()) if not model.is_available] == ["simulated-offline"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_catalog_is_read_as_it_is_meant(model: Any) -> None:
    """Each unit, tier, tool and parameter of the embedded catalog comes out again; but for the custom unit all have a price."""
    (read,) = [found for found in models(Catalog().list_body()) if found.id == model.id]
    assert (read.context_tokens, read.max_output_tokens or 0) == (model.context_length, model.max_output_tokens)
    assert read.output_modalities == model.output_modalities
    assert {parameter["name"] for parameter in model.parameters} <= {parameter.name for parameter in read.parameters or ()}
    if "custom" in model.units:
        assert not read.price.tiers
        return
    assert (read.price.units, read.price.tools, len(read.price.tiers)) == (model.units, model.tools, len(model.prices))
    units = dict.fromkeys(model.units, Decimal("2.5"))
    tools = dict.fromkeys(model.tools, 2)
    for tokens in (100, 300_000):
        output = 50 if model.max_output_tokens else 0
        expected = model.cost(tokens, 10, output, tools, units)
        assert PRICES.cost(model.id, Usage(tokens, output, 10, units=units), tools) == expected
