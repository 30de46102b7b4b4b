"""A job's story for people. Pure."""

from __future__ import annotations

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.status import Status
from batchrunner.story import Step, Story
from batchrunner.waits import OwnCause
from batchrunner.wording import AGAIN, BINDING_TEXT, STOPPED, counted, duration, escape_terminal, usd

_OWN_WAITS: dict[OwnCause, str] = {"backoff": "its own backoff", "held": "put aside until model or server are back"}
_WAITS = {str(cause): text for words in (BINDING_TEXT, _OWN_WAITS) for cause, text in words.items()}


def story_text(story: Story, status: Status | None, *, live: bool) -> str:
    """The steps in their order, each with its time; the end, or what the job waits for; the cost. Ends with a line end."""
    lines = [f"Job {escape_terminal(story.custom_id)}: {story.state.replace('_', ' ')}.", ""]
    lines += [f"  {step.at or '':<24}  {_since(step):>9}  {escape_terminal(_words(step))}" for step in story.steps]
    lines += ["", *_end(story, status, live=live), f"Cost: {_cost(story)}."]
    if story.damaged:
        lines.append("Part of the journal is damaged and may have told more: batchrun verify says where.")
    return "\n".join(lines) + "\n"


def _since(step: Step) -> str:
    """How long after the step before; nothing where a clock went back."""
    seconds = step.after_seconds
    if seconds is None or seconds < 0:
        return ""
    return f"+{_length(seconds)}"


def _length(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 60 else duration(seconds)


def _words(step: Step) -> str:
    code = "" if step.why is None else f": {step.why}"
    match step.what:
        case "sent":
            cap = "no cap on output" if step.cap_tokens is None else f"at most {step.cap_tokens:,} out"
            tokens = f"about {step.input_tokens:,} tokens in, {cap}, {step.reserve_tokens:,} reserved{_waited(step)}"
            return f"attempt {step.attempt} sent to {step.endpoint} for {step.model} by process {step.pid}; {tokens}"
        case "submitted":
            return f"attempt {step.attempt} was taken on by the server, as {step.job}; it is asked for the result"
        case "done":
            return f"attempt {step.attempt} succeeded, ended by {step.finish or 'an unknown cause'}{code}; {_charge(step.charge)}"
        case "failed" if step.attempt and step.spent:
            return f"attempt {step.attempt} failed for good{code}; {_charge(step.charge)}"
        case "failed":
            return f"failed without being sent{' again' if step.attempt else ''}{code}"
        case "again":
            return f"attempt {step.attempt} failed and is worth another{code}; {_charge(step.charge)}{_free(step)}"
        case "refused":
            return f"attempt {step.attempt} was refused with 429{code}; {_charge(step.charge)}{_free(step)}"
        case "lost":
            return f"attempt {step.attempt} was lost in flight{code}; {_charge(step.charge)}{_free(step)}"
        case "reopened":
            return f"runs again{code}, with all its attempts, after {counted(step.attempt, 'send')}"
        case "refunded":
            return f"{counted(step.attempt, 'attempt')} given back: part of an outage"
        case "settled":
            return f"attempt {step.attempt} settled by the platform's usage events; {_charge(step.charge)}"
        case _:  # a process
            return f"process {step.pid} took the run over"


def _waited(step: Step) -> str:
    """The causes overlap: while a job pauses after a failure, the run waits for what it waits for."""
    waits = ", ".join(f"{_WAITS.get(cause, cause)} {_length(ms / 1_000)}" for cause, ms in step.waits_ms.items())
    return f"; before that {waits}" if waits else ""


def _free(step: Step) -> str:
    return "" if step.spent else "; counts toward no limit"


def _charge(charge: Charge | None) -> str:
    if charge is None or charge.billing is Billing.NOT:
        return "not billed"
    billed = "billed" if charge.billing is Billing.BILLED else "maybe billed, up to"
    amount = "at an unknown price" if charge.amount is None else usd(charge.amount)
    tokens = [f"{count:,} {name}" for count, name in ((charge.input, "in"), (charge.output, "out")) if count is not None]
    return f"{billed} {amount}" + (f" for {', '.join(tokens)}" if tokens else "")


def _end(story: Story, status: Status | None, *, live: bool) -> list[str]:
    if story.final is not None:
        where = f"at byte {story.final.offset:,} of" if story.final.offset is not None else "missing from"
        return [f"Its line, of {story.final.length:,} bytes, is {where} {story.final.file}."]
    if not live:
        stopped = "" if status is None or status.stopped_by is None else f" The run stopped: {STOPPED[status.stopped_by][0]}."
        return [f"No process is at work on it: {AGAIN}.{stopped}"]
    last = next((step.what for step in reversed(story.steps) if step.what != "process"), "")
    if story.state == "in_flight":
        if last == "submitted":
            return ["The server works on it, and is asked for the result now and then."]
        return ["It is in flight, and waits for its answer."]
    binding = "" if status is None else BINDING_TEXT[status.binding]
    waits = {"again": "a backoff of up to a minute, then its turn", "refused": "the account, which was refused, and its turn"}
    return [f"It waits for {waits.get(last, 'its turn')}{f' (the run: {binding})' if binding else ''}."]


def _cost(story: Story) -> str:
    parts = [f"{usd(story.billed_usd)} billed"]
    if story.maybe_billed_usd:
        parts.append(f"up to {usd(story.maybe_billed_usd)} maybe billed")
    if story.unpriced_attempts:
        parts.append(f"unknown for {counted(story.unpriced_attempts, 'attempt')} without a price")
    times = counted(story.sends, "send")
    return f"{' + '.join(parts)}, in {times} of which {story.spent:,} counted toward --max-attempts"
