"""Keys: values that must never be seen, and texts that look like them."""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: The forms that providers give their keys. They help where somebody put a key into the wrong place, and there alone.
_KEY_LIKE: Final = re.compile(r"(?<![a-z0-9])((sk|pk|rk)[-_][a-z0-9_-]{16,}|bearer )[^\s'\"`]*", re.IGNORECASE)

#: Makes a guess at a weak key (one that people made up, for a server of their own) cost a tenth of a second.
_ROUNDS: Final = 200_000


class Secret:
    """A key that prints, formats and logs as `***` and refuses to be pickled or encoded.

    `reveal()` is the only way to its text; the one caller is the code that writes the request's header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: Final = value

    def reveal(self) -> str:
        return self._value

    def fingerprint(self, context: str) -> str:
        """Eight hex digits that tell a few keys apart, for the same `context` always the same. Takes a tenth of a second.

        They hold 32 bits, and so cannot give away a key, which has 128 and more; a key weak enough to be guessed is one of
        many that fit, and each guess is slow (PBKDF2, which every build of Python has). A secret salt would have to be kept
        in a file, and identities would differ between machines.
        """
        salt = b"batchrun fingerprint\0" + context.encode()
        return hashlib.pbkdf2_hmac("sha256", self._value.encode(), salt, _ROUNDS)[:4].hex()

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is never written anywhere")


def looks_like_a_key(text: str) -> bool:
    """Whether a text holds what most providers' keys look like."""
    return _KEY_LIKE.search(text) is not None


def without_keys(text: str) -> str:
    """The text, with `***` for what looks like a key."""
    return _KEY_LIKE.sub("***", text)
