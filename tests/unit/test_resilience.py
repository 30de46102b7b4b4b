"""What failures mean for everybody else: attempts given back, jobs let go, jobs that end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from batchrunner.breaker import FIRST_PROBE_NS, NS, QUIET_NS, TRIPS_AFTER
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.events import AttemptResult, Billing
from batchrunner.health import OFFLINE_NS
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.journal import History
from batchrunner.keyring import KeyRing
from batchrunner.outcome import Again, Blame, Done, Failed, Tries
from batchrunner.resilience import MOST_EXCUSED, Resilience
from batchrunner.tickets import Candidate, Ticket

SERVER = Again(0, "http_500", "words", AttemptResult.SERVER_ERROR, Billing.NOT, Blame.SERVER)
MODEL = Again(0, "model_unavailable", "words", AttemptResult.SERVER_ERROR, Billing.NOT, Blame.MODEL)
DONE = Done(ReplyFacts(None, Finish.STOP))
NOT_SENT = Again(0, "connect", "words", AttemptResult.NETWORK, Billing.NOT, Blame.SERVER, spends=False, repeats=False)


class Scene:
    """A resilience between doubles: a clock that is set, a queue and a journal that note what they are told."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.entry = 0
        self.histories: dict[int, History] = {}
        self.said: list[str] = []
        #: (custom_id, attempts)
        self.refunded: list[tuple[str, int]] = []
        self.released: list[str | None] = []
        parts: Any = SimpleNamespace(
            clock=SimpleNamespace(monotonic_ns=lambda: self.now_ns),
            histories=self.histories,
            index=SimpleNamespace(fingerprints=range(1000)),
            journal=SimpleNamespace(refunded=lambda custom_id, _, attempts: self.refunded.append((custom_id, attempts))),
            say=self.said.append,
        )
        self.admission: Any = SimpleNamespace(retime=lambda *_: None, release=self.released.append)
        self.resilience = Resilience(parts, KeyRing(1), lambda number: f"{number:08x}")

    def send(self, number: int, model: str = "m") -> Ticket:
        """A request goes out."""
        self.entry += 1
        job = Job(number, number + 1, f"job-{number}", "/v1/chat/completions", b"{}", number)
        ticket = Ticket(Candidate(job, RequestSize(model, 1, None), Usage(1, 0)), self.entry, self.now_ns, 0.0, alone=False)
        self.histories.setdefault(number, History()).sends += 1
        self.resilience.sent(ticket)
        return ticket

    def fail(self, number: int, verdict: Again, *, max_attempts: int = 5, ticket: Ticket | None = None) -> Again | Failed:
        """A request goes out and fails, and its attempt is counted as the run counts it."""
        history = self.histories.setdefault(number, History())
        ticket = ticket or self.send(number)
        what = self.resilience.failed(ticket, verdict, Tries(history.spent + 1, max_attempts), self.admission)
        if isinstance(what, Again):
            history.spent += what.spends
        return what

    def trip(self) -> None:
        """The server's circuit opens, with failures of jobs from 100 on; its first probe is due."""
        for number in range(TRIPS_AFTER):
            self.fail(100 + number, SERVER)
        assert self.resilience.due(self.now_ns).at_ns == self.now_ns + FIRST_PROBE_NS
        self.now_ns += FIRST_PROBE_NS


def test_what_cost_no_attempt_is_not_given_back() -> None:
    """Connections that cannot be opened trip the server's circuit; they cost no attempts, and give none back."""
    scene = Scene()
    for _ in range(TRIPS_AFTER):
        scene.fail(1, NOT_SENT)
    assert scene.resilience.due(0).at_ns == FIRST_PROBE_NS
    assert scene.histories[1].spent == 0
    assert scene.refunded == []


def test_a_job_gets_back_what_the_streak_took() -> None:
    """In memory and in the journal."""
    scene = Scene()
    for _ in range(3):
        scene.fail(1, SERVER)
    for _ in range(2):
        scene.fail(2, SERVER)
    assert (scene.histories[1].spent, scene.histories[2].spent) == (0, 0)
    assert scene.refunded == [("job-1", 3), ("job-2", 1)]


def test_a_server_that_says_that_a_model_is_away_is_back() -> None:
    """`model_unavailable` ends the server's outage: what waited for the server is let go, what its probes took is given back."""
    scene = Scene()
    scene.trip()
    scene.fail(1, SERVER)
    assert scene.histories[1].spent == 1
    at_ns = scene.resilience.due(scene.now_ns).at_ns
    assert at_ns is not None
    scene.now_ns = at_ns
    scene.fail(2, MODEL)
    assert scene.resilience.due(scene.now_ns).at_ns == scene.now_ns
    assert scene.released == [None]
    assert scene.said[-1] == "the server answers again"
    assert scene.histories[1].spent == 0


def test_a_job_does_not_end_by_attempts_that_it_has_just_got_back() -> None:
    """The answer that ends the outage also fails the job that had probed it: only this attempt counts."""
    scene = Scene()
    scene.trip()
    scene.fail(1, SERVER, max_attempts=2)
    at_ns = scene.resilience.due(scene.now_ns).at_ns
    assert at_ns is not None
    scene.now_ns = at_ns
    assert isinstance(scene.fail(1, MODEL, max_attempts=2), Again)
    assert scene.histories[1].spent == 1


def test_a_suspected_outage_keeps_a_job_for_five_attempts_at_most() -> None:
    """Among failures of others, and shortly after successes, nobody knows whether it is an outage: the job ends all the same."""
    scene = Scene()
    ends = []
    for _ in range(2 * TRIPS_AFTER):
        scene.resilience.ended(scene.send(1), DONE, scene.admission)
        scene.fail(2, SERVER, max_attempts=100)
        ends.append(isinstance(scene.fail(3, SERVER, max_attempts=2), Failed))
        scene.now_ns += NS
    assert ends == [False] * (1 + TRIPS_AFTER) + [True] * (TRIPS_AFTER - 1)


def test_a_model_is_not_given_up_while_the_server_is_away() -> None:
    """Nobody can tell then whether it is offline still: its jobs wait with all others."""
    scene = Scene()
    for number in range(TRIPS_AFTER):
        scene.fail(number, MODEL)
    scene.now_ns = OFFLINE_NS - FIRST_PROBE_NS
    assert not scene.resilience.hopeless("m", scene.now_ns)
    scene.trip()
    assert scene.now_ns == OFFLINE_NS
    assert not scene.resilience.hopeless("m", scene.now_ns)
    scene.resilience.ended(scene.send(8, "other"), DONE, scene.admission)
    assert scene.resilience.hopeless("m", scene.now_ns)
    assert scene.resilience.given_up("m")


def test_a_job_is_excused_so_often_and_no_more() -> None:
    """One that fails whenever others succeed ends, however many outages it looks like; a resume knows how many there were."""
    scene = Scene()
    sends = 0
    while not isinstance(scene.fail(1, SERVER), Failed):
        sends += 1
        assert sends < 100
        if scene.resilience.due(scene.now_ns).at_ns != scene.now_ns:
            scene.now_ns += FIRST_PROBE_NS
            scene.resilience.ended(scene.send(2), DONE, scene.admission)
            scene.now_ns += QUIET_NS
    assert MOST_EXCUSED <= scene.histories[1].excused < MOST_EXCUSED + TRIPS_AFTER
    assert sends + 1 <= 5 + MOST_EXCUSED + TRIPS_AFTER
