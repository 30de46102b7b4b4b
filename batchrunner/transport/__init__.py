"""HTTP/1.1 under trio: a pool of connections to one origin, one exchange at a time on each.

    pool = Pool(Origin.parse("https://api.example.com"))
    head = Head("POST", pool.origin.target("/v1/chat/completions"), pool.origin.authority, headers)
    connection = await pool.connect()
    reply = await connection.exchange(head.encode(len(body)), body)

`wire` is the protocol as bytes, without I/O; `sockets` and `drivers` carry the bytes; `connection` is one exchange with
its timeouts; `pool` keeps connections; `adapter` puts all of it behind `httpx.AsyncClient`, for everything but jobs. (It is
not imported here: httpx takes as long to import as all the rest.)
"""

from __future__ import annotations

from batchrunner.transport.connection import DEFAULT_TIMEOUTS, Connection, Timeouts, TransportError
from batchrunner.transport.drivers import Driver, Link, LinkBroken, StreamDriver
from batchrunner.transport.origin import Origin
from batchrunner.transport.pool import Pool, PoolStatistics
from batchrunner.transport.reply_budget import ReplyBudget, ReplyBudgetStatistics
from batchrunner.transport.sockets import SocketDriver, default_ssl_context
from batchrunner.transport.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, Head, ReplyParser, WireError, request_head

__all__ = [
    "DEFAULT_TIMEOUTS",
    "MAX_BODY_BYTES",
    "MAX_HEAD_BYTES",
    "Connection",
    "Driver",
    "Head",
    "Link",
    "LinkBroken",
    "Origin",
    "Pool",
    "PoolStatistics",
    "ReplyBudget",
    "ReplyBudgetStatistics",
    "ReplyParser",
    "SocketDriver",
    "StreamDriver",
    "Timeouts",
    "TransportError",
    "WireError",
    "default_ssl_context",
    "request_head",
]
