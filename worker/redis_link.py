"""The link to Redis: how long it may take, what redis-py's errors mean for us, and what it is called in a log line.

Knows nothing of what is asked there.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions as refusals
from redis.asyncio import BlockingConnectionPool, Redis

from tailrace.broker.cluster import ClusterRedis, Nodes, is_cluster
from tailrace.broker.connections import CLUSTER, connection_options
from tailrace.schemas.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable
from tailrace.schemas.redis_url import OF_A_CLUSTER

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 10.0
"""A server that has not answered by then is treated as lost; what was sent is sent again on a new connection."""

PATIENCE_S = 60.0
"""How long a verb or a commit is tried again. Without Redis the lease cannot be renewed and ends long before this."""

FAILURES = (refusals.RedisError, OSError, RuntimeError)
"""What redis-py may raise when something is wrong with Redis or the way to it; `store_error` tells what it is."""

_CLOSED_MEANWHILE = "the handler is closed"
"""So ends uvloop's RuntimeError for a write to a connection that was lost a moment before; asyncio's own goes on."""

_PASSING = ("BUSY", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS")


def store_error(error: Exception) -> StoreError:
    """redis-py's error as ours. What passes by itself is `StoreUnavailable`, also a replica that was the primary.

    Raises:
        RuntimeError: the one given, when it is not about a connection.
    """
    match error:
        case RuntimeError() if _CLOSED_MEANWHILE not in str(error):
            raise error
        case refusals.AuthenticationError() | refusals.AuthorizationError() | refusals.NoPermissionError():
            return StoreRefused(f"Redis refuses: {error}")
        case refusals.OutOfMemoryError():
            return StoreFull(f"Redis is out of memory: {error}")
        case refusals.ResponseError() if str(error).startswith(CLUSTER):
            return StoreRefused(OF_A_CLUSTER)
        case refusals.ReadOnlyError():
            return StoreUnavailable(f"Redis is a read-only replica: {error}")
        case refusals.ResponseError() if not str(error).startswith(_PASSING):
            return StoreRefused(f"Redis refuses: {error}")
        case _:
            return StoreUnavailable(f"Redis is not available: {error or type(error).__name__}")


def client_of(url: str, connections: int, *, reply_s: float | None) -> Redis:
    """A client of a server or of a cluster; whoever comes when all connections (to a node) are used waits.

    Args:
        url: of Redis.
        connections: how many, to each node of a cluster.
        reply_s: how long an answer may take; None where the caller sets a limit.
    """
    if not is_cluster(url):
        return Redis.from_pool(blocking_pool(url, connections, reply_s=reply_s))

    def pool_of(options: Mapping[str, Any]) -> BlockingConnectionPool:
        return BlockingConnectionPool(max_connections=connections, timeout=REPLY_TIMEOUT_S, **options)

    return ClusterRedis(Nodes(url, connect_s=CONNECT_TIMEOUT_S, reply_s=reply_s), pool_of)


def blocking_pool(
    url: str, connections: int, *, reply_s: float | None, turn_s: float = REPLY_TIMEOUT_S
) -> BlockingConnectionPool:
    """Connections of which whoever comes later waits for one.

    Args:
        url: of Redis.
        connections: how many.
        reply_s: how long an answer may take; None where the caller sets a limit.
        turn_s: how long one waits for a connection.
    """
    return BlockingConnectionPool(
        max_connections=connections,
        timeout=turn_s,
        **connection_options(url, connect_s=CONNECT_TIMEOUT_S, reply_s=reply_s),
    )


def address(url: str) -> str:
    """Where a Redis is, without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
