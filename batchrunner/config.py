"""What a run was asked to do, resolved: options, account, keys. Pure; the environment is an argument."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from batchrunner.errors import UsageError
from batchrunner.secret import Secret

DEFAULT_BASE_URL = "https://api.empiriolabs.ai"
#: `EMPIRIOLABS_API_KEY` goes to this host, to those below it, and to loopback; nowhere else.
PLATFORM_HOST = "empiriolabs.ai"
DEFAULT_RPM = 50
DEFAULT_TPM = 2_000_000
DEFAULT_MAX_ATTEMPTS = 5
#: The platform's own timeout is 900 s: ours must be the longer one, or we give up on what is then billed.
DEFAULT_TIMEOUT_SECONDS = 960.0
DEFAULT_DRAIN_SECONDS = 20.0
MAX_IN_FLIGHT = 10_000
#: Descriptors that are not connections: files, pipes, the metrics server, the resolver.
RESERVED_DESCRIPTORS = 64
#: The key that the embedded platform accepts.
SIMULATED_KEY = "sk-empiriolabs-test-simulated"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `submit`, without secrets: what `run.json` keeps."""

    inputs: tuple[str, ...]
    run_dir: str
    base_url: str = DEFAULT_BASE_URL
    simulate: bool = False
    account: str | None = None
    rpm: int = DEFAULT_RPM
    tpm: int = DEFAULT_TPM
    max_in_flight: int = MAX_IN_FLIGHT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_cost_usd: Decimal | None = None
    drain_seconds: float = DEFAULT_DRAIN_SECONDS


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
    """The account's keys, in the order in which they are to be used.

    `BATCHRUN_API_KEY` goes to any server; `EMPIRIOLABS_API_KEY` only to the platform's own host and to loopback.
    No key is needed on loopback. Raises: UsageError where none may be sent to this server.
    """
    host = urlsplit(base_url).hostname or ""
    own_host = host == PLATFORM_HOST or host.endswith("." + PLATFORM_HOST)
    names = ["BATCHRUN_API_KEY"]
    if own_host or is_loopback(host):
        names.append("EMPIRIOLABS_API_KEY")
    for name in names:
        keys = [key for part in environment.get(name, "").split(",") if (key := part.strip())]
        if not all(key.isascii() and key.isprintable() for key in keys):
            raise UsageError(f"{name} holds what no key holds: a line break, a control character or a letter outside ASCII.")
        if keys:
            return tuple(map(Secret, keys))
    if is_loopback(host):
        return ()
    if "EMPIRIOLABS_API_KEY" not in names and environment.get("EMPIRIOLABS_API_KEY"):
        raise UsageError(f"EMPIRIOLABS_API_KEY is not sent to {host}. Set BATCHRUN_API_KEY to the key of that server.")
    raise UsageError(f"no key for {host}. Set {' or '.join(reversed(names))}, or try `--simulate`, which needs none.")


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
    """How many requests may be in flight: what was asked for, else what the descriptors allow, at most MAX_IN_FLIGHT."""
    return wanted if wanted is not None else max(1, min(MAX_IN_FLIGHT, descriptors - RESERVED_DESCRIPTORS))
