"""What `batchrun ctl` asks of a live run, carried out."""

from __future__ import annotations

import trio

from batchrunner.cli.signals import Signals
from batchrunner.live import Answer, Command, Drain, Refused, apply, changes, decode, encode_answer
from batchrunner.progress import Progress
from batchrunner.runner import Run


class Controls:
    """Answers lines of JSON with lines of JSON. What was changed is said to people too."""

    def __init__(self, run: Run, progress: Progress, signals: Signals) -> None:
        self._run = run
        self._progress = progress
        self._signals = signals
        self._one_at_a_time = trio.Lock()

    async def respond(self, line: bytes) -> bytes:
        """Whatever the line is, an answer; a defect of ours is one too, and never ends the run."""
        try:
            command = decode(line)
            async with self._one_at_a_time:
                answer = await self._carry_out(command)
        except Refused as refusal:
            answer = Answer(error=str(refusal))
        except Exception as defect:  # people who look at a run must not be able to end it
            self._progress.say(f"warning: a command of `batchrun ctl` came to nothing: {type(defect).__name__}. The run goes on.")
            answer = Answer(error="this is a defect of batchrun; the run goes on as it was.")
        return encode_answer(answer)

    async def _carry_out(self, command: Command) -> Answer:
        """Raises: Refused."""
        run, before = self._run, self._run.live()
        after = apply(before, command, why_no_cap=run.parts.spending.why_no_cap, stopping=run.stopping)
        told = changes(before, after)
        if told:
            await run.adopt(after)
        if isinstance(command, Drain):
            told = ("draining: nothing more is sent, and the run ends once what is in flight has",) if not run.stopping else ()
            self._signals.drain(run)
        for change in told:
            self._progress.say(f"batchrun ctl: {change}.")
        live = run.live()
        return Answer(
            changed=told, accounts=live.accounts, max_cost_usd=live.max_cost_usd, paused=live.paused, status=run.status()
        )
