"""Something has changed that somebody may wait for: counted, so that none is missed between a look and the wait for it."""

from __future__ import annotations

import trio


class Changes:
    """Wakes whoever waits. One at a time waits."""

    def __init__(self) -> None:
        #: how many there have been
        self.count = 0
        #: where somebody waits
        self._woken: trio.Event | None = None

    def note(self) -> None:
        """There is another one."""
        self.count += 1
        if self._woken is not None:
            self._woken.set()
            self._woken = None

    async def wait(self, seconds: float) -> None:
        """Until the next one, and no longer than this. To be called with no checkpoint since `count` was looked at."""
        if self._woken is None:
            self._woken = trio.Event()
        with trio.move_on_after(seconds):
            await self._woken.wait()
