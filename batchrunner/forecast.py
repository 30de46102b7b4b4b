"""Ninety-percent intervals: of a total that is predicted from what was learned, and of one of which a sample was measured.

What is learned of a kind of request gives mean and variance of any number more (`moments`); kinds are independent, so that
variances add. Where nothing is known the interval is honest: from nothing to all that may be taken.

A sample is stratified, in proportion to the strata's sizes: the total is the sum over strata of size times mean, and its
variance sum N^2 s^2 (1/n - 1/N): what was measured itself is not uncertain any more (Cochran, Sampling Techniques, 5.3).
Strata too small to be drawn from twice are drawn from together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Final

import msgspec

from batchrunner.moments import Total

#: two-sided 90 %
_Z: Final = NormalDist().inv_cdf(0.95)
#: the same of Student's t, where its expansion is not good enough: by degrees of freedom, from 1
_T: Final = (6.314, 2.920, 2.353, 2.132, 2.015)


class Interval(msgspec.Struct, frozen=True):
    """What is expected, and what it will lie between nine times of ten. None: nothing bounds it, or it is not known."""

    low: float
    expected: float | None
    high: float | None

    def __add__(self, other: Interval) -> Interval:
        """Both together, as if they always erred in the same direction: for what is not random but unknown."""
        return Interval(
            self.low + other.low,
            None if self.expected is None or other.expected is None else self.expected + other.expected,
            None if self.high is None or other.high is None else self.high + other.high,
        )


NOTHING: Final = Interval(0.0, 0.0, 0.0)
UNKNOWN: Final = Interval(0.0, None, None)


def predicted(totals: Iterable[Total]) -> Interval:
    """The sum of what is learned of kinds of requests, each by itself."""
    kinds = list(totals)
    mean = math.fsum(kind.mean for kind in kinds)
    # Lengths are skewed, with a kurtosis of about 5: their variance is known as well as that of half as many normal values.
    half = math.sqrt(math.fsum(kind.variance * student(kind.answers // 2 - 1) ** 2 for kind in kinds))
    return Interval(max(0.0, mean - half), mean, mean + half)


def expanded(strata: Iterable[tuple[int, Sequence[float]]]) -> Interval:
    """The total of strata of which some were measured: each with its size and what was found, at least once in each.

    A stratum that was measured once, and not wholly, is taken to vary as all of them together do.
    """
    measured = [(size, values) for size, values in strata if size]
    everything = [value for _, values in measured for value in values]
    overall = statistics.variance(everything) if len(everything) > 1 else 0.0
    mean = variance = 0.0
    freedom = 0
    for size, values in measured:
        n = len(values)
        mean += size * statistics.fmean(values)
        spread = statistics.variance(values) if n > 1 else overall
        variance += size * size * spread * (1 / n - 1 / size)
        freedom += n - 1
    if len(everything) == 1 < sum(size for size, _ in measured):
        return Interval(sum(everything), mean, None)  # one says nothing of how much they differ
    half = student(max(1, freedom)) * math.sqrt(max(0.0, variance))
    return Interval(max(0.0, math.fsum(everything), mean - half), mean, mean + half)


def allotted(sizes: Mapping[str, int], sample: int) -> dict[str, int]:
    """How many of a sample each stratum gives, in proportion to its size, by largest remainders; none gives more than it has."""
    whole = sum(sizes.values())
    sample = min(sample, whole)
    if not whole:
        return {}
    shares = {name: sample * size / whole for name, size in sizes.items()}
    given = {name: min(sizes[name], int(share)) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: (given[name] - shares[name], name))
    while (left := sample - sum(given.values())) > 0:
        for name in [name for name in by_rest if given[name] < sizes[name]][:left]:
            given[name] += 1
    return given


def student(freedom: int) -> float:
    """Half the width of a 90 % interval in standard errors, at so many degrees of freedom (Abramowitz and Stegun, 26.7.5)."""
    if freedom <= len(_T):
        return _T[max(1, freedom) - 1]
    z, nu = _Z, freedom
    return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
