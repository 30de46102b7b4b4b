"""`python -m batchrunner` is `batchrun`."""

from __future__ import annotations

from batchrunner.cli import main

main()
