"""What the platform offers beside answering jobs: its catalog, its usage events, its saved chats."""

from __future__ import annotations
