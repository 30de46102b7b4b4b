"""What people change of a run while it is at work: limits, the spend cap, a pause; as `batchrun ctl` does."""

from __future__ import annotations

import random

import trio

from batchrunner import live
from batchrunner.runner import Run
from tests.nights.night import SimulatedNight

#: what is said -> its words
CHANGES: dict[str, tuple[str, ...]] = {
    "live: requests": ("rpm=0", "rpm=2", "rpm=6", "rpm=20", "rpm=60"),
    "live: tokens": ("tpm=0", "tpm=5000", "tpm=100000"),
    "live: cap": ("max-cost=none", "max-cost=0.01", "max-cost=100"),
    "live: pause": (),
}


class Changes:
    """The changes of a night, drawn apart from all else; none in every other night."""

    def __init__(self, night: SimulatedNight, seed: int) -> None:
        self._night = night
        self._chance = random.Random(f"changes {seed}")
        self._every_seconds = self._chance.choice([None, None, 20, 200])

    @property
    def any(self) -> bool:
        return self._every_seconds is not None

    async def befall(self, run: Run) -> None:
        """Change one thing after another, for as long as the process sends anything."""
        assert self._every_seconds is not None
        while True:
            await trio.sleep(self._chance.expovariate(1 / self._every_seconds))
            if run.stopping:
                return
            what = self._chance.choices(list(CHANGES), weights=(3, 1, 1, 1))[0]
            self._night.chronicle.fire(what)
            if what == "live: pause":
                await self._pause(run)
            else:
                await self._tell(run, "set", self._chance.choice(CHANGES[what]))

    async def _pause(self, run: Run) -> None:
        self._night.promises.pauses()
        await self._tell(run, "pause")
        await trio.sleep(self._chance.choice([1, 60, 600]))
        self._night.promises.paused_ns = None
        if not run.stopping:
            await self._tell(run, "resume")

    async def _tell(self, run: Run, action: str, *words: str) -> None:
        after = live.apply(run.live(), live.parse(action, words), why_no_cap=None, stopping=run.stopping)
        self._night.promises.adopts(after.accounts[0].rpm)
        await run.adopt(after)
        self._night.promises.adopted()
