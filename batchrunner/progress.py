"""What people see of a run while it runs.

On a terminal a few lines that are drawn anew twice a second; elsewhere a JSON line every five seconds. Writing happens in
a thread of its own, to the bare descriptor: a terminal that is stopped or has lost its line holds up the display and
nothing else, and one that is gone ends the display and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TextIO, get_args

import msgspec
import trio

from batchrunner.status import Status
from batchrunner.wording import escape_terminal

if TYPE_CHECKING:
    from batchrunner.terminal_display import Frame

Mode = Literal["auto", "tty", "json", "none"]
MODES: tuple[str, ...] = get_args(Mode)

TTY_INTERVAL_SECONDS = 0.5
JSON_INTERVAL_SECONDS = 5.0
#: messages that wait for a slow terminal; the oldest go first, and how many went is said
WAITING_MESSAGES_MAX = 1000
MESSAGE_CHARACTERS = 2000
#: what writing raises when the audience has left: hung up, a broken pipe, a closed stream
GONE = (OSError, ValueError)
#: how long the end of a run waits for a terminal that takes nothing
LAST_WRITE_SECONDS = 1.0


def choose_mode(mode: Mode, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Mode:
    """What `auto` means here: the live display on a terminal of a person, JSON lines in CI and where stderr is redirected."""
    if mode != "auto":
        return mode
    in_ci = environ.get("CI", "").lower() not in {"", "0", "false"}
    dumb = environ.get("TERM", "dumb") in {"", "dumb"}
    return "tty" if _is_terminal(stream) and not in_ci and not dumb else "json"


class Progress:
    """The display of one run.

    `status` is called on the loop, as often as something is drawn. With `none` there is no display, yet what is `say`d still
    goes out: it is news, not progress.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        *,
        mode: Mode = "auto",
        stream: TextIO | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        stream = stream or sys.stderr
        self._off = stream is None  # a process that was started with its stderr closed
        stream = stream or io.StringIO()
        self.mode = choose_mode(mode, stream, environ)
        self._status = status
        self._outlet = _Outlet(stream)
        self._frame = _frame(stream, environ) if self.mode == "tty" else None
        self._waiting: deque[str] = deque(maxlen=WAITING_MESSAGES_MAX)
        self._dropped = 0
        self._wake = trio.Event()
        self._running = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show the run until cancelled or turned off; then say what is still to be said and clear the live lines."""
        self._running = True
        task_status.started()
        try:
            await self._show()
        finally:
            with trio.move_on_after(LAST_WRITE_SECONDS, shield=True):
                await self._outlet.settle()
                await self._write(self._last())
                while news := self._news():  # said during the last write
                    await self._write(news)
            self._running = False

    def say(self, text: str) -> None:
        """A line for people, above the live display; escaped, since job ids and servers' messages are hostile. Never blocks
        while the display runs, and never raises.
        """
        if self._off:
            return
        line = self._message(text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + "…")
        if self._running:
            self._dropped += len(self._waiting) == WAITING_MESSAGES_MAX
            self._waiting.append(line)
            self._wake.set()
        else:
            try:
                self._outlet.write_now(line)
            except GONE:
                self.off()

    def off(self) -> None:
        """No more display and no more messages, for good: the terminal has hung up. The run goes on."""
        self._off = True
        self._waiting.clear()
        self._wake.set()

    async def _show(self) -> None:
        interval = {"tty": TTY_INTERVAL_SECONDS, "json": JSON_INTERVAL_SECONDS}.get(self.mode, math.inf)
        due = trio.current_time()
        while not self._off:
            await trio.lowlevel.checkpoint_if_cancelled()  # a write that is cancelled before it began would lose the news
            text = self._news()
            if trio.current_time() >= due:
                due = trio.current_time() + interval
                text += self._picture()
            elif text and self._frame is not None:
                text += self._picture()  # the live lines made room for what was said, and come back below it
            await self._write(text)
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()

    def _picture(self) -> str:
        """The figures as they stand, in the form of this mode; nothing where there is no display."""
        if self._frame is not None:
            return self._frame.draw(self._status())
        return json_line(self._status()) if self.mode == "json" else ""

    def _news(self) -> str:
        """All that was said since the last look, in the place of the live lines."""
        if not self._waiting:
            return ""
        text = "".join(self._waiting)
        self._waiting.clear()
        if self._dropped:
            note = f"{self._dropped} earlier messages are not shown: they came faster than they could be written"
            text, self._dropped = self._message(note) + text, 0
        return text if self._frame is None else self._frame.clear() + text

    def _message(self, text: str) -> str:
        if self.mode == "json":
            return json.dumps({"event": "message", "message": text}) + "\n"
        return escape_terminal(text) + "\n"

    def _last(self) -> str:
        """What is still to be said, and then the end of the display: no live lines, or a last line of JSON."""
        if self._off:
            return ""
        return self._news() + (self._picture() if self._frame is None else self._frame.clear())

    async def _write(self, text: str) -> None:
        if text and not self._off:
            try:
                await self._outlet.write(text)
            except GONE:
                self.off()


class _Outlet:
    """Where text goes: a descriptor, written from a thread, or a stream in memory, written on the spot."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def write(self, text: str) -> None:
        """Return when all of `text` is written. Cancellation leaves a blocked write behind in its thread."""
        if _descriptor(self._stream) is None:
            self.write_now(text)
            await trio.lowlevel.checkpoint()
        else:
            await trio.to_thread.run_sync(self.write_now, text, abandon_on_cancel=True, limiter=self._one_at_a_time)

    async def settle(self) -> None:
        """Return when a write that was left behind has ended after all."""
        async with self._one_at_a_time:
            pass

    def write_now(self, text: str) -> None:
        """Past Python's own buffer, whose lock a blocked thread would hold while the interpreter wants to exit."""
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            self._stream.write(text)
            return
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # some parents hand down a non-blocking stderr
                select.select([], [descriptor], [])


def _frame(stream: TextIO, environ: Mapping[str, str]) -> Frame:
    from batchrunner.terminal_display import Frame  # noqa: PLC0415 - what draws takes its time, and nights have no terminal

    return Frame(stream, environ)


def json_line(status: Status) -> str:
    """One line of progress for programs: the fields of `status.json` and `"event":"progress"`, in ASCII."""
    return json.dumps({"event": "progress"} | msgspec.to_builtins(status)) + "\n"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except GONE:
        return False


def _descriptor(stream: TextIO) -> int | None:
    """The stream's descriptor, or None where it lives in memory. Raises ValueError where it is closed.

    Asked for at each write: the number of a stream that was closed may by now be the journal's.
    """
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None
