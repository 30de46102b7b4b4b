"""What goes wrong on the way, and what it means for everybody else: circuits, refunds, keys, credits.

`health`, `keyring` and `credit` decide; here their decisions reach the queue, the journal and people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from batchrunner import credit, health, keyring, outcome
from batchrunner.admission import Admission
from batchrunner.breaker import NS, TRIPS_AFTER, Refunds
from batchrunner.credit import Credit
from batchrunner.health import OFFLINE_NS, Health, Request
from batchrunner.keyring import KeyRing, Use
from batchrunner.outcome import Again, Blame, Done, Failed, Outcome, StopAccount, SuspendKey, Tries
from batchrunner.parts import Parts
from batchrunner.tickets import Backoff, Due, Held, Ticket

#: So many of a job's attempts are put down to outages. Who is found in more of them is what they are made of: at a slow pace,
#: or among answers that come slowly, a single job that always fails looks like an outage again and again, and what it does
#: may be paid for each time.
MOST_EXCUSED: Final = 2 * TRIPS_AFTER


class Statistics(msgspec.Struct, frozen=True):
    """Circuits and keys as they stand, and what outages have cost nobody."""

    health: health.Statistics
    keys: keyring.Statistics
    credits: credit.Statistics
    #: attempts of this process that an outage took, and that do not count toward their jobs' --max-attempts
    refunded: int
    #: keys that are not used any more, by their fingerprints
    retired: tuple[str, ...] = ()


class Resilience:
    """The circuits, keys and credits of one account. `fingerprint` of a key's number: what it is shown by."""

    def __init__(self, parts: Parts, keys: KeyRing, fingerprint: Callable[[int], str]) -> None:
        self._parts = parts
        self._health = Health()
        self._keys = keys
        self._fingerprint = fingerprint
        #: fingerprints, in the order in which their keys were found to be no good
        self._retired: list[str] = []
        self.credit = Credit()
        self._refunded = 0

    def statistics(self) -> Statistics:
        return Statistics(
            self._health.statistics(),
            self._keys.statistics(),
            self.credit.statistics(),
            self._refunded,
            tuple(self._retired),
        )

    # What may be sent -----------------------------------------------------------------------------------------------

    def due(self, now_ns: int) -> Due:
        """When anything may be sent at all: not while the server, credits or a key are waited for.

        A question costs nothing, and what it asks for was paid: it waits for no credits.
        """
        server_ns = self._health.server_due_ns(now_ns)
        if server_ns != now_ns:
            return Due(server_ns, "server", server_ns)
        keys_ns = self._keys.due_ns(now_ns)
        if keys_ns != now_ns:
            return Due(keys_ns, "keys", keys_ns)
        return Due(self.credit.due_ns(now_ns), "credits", now_ns)

    def held(self, model: str, now_ns: int) -> Held | None:
        """Whether a model's jobs are to be kept aside, and until when."""
        due_ns = self._health.model_due_ns(model, now_ns)
        return None if due_ns == now_ns else Held(model, due_ns)

    def hopeless(self, model: str | None, now_ns: int) -> bool:
        """Whether a model's jobs need not wait any longer, nothing else being left to do. They are then `given_up`.

        Those that wait for the server itself (None) are then all that there is to probe it with.
        """
        if model is None:
            return True
        if not self._health.is_offline(model, now_ns):
            return False
        minutes = OFFLINE_NS // (60 * NS)
        self._parts.say(f"model {model!r} has been offline for {minutes} minutes, and nothing else is left: its jobs fail")
        self._health.give_up(model)
        return True

    def given_up(self, model: str) -> bool:
        return self._health.given_up(model)

    # What happens to requests ---------------------------------------------------------------------------------------

    def sent(self, ticket: Ticket, *, asks: bool = False) -> Use:
        """A request goes out; with which key. One that only `asks` shows nothing of credits."""
        self._health.sent(_request(ticket))
        if not asks:
            self.credit.sent(ticket.entry)
        return self._keys.choose(ticket.sent_ns)

    def failed(self, ticket: Ticket, verdict: Again, attempts: Tries, admission: Admission) -> Again | Failed:
        """Note a failure that another attempt may mend; what it comes to, with circuits and attempts considered.

        A job whose attempts are spent ends here, but not while an outage may just be beginning: the circuit will tell, before
        the job alone has failed as often again as opens one.
        """
        now_ns = self._parts.clock.monotonic_ns()
        request = _request(ticket)
        history = self._parts.histories[ticket.job.number]
        self.credit.ended(now_ns, ticket.entry)
        # What costs no attempt has none to be given back.
        refundable = verdict.refundable and verdict.spends and history.excused < MOST_EXCUSED
        noted = self._health.failed(request, now_ns, verdict.blames, refundable=refundable)
        if noted.tripped:
            self._tell_of_trip(verdict, request.model)
        self._refund(noted.refunds)
        if noted.server_is_back:
            self._server_is_back(admission)
        admission.retime(request.model, self._health.model_due_ns(request.model, now_ns))
        self._refunded += verdict.spends and not noted.spends
        if verdict.spends and not noted.spends and verdict.blames is Blame.SERVER:
            history.excused += 1  # a model's probes are free, however many: somebody else bounds them
        # The job itself may have got some back.
        attempts = msgspec.structs.replace(attempts, spent=history.spent + 1)
        verdict = msgspec.structs.replace(verdict, spends=verdict.spends and noted.spends)
        suspicious = refundable and self._health.is_suspicious(request, verdict.blames)
        if not verdict.spends or (suspicious and attempts.spent < attempts.max + TRIPS_AFTER):
            return verdict
        return outcome.exhausted(verdict, attempts) or verdict

    def then(self, verdict: Again) -> Backoff | Held:
        """What becomes of a job that is to have another attempt.

        While the server is away it comes behind all that have not been tried: an outage must not eat the attempts of few jobs.
        """
        now_ns = self._parts.clock.monotonic_ns()
        if verdict.blames is Blame.SERVER and self._health.server_due_ns(now_ns) != now_ns:
            return Held(None, None)
        return Backoff(verdict.after_ns, repeat=verdict.repeats)

    def ended(self, ticket: Ticket, verdict: Outcome | None, admission: Admission) -> None:
        """Note any other end; None: the server has answered as it should, and not about the model."""
        now_ns = self._parts.clock.monotonic_ns()
        request = _request(ticket)
        self._note_credits(ticket, verdict, now_ns)
        match verdict:
            case Done():
                recovery = self._health.succeeded(request, now_ns)
            case Failed(permanent=True) | None:
                recovery = self._health.answered(request, now_ns)
            case _:
                self._health.ended(request, now_ns)
                admission.retime(request.model, self._health.model_due_ns(request.model, now_ns))
                return
        self._refund(recovery.refunds)
        if recovery.server:
            self._server_is_back(admission)
        if recovery.model:
            self._parts.say(f"model {request.model!r} answers again")
            admission.release(request.model)
        else:
            admission.retime(request.model, self._health.model_due_ns(request.model, now_ns))

    def note_key(self, key: Use, verdict: Outcome | None) -> bool:
        """Note what an answer says of the key that it was asked with. False where none is left."""
        match verdict:
            case SuspendKey(message):
                news = self._keys.refused(key, self._parts.clock.monotonic_ns())
                if news == "suspended":
                    self._parts.say(f"key {key.number + 1} is refused, and had worked: it will be tried again ({message})")
                elif news == "retired":
                    self._retire(key.number, message)
            case Done() | Failed(permanent=True) | None:
                if self._keys.accepted(key):
                    self._parts.say(f"key {key.number + 1} works again")
            case _:
                self._keys.ended(key)
        return self._keys.any_left

    def _note_credits(self, ticket: Ticket, verdict: Outcome | None, now_ns: int) -> None:
        match verdict:
            case StopAccount(message):
                if self.credit.refused(now_ns, ticket.entry) and self._parts.options.wait_for_credits:
                    self._parts.say(f"no credits are left; waiting until the account is topped up: {message}")
            case Done():  # what is refused for itself may be so before anybody looks at credits
                if self.credit.accepted(ticket.sent_ns):
                    self._parts.say("the account has credits again")
            case _:
                self.credit.ended(now_ns, ticket.entry)

    def _retire(self, number: int, message: str) -> None:
        fingerprint = self._fingerprint(number)
        self._retired.append(fingerprint)
        if self._keys.any_left:
            which = f" (fingerprint {fingerprint})" if fingerprint else ""
            self._parts.say(f"key {number + 1}{which} is refused and not used any more ({message})")

    def _server_is_back(self, admission: Admission) -> None:
        self._parts.say("the server answers again")
        admission.release(None)

    def _refund(self, refunds: Refunds) -> None:
        """Give jobs their attempts back that an outage took; those that have ended meanwhile need none."""
        for (number, custom_id), attempts in refunds.items():
            history = self._parts.histories.get(number)
            if history is not None:
                history.refund(attempts)
                self._refunded += attempts
                self._parts.journal.refunded(custom_id, self._parts.index.fingerprints[number], attempts)

    def _tell_of_trip(self, verdict: Again, model: str) -> None:
        who = f"model {model!r}" if verdict.blames is Blame.MODEL else "the server"
        self._parts.say(f"{who} fails again and again, last with {verdict.code}: it is asked now and then, at no job's cost")


def _request(ticket: Ticket) -> Request:
    job = ticket.job
    return Request(ticket.entry, (job.number, job.custom_id), ticket.candidate.size.model, ticket.sent_ns)
