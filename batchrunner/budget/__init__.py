"""An account's requests and tokens per minute: when the next request may start, and what is learned from each answer.

The whole budget is one encodable record, `State`, moved by one function, `step(state, now_ns, event) -> decision`. It knows
no clock, no task and no file, so that memory, a row of a database or a server can hold it alike, and a test can replay it.

How it works, in the order in which a request meets it:

1. *Slots.* `Reserve` answers with a send time. Sends are spread evenly, one every (60 + J) / N seconds: an even stream
   satisfies every kind of window at once (calendar, sliding, bucket), since no interval of w <= 60 s holds more than
   ceil(w N / 60) of it. J = 0.25 s allows for requests that overtake each other on their way. A small file goes faster, as
   long as nothing is refused (`pacer`).
2. *Guard.* An exact log of our own sends refuses the (N + 1)th in any 60 + J seconds, whatever the pacer thinks: after a
   fast start, a restart, a stall of the machine (`window`).
3. *Tokens.* When a slot is due, jobs are offered, and one of them takes it (`choice`): `Take` charges its tokens to a pacer of
   their own (a quarter of a minute may come at once), and to the same log. `Settle` replaces the prediction by the usage
   (`tokens`).
4. *Gate.* A 429 closes the gate for everybody: one reaction to a whole burst of them, a backoff that doubles, one canary
   when it opens, the others behind it at their pace (`gate`).
5. *Learning.* A 429 is evidence, and is explained before it slows anything down: by a way of charging tokens (`charging`), by
   two buckets (`two_bucket`), by tokens nearly used up; what nothing explains lowers the rate, which is then tried up again
   (`effective`). An accepted request is proof, and refutes. How long all of that is believed: `learned`. What is only said, in
   headers, is never enough to go slower, and above the configured limits nothing goes without leave (`growth`).

Several processes on one account: `holders` (whose turn it is), `leases` (very fast accounts), `survival` (without the database).

Source: generic cell rate algorithm (ITU-T I.371) in integer nanoseconds; a float bucket can spin for ever on a deficit of
2e-17 s. Rejected: bursts of a full minute (what token buckets do), which every window but one of their own kind refuses;
adaptive concurrency is a poor handle on a rate, since in flight = rate x latency; a bank of model servers weighed by
likelihood, since an even stream makes most of what it would tell irrelevant, and the few facts that matter can be had one by one.
"""

from __future__ import annotations

from batchrunner.budget.charging import Charging
from batchrunner.budget.learned import after_reboot
from batchrunner.budget.records import (
    Change,
    Decision,
    Event,
    Hints,
    Later,
    Limits,
    Lost,
    Open,
    PastSend,
    Refuse,
    Reserve,
    Return,
    Settle,
    Slot,
    Stale,
    State,
    Statistics,
    Take,
    Taken,
)
from batchrunner.budget.steps import statistics, step
from batchrunner.budget.tokens import Offer

__all__ = [
    "Change",
    "Charging",
    "Decision",
    "Event",
    "Hints",
    "Later",
    "Limits",
    "Lost",
    "Offer",
    "Open",
    "PastSend",
    "Refuse",
    "Reserve",
    "Return",
    "Settle",
    "Slot",
    "Stale",
    "State",
    "Statistics",
    "Take",
    "Taken",
    "after_reboot",
    "statistics",
    "step",
]
