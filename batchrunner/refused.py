"""What 429s say about single jobs: who lets others pass, who goes alone, whom the server will never take."""

from __future__ import annotations

import msgspec

#: A job that was refused this often lets others pass, and if it is large it is sent with no other tokens in the window.
YIELDS_AFTER = 3
#: What counts as large: a quarter of the minute's tokens.
LARGE_DIVISOR = 4
#: Refused this often while alone, with another job accepted meanwhile: the server will never take it.
UNSATISFIABLE_AFTER = 5
#: How long it lets others pass, doubled each time.
FIRST_YIELD_NS = 5_000_000_000
LONGEST_YIELD_NS = 15 * 60 * 1_000_000_000


class _Refusals(msgspec.Struct):
    #: jobs that had been accepted before the first refusal
    since: int
    times: int = 0
    alone: int = 0


class RefusedJobs:
    """What 429s say about single jobs: which ones let others pass or go alone, and which the server will never take.

    A 429 speaks about the account, and a refused job keeps its place, twice. From then on it lets others pass: else one
    that the server never takes would be the canary for ever, and nobody would ever learn that others are taken. It is
    found to be such a one when it is refused again and again with the whole window to itself, while others are accepted.
    If nothing is accepted it is the account that is refused, and no job fails.

    Holds an entry for each job that was refused and has not ended since; every method costs the same for any number.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, _Refusals] = {}
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def alone(self, number: int, tokens: int, tpm: int) -> bool:
        """Whether this job is to be sent with the window to itself."""
        known = self._jobs.get(number)
        return known is not None and known.times >= YIELDS_AFTER and tokens * LARGE_DIVISOR > tpm > 0

    def refused(self, number: int, *, alone: bool) -> int | None:
        """Note a 429. How long the job lets others pass, in ns; 0 where it keeps its place; None where it will never be taken.

        `alone`: it had the window to itself.
        """
        known = self._jobs.setdefault(number, _Refusals(self._accepted))
        known.times += 1
        if known.times < YIELDS_AFTER:
            return 0
        known.alone += alone
        if known.alone >= UNSATISFIABLE_AFTER and self._accepted > known.since:
            del self._jobs[number]
            return None
        return min(LONGEST_YIELD_NS, FIRST_YIELD_NS << min(known.times - YIELDS_AFTER, 10))

    def accepted(self, number: int) -> None:
        """Note that the server took a job."""
        self._accepted += 1
        self._jobs.pop(number, None)

    def forget(self, number: int) -> None:
        """The job has ended in another way."""
        self._jobs.pop(number, None)
