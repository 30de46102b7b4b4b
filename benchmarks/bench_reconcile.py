"""100,000 usage events brought together with a run's attempts: how long beside fetching and parsing them, and in what memory.

    python -m benchmarks.bench_reconcile [EVENTS]

The events are those of a drawn night (`tests/unit/reconciliation/worlds.py`), told in pages by a server on loopback in a process
of its own, and fetched and read by the program's own client. Then the journal is read and all is matched. Each part runs in
a process of its own, whose peak memory is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from batchrunner.account import Account
from batchrunner.cli.control_plane import ask
from batchrunner.costs import Charge, cost_line
from batchrunner.disk import SystemDisk
from batchrunner.events import Billing
from batchrunner.journal.files import RunFiles
from batchrunner.journal.records import Ended, Sent, Started, What
from batchrunner.platform.control import ControlPlane
from batchrunner.platform.usage import UsagePages
from batchrunner.reconciliation import Attempt, reconcile
from batchrunner.run_attempts import read_attempts
from batchrunner.secret import Secret
from batchrunner.usage_event import UsageEvent
from batchrunner.verification.reader import RunReader
from tests.unit.reconciliation.worlds import Odds, World, drawn, judge

RUN_ID = "bench"
BOOT = "boot"
MOST_TIMES = 5.0
MOST_BYTES = 300_000_000


class Measured(NamedTuple):
    seconds: dict[str, float]
    peak_bytes: int
    said: str


def world_of(events: int) -> World:
    """As many events as asked for, within a few: three of ours to one of strangers'."""
    return drawn(Odds(jobs=round(events / 1.36), strangers=0.33, kills=3), 1)


def write_run(world: World, directory: Path) -> None:
    """A journal and costs.jsonl as such a run leaves them."""
    files = RunFiles(SystemDisk(directory), RUN_ID)
    first_ns = min(attempt.sent_ns for attempt in world.attempts)
    files.record(Started(BOOT, 0, first_ns, 1, "bench"))
    moments = [(attempt.sent_ns, 0, number) for number, attempt in enumerate(world.attempts)]
    moments += [(attempt.ended_ns, 1, number) for number, attempt in enumerate(world.attempts)]
    for at_ns, ends, number in sorted(moments):
        attempt = world.attempts[number]
        fp = f"{abs(hash(attempt.request)) & (1 << 64) - 1:016x}"
        if not ends:
            guess = attempt.guessed_input_tokens or 0
            files.record(
                Sent(
                    attempt.custom_id,
                    fp,
                    attempt.number,
                    BOOT,
                    at_ns - first_ns,
                    guess,
                    guess,
                    attempt.cap_tokens,
                    attempt.model,
                    attempt.endpoint,
                )
            )
            continue
        charge = charge_of(attempt)
        what = What.DONE if attempt.billing is Billing.BILLED else What.LOST if attempt.left else What.AGAIN
        files.record(Ended(attempt.custom_id, fp, attempt.number, what, at_ns, spent=True, charge=charge, why=attempt.why))
        if charge is not None:
            files.cost_line(cost_line(attempt.custom_id, attempt.number, charge, at_ns))
    files.commit()
    files.close()


def charge_of(attempt: Attempt) -> Charge | None:
    if attempt.billing is Billing.NOT:
        return None
    if attempt.usage is None:
        return Charge.maybe(attempt.model, attempt.endpoint, attempt.guessed_input_tokens or 0, attempt.cap_tokens, None)
    return Charge.billed(attempt.model, attempt.endpoint, attempt.usage, attempt.amount_usd)


def serve(world: World, port: Any) -> None:
    """Pages of a thousand events, newest first, in the documented shape, ready before anybody asks."""
    lines = [json.dumps(shown(event)).encode() for event in reversed(world.events)]
    places = {event.id: place for place, event in enumerate(reversed(world.events))}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            first = places[query["before"][0]] + 1 if "before" in query else 0
            size = int(query.get("limit", ["25"])[0])
            page = lines[first : first + size]
            more = b"true" if first + size < len(lines) else b"false"
            body = b'{"object":"list","balance":{"amount":1},"data":[%b],"has_more":%b}' % (b",".join(page), more)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


