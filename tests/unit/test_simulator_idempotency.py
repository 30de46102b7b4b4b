"""Which requests get the answer of an earlier one."""

from __future__ import annotations

import pytest

from batchrunner.simulator import idempotency
from batchrunner.simulator.asks import Refusal
from batchrunner.simulator.idempotency import KEPT_NS, Replays

KEY = ("account", "key")


def answered() -> Replays[str]:
    """A first request with KEY came at 0, and its answer is there."""
    replays: Replays[str] = Replays()
    assert replays.find(0, KEY, 1) is None
    replays.begin(0, KEY, 1)
    replays.keep(KEY, "answer")
    replays.end(KEY)
    return replays


def test_an_answer_is_told_again_for_a_day() -> None:
    """To the nanosecond; another key or account has nothing to do with it."""
    replays = answered()
    assert replays.find(KEPT_NS - 1, KEY, 1) == "answer"
    assert replays.find(KEPT_NS - 1, ("account", "other"), 1) is None
    assert replays.find(KEPT_NS - 1, ("other", "key"), 1) is None
    assert replays.find(KEPT_NS, KEY, 1) is None


def test_a_key_that_is_in_use_gets_409() -> None:
    """As long as the first request is being worked on; afterwards there is its answer."""
    replays: Replays[str] = Replays()
    replays.begin(0, KEY, 1)
    with pytest.raises(Refusal) as caught:
        replays.find(1, KEY, 1)
    assert (caught.value.status, caught.value.code) == (409, "idempotency_key_in_use")
    replays.keep(KEY, "answer")
    assert replays.find(2, KEY, 1) == "answer"


def test_a_key_for_another_request_gets_400() -> None:
    """Whether or not the first one has been answered."""
    with pytest.raises(Refusal) as caught:
        answered().find(1, KEY, 2)
    assert (caught.value.status, caught.value.code) == (400, "idempotency_error")


def test_work_without_an_answer_leaves_the_key_free() -> None:
    """It may be tried again, even with another body."""
    replays: Replays[str] = Replays()
    replays.begin(0, KEY, 1)
    replays.end(KEY)
    assert replays.find(1, KEY, 2) is None


def test_too_many_answers_push_the_oldest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; an answer to what was pushed out in mid-work is not kept."""
    monkeypatch.setattr(idempotency, "MAX_KEPT", 2)
    replays = answered()
    for number in range(3):
        replays.begin(number, ("account", f"{number}"), 1)
    assert replays.find(3, KEY, 1) is None
    replays.keep(("account", "0"), "late")
    replays.end(("account", "0"))
    assert replays.find(4, ("account", "0"), 1) is None
