"""What SIGINT, SIGTERM and SIGHUP mean for a run."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from batchrunner.cli.output import say
from batchrunner.progress import Progress
from batchrunner.runner import Run

TERMINATED = 143


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In here SIGTERM ends the process by an exception, as SIGINT does by itself: what was begun is cleaned up. Not for trio."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    except SystemExit:
        say("batchrun: terminated; run the same command again to resume.")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class Signals:
    """SIGINT drains, a second one cancels; SIGTERM drains for a while, then cancels; SIGHUP only ends the display."""

    def __init__(self) -> None:
        #: SIGTERM came first
        self.terminated = False
        #: somebody wants this to end
        self.hurried = trio.Event()
        self._interrupted = False

    async def watch(
        self, run: Run, progress: Progress, drain_seconds: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Act on signals until cancelled."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in received:
                    if number == signal.SIGHUP:
                        progress.off()
                        continue
                    self.hurried.set()
                    if number == signal.SIGINT:
                        self._interrupt(run, progress)
                    else:
                        self.terminated = self.terminated or not self._interrupted
                        progress.say(f"terminated: what is in flight has {drain_seconds:g} s to end.")
                        run.drain()
                        nursery.start_soon(_cancel_later, run, drain_seconds)

    def drain(self, run: Run) -> None:
        """What the first SIGINT does, without a word; another one cuts off then."""
        self._interrupted = True
        self.hurried.set()
        run.drain()

    def _interrupt(self, run: Run, progress: Progress) -> None:
        if self._interrupted:
            progress.say("interrupted again: what is in flight is cut off, and listed as maybe billed.")
            run.cancel()
            return
        self.drain(run)
        waiting = run.status().in_flight
        progress.say(f"interrupted: nothing more is sent; waiting for {waiting} in flight. Ctrl-C once more cuts them off.")


async def until_interrupted(wait: Callable[[], Awaitable[None]]) -> bool:
    """Wait, but not past the next SIGINT or SIGTERM, which ends the wait and nothing else. Whether it came to its end."""
    ended = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, received, nursery.cancel_scope)
            await wait()
            ended = True
            nursery.cancel_scope.cancel()
    return ended


async def _cancel_on_signal(received: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in received:
        scope.cancel()


async def _cancel_later(run: Run, seconds: float) -> None:
    await trio.sleep(seconds)
    run.cancel()
