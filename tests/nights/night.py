"""A night in which everything happens: the whole program on a disk, a network and clocks that fail.

Built on `tests.sim.nights.Night`; the parts are those of `submit`. A process begins with `start`, and ends by itself, by
`kill` or by `cut_power`: the next `start` goes through real recovery on what the disk has left.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from batchrunner.config import Options
from batchrunner.disk import MemoryDisk
from batchrunner.errors import DiskError
from batchrunner.events import Event
from batchrunner.index import Index
from batchrunner.inputs import Inputs, index_inputs
from batchrunner.journal import Recovered
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import decode
from batchrunner.journal.replay import Replay
from batchrunner.run_directory import MANIFEST
from batchrunner.runner import STATUS_FILE, Run
from batchrunner.simulator.plan import Plan
from batchrunner.simulator.settings import Settings
from batchrunner.sources import opened
from batchrunner.status import Status
from batchrunner.transport import Pool
from tests.nights.books import check_books, check_results
from tests.nights.chronicle import Chronicle
from tests.nights.clock import NightClock, ServerClock
from tests.nights.disk import Mode, SimulatedDisk
from tests.nights.network import ToxicServer
from tests.nights.platform import NightPlatform
from tests.nights.promises import Promises
from tests.sim.nights import PRICES, Meanwhile, Night
from tests.verified import assert_clean, written

FILES = (RESULTS, ERRORS, COSTS, JOURNAL)


class AtOperation(msgspec.Struct):
    """What is done before the `left`-th operation of the disk, counted from the first one on that begins with `behind`."""

    left: int
    act: Callable[[], None]
    behind: str = ""

    def count(self, operation: str) -> bool:
        """Whether it is time."""
        if self.behind:
            self.behind = "" if operation.startswith(self.behind) else self.behind
            return False
        self.left -= 1
        return self.left == 0


class SimulatedNight(Night):
    """One job file, one machine, one server, from the first start to the last. All real files are in the current directory."""

    disk: SimulatedDisk
    clock: NightClock
    server: ToxicServer

    def __init__(
        self,
        nursery: trio.Nursery,
        lines: list[bytes],
        settings: Settings,
        plan: Plan,
        max_attempts: int,
        chronicle: Chronicle,
    ) -> None:
        self.chronicle = chronicle
        self.server_clock = ServerClock()
        self.promises = Promises(self.server_clock.now_ns, max_attempts)
        self.simulated = NightPlatform(settings, plan, self.server_clock.now_ns, self.promises.answer, self.chronicle.fire)
        self.promises.knows = self.simulated.knows
        super().__init__(Path("jobs.jsonl"), nursery, lines, self.simulated)
        self.disk = SimulatedDisk()
        self.clock = NightClock()
        self.chance = random.Random(f"disk {settings.seed}")
        self.server = ToxicServer(
            nursery,
            self.simulated,
            share=0.0,
            chance=random.Random(f"toxics {settings.seed}"),
            on_request=self._on_request,
            fired=self.chronicle.fire,
        )
        self.keys = settings.keys
        self.starts = 0
        #: the process of this start is gone, and what it still does is not seen
        self._gone = True
        #: no start has set right what the last power cut left
        self.torn = False
        self._life = trio.CancelScope()
        self._countdown: AtOperation | None = None

    # Processes --------------------------------------------------------------------------------------------------------

    async def start(self, meanwhile: Meanwhile, at_operation: AtOperation | None, **wishes: Any) -> Status | None:
        """Run as one process would; its last status, or None where it was ended or had a disk that failed under recovery."""
        self.starts += 1
        self.seed = f"{self.platform.settings.seed} start {self.starts}"
        self.chronicle.note("start", self.starts)
        self._gone = False
        self._countdown = at_operation
        self.promises.begins(self.disk, wishes["rpm"], retry_failed=wishes.get("retry_failed", False))
        self.disk.fail = self._on_operation  # type: ignore[method-assign]
        status = None
        with trio.CancelScope() as self._life:
            try:
                self.disk.replace(MANIFEST, [b"{}"])  # as each start of a run directory does
                await trio.lowlevel.checkpoint()
                status = await self.run(meanwhile, **wishes)
            except DiskError as error:
                self.said.append(str(error))
        if self._gone:
            return None
        self._end_process(power=False)
        return status

    def kill(self) -> None:
        """kill -9: what was written stays, what was not does not happen any more."""
        if not self._gone:
            self.chronicle.fire("process: killed")
            self._end_process(power=False)

    def cut_power(self) -> None:
        """The machine loses its power."""
        if not self._gone:
            self.chronicle.fire("power: cut")
            self._end_process(power=True)

    async def reboot(self, seconds: float) -> None:
        """The machine comes back after a while: its monotonic clock begins anew."""
        await trio.sleep(seconds)
        self.clock.reboot(uptime_seconds=self.chance.uniform(1, seconds))
        self.promises.rebooted()

    def _end_process(self, *, power: bool) -> None:
        self._gone = True
        self._countdown = None
        self.promises.process_ended(power=power)
        self.disk.fail = lambda *_: None  # type: ignore[method-assign]
        if power:
            mode = self.chance.choices(list(Mode), weights=(1, 1, 2))[0]
            self.disk = self.disk.power_cut(mode, self.chance, self.chronicle.fire)
        else:
            self.disk = self.disk.killed()
        self.torn |= power
        self.chronicle.note("left", [(name, zlib.crc32(self.disk.files.get(name, b""))) for name in FILES])
        if not self.torn:
            self.check_files()
        self.server.cut_clients()
        self._life.cancel()

    async def _put_together(
        self, options: Options, inputs: Inputs, *, retry_failed: bool, accept_changes: bool
    ) -> tuple[Run, Pool]:
        # A finished journal names its inputs by path, time and inode, which no two directories have in common.
        inputs.identity = lambda: [["jobs.jsonl", 0, 0, 0]]  # type: ignore[method-assign]
        return await super()._put_together(options, inputs, retry_failed=retry_failed, accept_changes=accept_changes)

    # What is watched --------------------------------------------------------------------------------------------------

    def _on_operation(self, operation: str, name: str) -> None:
        self.chronicle.note(operation, name)
        countdown = self._countdown
        if countdown is not None and countdown.count(f"{operation} {name}"):
            self._countdown = None
            countdown.act()

    def _on_request(self, data: bytes, end: Any) -> bytes:
        if self._gone:
            return data
        data = self.promises.request(data, end)
        self.chronicle.note("request", data)
        return data

    def recovered(self, recovered: Recovered, index: Index) -> None:
        """Everything that holds between two processes."""
        if self._gone:
            return
        self.chronicle.note("recovered", tuple(recovered.warnings))
        self.promises.recovered()
        for _ in self.promises.works:
            self.chronicle.fire("work: resumed")
        self.torn = False
        self.check_directory()

    def shown(self, event: Event) -> None:
        if self._gone:
            return
        super().shown(event)
        self.chronicle.note("event", event)
        self.promises.event(event)

    def check_files(self) -> None:
        """What `verify` says of the files, a process being gone.

        It tells whose status.json it is by the wall clock, and is not asked about it where that has ever gone back.
        """
        files = MemoryDisk()
        files.files = {name: data for name, data in self.disk.files.items() if name != STATUS_FILE or not self.clock.went_back}
        if JOURNAL in files.files:
            assert_clean(written(files, Path("night.run"), run_id="night", prices=PRICES))

    def check_directory(self) -> None:
        """The files as people find them once a start has set them right, and the platform's books."""
        self.check_files()
        costs = self.costs()
        check_books(costs, self.promises, self.simulated)
        check_results(self.disk, costs, self.promises, self.simulated)


