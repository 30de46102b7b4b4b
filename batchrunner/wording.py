"""Figures of a run and hostile text, put into words for people. Pure: no colours, no terminal."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

from batchrunner.status import Binding, Status, StoppedBy

BINDING_TEXT: dict[Binding, str] = {
    "requests": "limited by requests",
    "tokens": "limited by tokens",
    "in_flight": "limited by --max-in-flight",
    "rate_limited": "waiting after a 429",
    "server": "waiting for the server to come back",
    "keys": "waiting to try a refused key again",
    "models": "waiting for offline models",
    "retries": "waiting to try jobs again",
    "submitted": "waiting for what the server works on",
    "credits": "waiting for credits: top up the account",
    "paused": "paused, until `batchrun ctl RUN_DIR resume`",
    "work": "no more work to start",
    "none": "",
}

AGAIN = "run the same command again to resume"
#: why a run stopped before its end -> what happened, and what to do about it
STOPPED: dict[StoppedBy, tuple[str, str]] = {
    "signal": ("interrupted", f"{AGAIN}."),
    "credits": ("the account has no credits left", f"Top up the account, then {AGAIN}."),
    "keys": ("no valid key is left", f"Give a valid key, then {AGAIN}."),
    "max_cost": ("the spend cap is reached", f"Raise --max-cost, then {AGAIN}."),
    "input": ("the job file changed or cannot be read", f"Restore it, then {AGAIN}."),
    "failures": (
        "too many jobs failed",
        f"See why in errors.jsonl. Mend it and add --retry-failed, or raise --max-failures, then {AGAIN}.",
    ),
    "unreachable": ("the server cannot be reached", f"Check network and --base-url, then {AGAIN}."),
    "disk": ("a write to the run directory failed", f"Free space or mend the disk, then {AGAIN}."),
}


def summary_text(status: Status) -> str:
    """The end of a run for people: a few lines, the last one the next step. Ends with a line end."""
    lines = [_headline(status), ""]
    lines += [f"  {name:<9} {text}" for name, text in _facts(status) if text]
    step = next_step(status)
    return "\n".join(lines + (["", step] if step else [])) + "\n"


def next_step(status: Status) -> str:
    """What to do after a run that ended so; empty where there is nothing to do."""
    if status.stopped_by is not None:
        step = STOPPED[status.stopped_by][1]
        kept = " What the server works on was paid for, and its results are kept for an hour." if status.submitted else ""
        return step[0].upper() + step[1:] + kept
    if status.state != "completed":
        return ""
    run_dir = escape_terminal(status.run_dir)
    if status.failed:
        return f"See {run_dir}/errors.jsonl for what failed; the same command with --retry-failed runs the failed jobs again."
    if status.maybe_billed_usd or status.unpriced_attempts:
        # A simulated platform is gone with its run, and its usage events with it.
        settled = "" if status.simulated else f"; most are settled by the account's usage events: batchrun reconcile {run_dir}"
        return f"See {run_dir}/costs.jsonl for each attempt whose cost is not certain{settled}"
    return ""


def money_text(status: Status) -> str:
    """What was billed, what may have been, and what has no known price: three figures that are never added up."""
    known = status.billed_usd or status.maybe_billed_usd
    parts = [f"{usd(status.billed_usd)} billed"] if known or not status.unpriced_attempts else []
    if status.maybe_billed_usd:
        parts.append(f"up to {usd(status.maybe_billed_usd)} maybe billed")
    if status.unpriced_attempts:
        parts.append(f"unknown for {counted(status.unpriced_attempts, 'attempt')} without a price")
    return " + ".join(parts)


def credits_text(status: Status) -> str:
    """What is left to pay with, and what will be asked for; empty where neither is known."""
    left = "" if status.balance_usd is None else f"{usd(status.balance_usd)} left at {status.balance_at}"
    to_come = f"about {usd(status.forecast_usd)} for the open jobs" if status.forecast_usd else ""
    without = f"{counted(status.without_credits, 'account')} without credits" if status.without_credits else ""
    return ", ".join(part for part in (left, to_come, without) if part)


def in_effect(effective: int) -> str:
    """A limit's addition where only so much of it is let through at the moment; empty for 0."""
    return f" ({effective:,} in effect)" if effective else ""


