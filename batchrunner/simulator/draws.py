"""Chance without state: numbers that depend on a seed and on what they are drawn for, and on nothing else.

A hash gives eight independent numbers at once. Rejected: `random.Random(seed)`, whose numbers depend on the order in
which requests happen to arrive, and whose seeding costs more than everything else that an answer takes.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from statistics import NormalDist

SLOTS = 8
_NORMAL = NormalDist()
_WORDS = struct.Struct(f">{SLOTS}Q")
_STEP = 1 / (1 << 52)


class Draws:
    """Eight numbers for one purpose. The same (seed, purpose, material) gives the same ones in every process."""

    __slots__ = ("_words",)

    def __init__(self, seed: int, purpose: bytes, material: bytes) -> None:
        hasher = _hasher(seed, purpose).copy()
        hasher.update(material)
        self._words = _WORDS.unpack(hasher.digest())

    def uniform(self, slot: int) -> float:
        """A number strictly between 0 and 1. `slot` is below SLOTS; another slot is another, independent number."""
        word: int = self._words[slot]
        return ((word >> 12) + 0.5) * _STEP

    def lognormal(self, slot: int, median: float, sigma: float) -> float:
        """Half of the numbers lie below `median`; `sigma` is the standard deviation of their logarithm."""
        return median * math.exp(sigma * _NORMAL.inv_cdf(self.uniform(slot)))


@functools.lru_cache
def _hasher(seed: int, purpose: bytes) -> hashlib.blake2b:
    """What all draws for a purpose begin with, to be copied: the keying is half of the work."""
    key = str(seed).encode()[: hashlib.blake2b.MAX_KEY_SIZE]
    return hashlib.blake2b(digest_size=8 * SLOTS, key=key, person=purpose)
