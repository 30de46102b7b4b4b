"""The faults of which each must fire in every share of the nights, by the names that the chronicle counts them under."""

from __future__ import annotations

from collections.abc import Mapping

from tests.nights.changes import CHANGES
from tests.nights.jobs import STREAMS
from tests.nights.network import KINDS
from tests.nights.platform import QUESTION_KINDS
from tests.nights.weather import EVENTS, MODEL_KINDS, ODD_KINDS, POISONS, SERVER_KINDS, STREAM_KINDS, WORK_KINDS

FAULTS = (
    "process: killed",
    "process: drained",
    "process: cancelled",
    "process: started with --retry-failed",
    "power: cut",
    "power: tail dropped",
    "power: tail reordered",
    "power: tail corrupted",
    "power: creation undone",
    "power: rename undone",
    "power: truncation undone",
    "disk: full",
    "disk: device error",
    *EVENTS,
    "account: other limit",
    "account: topped up",
    "account: another program",
    *(f"toxic: {kind}" for kind in KINDS if kind != "reset"),
    "toxic: reset in the head",
    "toxic: reset in the body",
    *(f"answer: {kind}" for kind in sorted({"rate_limited", *SERVER_KINDS, *MODEL_KINDS, *POISONS, *ODD_KINDS})),
    *(f"answer: {kind}" for kind in (*STREAM_KINDS, *WORK_KINDS)),
    *(f"question: {kind}" for kind in QUESTION_KINDS),
    *(f"stream: {url}" for url in STREAMS),
    "work: succeeded",
    "work: resumed",
    *CHANGES,
)


def table(fired: Mapping[str, int]) -> str:
    """How often each fired, a line each, in the order of `FAULTS`; those that are not in it last."""
    names = [*FAULTS, *sorted(fired.keys() - set(FAULTS))]
    return "\n".join(f"{fired.get(name, 0):8,}  {name}" for name in names)


def never_fired(fired: Mapping[str, int]) -> list[str]:
    return [name for name in FAULTS if not fired.get(name)]
