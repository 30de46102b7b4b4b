"""What the platform offers beside answering jobs: its catalog."""

from __future__ import annotations
