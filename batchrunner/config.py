"""What a run was asked to do, and which keys of the environment go where. Pure; the environment is an argument."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from batchrunner.errors import UsageError
from batchrunner.secret import Secret

DEFAULT_BASE_URL = "https://api.empiriolabs.ai"
#: keys for any server
KEY_VARIABLE = "BATCHRUN_API_KEY"
#: keys that go to PLATFORM_HOST, to those below it, and to loopback; nowhere else
PLATFORM_KEY_VARIABLE = "EMPIRIOLABS_API_KEY"
PLATFORM_HOST = "empiriolabs.ai"
DEFAULT_RPM = 50
DEFAULT_TPM = 2_000_000
#: Of requests or tokens: no limit is greater. What would be is a slip, or meant to do harm.
MOST_A_MINUTE = 10**12
DEFAULT_MAX_ATTEMPTS = 5
#: The platform's own timeout is 900 s: ours must be the longer one, or we give up on what is then billed.
DEFAULT_TIMEOUT_SECONDS = 960.0
DEFAULT_DRAIN_SECONDS = 20.0
MAX_IN_FLIGHT = 10_000
#: Descriptors that are not connections: files, pipes, the metrics server, the resolver.
RESERVED_DESCRIPTORS = 64
#: Of those, what a plain run cannot do without, and some more.
MIN_DESCRIPTORS = 32
#: The key that the embedded platform accepts.
SIMULATED_KEY = "sk-empiriolabs-test-simulated"


_MAX_FAILURES = re.compile(r"([0-9]{1,18})|([0-9]{1,3}(?:\.[0-9]{1,9})?)%")


class MaxFailures(msgspec.Struct, frozen=True):
    """How many of a run's jobs may fail before it stops: a number, or a share of all its jobs."""

    allowed: Decimal
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> MaxFailures:
        """`N` or `P%`, kept exact. Raises: ValueError."""
        found = _MAX_FAILURES.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is neither a number of jobs, such as 20, nor a share of them, such as 5%.")
        number, share = found.groups()
        limit = cls(Decimal(number or share), percent=share is not None)
        if limit.percent and limit.allowed > 100:
            raise ValueError(f"{text!r} is more than all jobs.")
        return limit

    def exceeded(self, failed: int, total: int) -> bool:
        """Whether more of `total` jobs have failed than may. A share is of all jobs, not of those that have ended."""
        return failed * 100 > self.allowed * total if self.percent else failed > self.allowed

    def __str__(self) -> str:
        return f"{self.allowed}{'%' if self.percent else ''}"


Limit = Literal["configured", "auto"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `submit`, without secrets: what `run.json` keeps."""

    inputs: tuple[str, ...]
    run_dir: str
    base_url: str = DEFAULT_BASE_URL
    simulate: bool = False
    #: several are separated by commas; limits are those of all together, the base URL is the first one's
    account: str | None = None
    rpm: int = DEFAULT_RPM
    tpm: int = DEFAULT_TPM
    #: auto: they may be outgrown
    limit: Limit = "configured"
    #: of jobs that name none
    priority: int = 0
    max_in_flight: int = MAX_IN_FLIGHT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_cost_usd: Decimal | None = None
    max_failures: MaxFailures | None = None
    #: an account without any is paused and probed, where it would end the run
    wait_for_credits: bool = False
    drain_seconds: float = DEFAULT_DRAIN_SECONDS
    #: an Idempotency-Key goes with each attempt
    idempotency_keys: bool = True


def default_run_dir(first_input: str, *, simulate: bool) -> str:
    """Beside the first job file: its name without `.gz` and `.jsonl`, plus `.run`, or `.simulated.run`.

    Raises: UsageError for standard input and for a pipe's number: the same command must find the same run again.
    """
    if first_input == "-" or first_input.startswith(("/dev/", "/proc/")):
        raise UsageError(f"{first_input}: no run directory can be named after it; say where the run is to be: --run-dir DIR.")
    path = Path(first_input)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return str(path.with_name(name + (".simulated.run" if simulate else ".run")))


def keys_for(base_url: str, environment: Mapping[str, str]) -> tuple[Secret, ...]:
    """The keys that the environment has for a server, in the order in which they are to be used.

    No key is needed on loopback. Raises: UsageError where none may be sent to this server.
    """
    variable = key_variable(base_url, environment)
    if variable is not None:
        return read_keys(environment[variable].split(","), variable)
    host = urlsplit(base_url).hostname or ""
    if is_loopback(host):
        return ()
    allowed = _key_variables(base_url)
    if PLATFORM_KEY_VARIABLE not in allowed and environment.get(PLATFORM_KEY_VARIABLE):
        raise UsageError(f"{PLATFORM_KEY_VARIABLE} is not sent to {host}. Set {KEY_VARIABLE} to the key of that server.")
    raise UsageError(f"no key for {host}. Set {' or '.join(reversed(allowed))}, or try `--simulate`, which needs none.")


def key_variable(base_url: str, environment: Mapping[str, str]) -> str | None:
    """The variable that holds the keys for a server; None where none does.

    `BATCHRUN_API_KEY` goes to any server; `EMPIRIOLABS_API_KEY` only to the platform's own host and to loopback.
    """
    return next((name for name in _key_variables(base_url) if environment.get(name, "").strip(", ")), None)


def read_keys(parts: Iterable[str], place: str) -> tuple[Secret, ...]:
    """Keys, without the blanks around them; empty parts are none. Raises: UsageError, which names `place` alone."""
    keys = [key for part in parts if (key := part.strip())]
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise UsageError(f"{place} holds what no key holds: a line break, a control character or a letter outside ASCII.")
    return tuple(map(Secret, keys))


def is_platform(base_url: str) -> bool:
    """Whether a server is the platform's own: PLATFORM_HOST, or below it."""
    host = urlsplit(base_url).hostname or ""
    return host == PLATFORM_HOST or host.endswith("." + PLATFORM_HOST)


def _key_variables(base_url: str) -> list[str]:
    own = is_platform(base_url) or is_loopback(urlsplit(base_url).hostname or "")
    return [KEY_VARIABLE, PLATFORM_KEY_VARIABLE] if own else [KEY_VARIABLE]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address: `localhost`, 127.0.0.0/8 or ::1.

    Names below `localhost` are not: not every resolver keeps them on this machine.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def in_flight_cap(wanted: int | None, descriptors: int) -> int:
    """How many requests may be in flight: what was asked for, else what the descriptors allow, at most MAX_IN_FLIGHT.

    Raises: UsageError where there are too few descriptors for any run.
    """
    if descriptors < MIN_DESCRIPTORS:
        raise UsageError(
            f"this process may open {descriptors} files, and a run takes {MIN_DESCRIPTORS} besides its connections. "
            "Raise the limit (ulimit -n)."
        )
    return wanted if wanted is not None else max(1, min(MAX_IN_FLIGHT, descriptors - RESERVED_DESCRIPTORS))
