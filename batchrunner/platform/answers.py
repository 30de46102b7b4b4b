"""Answers of the control plane as JSON, exact. Pure."""

from __future__ import annotations

from typing import Any

from batchrunner.dialect import read_exact_json, without_bom
from batchrunner.errors import AccountError


def read_answer(body: bytes, what: str) -> Any:
    """A body as JSON, exact: numbers that are no integers as Decimal. Raises: AccountError where it is none."""
    try:
        return read_exact_json(body)
    except (ValueError, RecursionError):
        kind = "a page of HTML" if without_bom(body).lstrip()[:1] == b"<" else "no JSON"
        raise AccountError(f"{what} cannot be read: the server sent {kind}; check --base-url, or try again later.") from None
