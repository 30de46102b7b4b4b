"""Plays the night of a seed and tells it: `python -m tests.nights SEED [LINES]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.nights.faults import table
from tests.nights.play import play


def main(seed: int, lines: int = 1_000) -> None:
    """Print the last so many entries of its chronicle and how often each fault fired. Raises: BrokenPromise."""
    with tempfile.TemporaryDirectory() as directory:
        chronicle = play(seed, Path(directory))
    print(chronicle.told(lines))
    print(table(chronicle.fired))
    print(f"night {seed}: every promise held; digest {chronicle.digest()}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
