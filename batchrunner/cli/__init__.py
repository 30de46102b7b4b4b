"""The command line. Only here do we print or exit."""

from __future__ import annotations

from batchrunner.cli.main import main

__all__ = ["main"]
