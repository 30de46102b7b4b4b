"""Bad nights, drawn from a seed: what befalls server, models, keys, money and clocks, and with which options a run meets it.

All of it is over after `HORIZON_SECONDS`, but for jobs that nobody ever takes (`poisoned`): whatever a run owes then is
owed by the run alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import trio

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.config import MaxFailures
from batchrunner.simulator.asks import WORKS, Ask
from batchrunner.simulator.faults import OK, Fault, kind_named
from batchrunner.simulator.settings import TEST_KEY, Change, Foreign, RetryAfter, Settings, WindowShape
from tests.nights.clock import HORIZON_SECONDS, stop_process
from tests.nights.jobs import MODELS
from tests.nights.night import SimulatedNight

KEYS = (TEST_KEY, "sk-empiriolabs-test-second")
#: of the whole server
SERVER_KINDS = ("error500", "overloaded", "html", "reset_before", "reset_headers", "reset_body", "truncated", "silent")
MODEL_KINDS = ("model_unavailable", "upstream_error")
#: a job that meets one of these each time; `error400` ends at once, the others may be paid for, or are an outage's
POISONS = ("error500", "reset_body", "silent", "model_unavailable", "upstream_error", "error400", "garbage")
#: of single requests, at any time
ODD_KINDS = (
    *("garbage", "empty", "html200", "gzip", "short_length", "long_length", "garbage_headers", "drip", "slow"),
    *("error403", "error408", "error409", "error413", "error422", "error504", "html413", "html429", "html503", "html504"),
    *("closed_before", "closes_idle", "stale", "reset_before", "reset_headers", "reset_body"),
    *("unknown_model", "gpu_limit", "agent_limit", "invalid_key", "no_credits"),
)
#: of single requests whose answers come as streams, and of work that the server takes on
STREAM_KINDS = ("stream_cut", "stream_stalls", "stream_error")
WORK_KINDS = ("job_failed", "job_gone")


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
        self.spells = list(_spells(chance)) if chance.random() < 0.7 else []
        self.odd_share = chance.choice([0, 0.1, 0.4])
        #: in turn, and each night from another one on, so that all come about equally often
        self._odd_kinds = itertools.islice(itertools.cycle(ODD_KINDS), 7 * seed % len(ODD_KINDS), None)
        #: of streams and works, which are drawn apart from all else
        self._shape_chance = random.Random(f"shapes of requests {seed}")
        self._shape_share = self._shape_chance.choice([0.05, 0.3])
        self._shape_kinds = itertools.islice(itertools.cycle(reversed(ODD_KINDS)), 11 * seed % len(ODD_KINDS), None)
        self.poisoned = {custom_id: chance.choice(POISONS) for custom_id in ids if chance.random() < 0.05}

    def choose(self, _arrival: int, ask: Ask) -> Fault:
        now = trio.current_time()
        for spell in self.spells:
            if spell.meets(ask, now, self._chance):
                return kind_named(spell.kind)
        if now < HORIZON_SECONDS and self._chance.random() < self.odd_share:
            return kind_named(next(self._odd_kinds))
        if now < HORIZON_SECONDS and (ask.stream or ask.dialect in WORKS) and self._shape_chance.random() < self._shape_share:
            own = self._shape_chance.choice((*(STREAM_KINDS if ask.stream else WORK_KINDS), None, None))
            return kind_named(own or next(self._shape_kinds))
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


def settings_of(seed: int) -> Settings:
    """The platform of a seed."""
    chance = random.Random(f"platform {seed}")
    changes = []
    if chance.random() < 0.3:
        changes += [Change(at_seconds=chance.uniform(0, 1800), rpm=chance.choice([10, 30, 120])) for _ in range(2)]
    if chance.random() < 0.2:
        changes.append(Change(at_seconds=chance.uniform(10, 3600), top_up_usd=Decimal(1)))
    until_seconds = chance.uniform(60, HORIZON_SECONDS)
    foreign = Foreign(rpm=chance.choice([5, 40]), tpm=1_000, burst=chance.choice([1, 5]), until_seconds=until_seconds)
    return Settings(
        seed=seed,
        keys=KEYS[: chance.randint(1, 2)],
        rpm=chance.choice([0, 0, 60]),
        window=chance.choice([WindowShape.SLIDING, WindowShape.SLIDING, *WindowShape]),
        changes=tuple(changes),
        foreign=(foreign,) if chance.random() < 0.3 else (),
        balance_usd=chance.choice([Decimal("0.0005"), Decimal("0.003")]) if chance.random() < 0.15 else Decimal(10_000),
        retry_after=chance.choice([RetryAfter.NONE, RetryAfter.SECONDS, RetryAfter.DATE, RetryAfter.MILLISECONDS]),
        latency_median_seconds=chance.choice([0.2, 2.0, 20.0]),
        latency_sigma=0.5,
        work_seconds=random.Random(f"works {seed}").choice([5.0, 20.0, 300.0, 1800.0]),
    )


def options_of(chance: random.Random) -> dict[str, Any]:
    """What a run is started with."""
    return {
        "rpm": chance.choice([0, 6, 30, 60]),
        "tpm": chance.choice([0, 0, 5_000]),
        "max_in_flight": chance.choice([1, 2, 20, 1_000]),
        "timeout_seconds": chance.choice([60.0, 300.0]),
        "max_cost_usd": chance.choice([None, None, None, Decimal("0.01"), Decimal(100)]),
        "max_failures": chance.choice([None, None, None, MaxFailures.parse("5")]),
    }


async def befall(night: SimulatedNight, seed: int) -> None:
    """What happens to network, keys and clocks until the weather is over."""
    chance = random.Random(f"befalls {seed}")
    night.server.share = chance.choice([0, 0.1, 0.5])
    pause_seconds = chance.choice([30, 400])
    while trio.current_time() < HORIZON_SECONDS:
        await trio.sleep(chance.expovariate(1 / pause_seconds))
        what = chance.choice(list(EVENTS))
        night.chronicle.fire(what)
        await EVENTS[what](night, chance)
    clear(night)


def clear(night: SimulatedNight) -> None:
    """Network, keys and money are well again."""
    restore_keys(night)
    night.server.down = night.server.hangs = night.server.hides_closing = False
    night.server.share = 0
    night.platform.account.balance_usd += Decimal(100)


def restore_keys(night: SimulatedNight) -> None:
    for key in night.keys:
        night.platform.accounts.restore_key(key)


def _lasts(chance: random.Random) -> float:
    return chance.choice([1, 20, 100, 1000])


async def _hang_up(night: SimulatedNight, _: random.Random) -> None:
    night.server.hang_up()


async def _go_down(night: SimulatedNight, chance: random.Random) -> None:
    night.server.go_down()
    await trio.sleep(_lasts(chance))
    night.server.down = False


async def _hang(night: SimulatedNight, chance: random.Random) -> None:
    night.server.hangs = True
    await trio.sleep(_lasts(chance))
    night.server.hangs = False


async def _hide_closing(night: SimulatedNight, chance: random.Random) -> None:
    night.server.hides_closing = True
    night.server.hang_up()
    await trio.sleep(_lasts(chance))
    night.server.hides_closing = False


async def _delete_keys(night: SimulatedNight, chance: random.Random) -> None:
    for key in chance.sample(night.keys, chance.randint(1, len(night.keys))):
        night.platform.delete_key(key)
    await trio.sleep(_lasts(chance))
    restore_keys(night)


async def _set_wall_clock(night: SimulatedNight, chance: random.Random) -> None:
    night.clock.set_wrong(chance)


async def _suspend(night: SimulatedNight, chance: random.Random) -> None:
    """The machine sleeps; connections may not outlive it."""
    night.server_clock.suspend_machine(chance.choice([3, 60, 3600, 30_000]))
    if chance.random() < 0.5:
        night.server.hang_up()


async def _stop_process(_: SimulatedNight, chance: random.Random) -> None:
    stop_process(chance.choice([3, 60, 600]))


EVENTS: dict[str, Callable[[SimulatedNight, random.Random], Any]] = {
    "server: hangs up": _hang_up,
    "server: down": _go_down,
    "server: never accepts": _hang,
    "server: closed unseen": _hide_closing,
    "server: keys deleted": _delete_keys,
    "clock: wall clock jumps": _set_wall_clock,
    "clock: suspended": _suspend,
    "clock: stopped and continued": _stop_process,
}
