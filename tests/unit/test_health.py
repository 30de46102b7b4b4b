"""Whose circuit an outcome counts for: the server's, one model's, or nobody's."""

from __future__ import annotations

from collections.abc import Mapping

from batchrunner.breaker import FIRST_PROBE_NS, NS, QUIET_NS, TRIPS_AFTER, Circuit
from batchrunner.health import OFFLINE_NS, Health, Request
from batchrunner.outcome import Blame


def request(number: int, model: str = "m", sent_ns: int = 0) -> Request:
    return Request(number, (number, f"job-{number}"), model, sent_ns)


def tripped(*blames: Blame) -> Health:
    """A health in which each of these has failed five requests in a row: the first at time 0, others with quiet between them."""
    health = Health()
    for turn, blame in enumerate(blames):
        for number in range(TRIPS_AFTER):
            health.failed(request(10 * turn + number), turn * QUIET_NS, blame, refundable=True)
    return health


def circuits(health: Health) -> tuple[Circuit, Mapping[str, Circuit]]:
    found = health.statistics()
    return found.server, found.models


def test_an_answer_in_the_servers_own_words_is_the_end_of_the_servers_outage() -> None:
    """Of a model of which nothing is known it says nothing."""
    health = tripped(Blame.SERVER)
    probe = request(200, sent_ns=FIRST_PROBE_NS)
    health.sent(probe)
    recovery = health.answered(probe, FIRST_PROBE_NS + NS)
    assert (recovery.server, recovery.model) == (True, False)
    assert circuits(health) == (Circuit.CLOSED, {})


def test_an_answer_in_the_servers_own_words_leaves_a_model_where_it_was() -> None:
    """A 400 to a model's probe shows that the server is there; whether the model is, the next probe asks."""
    health = tripped(Blame.MODEL)
    probe = request(200, sent_ns=FIRST_PROBE_NS)
    health.sent(probe)
    assert circuits(health) == (Circuit.CLOSED, {"m": Circuit.PROBING})
    recovery = health.answered(probe, FIRST_PROBE_NS + NS)
    assert (recovery.server, recovery.model) == (False, False)
    assert circuits(health) == (Circuit.CLOSED, {"m": Circuit.OPEN})


def test_a_model_is_offline_after_half_an_hour_without_it() -> None:
    """Not a moment earlier; and one that never failed is not."""
    health = tripped(Blame.MODEL)
    assert not health.is_offline("m", OFFLINE_NS - 1)
    assert health.is_offline("m", OFFLINE_NS)
    assert not health.is_offline("other", OFFLINE_NS)


def test_no_model_is_offline_while_the_server_is_away() -> None:
    """Nobody knows then."""
    assert not tripped(Blame.MODEL, Blame.SERVER).is_offline("m", OFFLINE_NS)
