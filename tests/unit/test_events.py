"""Who looks on at events."""

from __future__ import annotations

from batchrunner.events import AttemptResult, Event, Onlookers

EVENT = Event("a", 1, 1, "m", "/v1/chat/completions", AttemptResult.OK)


def test_each_onlooker_gets_each_event() -> None:
    """In the order in which they came."""
    seen: list[tuple[str, Event]] = []
    onlookers = Onlookers(lambda _: None)
    onlookers.add(lambda event: seen.append(("first", event)))
    onlookers.add(lambda event: seen.append(("second", event)))
    onlookers.on_event(EVENT)
    assert seen == [("first", EVENT), ("second", EVENT)]
    assert onlookers.statistics().errors == 0


def test_an_onlooker_that_raises_is_counted_and_told_once_and_the_others_go_on() -> None:
    """A defect in a display costs nobody a run; its words, which may hold anything, are not repeated."""
    seen: list[Event] = []
    said: list[str] = []

    def broken(event: Event) -> None:
        raise ValueError(f"a body, or a key: {event.custom_id}")

    onlookers = Onlookers(said.append)
    onlookers.add(broken)
    onlookers.add(seen.append)
    onlookers.on_event(EVENT)
    onlookers.on_event(EVENT)
    assert seen == [EVENT, EVENT]
    assert onlookers.statistics().errors == 2
    assert len(said) == 1
    assert "ValueError" in said[0]
    assert "key:" not in said[0]