def offline_text(status: Status) -> str:
    """The models that are offline, by name, as far as the status names them; empty where none is."""
    names = [f"'{escape_terminal(model)}'" for model in status.models_offline]
    unnamed = status.models_offline_total - len(names)
    return ", ".join(names) + (f" and {unnamed:,} more" if unnamed else "")


def usd(amount: Decimal) -> str:
    """The exact amount, never rounded and never with an exponent."""
    text = f"{amount:f}"
    return "$" + (text.rstrip("0").rstrip(".") if "." in text else text)


def duration(seconds: float) -> str:
    """`M:SS` or `H:MM:SS`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """`1 job`, `2,000 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escape_terminal(text: str) -> str:
    r"""`text` on one line and without power over a terminal: what is not printable shows as its escape, `\x1b`.

    Control and format characters (ANSI sequences, carriage returns, C1, bidirectional overrides), line separators and lone
    surrogates are escaped; letters, emoji and spaces of all scripts stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _headline(status: Status) -> str:
    simulated = " (simulated)" if status.simulated else ""
    if status.stopped_by is not None:
        what, _ = STOPPED[status.stopped_by]
        return f"Stopped{simulated}: {what}. {status.done:,} of {counted(status.total, 'job')} done."
    if status.state != "completed":
        return f"{status.state.capitalize()}{simulated}: {status.done:,} of {counted(status.total, 'job')} done."
    if not status.failed:
        return f"Completed{simulated}: {counted(status.total, 'job')}, all succeeded."
    return f"Completed{simulated}: {counted(status.total, 'job')}, {status.failed:,} failed."


def _facts(status: Status) -> list[tuple[str, str]]:
    """Rows of the summary as (name, text); a row without text is left out."""
    open_jobs = status.total - status.done
    parts = [(status.held, "held back"), (status.submitted, "with the server")]
    apart = ", ".join(f"{number:,} {where}" for number, where in parts if number)
    held = f" ({apart})" if apart else ""
    jobs = [f"{status.completed:,} succeeded", f"{status.failed:,} failed", *([f"{open_jobs:,} open{held}"] if open_jobs else [])]
    usage = status.usage
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    attempts = [f"{status.attempts:,}", *([f"{status.rate_limited:,} refused with 429"] if status.rate_limited else [])]
    return [
        ("jobs", ", ".join(jobs)),
        ("replies", _finishes(status)),
        ("tokens", f"{usage.input_tokens:,} input{cached}, {usage.output_tokens:,} output"),
        ("predicted", _predictions(status)),
        ("cost", money_text(status)),
        ("credits", credits_text(status)),
        ("attempts", ", ".join(attempts)),
        ("offline", offline_text(status)),
        ("keys", _keys(status)),
        ("rate", _rate(status)),
        ("time", duration(status.elapsed_seconds)),
        ("files", escape_terminal(status.run_dir)),
    ]


def _keys(status: Status) -> str:
    """Those that cannot be used, the ones for good by their fingerprints."""
    suspended = [f"{status.keys_suspended:,} suspended"] if status.keys_suspended else []
    return ", ".join([*suspended, *(f"{fingerprint} retired" for fingerprint in status.keys_retired)])


def _finishes(status: Status) -> str:
    """Successes that deserve a look; nothing where there are none."""
    kinds = {
        "cut at the output cap": status.finish_length,
        "refused by the model": status.finish_refusal,
        "without text": status.finish_empty,
    }
    return ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)


def _predictions(status: Status) -> str:
    """How far predictions were off in the mean; nothing for a run that was over before it could learn."""
    kinds = {"input": status.input_prediction_error, "output": status.output_prediction_error}
    known = [f"{kind} tokens off by {error:.0%}" for kind, error in kinds.items() if error is not None]
    return f"{', '.join(known)}, in the mean" if known and status.tokens_per_minute is not None else ""


def _rate(status: Status) -> str:
    """The means beside the limits; nothing for a run that took less than the limits' own minute."""
    if status.requests_per_minute is None or status.tokens_per_minute is None:
        return ""
    requests = f"{status.requests_per_minute:,.1f} requests/min" + (f" of {status.rpm_limit:,}" if status.rpm_limit else "")
    tokens = f"{status.tokens_per_minute:,.0f} tokens/min" + (f" of {status.tpm_limit:,}" if status.tpm_limit else "")
    return f"{requests}{in_effect(status.rpm_effective)}, {tokens}{in_effect(status.tpm_effective)}"