def shown(event: UsageEvent) -> dict[str, Any]:
    tokens = event.tokens
    assert tokens is not None
    assert event.at_ns is not None
    return {
        "id": event.id,
        "object": "usage_event",
        "created_at": datetime.fromtimestamp(event.at_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "source": "api",
        "model": event.model,
        "endpoint": event.endpoint,
        "tokens": {"input": tokens.input_tokens, "output": tokens.output_tokens, "cached": 0, "total": tokens.total_tokens},
        "cost": {"amount": float(event.cost_usd or 0), "currency": "USD"},
        "status": "failed" if event.error else "succeeded",
        "status_code": event.status_code,
        "error": {"code": event.error} if event.error else None,
        "output_urls": [],
        "metadata": {},
    }


def fetched(port: int) -> list[UsageEvent]:
    """All events, by the program's own client."""

    async def question(control: ControlPlane) -> list[UsageEvent]:
        pages = UsagePages(control)
        return [event async for page in pages for event in page.events]

    account = Account(base_url=f"http://127.0.0.1:{port}", keys=(Secret("sk-empiriolabs-test-bench"),))
    return ask(account, question)


def only_fetch(port: int, _directory: Path, _world: World) -> Measured:
    began = time.perf_counter()
    events = fetched(port)
    return Measured({"fetch and parse": time.perf_counter() - began}, peak_bytes(), f"{len(events):,} events")


def whole(port: int, directory: Path, world: World) -> Measured:
    """What `batchrun reconcile` does before it writes."""
    marks = [time.perf_counter()]
    with RunReader(directory) as reader:
        known, _ = read_attempts(reader, RUN_ID, world.complete_until_ns)
    marks.append(time.perf_counter())
    events = fetched(port)
    marks.append(time.perf_counter())
    attempts = [one.attempt for one in known]
    settlement = reconcile(attempts, events, complete_until_ns=world.complete_until_ns, horizon_ns=world.horizon_ns)
    marks.append(time.perf_counter())
    names = ("read the journal", "fetch and parse", "reconcile")
    seconds = {name: after - before for name, before, after in zip(names, marks, marks[1:], strict=False)}
    sums = settlement
    said = f"ours {sums.ours.count:,}, strangers' {sums.strangers.count:,}, undecided {sums.undecided.count:,}"
    return Measured(seconds, peak_bytes(), said)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def apart(task: Callable[..., Measured], *arguments: object) -> Measured:
    """In a process of its own, that inherits nothing."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (task.__name__, *arguments))


def _run(name: str, port: int, directory: Path, until_ns: int, horizon_ns: int) -> Measured:
    stub = World([], [], [], until_ns, horizon_ns)
    task: Callable[[int, Path, World], Measured] = globals()[name]
    return task(port, directory, stub)


def main() -> None:
    """Print the table, and fail where a bound is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    world = world_of(count)
    judged = judge(world, world.reconciled())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{len(world.events):,} events, {len(world.attempts):,} attempts; judged by hidden owners: "
        f"{len(judged.wrong_events)} wrong, {judged.undecided_share:.2%} undecided"
    )
    with TemporaryDirectory() as name:
        directory = Path(name)
        write_run(world, directory)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("fork").Process(target=serve, args=(world, theirs), daemon=True)
        server.start()
        port = ours.recv()
        rest = (port, directory, world.complete_until_ns, world.horizon_ns)
        plain, full = apart(only_fetch, *rest), apart(whole, *rest)
        server.terminate()
    for title, measured in (("fetch and parse alone", plain), ("all that reconcile does", full)):
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in measured.seconds.items())
        print(f"{title}: {parts}; peak {measured.peak_bytes / 1e6:.0f} MB; {measured.said}")
    ratio = sum(full.seconds.values()) / plain.seconds["fetch and parse"]
    print(f"all of it takes {ratio:.2f} times the fetching and parsing (at most {MOST_TIMES:g})")
    sys.exit(ratio > MOST_TIMES or full.peak_bytes > MOST_BYTES)


if __name__ == "__main__":
    main()
