"""What a run tells Prometheus: counters from events, gauges from the parts' `statistics()`, served over HTTP on loopback.

    counting      what events add up to: jobs, attempts, tokens, dollars, durations
    families      what is read off a `statistics()` record at each scrape; a new record is a table here and a `watch` in the cli
    syncs         the journal's syncs, a histogram read off its statistics
    exposition    all of it in one registry: `Metrics`
    server        how it is served, and who looks

Every label comes from a closed set: the model's is closed at 50 values of each family (those that came first, or failed first),
the endpoint's at those that the platform documents.
Counters begin at 0 with each process, as Prometheus expects of a restart; `batchrun_jobs` and `batchrun_run_...` are gauges of
the whole run, earlier processes included. Dollars are floats here, as everything is in Prometheus: the exact amounts are in
`costs.jsonl`. Some types contain each other: `input` tokens include `cached`, and `output` includes `reasoning`.

What one might look for and find otherwise, or not at all, and why:

- attempts by result alone: they are also told apart by endpoint; `sum by (result)` has them as before.
- jobs that expired: a batch service gives up on a job after a day, this runner never does; it succeeds or fails.
- jobs in a state of their own between admission and flight: leave to send is used in the moment that it is given.
- attempts that an outage took, by job or by result: they are among the attempts with the result that they had, and
  `batchrun_attempts_refunded_total` says how many of those count against no job. A refund may come minutes after its attempt.
- which circuit is whose: `batchrun_circuits` counts them by state, and `batchrun_models_offline` names models.
- a counter of 429s: they are the attempts with the result `rate_limited`.
- OpenTelemetry's names (`gen_ai_client_...`): the convention is still in development, and would double every series.
- OpenMetrics: there a counter's family goes without its `_total`, so that `batchrun_jobs_total` and the gauge `batchrun_jobs`
  would clash. The text format is what every Prometheus reads.
- the interpreter's own (`python_gc_...`): nobody who watches a run acts on them. `process_...` is there where the system tells.
"""

from __future__ import annotations

from batchrunner.metrics import families
from batchrunner.metrics.exposition import Metrics
from batchrunner.metrics.server import Scrapes, parse_address, url

__all__ = ["Metrics", "Scrapes", "families", "parse_address", "url"]
