"""What answers to requests of one kind have taken, in sums that say how far a total of many more may be off.

A request's cost is linear in what it took: input, cached input and output, each at its price. Its first and second moments
are therefore enough, whatever the prices will be. How input goes with the size of a prompt, as its bytes tell it, is
learned alike. All sums are integers and fade together, so that new answers weigh more than old ones.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from batchrunner.job import Usage

#: answers after which older ones begin to fade
WINDOW: Final = 500
#: no sum of squares that was learned comes near the bound
_Sum = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Rates(msgspec.Struct, frozen=True):
    """What a request costs: so much for each token, in any currency, tokens included."""

    input: float
    #: in addition to `input`, and mostly below 0
    cached: float
    output: float


class Total(msgspec.Struct, frozen=True):
    """What so many requests will take: its mean and variance, and on how many answers that rests."""

    mean: float
    variance: float
    answers: int


class Moments(msgspec.Struct, array_like=True):
    """Sums over answers: of what bytes were taken for (g), input (u), cached (c) and output (o), and of their products."""

    count: _Sum = 0
    g: _Sum = 0
    u: _Sum = 0
    c: _Sum = 0
    o: _Sum = 0
    gg: _Sum = 0
    gu: _Sum = 0
    gc: _Sum = 0
    go: _Sum = 0
    uu: _Sum = 0
    uc: _Sum = 0
    uo: _Sum = 0
    cc: _Sum = 0
    co: _Sum = 0
    oo: _Sum = 0

    def add(self, guessed: int, usage: Usage) -> None:
        """Take in one answer."""
        g, u, c, o = guessed, usage.input_tokens, usage.cached_tokens, usage.output_tokens
        self.count += 1
        products = (g, u, c, o, g * g, g * u, g * c, g * o, u * u, u * c, u * o, c * c, c * o, o * o)
        for name, value in zip(self.__struct_fields__[1:], products, strict=True):
            setattr(self, name, getattr(self, name) + value)
        if self.count >= WINDOW:
            for name in self.__struct_fields__:
                setattr(self, name, getattr(self, name) // 2)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    def total(self, rates: Rates, requests: int, guessed: int) -> Total:
        """What `requests` more of the kind, together taken for `guessed` tokens by their bytes, will come to at these rates.

        Needs answers. What is read goes by size, on a line through what was learned; what is written does not. The variance is
        that of the requests themselves and of what was learned (any textbook: prediction of a total by regression).
        """
        n = self.count
        read, whole = (rates.input, rates.cached, 0.0), (rates.input, rates.cached, rates.output)
        gg = self.gg - self.g * self.g / n
        slope = self._with_g(read) / gg if gg > 0 else (rates.input * self.u + rates.cached * self.c) / max(1, self.g)
        squares = self._squares(whole) - 2 * slope * self._with_g(whole) + slope * slope * gg
        of_one = max(0.0, squares) / max(1, n - 2)
        off = guessed - requests * self.g / n
        of_line = max(0.0, self._squares(read) - slope * self._with_g(read)) / max(1, n - 2) / gg if gg > 0 else 0.0
        mean = math.fsum(rate * taken for rate, taken in zip(whole, (self.u, self.c, self.o), strict=True)) / n
        # A line that is known for other sizes can lead below nothing.
        return Total(
            max(0.0, mean * requests + slope * off), of_one * (requests + requests * requests / n) + of_line * off * off, n
        )

    def _with_g(self, rates: tuple[float, float, float]) -> float:
        """The sum of products of size and cost, about their means."""
        parts = ((self.gu, self.u), (self.gc, self.c), (self.go, self.o))
        return math.fsum(rate * (both - self.g * one / self.count) for rate, (both, one) in zip(rates, parts, strict=True))

    def _squares(self, rates: tuple[float, float, float]) -> float:
        """The sum of squares of the cost, about its mean."""
        sums = (self.u, self.c, self.o)
        products = ((self.uu, self.uc, self.uo), (self.uc, self.cc, self.co), (self.uo, self.co, self.oo))
        return math.fsum(
            rates[i] * rates[j] * (products[i][j] - sums[i] * sums[j] / self.count) for i in range(3) for j in range(3)
        )
