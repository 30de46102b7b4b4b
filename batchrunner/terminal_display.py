"""The live lines that a terminal shows of a run: each drawing takes the place of the one before."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchrunner.status import Status
from batchrunner.wording import BINDING_TEXT, counted, duration, escape_terminal, in_effect, money_text, offline_text, usd

#: what asking a terminal raises where there is none any more
_GONE = (OSError, ValueError)


class _Canvas(io.StringIO):
    """What rich draws on: memory, since rich ends the process where a pipe is broken. The encoding chooses the characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._spelt_in = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed takes it for a plain attribute
        return self._spelt_in

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Frame:
    """The live lines on a terminal: each drawing takes the place of the one before."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._canvas = _Canvas(stream.encoding or "utf-8")
        self._console = Console(
            file=self._canvas,
            force_terminal=True,
            no_color=bool(environ.get("NO_COLOR")),
            width=80,
            height=24,
            highlight=False,
            legacy_windows=False,
        )
        self._lines = 0

    def clear(self) -> str:
        """What takes the last drawing off the screen."""
        lines, self._lines = self._lines, 0
        return f"\r\x1b[{lines}A\x1b[J" if lines else ""

    def draw(self, status: Status) -> str:
        """What puts the figures in the place of the last drawing; nothing while the shell has the terminal."""
        if not _in_foreground(self._stream):
            self._lines = 0  # whatever stands above the cursor now is not ours
            return ""
        self._console.width = _columns(self._stream) - 1  # a full last column wraps on some terminals
        self._console.print(live_figures(status))
        drawing = self._canvas.take()
        text = self.clear() + drawing
        self._lines = drawing.count("\n")
        return text


def live_figures(status: Status) -> Group:
    """The live display: how far, how fast, at what price."""
    head = Table.grid(padding=(0, 2), expand=True)
    for ratio in (None, 1, None):
        head.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
    share = status.done / status.total if status.total else 1.0
    eta = "" if status.eta_seconds is None else f"  ETA {duration(status.eta_seconds)}"
    state = "" if status.state == "running" else f"  {status.state}"
    state += "  paused" if status.paused else ""
    head.add_row(
        Text(escape_terminal(os.path.basename(status.run_dir)), style="bold"),
        ProgressBar(total=max(status.total, 1), completed=status.done),
        Text(f"{status.done:,}/{status.total:,}  {share:.1%}{eta}{state}"),
    )
    speed = [
        f"{_of_limit(status.requests_last_minute, status.rpm_limit)} requests/min{in_effect(status.rpm_effective)}",
        f"{_of_limit(status.tokens_last_minute, status.tpm_limit)} tokens/min{in_effect(status.tpm_effective)}",
        f"{status.in_flight:,} in flight",
        *([f"{status.backing_off:,} backing off"] if status.backing_off else []),
        BINDING_TEXT[status.binding],
    ]
    price = [
        money_text(status),
        *([f"{usd(status.balance_usd)} left"] if status.balance_usd is not None else []),
        f"{status.usage.input_tokens:,} in, {status.usage.output_tokens:,} out tokens",
        f"{status.failed:,} failed",
        f"{status.rate_limited:,} x 429",
    ]
    trouble = [
        *([f"{counted(status.without_credits, 'account')} without credits"] if status.without_credits else []),
        *([f"{status.held:,} held back"] if status.held else []),
        *([f"offline: {offline_text(status)}"] if status.models_offline else []),
        *([f"{counted(status.keys_suspended, 'key')} suspended"] if status.keys_suspended else []),
    ]
    return Group(head, _row(speed), _row(price), *([_row(trouble)] if trouble else []))


def _row(parts: list[str]) -> Text:
    return Text("  ".join(part for part in parts if part))


def _of_limit(used: int, limit: int) -> str:
    return f"{used:,}/{limit:,}" if limit else f"{used:,}"


def _in_foreground(stream: TextIO) -> bool:
    """False for a job in the background of the terminal that it would draw on."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except _GONE:  # not our controlling terminal: nobody else's prompt can be there
        return True


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except _GONE:
        return 80
