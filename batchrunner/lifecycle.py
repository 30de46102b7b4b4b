"""The life of a job: six states, ten events, one total table.

    pending --send--> in flight --succeed--> succeeded
                                --fail-----> failed
                                --again----> backing off --ready--> pending
                                --refuse, lose--> pending
                                --submit---> submitted --succeed, fail, again--> as above

Whatever changes a job's state goes through `after`; nothing else assigns one.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """Where a job stands. One byte of the index; values are never written to a file."""

    PENDING = 0
    IN_FLIGHT = 1
    BACKING_OFF = 2
    SUCCEEDED = 3
    FAILED = 4
    SUBMITTED = 5  # the server works on it, and is asked for the result now and then


class Happening(enum.Enum):
    """What can happen to a job."""

    SEND = "send"
    SUCCEED = "succeed"
    FAIL = "fail"
    AGAIN = "again"  # failed in a way that is worth another attempt, after a backoff
    REFUSE = "refuse"  # 429: goes back to its place, the wait is the account's
    LOSE = "lose"  # in flight when we stopped looking: interruption, crash
    READY = "ready"  # backoff over
    SUBMIT = "submit"  # answered with an id, under which the result will be found
    ADOPT = "adopt"  # recovery found a whole result line that no record speaks of
    REOPEN = "reopen"  # a failed job is given another chance


FINAL = frozenset({State.SUCCEEDED, State.FAILED})

# None is an illegal transition. Every pair stands here, so that a new state or event cannot be forgotten silently.
TRANSITIONS: dict[State, dict[Happening, State | None]] = {
    State.PENDING: {
        Happening.SEND: State.IN_FLIGHT,
        Happening.SUCCEED: None,
        Happening.FAIL: State.FAILED,  # refused before it was sent: no price under a spend cap, a broken promise of its own
        Happening.AGAIN: None,
        Happening.REFUSE: None,
        Happening.LOSE: None,
        Happening.READY: None,
        Happening.SUBMIT: None,
        Happening.ADOPT: State.SUCCEEDED,
        Happening.REOPEN: None,
    },
    State.IN_FLIGHT: {
        Happening.SEND: None,
        Happening.SUCCEED: State.SUCCEEDED,
        Happening.FAIL: State.FAILED,
        Happening.AGAIN: State.BACKING_OFF,
        Happening.REFUSE: State.PENDING,
        Happening.LOSE: State.PENDING,
        Happening.READY: None,
        Happening.SUBMIT: State.SUBMITTED,
        Happening.ADOPT: State.SUCCEEDED,
        Happening.REOPEN: None,
    },
    State.BACKING_OFF: {
        Happening.SEND: None,
        Happening.SUCCEED: None,
        Happening.FAIL: State.FAILED,
        Happening.AGAIN: None,
        Happening.REFUSE: None,
        Happening.LOSE: None,
        Happening.READY: State.PENDING,
        Happening.SUBMIT: None,
        Happening.ADOPT: State.SUCCEEDED,
        Happening.REOPEN: None,
    },
    State.SUCCEEDED: {
        Happening.SEND: None,
        Happening.SUCCEED: None,
        Happening.FAIL: None,
        Happening.AGAIN: None,
        Happening.REFUSE: None,
        Happening.LOSE: State.PENDING,  # recovery: its line had not reached the disk before the power went
        Happening.READY: None,
        Happening.SUBMIT: None,
        Happening.ADOPT: None,
        Happening.REOPEN: None,
    },
    State.FAILED: {
        Happening.SEND: None,
        Happening.SUCCEED: None,
        Happening.FAIL: None,
        Happening.AGAIN: None,
        Happening.REFUSE: None,
        Happening.LOSE: State.PENDING,
        Happening.READY: None,
        Happening.SUBMIT: None,
        Happening.ADOPT: None,
        Happening.REOPEN: State.PENDING,
    },
    State.SUBMITTED: {
        Happening.SEND: None,  # asking for the result sends nothing anew, and changes nothing
        Happening.SUCCEED: State.SUCCEEDED,
        Happening.FAIL: State.FAILED,
        Happening.AGAIN: State.BACKING_OFF,
        Happening.REFUSE: None,
        Happening.LOSE: State.PENDING,  # recovery: its line was changed, or taken out
        Happening.READY: None,
        Happening.SUBMIT: None,
        Happening.ADOPT: State.SUCCEEDED,
        Happening.REOPEN: None,
    },
}


class IllegalTransitionError(Exception):
    """A job was told something that cannot happen to it: a defect of ours, never of a file or a server.

    `so_far`: what it went through, in words; the journal has the whole story.
    """

    def __init__(self, custom_id: str, state: State, happening: Happening, so_far: str) -> None:
        self.custom_id = custom_id
        self.state = state
        self.happening = happening
        self.so_far = so_far
        name = state.name.lower().replace("_", " ")
        super().__init__(f"job {custom_id!r} is {name} and cannot {happening.value}{so_far and f' ({so_far})'}")


def after(state: State, happening: Happening, custom_id: str, history: object = "") -> State:
    """The state that follows. Raises IllegalTransitionError, which names the job and tells `history` in its own words."""
    following = TRANSITIONS[state][happening]
    if following is None:
        raise IllegalTransitionError(custom_id, state, happening, str(history))
    return following
