"""Where requests go: a base URL, taken apart and checked once."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

from batchrunner.config import is_loopback
from batchrunner.errors import UsageError

DEFAULT_PORTS = {"https": 443, "http": 80}

_HOST_NAME = re.compile(r"(?!-)[0-9a-z_-]{1,63}(\.[0-9a-z_-]{1,63})*\.?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


class Origin(msgspec.Struct, frozen=True):
    """A server, and the path below which its API stands."""

    #: `https` or `http`
    scheme: str
    #: lower case; an IPv6 address without its brackets
    host: str
    port: int
    #: stands for the leading `/v1` of a job's url; empty where the url goes out as it is. No slash at its end.
    path_prefix: str = ""

    @classmethod
    def parse(cls, base_url: str) -> Origin:
        """Read a base URL, with or without its `/v1`.

        Raises: UsageError where it is no http(s) URL, would send a key in clear (http to another machine), or holds a
        user name, a query or a fragment. The message never shows those: they may hold a secret.
        """
        if not base_url.isascii() or not base_url.isprintable() or " " in base_url or "\\" in base_url:
            raise UsageError("the base URL holds a blank, a control character or a letter outside ASCII")
        try:
            parts = urlsplit(base_url)
            host, port = parts.hostname or "", parts.port
        except ValueError as cause:
            raise UsageError("the base URL cannot be read: it should look like https://api.example.com") from cause
        scheme = parts.scheme.lower()
        if scheme not in DEFAULT_PORTS:
            raise UsageError("the base URL must begin with https:// (or http:// for this machine)")
        if "@" in parts.netloc:
            raise UsageError("the base URL must not hold a user name or password: keys come from the environment")
        if parts.query or parts.fragment or base_url.endswith(("?", "#")):
            raise UsageError("the base URL must end with its path: remove what follows '?' or '#'")
        path = parts.path.rstrip("/")
        if not _PATH.fullmatch(path):
            raise UsageError("the path of the base URL holds an empty part or a character that must be percent-encoded")
        if port == 0 or not _is_host(host):
            raise UsageError("the base URL names no valid host and port: it should look like https://api.example.com")
        origin = cls(scheme, host, port or DEFAULT_PORTS[scheme], "" if path == "/v1" else path)
        if scheme == "http" and not origin.is_loopback:
            raise UsageError(f"http to {host} would send the key in clear: use https, or a server on this machine")
        return origin

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, as `config.is_loopback` tells it: the one rule for where keys may go."""
        return is_loopback(self.host)

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """The Host header: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path_prefix}"

    def target(self, job_url: str) -> str:
        """The path to ask for: a job's url with its leading `/v1` replaced by the base URL's own path, if it has one.

        Raises: UsageError where the url is no path.
        """
        if not job_url.startswith("/"):
            raise UsageError("a job's url must be a path such as /v1/chat/completions: the server is set by the base URL")
        if not self.path_prefix:
            return job_url
        if job_url == "/v1" or job_url.startswith(("/v1/", "/v1?")):
            return self.path_prefix + job_url[3:]
        return self.path_prefix + job_url


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(host) is not None and len(host) <= 253
