"""What people should know of the sizes of their jobs, each thing said once. Pure but for whom it is said to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from batchrunner.estimate import Outputs
from batchrunner.job import Job, RequestSize
from batchrunner.status import named

#: answers after which a class of jobs is known
KNOWN_AFTER = 50
#: a cap of so many times what is ever used reserves what nobody needs
GENEROUS = 10


class Statistics(msgspec.Struct, frozen=True):
    """What was found."""

    #: jobs sent that were expected to take more than a minute's tokens
    oversize: int
    #: models and classes of cap whose cap is far above all that was ever used
    generous_caps: int


class Advice:
    """Looks at jobs as they are sent and answered, and tells `say` of what costs speed. `rpm`, `tpm`: 0 is none."""

    def __init__(self, rpm: int, tpm: int, say: Callable[[str], None]) -> None:
        self._rpm = rpm
        self._tpm = tpm
        self._say = say
        self._oversize = 0
        self._generous: set[tuple[str, int]] = set()

    def adopt(self, rpm: int, tpm: int) -> None:
        """Other limits hold from now on."""
        self._rpm = rpm
        self._tpm = tpm

    def sent(self, job: Job, tokens: int) -> None:
        """A job goes out for the first time that is expected to take so many tokens."""
        if not 0 < self._tpm < tokens:
            return
        self._oversize += 1
        if self._oversize == 1:
            self._say(
                f"warning: job {job.custom_id} is expected to take {tokens:,} tokens, more than the {self._tpm:,} of a whole "
                "minute (--tpm): it goes alone, and others wait until its minute is over. More like it are only counted."
            )

    def answered(self, size: RequestSize, outputs: Outputs | None) -> None:
        """A job was answered; `outputs`: what all like it have taken.

        Said only where it matters: where jobs charged with their caps would use up the tokens before the requests.
        """
        cap = size.output_cap_tokens
        if outputs is None or cap is None or not is_generous(size, outputs, rpm=self._rpm, tpm=self._tpm):
            return
        of_class = (size.model, cap.bit_length())
        if of_class in self._generous:
            return
        self._generous.add(of_class)
        self._say(
            f"warning: the output cap (max_tokens) is {cap:,} for model {named((size.model,))[0]!r}, and no answer has taken "
            f"more than {outputs.most:,}: a server that charges the cap in advance lets fewer jobs through. Lower it."
        )

    def statistics(self) -> Statistics:
        return Statistics(self._oversize, len(self._generous))


def is_generous(size: RequestSize, outputs: Outputs, *, rpm: int, tpm: int) -> bool:
    """Whether a cap is far above what answers have taken, where reserving for it would use up the tokens before the requests."""
    cap = size.output_cap_tokens
    if cap is None or outputs.count < KNOWN_AFTER or cap < GENEROUS * max(1, outputs.most):
        return False
    return tpm > 0 and (not rpm or (size.input_tokens + cap) * rpm > tpm)
