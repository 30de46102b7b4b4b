"""Files of jobs: what each asks for, what it will use, how long its answer takes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.settings import Charging

#: answers take between half a second and half a minute; long ones as long as it takes to write them, within that
LATENCY_SECONDS = (0.5, 30.0)
WRITTEN_PER_SECOND = 100
_LONG = ("bigmax", "bigout")
#: those of small files, where the last answer is what one waits for: about 20 s, two in three between 15 and 27
SMALL_LATENCY_SECONDS = 20.0
SMALL_LATENCY_SIGMA = 0.3
#: no body asks for more than this
_MOST_TOKENS = 500_000


class Work(msgspec.Struct, frozen=True):
    """One job, in tokens; its length and latency are the same whoever sends it, and whenever."""

    prompt: int
    cap: int
    output: int
    latency_ns: int

    @property
    def reserved(self) -> int:
        """What it may take."""
        return self.prompt + self.cap

    @property
    def used(self) -> int:
        return self.prompt + self.output

    def charged(self, charging: Charging) -> int:
        """What it takes of the server's tokens in the end."""
        return self.reserved if charging is Charging.ESTIMATE else self.used


def _about(rng: random.Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(median * math.exp(rng.gauss(0, sigma)))))


def _tokens_short(rng: random.Random) -> tuple[int, int, int]:
    """A question and a short answer: bound by requests."""
    return _about(rng, 500, 0.5, 4_000), 512, _about(rng, 150, 0.5, 512)


def _tokens_heavy(rng: random.Random) -> tuple[int, int, int]:
    """Long documents, 83,000 tokens in the mean: bound by tokens."""
    return _about(rng, 60_000, 0.8, _MOST_TOKENS), 1_024, _about(rng, 300, 0.5, 1_024)


def _tokens_mixed(rng: random.Random) -> tuple[int, int, int]:
    """Seven in ten of 1,000 tokens, three of about 125,000: bound by both."""
    prompt = 700 if rng.random() < 0.7 else _about(rng, 120_000, 0.3, _MOST_TOKENS)
    return prompt, 300, _about(rng, 100, 0.5, 300)


def _tokens_bigmax(rng: random.Random) -> tuple[int, int, int]:
    """A cap of 128,000 over answers of about 1,000."""
    return _about(rng, 500, 0.5, 4_000), 128_000, _about(rng, 900, 0.5, 128_000)


def _tokens_bigout(rng: random.Random) -> tuple[int, int, int]:
    """Answers of about 57,000 in half a minute, faster than anybody writes: a stress."""
    return _about(rng, 500, 0.5, 4_000), 128_000, _about(rng, 48_000, 0.6, 128_000)


_TOKENS: dict[str, Callable[[random.Random], tuple[int, int, int]]] = {
    "short": _tokens_short,
    "heavy": _tokens_heavy,
    "mixed": _tokens_mixed,
    "bigmax": _tokens_bigmax,
    # Its reservations fill most of the minute while they wait: where the server holds them until they end, it is another job.
    "bigmax-slow": _tokens_bigmax,
    "bigout": _tokens_bigout,
}


def jobs_of(workload: str, count: int, rng: random.Random, *, small: bool = False) -> Sequence[Work]:
    """A file of so many jobs. `small`: with the latencies of small files."""
    jobs = []
    for _ in range(count):
        prompt, cap, output = _TOKENS[workload](rng)
        if small:
            seconds = SMALL_LATENCY_SECONDS * math.exp(rng.gauss(0, SMALL_LATENCY_SIGMA))
        elif workload in _LONG:
            seconds = min(LATENCY_SECONDS[0] + output / WRITTEN_PER_SECOND * rng.uniform(0.5, 1.5), LATENCY_SECONDS[1])
        else:
            seconds = rng.uniform(*LATENCY_SECONDS)
        jobs.append(Work(prompt, cap, output, round(seconds * NS_PER_SECOND)))
    return jobs
