"""Hostile files and servers meet whole runs in virtual time."""

from __future__ import annotations

from tests.sim.conftest import make_night

__all__ = ["make_night"]