def check_parts(run: Run, *, cancelled: bool) -> None:
    """No ticket is lost, no prediction is left in the spend cap but of works, no connection is idle. `cancelled`: some were cut
    off.
    """
    parts = run.parts
    works = run.dispatchers[0].attempts._polls._works
    assert parts.spending._in_flight.keys() == works.keys()
    assert works or parts.spending._in_flight_usd == 0
    assert {number for number, history in parts.histories.items() if history.submission is not None} == works.keys()
    assert run.status().submitted == len(works)
    assert all(history.spent >= 0 for history in parts.histories.values())
    assert run.dispatchers[0].attempts._common.stale <= parts.histories.keys()
    pool = parts.accounts[0].pool.statistics()
    assert (pool.idle, pool.connecting) == (0, 0)
    assert parts.accounts[0].pool.reply_budget.statistics().held_bytes == 0
    assert parts.journal.statistics().pending == 0
    if not cancelled:
        assert not parts.accounts[0].store.state.in_flight  # type: ignore[attr-defined]
        assert run.dispatchers[0].admission.statistics().in_flight == 0
        assert (pool.active, pool.opened) == (0, pool.closed)


def check_replays(night: SimulatedNight, run: Run) -> None:
    """What the run knows of jobs that have not ended is what its journal says of them."""
    with opened([str(night.path)]) as sources:
        inputs = Inputs([plain for source in sources if (plain := source.as_it_is()) is not None])
        replay = Replay(index_inputs(inputs, lambda _: None))
        for line in bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)[1:]:
            replay.apply(0, decode(line))
    assert replay.histories.keys() == run.parts.histories.keys()
    for number, known in run.parts.histories.items():
        told = replay.histories[number]
        assert (known.sends, known.spent, known.in_vain) == (told.sends, told.spent, told.in_vain), number
        assert known.submission == told.submission, f"{number} is with the server, and the run and its journal disagree"


def check_nothing_left(run: Run) -> None:
    """After the last job nothing is remembered of any."""
    assert not run.parts.histories
    assert not len(run.dispatchers[0].attempts._polls)
    assert not run.dispatchers[0].attempts._common.stale
    assert not len(run.dispatchers[0].admission._refused)
    queue = run.dispatchers[0].admission._queue.statistics()
    assert (queue.backing_off, queue.held) == (0, 0)


def ids_in(lines: list[bytes]) -> list[str]:
    """The custom_ids of a job file's jobs; its other lines are none."""
    ids = []
    for line in lines:
        with contextlib.suppress(msgspec.ValidationError, msgspec.DecodeError):
            ids.append(msgspec.json.decode(line, type=_Line).custom_id)
    return ids


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw
