"""batchrun: every answer to a file of LLM requests, at the whole paid rate, with nothing lost and nothing billed unseen."""

from __future__ import annotations

__version__ = "0.1.0"
