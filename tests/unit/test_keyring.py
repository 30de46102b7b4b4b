"""Which key goes out, and what becomes of one that is refused."""

from __future__ import annotations

from batchrunner.keyring import NS, PROBES_APART_NS, PROBES_NS, KeyRing, Use


def suspended(count: int = 1) -> KeyRing:
    """A ring whose first key worked and was then refused, at time 0."""
    ring = KeyRing(count)
    ring.accepted(ring.choose(0))
    assert ring.refused(Use(0), 0) == "suspended"
    return ring


def test_row_401_a_key_that_never_worked_is_retired_at_once() -> None:
    """The next one takes over; after the last there is none."""
    ring = KeyRing(2)
    assert ring.refused(ring.choose(0), 0) == "retired"
    assert ring.choose(0) == Use(1)
    assert ring.any_left
    assert ring.refused(ring.choose(0), 0) == "retired"
    assert (ring.any_left, ring.due_ns(0)) == (False, None)


def test_a_burst_of_refusals_retires_one_key() -> None:
    """Refusals of requests that had gone out with the same key retire that one, and not its successors."""
    ring = KeyRing(2)
    assert [ring.refused(Use(0), 0) for _ in range(3)] == ["retired", "known", "known"]
    assert ring.choose(0) == Use(1)


def test_row_401_one_that_worked_is_suspended_and_probed_three_times() -> None:
    """The next key takes over; the suspended one gets three requests within five minutes, then it is retired."""
    ring = suspended(2)
    assert ring.suspended == 1
    assert ring.choose(0) == Use(1)
    for count, at_ns in enumerate(PROBES_NS, 1):
        assert ring.choose(at_ns - 1) == Use(1)
        probe = ring.choose(at_ns)
        assert probe == Use(0, probe=True)
        assert ring.choose(at_ns) == Use(1)
        assert ring.refused(probe, at_ns) == ("retired" if count == 3 else "known")
    assert PROBES_NS[-1] == 300 * NS
    assert ring.choose(10**15) == Use(1)
    assert ring.suspended == 0


def test_a_probe_that_is_accepted_brings_the_key_back() -> None:
    """It is the first again, and has all its chances again."""
    ring = suspended(2)
    assert ring.refused(ring.choose(PROBES_NS[0]), PROBES_NS[0]) == "known"
    assert ring.accepted(ring.choose(PROBES_NS[1]))
    assert ring.choose(PROBES_NS[1]) == Use(0)
    assert ring.refused(Use(0), 10**15) == "suspended"
    assert ring.choose(10**15 + PROBES_NS[0]) == Use(0, probe=True)


def test_the_only_key_is_waited_for() -> None:
    """While it is suspended nothing goes but its probes, one at a time."""
    ring = suspended()
    assert ring.any_left
    assert ring.due_ns(5) == PROBES_NS[0]
    probe = ring.choose(PROBES_NS[0])
    assert ring.due_ns(PROBES_NS[0]) is None
    ring.ended(probe)
    assert ring.due_ns(PROBES_NS[0]) == PROBES_NS[0]
    ring.accepted(ring.choose(PROBES_NS[0]))
    assert ring.due_ns(PROBES_NS[0]) == PROBES_NS[0]


def test_answers_to_what_was_in_flight_decide_nothing() -> None:
    """A request from before the suspension is no probe: neither its success nor its refusal counts."""
    ring = suspended()
    assert not ring.accepted(Use(0))
    assert ring.refused(Use(0), 1) == "known"
    assert ring.due_ns(1) == PROBES_NS[0]


def test_probes_that_come_late_do_not_come_all_at_once() -> None:
    """A key that nothing could be sent with for an hour, the server being away, has its three chances half a minute apart."""
    ring = suspended()
    now_ns = 3600 * NS
    for news in ("known", "known", "retired"):
        assert ring.due_ns(now_ns) == now_ns
        assert ring.refused(ring.choose(now_ns), now_ns) == news
        assert ring.due_ns(now_ns) == (None if news == "retired" else now_ns + PROBES_APART_NS)
        now_ns += PROBES_APART_NS
