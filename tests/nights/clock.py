"""The clock of a machine that is killed, suspended and set wrong."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from batchrunner.clock import NS_PER_SECOND

#: when the weather is over
HORIZON_SECONDS = 2 * 3600.0
DAY_NS = 86_400 * NS_PER_SECOND
#: an instant of 2026, on the edge of a minute: where the server's clock begins, and the machine's when it is right
EPOCH_NS = 1_768_435_200 * NS_PER_SECOND
#: how far the wall clock may jump: somebody corrects it, a battery is empty, a time zone is taken for UTC
WALL_JUMPS_NS = (10 * DAY_NS, -25 * 365 * DAY_NS, -3_600 * NS_PER_SECOND, NS_PER_SECOND // 2)


class NightClock:
    """The machine's two clocks. A reboot begins the monotonic one anew; the wall clock jumps as it likes."""

    def __init__(self) -> None:
        self._boots = 0
        self.wall_error_ns = 0
        #: whether the wall clock ever said an earlier time than before
        self.went_back = False
        self.reboot(uptime_seconds=1_000.0)

    def reboot(self, *, uptime_seconds: float) -> None:
        """A new boot, so long ago."""
        self._boots += 1
        self.boot_id = f"boot-{self._boots}"
        self._origin_ns = _now_ns() - round(uptime_seconds * NS_PER_SECOND)

    def monotonic_ns(self) -> int:
        return _now_ns() - self._origin_ns

    def wall_ns(self) -> int:
        return EPOCH_NS + _now_ns() + self.wall_error_ns

    def set_wrong(self, chance: random.Random) -> None:
        before_ns, self.wall_error_ns = self.wall_error_ns, chance.choice(WALL_JUMPS_NS)
        self.went_back |= self.wall_error_ns < before_ns


class ServerClock:
    """The server's clock: it goes on while our machine sleeps."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def now_ns(self) -> int:
        return EPOCH_NS + _now_ns() + self._ahead_ns

    def suspend_machine(self, seconds: float) -> None:
        """The machine sleeps, and its monotonic clock with it, as on Linux: nothing there notices but by what others do."""
        self._ahead_ns += round(seconds * NS_PER_SECOND)


def stop_process(seconds: float) -> None:
    """Everybody's time goes on and nothing of ours runs, as after SIGSTOP: all that was due meanwhile is due at once."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


def _now_ns() -> int:
    return round(trio.current_time() * NS_PER_SECOND)
