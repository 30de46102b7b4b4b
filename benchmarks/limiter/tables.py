"""The figures as Markdown: a table for each kind of cell, clients down, servers across; and the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from benchmarks.limiter.cells import POLICIES, Cell, Group
from benchmarks.limiter.goals import Verdict
from benchmarks.limiter.measures import Figures

#: a client that loses more of the file than this has no rate to speak of
GAVE_UP_PER_1000 = 500
#: and one that loses more than this has not done the file: its large jobs, mostly, so that the time for it says nothing
INCOMPLETE_PER_1000 = 10

TITLES: dict[Group, str] = {
    "steady-50": "Bound by requests, 50 a minute, 1,500 jobs: % of the limit in the steady state (whole file: % of the "
    "clairvoyant client's speed) / 429 per 1,000 jobs",
    "steady-600": "The same at 600 a minute, 6,000 jobs",
    "small": "Small files, answers of about 20 s: makespan in multiples of the best that never sends more than 50 in any "
    "minute / 429 per 1,000 jobs",
    "tokens": "Tokens, 2,000,000 a minute at 50 requests a minute: as for requests, of whichever limit binds",
    "strain": "A quarter of an hour with half of the limit: % of it used before, of what is left meanwhile, and after / 429 "
    "per 1,000 accepted meanwhile, outside / seconds to the full rate (the longest of all runs)",
}

Found = Mapping[tuple[str, str], Figures]


def tables(cells: Sequence[Cell], found: Found) -> Iterable[str]:
    """All tables of what was found, by (cell, client)."""
    for (group, later), of_group in groupby(cells, key=lambda cell: (cell.group, cell.later)):
        yield f"\n## {TITLES[group]}{', when the account was used before' if later else ''}\n"
        for row, of_row in groupby(of_group, key=lambda cell: cell.row):
            yield from _table(row, list(of_row), found)


def _table(title: str, cells: Sequence[Cell], found: Found) -> Iterable[str]:
    policies = [policy for policy in POLICIES if any((cell.name, policy) in found for cell in cells)]
    if not policies:
        return
    yield line([f"**{title}**", *(cell.server for cell in cells)])
    yield line(["---"] * (len(cells) + 1))
    for policy in policies:
        shown = (found.get((cell.name, policy)) for cell in cells)
        yield line([policy, *("" if figures is None else _SHOWN[cells[0].group](figures) for figures in shown)])
    yield ""


def goals_table(verdicts: Iterable[Verdict]) -> Iterable[str]:
    """Goal, measured, met or not."""
    yield line(["goal", "asked", "measured", "met"])
    yield line(["---"] * 4)
    for verdict in verdicts:
        yield line([verdict.title, verdict.goal, verdict.measured, "yes" if verdict.met else "**no**"])


def _rate(figures: Figures) -> str:
    if figures.lost_per_1000 > GAVE_UP_PER_1000:
        return f"gives up {figures.lost_per_1000:.0f} of 1,000"
    whole_file = "-" if figures.lost_per_1000 > INCOMPLETE_PER_1000 else f"{figures.used_share:.1%}"
    shown = f"{figures.steady_share:.1%} ({whole_file}) / {figures.refused_per_1000:.1f}"
    return shown.replace("%", "") + _losses(figures)


def _small(figures: Figures) -> str:
    return f"{figures.mean_makespan:.2f} / {figures.refused_per_1000:.1f}" + _losses(figures)


def _strain(figures: Figures) -> str:
    strained = figures.strained
    assert strained
    parts = (
        (strained.before, strained.before_most),
        (strained.during, strained.during_most),
        (strained.after, strained.after_most),
    )
    shares = ", ".join(f"{part / most:.1%}".replace("%", "") for part, most in parts)
    during = 1_000 * strained.during_refused / max(1.0, strained.during)
    outside = 1_000 * strained.outside_refused / max(1, strained.outside)
    recovery = "never" if strained.recovery_seconds is None else f"{strained.recovery_seconds:.0f} s"
    return f"{shares} / {during:.0f}, {outside:.1f} / {recovery}" + _losses(figures)


def _losses(figures: Figures) -> str:
    lost = f", loses {figures.lost_per_1000:.1f}" if figures.lost else ""
    return lost + (f", stuck in {figures.stuck} of {figures.runs}" if figures.stuck else "")


def line(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


_SHOWN: dict[Group, Callable[[Figures], str]] = {
    "steady-50": _rate,
    "steady-600": _rate,
    "small": _small,
    "tokens": _rate,
    "strain": _strain,
}
