"""Columns for people: aligned, and none of them with power over a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchrunner.wording import escape_terminal


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> Iterator[str]:
    """A line for each row: the first `left` columns begin alike, as texts do, the others end alike, as figures do."""
    shown = [[escape_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (
            f"{cell:{'<' if place < left else '>'}{width}}" for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
