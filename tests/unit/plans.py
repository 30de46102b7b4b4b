"""Job files drawn from the embedded platform's own distributions, and what they really cost there."""

from __future__ import annotations

import random
from decimal import Decimal

import msgspec

from batchrunner import dialect
from batchrunner.catalog import models
from batchrunner.estimate import Estimator
from batchrunner.job import Usage
from batchrunner.jobfile import parse
from batchrunner.pricing import PriceTable
from batchrunner.simulator import replies
from batchrunner.simulator.asks import Dialect, read
from batchrunner.simulator.catalog import Catalog
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.settings import Settings
from batchrunner.survey import Place, Survey

CATALOG = Catalog()
MODELS = {model.id: model for model in models(CATALOG.list_body())}
PRICES = PriceTable.from_catalog(CATALOG.list_body(), fetched_at="1970-01-01T00:00:00Z")
CHAT = "/v1/chat/completions"
#: model, cap and how likely
MIX = (("simulated-small", 400, 6), ("simulated-small", None, 2), ("simulated-reasoner", 2_000, 2), ("simulated-large", 50, 1))


class Job(msgspec.Struct, frozen=True):
    line: bytes
    usage: Usage
    usd: Decimal


def file_of(seed: int, count: int, *, prefix: str = "job") -> list[Job]:
    """Jobs of several models, caps and sizes, each with what the platform makes of it."""
    rng = random.Random(seed)
    return [_job(rng, f"{prefix}-{number}", seed) for number in range(count)]


def _job(rng: random.Random, custom_id: str, seed: int) -> Job:
    ((model, cap, _),) = rng.choices(MIX, weights=[weight for *_, weight in MIX])
    text = "word " * max(1, round(rng.lognormvariate(4, 1)))
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": f"{custom_id} {text}"}]}
    if cap is not None:
        body["max_tokens"] = cap
    raw = msgspec.json.encode(body)
    settings = Settings(seed=seed)
    ask = read(Dialect.CHAT_COMPLETIONS, raw, CATALOG)
    completion = replies.complete(ask, Draws(seed, b"reply", raw), settings)
    facts = dialect.for_url(CHAT).read(replies.body(ask, completion, replies.Stamp(seed, "r", "q", 0)))
    assert facts is not None
    assert facts.usage is not None
    usd = PRICES.cost(model, facts.usage)
    assert usd is not None
    line = msgspec.json.encode({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": msgspec.Raw(raw)})
    return Job(line, facts.usage, usd)


def experience(jobs: list[Job], lengths: Estimator | None = None) -> Estimator:
    """What a run of these jobs has learned."""
    lengths = lengths or Estimator()
    for job in jobs:
        parsed = parse(job.line)
        lengths.learn(dialect.for_url(parsed.url).size(parsed.body), job.usage, 2.0)
    return lengths


def surveyed(jobs: list[Job], lengths: Estimator, *, sample: int = 0, rng: random.Random | None = None) -> Survey:
    survey = Survey(MODELS, PRICES, lengths, rpm=50, tpm=2_000_000, sample=sample, rng=rng)
    for number, job in enumerate(jobs):
        parsed = parse(job.line)
        survey.add(number, parsed, Place("jobs.jsonl", number + 1, parsed.custom_id))
    return survey
