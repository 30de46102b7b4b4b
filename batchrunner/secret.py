"""Keys: values that must never be seen, and texts that look like them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
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


_BLOT: Final = "***"

#: A word that is shorter stands in texts by chance: who gives "EMPTY" or "test" as the key of a server that wants none must have
#: every answer as it came. No provider's key is that short.
SHORTEST_BLOTTED: Final = 12


class Blotter:
    """Puts `***` for certain keys wherever they stand in what somebody else wrote: plain, or spelt out as JSON allows.

    Whoever was sent a key can send it back in a cipher of their own: against that nothing helps but another server. Keys of
    fewer than SHORTEST_BLOTTED characters are left where they stand.
    """

    __slots__ = ("_data", "_spellings", "_spelt_out", "_texts")

    def __init__(self, keys: Iterable[str]) -> None:
        found = (key for key in keys if len(key) >= SHORTEST_BLOTTED)
        self._texts = tuple(sorted(found, key=len, reverse=True))  # one may begin with another
        self._data = tuple(key.encode() for key in self._texts)
        # Nobody escapes the letters of a key without a reason. Whether anyone did, a quick scan tells; the search itself is slow.
        self._spelt_out = re.compile(_any_escape("".join(self._texts)))
        # An escaped backslash is passed over as a whole: what follows it is not escaped.
        self._spellings = re.compile(b"|".join([*map(_spellings, self._texts), rb"\\\\"]))

    def clean(self, data: bytes) -> bytes:
        """The bytes without the keys; the same object where there is none in them."""
        for key in self._data:
            if key in data:
                data = data.replace(key, _BLOT.encode())
        if self._texts and self._spelt_out.search(data):
            cleaned = self._spellings.sub(lambda found: found[0] if found[0] == rb"\\" else _BLOT.encode(), data)
            return data if cleaned == data else cleaned
        return data

    def clean_text(self, text: str) -> str:
        """The text without the keys."""
        for key in self._texts:
            text = text.replace(key, _BLOT)
        return text


#: visible characters that JSON may, or must, escape with a backslash and nothing more
_SHORT_ESCAPES: Final = '"\\/'


def _any_escape(characters: str) -> bytes:
    """A pattern for an escape of any of these characters. Written by hexadecimal digit: a long list of words would be slow."""
    digits = [(high, "".join(sorted({f"{ord(c) & 15:x}" for c in characters if ord(c) >> 4 == high}))) for high in range(2, 8)]
    codes = "|".join(f"{high}[{low}{low.upper()}]" for high, low in digits if low)
    short = "".join(f"|{re.escape(c)}" for c in _SHORT_ESCAPES if c in characters)
    return rf"\\(?:u00(?:{codes}){short})".encode()


def _spellings(key: str) -> bytes:
    """A pattern for all the ways in which a JSON string may spell a key."""
    return b"".join(map(_spellings_of, key))


def _spellings_of(character: str) -> bytes:
    return b"(?:%b)" % b"|".join([*_escapes(character), re.escape(character.encode())])


def _escapes(character: str) -> list[bytes]:
    """Patterns for the ways in which a JSON string may spell a character other than by itself."""
    short = [re.escape(b"\\" + character.encode())] if character in _SHORT_ESCAPES else []
    return [*short, rb"\\u00(?i:%02x)" % ord(character)] if character.isascii() else short


def looks_like_a_key(text: str) -> bool:
    """Whether a text holds what most providers' keys look like."""
    return _KEY_LIKE.search(text) is not None


def without_keys(text: str) -> str:
    """The text, with `***` for what looks like a key."""
    return _KEY_LIKE.sub("***", text)
