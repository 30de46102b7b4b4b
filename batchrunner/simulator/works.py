"""Work that is taken on and asked for: films, transcripts. Kept for an hour after its end, and in no longer memory than that."""

from __future__ import annotations

from typing import Any

import msgspec

from batchrunner.simulator.draws import Draws
from batchrunner.simulator.faults import Fate

NS_PER_SECOND = 1_000_000_000
KEPT_NS = 3600 * NS_PER_SECOND
PATH = "/v1/jobs/"
#: what the number that is drawn for a work is used for; see `draws`
_LENGTH = 0
_SIGMA = 0.5


class Work(msgspec.Struct, frozen=True):
    """One submission that was let in."""

    name: str
    account: str
    began_ns: int
    ends_ns: int
    #: what the answer is when it has succeeded
    result: dict[str, Any]
    usage: dict[str, Any]
    model: str
    fate: Fate


class Works:
    """All that is being worked on, or was until an hour ago, by account and name."""

    def __init__(self, seed: int, median_seconds: float) -> None:
        self._seed = seed
        self._median_seconds = median_seconds
        self._works: dict[tuple[str, str], Work] = {}

    def __len__(self) -> int:
        return len(self._works)

    def begin(
        self, name: str, account: str, now_ns: int, result: dict[str, Any], usage: dict[str, Any], model: str, fate: Fate
    ) -> None:
        """Take work on. How long it takes follows from seed and name."""
        seconds = Draws(self._seed, b"work", name.encode()).lognormal(_LENGTH, self._median_seconds, _SIGMA)
        ends_ns = now_ns + round(seconds * NS_PER_SECOND)
        self._forget(now_ns)
        self._works[account, name] = Work(name, account, now_ns, ends_ns, result, usage, model, fate)

    def status(self, name: str, account: str, now_ns: int) -> dict[str, Any] | None:
        """What is said of a work to the account that has submitted it; None where it is not known any more, or never was."""
        work = self._works.get((account, name))
        if work is None or not _is_kept(work, now_ns):
            return None
        said = {"job_id": name, "object": "job", "model": work.model}
        if now_ns < work.ends_ns:
            halfway_ns = (work.began_ns + work.ends_ns) // 2
            return said | {"status": "queued" if now_ns < halfway_ns else "processing", "polling_url": PATH + name}
        if work.fate is Fate.FAILS:
            return said | {"status": "failed", "error": {"code": "upstream_error", "message": "The model's provider failed."}}
        return said | {"status": "completed", "result": work.result, "usage": work.usage}

    def _forget(self, now_ns: int) -> None:
        """Drop what nobody can ask for any more. Works begin in the order in which they stand here, and end nearly so."""
        for key, work in list(self._works.items()):
            if _is_kept(work, now_ns):
                return
            del self._works[key]


def submission(name: str) -> dict[str, Any]:
    """What a submission is answered with."""
    return {"job_id": name, "object": "job", "status": "queued", "polling_url": PATH + name}


def _is_kept(work: Work, now_ns: int) -> bool:
    return now_ns < work.ends_ns + (0 if work.fate is Fate.FORGOTTEN else KEPT_NS)
