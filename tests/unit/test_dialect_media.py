"""Shapes answered by files or findings: what they say of pictures, seconds and tokens, and how they ended."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.costs import Charge
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.pricing import PriceTable

IMAGES, SPEECH = "/v1/images/generations", "/v1/audio/speech"
VIDEOS, TRANSCRIPTIONS = "/v1/videos/generations", "/v1/audio/transcriptions"
PICTURE = {"url": "https://example.com/a.png"}


def read(url: str, reply: object) -> ReplyFacts:
    facts = dialect.for_url(url).read(json.dumps(reply).encode())
    assert facts is not None
    return facts


def units(url: str, reply: object) -> dict[str, Decimal] | None:
    facts = read(url, reply)
    assert facts.opaque == (facts.usage is None or not facts.usage.units)
    return None if facts.usage is None else facts.usage.units


@pytest.mark.parametrize(
    ("url", "reply", "expected"),
    [
        (IMAGES, {"data": [PICTURE, {"b64_json": "aGk="}]}, {"image": 2}),
        (IMAGES, {"data": [PICTURE, {"revised_prompt": "a cat"}, 7]}, {"image": 1}),
        (IMAGES, {"data": []}, {"image": 0}),
        (IMAGES, {"output": {"data": [PICTURE]}}, {"image": 1}),
        (IMAGES, {"images": [PICTURE]}, None),
        (SPEECH, {"url": "https://example.com/a.mp3", "usage": {"seconds": 4}}, {"audio-second": 4}),
        (SPEECH, {"url": "https://example.com/a.mp3", "duration": 1.25}, {"audio-second": Decimal("1.25")}),
        (SPEECH, {"url": "https://example.com/a.mp3"}, None),
        (TRANSCRIPTIONS, {"text": "Hi", "usage": {"type": "duration", "seconds": 9}}, {"audio-second": 9}),
        (TRANSCRIPTIONS, {"result": {"text": "Hi", "duration": "8.470"}}, {"audio-second": Decimal("8.470")}),
        (TRANSCRIPTIONS, {"result": {"text": "Hi"}, "usage": {"audio_seconds": 3}}, {"audio-second": 3}),
        (VIDEOS, {"status": "completed", "output": {"url": "https://example.com/a.mp4", "seconds": "8"}}, {"video-second": 8}),
        (VIDEOS, {"result": {"data": [{"url": "a", "duration": 5}, {"url": "b", "duration": 6}]}}, {"video-second": 11}),
        (VIDEOS, {"status": "completed", "duration": 95, "result": {"url": "a", "duration": 5}}, {"video-second": 5}),
        (VIDEOS, {"status": "completed", "duration": 95, "output": "https://example.com/a.mp4"}, None),
        (VIDEOS, {"status": "completed", "usage": {"seconds": 6}, "result": {"url": "a", "duration": 5}}, {"video-second": 6}),
        (VIDEOS, {"data": [{"url": "a", "duration": 5}, {"url": "b"}]}, None),
        (VIDEOS, {"usage": {"seconds": "long"}, "duration": 5}, None),
        (VIDEOS, {"duration": -5}, None),
        (VIDEOS, {"duration": True}, None),
        (VIDEOS, {"duration": "NaN"}, None),
        (VIDEOS, {"duration": 1e30}, None),
        (VIDEOS, {"duration": "1e-999999"}, None),
    ],
)
def test_quantities_are_counted_or_said(url: str, reply: object, expected: dict[str, Any] | None) -> None:
    """Pictures where they stand, seconds where they are named; what makes no sense, or is missing, is unknown."""
    assert units(url, reply) == expected


def test_tokens_stand_beside_quantities() -> None:
    """Where the reply tells of both, both are known; of tokens that it does not tell of, that it does not."""
    both = read(IMAGES, {"data": [PICTURE], "usage": {"input_tokens": 9, "output_tokens": 4}, "model": "m"})
    assert both == ReplyFacts(Usage(9, 4, units={"image": Decimal(1)}), Finish.STOP, model="m")
    assert read(IMAGES, {"data": [PICTURE]}).usage == Usage(0, 0, units={"image": Decimal(1)}, tokens_known=False)


@pytest.mark.parametrize(
    ("url", "reply", "finish"),
    [
        (IMAGES, {"data": [PICTURE]}, Finish.STOP),
        (IMAGES, {"data": []}, Finish.EMPTY),
        (IMAGES, {"data": [{"revised_prompt": "a cat"}]}, Finish.EMPTY),
        (TRANSCRIPTIONS, {"result": {"text": " "}}, Finish.EMPTY),
        (TRANSCRIPTIONS, {"result": {"text": "Hi"}}, Finish.STOP),
        (SPEECH, {"url": "https://example.com/a.mp3"}, Finish.STOP),
        ("/v1/search", {"results": []}, Finish.EMPTY),
        ("/v1/search", {"results": [PICTURE]}, Finish.STOP),
        ("/v1/search", {"answer": "42"}, Finish.STOP),
        ("/v1/detect", {"label": "genuine", "score": 0.1}, Finish.STOP),
        ("/v1/detect", [], Finish.OTHER),
    ],
)
def test_an_answer_without_what_was_asked_for_is_empty(url: str, reply: object, finish: Finish) -> None:
    """It was paid for, and people should look at it."""
    assert read(url, reply).finish == finish


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (IMAGES, "images"),
        (SPEECH, "speech"),
        (VIDEOS, "videos"),
        (TRANSCRIPTIONS, "transcriptions"),
        ("/v1/search", "search"),
        ("/v1/detect", "detect"),
    ],
)
def test_a_request_is_sized_by_the_usual_names(url: str, name: str) -> None:
    """And what it will take besides tokens is not known before."""
    size = dialect.for_url(url).size(b'{"model":"m","prompt":"a cat","n":3}')
    assert (dialect.for_url(url).name, size.model, size.output_cap_tokens, size.choices) == (name, "m", None, 3)
    assert size.opaque_output


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        (IMAGES, {}, {"image": 1}),
        (IMAGES, {"n": None}, {"image": 1}),
        (IMAGES, {"n": 3, "seconds": 9}, {"image": 3}),
        (IMAGES, {"n": "3"}, {}),
        (IMAGES, {"n": 0}, {}),
        (IMAGES, {"n": 2.5}, {}),
        (IMAGES, {"n": True}, {}),
        (IMAGES, {"n": 10**12}, {}),
        (VIDEOS, {"seconds": 8}, {"video-second": 8}),
        (VIDEOS, {"duration": "2.5"}, {"video-second": Decimal("2.5")}),
        (VIDEOS, {"duration_seconds": 1.5, "n": 2}, {"video-second": 3}),
        (VIDEOS, {"seconds": 4, "duration": 12}, {"video-second": 12}),
        (VIDEOS, {"seconds": 4, "duration": None}, {"video-second": 4}),
        (VIDEOS, {"seconds": 4, "duration": "auto"}, {}),
        (VIDEOS, {"seconds": 4, "n": "two"}, {}),
        (VIDEOS, {}, {}),
        (VIDEOS, {"seconds": 0}, {}),
        (VIDEOS, {"seconds": -1}, {}),
        (VIDEOS, {"seconds": "8s"}, {}),
        (VIDEOS, {"seconds": True}, {}),
        (VIDEOS, {"seconds": "Infinity"}, {}),
        (VIDEOS, {"seconds": 1e30}, {}),
        (VIDEOS, {"seconds": "1e-999999"}, {}),
        (SPEECH, {"seconds": 8}, {}),
        (TRANSCRIPTIONS, {"duration": 8}, {}),
        ("/v1/detect", {"n": 3}, {}),
        ("/v1/any/thing", {"n": 3, "seconds": 8}, {}),
    ],
)
def test_a_request_tells_of_pictures_and_of_films(url: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    """As many as it asks for, each as long as the longest length that it names; where a server may take its words otherwise than
    we do, and where the answer alone says how much it holds, nothing is told.
    """
    assert dialect.for_url(url).size(json.dumps({"model": "m"} | body).encode()).units == expected


def test_a_body_that_cannot_be_read_tells_nothing() -> None:
    """One picture is what a body asks for that names no number, not one whose number we cannot find."""
    assert dialect.for_url(IMAGES).size(b'{"n": 8').units == {}


def test_tokens_that_nobody_counted_are_not_free() -> None:
    """A price of tokens cannot be told from pictures alone, and a price of pictures not from tokens."""
    prices = PriceTable.from_catalog(
        {"data": [{"id": "both", "pricing": {"prompt": "1", "completion": "1"}}, {"id": "call", "pricing": {"request": "2"}}]},
        fetched_at="",
    )
    pictures = read(IMAGES, {"data": [PICTURE]}).usage
    assert prices.cost("both", pictures) is None
    assert prices.cost("call", pictures) == 2
    charge = Charge.billed("call", IMAGES, pictures, Decimal(2))
    assert charge == Charge("call", IMAGES, Billing.BILLED, amount=Decimal(2))
