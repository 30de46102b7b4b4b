"""Answers of the control plane as JSON, exact. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from batchrunner.dialect import read_exact_json, without_bom
from batchrunner.errors import AccountError

#: an escaped backslash, which escapes nothing that follows; a whole pair of surrogates; half of one
_ESCAPES: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def read_answer(body: bytes, what: str) -> Any:
    """A body as JSON, exact: numbers that are no integers as Decimal. Raises: AccountError where it is none."""
    try:
        return read_exact_json(body)
    except (ValueError, RecursionError):
        kind = "a page of HTML" if without_bom(body).lstrip()[:1] == b"<" else "no JSON"
        raise AccountError(f"{what} cannot be read: the server sent {kind}; check --base-url, or try again later.") from None


def without_halves(body: bytes) -> bytes:
    """The JSON with U+FFFD for each half of an escaped character: a text that was cut in the middle of an emoji has one."""
    return _ESCAPES.sub(lambda found: found[0] if found[1] is None else rb"\ufffd", body)
