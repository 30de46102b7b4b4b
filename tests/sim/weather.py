"""Bad nights, drawn from a seed: what befalls server, models, keys and network, and with which options a run meets it.

All of it is over after `HORIZON_SECONDS`, but for jobs that nobody ever takes (`poisoned`): whatever a run owes then is
owed by the run alone.
"""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.config import MaxFailures
from batchrunner.runner import Run
from batchrunner.simulator.asks import Ask
from batchrunner.simulator.faults import OK, Fault, kind_named
from batchrunner.simulator.settings import TEST_KEY, RetryAfter, Settings
from tests.sim.nights import Night, WatchedPlatform, job

HORIZON_SECONDS = 2 * 3600.0
MODELS = ("simulated-small", "simulated-large", "simulated-reasoner")
KEYS = (TEST_KEY, "sk-empiriolabs-test-second")
#: of the whole server
SERVER_KINDS = ("error500", "overloaded", "html", "reset_before", "reset_headers", "reset_body", "truncated", "silent")
MODEL_KINDS = ("model_unavailable", "upstream_error")
#: a job that meets one of these each time; `error400` ends at once, `silent` and `reset_body` may be paid for
POISONS = ("error500", "reset_body", "silent", "model_unavailable", "upstream_error", "error400", "garbage")


class Spell(msgspec.Struct, frozen=True):
    """Requests to a model, or to any (None), end like this between two moments."""

    begins: float
    ends: float
    kind: str
    model: str | None
    #: of those requests, how many
    share: float

    def meets(self, ask: Ask, now: float, chance: random.Random) -> bool:
        return self.begins <= now < self.ends and self.model in (None, ask.model.id) and chance.random() < self.share


class Weather:
    """A plan of faults."""

    def __init__(self, seed: int, ids: list[str]) -> None:
        self._chance = random.Random(f"requests {seed}")
        chance = random.Random(f"weather {seed}")
        self.spells = list(_spells(chance)) if chance.random() < 0.9 else []
        self.poisoned = {custom_id: chance.choice(POISONS) for custom_id in ids if chance.random() < 0.05}

    def choose(self, _arrival: int, ask: Ask) -> Fault:
        now = trio.current_time()
        for spell in self.spells:
            if spell.meets(ask, now, self._chance):
                return kind_named(spell.kind)
        poison = self.poisoned.get(ask.custom_id or "")
        return OK if poison is None else kind_named(poison)


def _spells(chance: random.Random) -> list[Spell]:
    """Outages one after another, short ones as a rule; of several things at the same time."""
    spells = []
    climates = ((SERVER_KINDS, (None,), 600), (MODEL_KINDS, MODELS, 300), (("rate_limited",), (None, *MODELS), 900))
    for kinds, models, pause in climates:
        at = chance.choice([0.0, chance.uniform(0, pause)])
        while at < HORIZON_SECONDS:
            lasts = chance.choice([3, 15, 60, 300, 2400])
            share = chance.choice([1.0, 1.0, 0.5])
            ends = min(HORIZON_SECONDS, at + lasts)
            spells.append(Spell(at, ends, chance.choice(kinds), chance.choice(models), share))
            at += lasts + chance.expovariate(1 / pause)
    return spells


class SlowStore(MemoryStore):
    """A budget that is asked over some distance, as one shared by processes is: others go on meanwhile."""

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        await trio.sleep(0.002)
        decision = await super().step(now_ns, event)
        await trio.sleep(0.003)
        return decision


def lines_of(seed: int) -> list[bytes]:
    """The job file of a seed: up to 150 jobs of some models."""
    chance = random.Random(f"jobs {seed}")
    models = chance.sample(MODELS, chance.randint(1, 3))
    return [job(f"job-{number}", model=chance.choice(models)) for number in range(chance.randint(1, 150))]


def night_of(seed: int, directory: Path, nursery: trio.Nursery) -> tuple[Night, Weather]:
    chance = random.Random(f"night {seed}")
    lines = lines_of(seed)
    weather = Weather(seed, [msgspec.json.decode(line)["custom_id"] for line in lines])
    keys = KEYS[: chance.randint(1, 2)]
    settings = Settings(
        seed=seed,
        keys=keys,
        rpm=chance.choice([0, 0, 60]),
        retry_after=RetryAfter.SECONDS if chance.random() < 0.5 else RetryAfter.NONE,
        latency_median_seconds=chance.choice([0.2, 2.0, 20.0]),
        latency_sigma=0.5,
    )
    night = Night(directory / "jobs.jsonl", nursery, lines, WatchedPlatform(settings, plan=weather))
    night.keys = keys
    return night, weather


def options_of(chance: random.Random) -> dict[str, Any]:
    """What a run is started with."""
    return {
        "rpm": chance.choice([0, 6, 60, 600]),
        "tpm": chance.choice([0, 0, 5_000]),
        "max_in_flight": chance.choice([1, 2, 20, 1_000]),
        "timeout_seconds": chance.choice([60.0, 300.0]),
        "max_cost_usd": chance.choice([None, None, None, Decimal("0.01"), Decimal(100)]),
        "max_failures": chance.choice([None, None, None, MaxFailures.parse("5")]),
    }


async def befall(night: Night, seed: int) -> None:
    """What happens to network and keys until the weather is over."""
    chance = random.Random(f"network {seed}")
    server, platform = night.server, night.platform
    while trio.current_time() < HORIZON_SECONDS:
        await trio.sleep(chance.expovariate(1 / 400))
        lasts = chance.choice([1, 20, 100, 1000])
        match chance.choice(["hang up", "go down", "hide closing", "delete keys", "delete keys", "nothing"]):
            case "hang up":
                server.hang_up()
            case "go down":
                server.go_down()
                await trio.sleep(lasts)
                server.down = False
            case "hide closing":
                server.hides_closing = True
                server.hang_up()
                await trio.sleep(lasts)
                server.hides_closing = False
            case "delete keys":
                for key in chance.sample(night.keys, chance.randint(1, len(night.keys))):
                    platform.delete_key(key)
                await trio.sleep(lasts)
                restore_keys(night)
    clear(night)


def restore_keys(night: Night) -> None:
    for key in night.keys:
        night.platform.accounts.restore_key(key)


def clear(night: Night) -> None:
    """Network and keys are well again."""
    restore_keys(night)
    night.server.down = night.server.hides_closing = False


def disturbance(chance: random.Random, run: Run) -> tuple[float, Any]:
    """When a run is stopped, and how; most are not."""
    return chance.uniform(1, HORIZON_SECONDS / 2), chance.choice([run.drain, run.cancel])
