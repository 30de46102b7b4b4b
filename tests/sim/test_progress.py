from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable
from decimal import Decimal

import pytest
import trio
import trio.testing

from batchrunner import progress as module
from batchrunner.progress import Mode, Progress, choose_mode
from batchrunner.status import Status

MakeStatus = Callable[..., Status]
TERMINAL = {"TERM": "xterm-256color"}


class Terminal(io.StringIO):
    """A terminal in memory."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines that are left to be seen after all clearing."""
        lines = [""]
        for part in re.split(r"(\r\x1b\[\d+A\x1b\[J|\n)", self.getvalue()):
            if part == "\n":
                lines.append("")
            elif up := re.fullmatch(r"\r\x1b\[(\d+)A\x1b\[J", part):
                del lines[len(lines) - 1 - int(up[1]) :]
                lines.append("")
            else:
                lines[-1] += re.sub(r"\x1b\[[0-9;]*m", "", part)
        return lines


class Gone(io.StringIO):
    """A stream whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestMode:
    @pytest.mark.parametrize(
        ("stream", "environ", "mode"),
        [
            (Terminal(), TERMINAL, "tty"),
            (Terminal(), TERMINAL | {"NO_COLOR": "1"}, "tty"),
            (Terminal(), TERMINAL | {"CI": "false"}, "tty"),
            (Terminal(), TERMINAL | {"CI": "true"}, "json"),
            (Terminal(), {"TERM": "dumb"}, "json"),
            (Terminal(), {}, "json"),
            (io.StringIO(), TERMINAL, "json"),
        ],
    )
    def test_auto_is_live_only_on_a_persons_terminal(self, stream: io.StringIO, environ: dict[str, str], mode: Mode) -> None:
        """CI, a dumb terminal and a redirection get lines that a program can read; NO_COLOR changes nothing here."""
        assert choose_mode("auto", stream, environ) == mode

    def test_auto_on_a_closed_stream_is_harmless(self) -> None:
        """A closed stderr cannot be asked whether it is a terminal."""
        stream = Terminal()
        stream.close()
        assert choose_mode("auto", stream, TERMINAL) in {"tty", "json"}

    def test_what_is_asked_for_wins(self) -> None:
        """An explicit mode is not second-guessed."""
        assert choose_mode("none", Terminal(), TERMINAL) == "none"


class TestJson:
    async def test_a_line_at_once_every_five_seconds_and_at_the_end(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Each line is one JSON document: `event`, and the fields of `status.json` with exact money."""
        stream = io.StringIO()
        start = trio.current_time()
        progress = Progress(
            lambda: make_status(elapsed_seconds=trio.current_time() - start, billed_usd=Decimal("0.0000001")),
            mode="json",
            stream=stream,
        )
        with trio.move_on_after(12):
            await progress.run()
        lines = lines_of(stream)
        assert [line["elapsed_seconds"] for line in lines] == pytest.approx([0, 5, 10, 12])
        assert {line["event"] for line in lines} == {"progress"}
        assert lines[0]["billed_usd"] == "1E-7"
        assert lines[0]["total"] == 10

    async def test_a_message_is_a_line_of_its_own_and_at_once(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """What is said does not wait for the next progress line, and is JSON like all the rest, in printable ASCII."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="json", stream=stream)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(1)
            progress.say("job 'ü\x1b[2J' failed\nagain")
            await trio.sleep(1)
            assert lines_of(stream)[1:] == [{"event": "message", "message": "job 'ü\x1b[2J' failed\nagain"}]
            assert stream.getvalue().replace("\n", "").isprintable()
            nursery.cancel_scope.cancel()


class TestTerminal:
    async def test_the_live_lines_show_what_matters(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """How far, how fast against the limit, at what price (three figures apart), and what binds."""
        terminal = Terminal()
        status = make_status(
            total=1000,
            completed=240,
            failed=10,
            in_flight=7,
            rate_limited=2,
            requests_last_minute=49,
            rpm_effective=43,
            tokens_last_minute=1_500_000,
            billed_usd=Decimal("1.25"),
            maybe_billed_usd=Decimal("0.5"),
            unpriced_attempts=3,
            binding="requests",
            eta_seconds=3725.0,
        )
        progress = Progress(lambda: status, mode="tty", stream=terminal, environ=TERMINAL)
        seen = await self._seen_after(1, progress, terminal)
        shown = ("chat.run", "250/1,000", "25.0%", "ETA 1:02:05", "49/50 requests/min (43 in effect)", "7 in flight")
        also = ("1,500,000/2,000,000 tokens/min", "limited by requests", "unknown for 3 attempts")
        prices = ("$1.25 billed + up to $0.5 maybe billed",)
        assert [words for words in shown + also + prices if words not in seen] == []

    async def test_what_is_away_has_a_line_of_its_own(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """What is held back, the offline models' names, escaped, and suspended keys; no such line where nothing is away."""
        terminal = Terminal()
        status = make_status(
            held=12, models_offline=("a\x1b[2J", "b"), models_offline_total=9, keys_suspended=2, binding="models"
        )
        progress = Progress(lambda: status, mode="tty", stream=terminal, environ=TERMINAL)
        seen = await self._seen_after(1, progress, terminal)
        assert r"12 held back offline: 'a\x1b[2J', 'b' and 7 more 2 keys suspended" in seen
        assert "waiting for offline models" in seen
        assert "\x1b[2J" not in terminal.getvalue()
        status = make_status()
        assert "held back" not in await self._seen_after(1, progress, Terminal())
        assert terminal.screen == [""]

    async def test_each_drawing_takes_the_place_of_the_last(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """After a minute of drawing there is one display on the screen, and after the end none."""
        terminal = Terminal()
        progress = Progress(make_status, mode="tty", stream=terminal, environ=TERMINAL)
        seen = await self._seen_after(60, progress, terminal)
        assert seen.count("chat.run") == 1
        assert terminal.screen == [""]

    async def test_messages_stand_above_the_display(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """What is said stays on the screen, in order and whole, with the live lines below it."""
        terminal = Terminal()
        progress = Progress(make_status, mode="tty", stream=terminal, environ=TERMINAL)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            for number in range(3):
                await trio.sleep(0.7)
                progress.say(f"message {number}")
            await trio.sleep(0.1)
            screen = terminal.screen
            nursery.cancel_scope.cancel()
        assert screen[:3] == ["message 0", "message 1", "message 2"]
        assert "chat.run" in screen[3]
        assert terminal.screen == ["message 0", "message 1", "message 2", ""]

    async def test_hostile_text_reaches_the_terminal_escaped(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Neither a message nor a path can clear the screen or move the cursor."""
        terminal = Terminal()
        status = make_status(run_dir="x/\x1b[2Jevil\rname")
        progress = Progress(lambda: status, mode="tty", stream=terminal, environ=TERMINAL)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            progress.say("job \x1b]0;title\x07 failed")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert "\x1b[2J" not in terminal.getvalue()
        assert "\x1b]0" not in terminal.getvalue()
        assert r"\x1b[2Jevil\rname" in terminal.getvalue()
        assert r"job \x1b]0;title\x07 failed" in terminal.getvalue()

    async def test_no_color_drops_colours_alone(self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock) -> None:
        """With NO_COLOR the display is still live, and no colour is set."""
        terminal = Terminal()
        progress = Progress(make_status, mode="tty", stream=terminal, environ=TERMINAL | {"NO_COLOR": "1"})
        seen = await self._seen_after(1, progress, terminal)
        assert "chat.run" in seen
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.getvalue())

    async def test_nothing_is_drawn_from_the_background(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that was sent to the background leaves the shell's prompt alone, and comes back with its display."""
        terminal = Terminal()
        front = False
        monkeypatch.setattr("batchrunner.terminal_display._in_foreground", lambda stream: front)
        progress = Progress(make_status, mode="tty", stream=terminal, environ=TERMINAL)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(2)
            assert terminal.getvalue() == ""
            front = True
            await trio.sleep(2)
            assert "chat.run" in terminal.getvalue()
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _seen_after(seconds: float, progress: Progress, terminal: Terminal) -> str:
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(seconds)
            seen = " ".join(" ".join(terminal.screen).split())
            nursery.cancel_scope.cancel()
        return seen


class TestSay:
    async def test_none_shows_no_progress_yet_says_what_is_said(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Silence is about progress: a warning still comes, as a plain line."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="none", stream=stream)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(100)
            progress.say("careful")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert stream.getvalue() == "careful\n"

    async def test_before_and_after_the_display_messages_go_straight_out(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Nothing said outside of the display's life is lost."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="none", stream=stream)
        progress.say("before")
        with trio.move_on_after(1):
            await progress.run()
        progress.say("after")
        assert stream.getvalue() == "before\nafter\n"

    async def test_what_is_said_at_the_very_end_is_shown(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A message in the same instant as the end of the run still comes out."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="none", stream=stream)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            progress.say("last words")
            nursery.cancel_scope.cancel()
        assert stream.getvalue() == "last words\n"

    async def test_a_flood_keeps_the_newest_and_counts_the_rest(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Memory stays bounded when a million jobs fail at once, and what went is said."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="none", stream=stream)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            for number in range(module.WAITING_MESSAGES_MAX + 7):
                progress.say(str(number))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        lines = stream.getvalue().splitlines()
        assert lines[0].startswith("7 earlier messages are not shown")
        assert lines[1:] == [str(number) for number in range(7, module.WAITING_MESSAGES_MAX + 7)]

    def test_a_message_without_end_is_cut(self, make_status: MakeStatus) -> None:
        """A server's megabyte of HTML does not fill the terminal."""
        stream = io.StringIO()
        Progress(make_status, mode="none", stream=stream).say("x" * 1_000_000)
        assert len(stream.getvalue()) == module.MESSAGE_CHARACTERS + len("…\n")


class TestGone:
    @pytest.mark.parametrize("mode", ["tty", "json"])
    async def test_a_broken_stream_ends_the_display_and_nothing_else(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock, mode: Mode
    ) -> None:
        """The task returns without an error, and later messages are dropped in silence."""
        progress = Progress(make_status, mode=mode, stream=Gone(), environ=TERMINAL)
        await progress.run()
        progress.say("nobody hears this")

    async def test_a_stream_closed_in_between_ends_the_display(
        self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock
    ) -> None:
        """ValueError from a closed stream is as good as a broken pipe."""
        stream = io.StringIO()
        progress = Progress(make_status, mode="json", stream=stream)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(1)
            stream.close()

    async def test_off_ends_the_display_for_good(self, make_status: MakeStatus, autojump_clock: trio.testing.MockClock) -> None:
        """After a hang-up not another byte is written, not even to clear the lines."""
        terminal = Terminal()
        progress = Progress(make_status, mode="tty", stream=terminal, environ=TERMINAL)
        async with trio.open_nursery() as nursery:
            await nursery.start(progress.run)
            await trio.sleep(1)
            progress.off()
            before = terminal.getvalue()
            progress.say("nobody hears this")
        assert terminal.getvalue() == before

    def test_a_process_without_stderr_has_no_display(self, make_status: MakeStatus, monkeypatch: pytest.MonkeyPatch) -> None:
        """Started with its stderr closed, Python has None in its place: nothing is shown, nothing raised."""
        monkeypatch.setattr("sys.stderr", None)
        Progress(make_status).say("nobody hears this")


class TestDescriptor:
    async def test_text_reaches_a_descriptor_in_the_streams_own_encoding(self, make_status: MakeStatus) -> None:
        """What an ASCII stream cannot spell arrives escaped, never as an error, even where the end comes at once."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as written, os.fdopen(writer, "w", encoding="ascii") as stream:
            progress = Progress(make_status, mode="none", stream=stream)
            async with trio.open_nursery() as nursery:
                await nursery.start(progress.run)
                progress.say("naïve")
                nursery.cancel_scope.cancel()
            stream.close()
            assert written.read() == b"na\\xefve\n"

    async def test_a_descriptor_that_takes_nothing_holds_up_nobody(
        self, make_status: MakeStatus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With stderr stalled (a stopped terminal, a dead line) other tasks go on, and the run can end."""
        monkeypatch.setattr(module, "LAST_WRITE_SECONDS", 0.01)
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stream:
            fill(writer)
            progress = Progress(make_status, mode="json", stream=stream)
            async with trio.open_nursery() as nursery:
                await nursery.start(progress.run)
                await trio.testing.wait_all_tasks_blocked()
                progress.say("still here")
                nursery.cancel_scope.cancel()
            os.close(reader)  # ends the write that was left behind
            await progress._outlet._one_at_a_time.acquire()

    async def test_a_non_blocking_descriptor_is_waited_for(self, make_status: MakeStatus) -> None:
        """A stderr that says EAGAIN is slow, not gone: what is said arrives once there is room."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as written, os.fdopen(writer, "w") as stream:
            filled = fill(writer)
            os.set_blocking(writer, False)
            progress = Progress(make_status, mode="none", stream=stream)
            async with trio.open_nursery() as nursery:
                await nursery.start(progress.run)
                progress.say("late")
                await trio.testing.wait_all_tasks_blocked()
                assert len(written.read(filled)) == filled
                nursery.cancel_scope.cancel()
            stream.close()
            assert written.read() == b"late\n"


def fill(descriptor: int) -> int:
    """Write to a pipe until it takes no more; how many bytes that was."""
    os.set_blocking(descriptor, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(descriptor, b"x" * 4096)
    os.set_blocking(descriptor, True)
    return filled
