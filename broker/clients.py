"""Clients of one server or of a cluster. Limits the time of their operations and translates their errors.

Knows pools and time limits. Knows nothing of the operations.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.exceptions import ReadOnlyError

from tailrace.broker.cluster import ClusterRedis, Nodes, is_cluster
from tailrace.broker.connections import connection_options, place_of
from tailrace.broker.errors import FAILURES, store_error
from tailrace.broker.time_limits import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S
from tailrace.schemas.errors import StoreError, StoreUnavailable


@asynccontextmanager
async def asking(redis: Redis, limit_s: float | None = None) -> AsyncGenerator[None]:
    """Translates what redis-py raises in the block, and limits the time of the block.

    Idle connections to a server that has become a replica are closed, so that the next operation finds the new primary.

    Args:
        redis: the client that the block uses.
        limit_s: how long the block may take; None if the client's own limits are enough.

    Raises:
        StoreError: an operation on Redis failed.
    """
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            yield
    except FAILURES as error:
        if limit.expired():
            raise StoreUnavailable(f"Redis at {client_place(redis)} did not answer within {limit_s:g} s") from error
        if isinstance(error, ReadOnlyError):
            await _close_idle(redis.connection_pool)
        raise client_error(error, redis) from error


async def _close_idle(pool: ConnectionPool) -> None:
    """Closes idle connections without a pause: `pool.disconnect` waits, and may close one that was taken meanwhile."""
    for connection in tuple(pool._available_connections):  # redis-py has no public way to them
        await connection.disconnect(nowait=True)


def client_error(error: Exception, redis: Redis) -> StoreError:
    """Translates what a client raised into one of our errors.

    Args:
        error: one of `FAILURES`.
        redis: the client.
    """
    return store_error(error, client_place(redis))


def client_place(redis: Redis) -> str:
    """The server or cluster of a client, without user and password."""
    return place_of(redis.connection_pool.connection_kwargs)


def client_of(url: str, connections: int, *, reply_s: float | None) -> Redis:
    """A client of a server or of a cluster. A caller waits while all connections (to a node) are in use.

    Args:
        url: the URL of Redis.
        connections: how many, to each node of a cluster.
        reply_s: how long an answer may take; None if the caller sets a limit.
    """
    if not is_cluster(url):
        return Redis.from_pool(blocking_pool(url, connections, reply_s=reply_s))

    def pool_of(options: Mapping[str, Any]) -> BlockingConnectionPool:
        return BlockingConnectionPool(max_connections=connections, timeout=REPLY_TIMEOUT_S, **options)

    return ClusterRedis(Nodes(url, connect_s=CONNECT_TIMEOUT_S, reply_s=reply_s), pool_of)


def blocking_pool(url: str, connections: int, *, reply_s: float | None) -> BlockingConnectionPool:
    """A pool in which a caller waits for a connection, up to the limit for an answer.

    Args:
        url: the URL of Redis.
        connections: how many.
        reply_s: how long an answer may take; None if the caller sets a limit.
    """
    return BlockingConnectionPool(
        max_connections=connections,
        timeout=REPLY_TIMEOUT_S,
        **connection_options(url, connect_s=CONNECT_TIMEOUT_S, reply_s=reply_s),
    )
