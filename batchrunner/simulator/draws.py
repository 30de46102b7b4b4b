"""Chance without state: numbers that depend on a seed and on what they are drawn for, and on nothing else.

A hash gives eight independent numbers at once. Rejected: `random.Random(seed)`, whose numbers depend on the order in
which requests happen to arrive, and whose seeding costs more than everything else that an answer takes.
"""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

SLOTS = 8
_NORMAL = NormalDist()


class Draws:
    """Eight numbers for one purpose. The same (seed, purpose, material) gives the same ones in every process."""

    __slots__ = ("_digest",)

    def __init__(self, seed: int, purpose: bytes, material: bytes) -> None:
        key = str(seed).encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        self._digest = hashlib.blake2b(material, digest_size=8 * SLOTS, key=key, person=purpose).digest()

    def uniform(self, slot: int) -> float:
        """A number strictly between 0 and 1. `slot` is below SLOTS; another slot is another, independent number."""
        word = int.from_bytes(self._digest[8 * slot : 8 * slot + 8], "big")
        return ((word >> 12) + 0.5) / (1 << 52)

    def lognormal(self, slot: int, median: float, sigma: float) -> float:
        """Half of the numbers lie below `median`; `sigma` is the standard deviation of their logarithm."""
        return median * math.exp(sigma * _NORMAL.inv_cdf(self.uniform(slot)))
