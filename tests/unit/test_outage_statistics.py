"""What circuits, keys and the retry budget say of themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrunner import keyring, retries
from batchrunner.breaker import NS, TRIPS_AFTER, Circuit
from batchrunner.health import MOST_MODELS, Health, Request
from batchrunner.keyring import PROBES_NS, KeyRing, Use
from batchrunner.outcome import Blame
from batchrunner.retries import FLOOR, SUCCESSES_PER_RETRY, WINDOW_NS, RetryBudget


def fail(health: Health, model: str, times: int = TRIPS_AFTER, blames: Blame = Blame.MODEL) -> None:
    """One job after another for a model fails, at time 0."""
    for number in range(times):
        health.failed(Request(number, (number, f"job-{number}"), model, 0), 0, blames, refundable=True)


class TestHealth:
    def test_models_stand_in_the_order_in_which_they_first_failed(self) -> None:
        """One that has failed once is known, one that keeps failing is offline, one that never did is nowhere."""
        health = Health()
        fail(health, "b")
        fail(health, "a", times=1)
        health.succeeded(Request(9, (9, "job-9"), "c", 0), 0)
        found = health.statistics()
        assert list(found.models.items()) == [("b", Circuit.OPEN), ("a", Circuit.CLOSED)]
        assert (found.server, found.models_offline) == (Circuit.CLOSED, ("b",))

    def test_a_model_that_is_asked_whether_it_is_back_is_still_offline(self) -> None:
        """Until the probe's answer is there; then it is no more."""
        health = Health()
        fail(health, "m")
        probe = Request(99, (99, "job-99"), "m", 10 * NS)
        health.sent(probe)
        assert health.statistics().models == {"m": Circuit.PROBING}
        assert health.statistics().models_offline == ("m",)
        health.succeeded(probe, 11 * NS)
        assert health.statistics().models == {"m": Circuit.CLOSED}
        assert health.statistics().models_offline == ()

    def test_the_servers_own(self) -> None:
        """What fails on the way is no model's doing."""
        health = Health()
        fail(health, "m", blames=Blame.SERVER)
        assert (health.statistics().server, health.statistics().models) == (Circuit.OPEN, {})

    def test_a_hostile_file_has_no_more_than_a_thousand_circuits(self) -> None:
        """However many models it names that all fail."""
        health = Health()
        for number in range(MOST_MODELS + 500):
            fail(health, f"model-{number}")
        assert len(health.statistics().models) == len(health.statistics().models_offline) == MOST_MODELS

    def test_models_may_go_on_to_fail_while_somebody_looks(self) -> None:
        """A scrape reads from another thread: a model that fails meanwhile is not seen yet, and breaks nothing."""
        health = Health()

        class Meanwhile:
            @property
            def circuit(self) -> Circuit:
                fail(health, "b")
                return Circuit.OPEN

        health._models["a"] = Meanwhile()  # type: ignore[assignment]
        assert health.statistics().models_offline == ("a",)
        assert health.statistics().models_offline == ("a", "b")


def test_each_key_is_in_one_state() -> None:
    """Live until it is refused, then suspended if it had worked and retired if not; after three probes retired too."""
    ring = KeyRing(3)
    assert ring.statistics() == keyring.Statistics(live=3, suspended=0, retired=0)
    ring.accepted(ring.choose(0))
    ring.refused(Use(0), 0)
    assert ring.statistics() == keyring.Statistics(live=2, suspended=1, retired=0)
    ring.refused(Use(1), 0)
    assert ring.statistics() == keyring.Statistics(live=1, suspended=1, retired=1)
    for at_ns in PROBES_NS:
        ring.refused(ring.choose(at_ns), at_ns)
    assert ring.statistics() == keyring.Statistics(live=1, suspended=0, retired=2)


class TestRetries:
    def test_less_than_nothing_is_nothing(self) -> None:
        """Successes that have left the minute since do not make a debt that anybody would have to read."""
        budget = RetryBudget()
        for _ in range(SUCCESSES_PER_RETRY):
            budget.succeeded(0)
        for _ in range(FLOOR + 1):
            budget.retried(WINDOW_NS - 1)
        assert budget.statistics(WINDOW_NS) == retries.Statistics(left=0)
        assert budget.left(WINDOW_NS) == -1

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 20 * NS)), max_size=100), st.integers(0, 2 * WINDOW_NS))
    def test_looking_on_says_the_same_and_changes_nothing(self, steps: list[tuple[bool, int]], later_ns: int) -> None:
        """What a scrape reads at any time is what the queue would find then, and leaves what it finds now."""
        budget = RetryBudget()
        now_ns = 0
        for retry, pause_ns in steps:
            now_ns += pause_ns
            (budget.retried if retry else budget.succeeded)(now_ns)
        later = budget.statistics(now_ns + later_ns)
        now = budget.statistics(now_ns)
        assert now.left == max(0, budget.left(now_ns))
        assert later.left == max(0, budget.left(now_ns + later_ns))
