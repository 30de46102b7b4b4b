"""One start of a night, and how it is cut short."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import trio

from batchrunner.journal.files import RESULTS
from batchrunner.runner import Run
from batchrunner.status import Status
from tests.nights.changes import Changes
from tests.nights.night import AtOperation, SimulatedNight, check_parts, check_replays

#: the longest that an end is waited for
LATEST_SECONDS = 1_800
LATEST_OPERATION = 600

#: how a process ends, and how likely that is: kills above all
ENDS = {
    "none": 2,
    "drain": 2,
    "cancel": 2,
    "kill": 4,
    "kill at an operation": 6,
    "kill behind a result": 3,
    "power cut": 4,
    "power cut at an operation": 7,
    "write": 2,
    "sync": 2,
}


class Start:
    """A process of a night. `changes`: what people tell it meanwhile; `undisturbed`: it goes on to its own end."""

    def __init__(self, night: SimulatedNight, chance: random.Random, changes: Changes | None, *, undisturbed: bool) -> None:
        self.night = night
        self.process: Run | None = None
        self._chance = chance
        self._changes = changes
        self._end = "none" if undisturbed else chance.choices(list(ENDS), list(ENDS.values()))[0]
        self._undisturbed = undisturbed
        self._cancelled = False
        self._rebooting = False

    async def run(self, options: dict[str, Any]) -> Status | None:
        """The process's last status; None where it was ended from outside."""
        status = await self.night.start(self._meanwhile, self._at_operation(), **options)
        if status is not None and status.stopped_by != "disk":
            assert self.process is not None
            check_parts(self.process, cancelled=self._cancelled)
            check_replays(self.night, self.process)
        if self._rebooting:
            await self.night.reboot(self._chance.choice([2, 30, 90]))
        else:
            await trio.sleep(self._chance.choice([0.01, 0.5, 20]))
        return status

    async def _meanwhile(self, process: Run) -> None:
        self.process = process
        if self._changes is None:
            await self._act()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._changes.befall, process)
            await self._act()

    async def _act(self) -> None:
        """End the process, when it is time."""
        acts: dict[str, Callable[[], None]] = {
            "drain": self._drain,
            "cancel": self._cancel,
            "kill": self.night.kill,
            "power cut": self._cut_power,
        }
        act = acts.get(self._end)
        if act is not None:
            await trio.sleep(LATEST_SECONDS ** self._chance.uniform(-0.3, 0.9))
            act()

    def _at_operation(self) -> AtOperation | None:
        acts: dict[str, Callable[[], None]] = {
            "kill at an operation": self.night.kill,
            "power cut at an operation": self._cut_power,
            "write": self._fail_write,
            "sync": self._fail_sync,
        }
        if self.night.torn and not self._undisturbed and self._chance.random() < 0.7:
            # The power often goes again while the torn tail is cut off. Where there is none, the process goes on to its end.
            return AtOperation(1, self._cut_power, behind="truncate")
        if self._end == "kill behind a result":
            return AtOperation(self._chance.choice([1, 2]), self.night.kill, behind=f"write {RESULTS}")
        act = acts.get(self._end)
        return None if act is None else AtOperation(round(LATEST_OPERATION ** self._chance.random()), act)

    def _drain(self) -> None:
        assert self.process is not None
        self.night.chronicle.fire("process: drained")
        self.process.drain()

    def _cancel(self) -> None:
        assert self.process is not None
        self._cancelled = True
        self.night.chronicle.fire("process: cancelled")
        self.process.cancel()

    def _cut_power(self) -> None:
        self._rebooting = True
        self.night.cut_power()

    def _fail_write(self) -> None:
        self.night.chronicle.fire("disk: full")
        raise OSError(28, "No space left on device")

    def _fail_sync(self) -> None:
        self.night.chronicle.fire("disk: device error")
        raise OSError(5, "Input/output error")
