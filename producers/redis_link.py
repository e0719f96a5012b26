"""A producer's link to one Redis: its pools, how long it may take, and redis-py's errors as ours.

Knows nothing of what is asked there.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

from redis import exceptions as refusals
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from tailrace.broker.cluster import ClusterRedis, Nodes, is_cluster
from tailrace.broker.connections import CLUSTER, at_node, connection_options
from tailrace.broker.scripts import Argument, Script
from tailrace.schemas.errors import SettingsError, StoreError, StoreFull, StoreRefused, StoreUnavailable
from tailrace.schemas.redis_url import OF_A_CLUSTER, Node, parse_redis_url

_RETRY_PAUSE_S = 0.05
_PASSING = ("BUSY", "UNBLOCKED", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")
_CLOSED_MEANWHILE = "the handler is closed"
"""So ends uvloop's RuntimeError for a write to a connection that was lost a moment before; asyncio's own goes on."""
_LOST = (refusals.ConnectionError, refusals.TimeoutError, refusals.WatchError, OSError)


class Link:
    """A lost connection is tried once more at once: every verb bears being sent twice.

    Args:
        url: as `tailrace.schemas.redis_url` reads it.
        timeout_s: for connecting, and for each answer.

    Attributes:
        redis: a client.
        reads: a client that tries nothing again: a tail has to know that it reads on from a server that may have lost
            something.
        nodes: which node has which slots, of a cluster; None for one server.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        try:
            self.place = parse_redis_url(url).place
        except ValueError as error:
            raise SettingsError(f"redis_url: {error}") from error
        self._url = url
        self._timeout_s = timeout_s
        self.nodes: Nodes | None = None
        self._options = self._usable_options()
        self.redis = self._client(tries=1)
        self.reads = self._client(tries=0)
        self._shas: dict[str, str] = {}

    async def close(self) -> None:
        """Closes every connection, those of running tails included."""
        await self.redis.aclose(close_connection_pool=True)
        await self.reads.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def asking(self, wait_s: float = 0.0) -> AsyncGenerator[None]:
        """Bounds the time of what is asked inside, and translates what redis-py raises.

        Not redis-py's `socket_timeout`: it sends by `asyncio.wait_for`, which in Python 3.11 loses a cancel that comes
        in the moment the command is sent, and then a cancelled tail would go on.
        """
        try:
            async with asyncio.timeout(wait_s + self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"Redis at {self.place} did not answer within {wait_s + self._timeout_s:g} s"
            ) from error
        except (refusals.RedisError, OSError, RuntimeError) as error:
            raise self.translated(error) from error

    async def run(self, script: Script, named: Mapping[str, str], **given: Argument) -> list[Any]:
        """The reply of a script."""
        places, values = script.call(**named, **given)
        sha = self._shas.get(script.name)
        if sha is None:
            sha = self._shas[script.name] = sha1(script.text.encode(), usedforsecurity=False).hexdigest()
        async with self.asking():
            try:
                return await self.redis.evalsha(sha, len(places), *places, *values)
            except refusals.NoScriptError:
                return await self.redis.eval(script.text, len(places), *places, *values)

    def connection(self, node: Node | None = None) -> AbstractConnection:
        """A connection of its own, not open yet and not tried again, for whom one can be shared by many readers.

        Args:
            node: of a cluster; None for any of its nodes, or for the one server.
        """
        options = self._options if node is None else at_node(self._options, node)
        return _pool(options, tries=0).make_connection()

    def translated(self, error: Exception) -> StoreError:
        """redis-py's error as ours."""
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        match error:
            case RuntimeError() if _CLOSED_MEANWHILE not in said:
                raise error  # none of Redis's
            case refusals.AuthenticationError() | refusals.AuthorizationError() | refusals.NoPermissionError():
                return StoreRefused(f"Redis at {self.place} refuses: {said}; check user and password in its URL")
            case refusals.OutOfMemoryError():
                return StoreFull(f"Redis at {self.place} is out of memory: {said}")
            case refusals.ResponseError() if said.startswith(CLUSTER):
                return StoreRefused(f"Redis at {self.place}: {OF_A_CLUSTER}")
            case refusals.ReadOnlyError():
                return StoreRefused(f"Redis at {self.place} is a read-only replica: give the URL of the primary")
            case refusals.InvalidResponse():
                return StoreRefused(f"what answers at {self.place} is not a Redis: {said}")
            case refusals.ResponseError() if not str(error).startswith(_PASSING):
                return StoreRefused(f"Redis at {self.place} refuses: {said}")
            case refusals.TimeoutError():
                return StoreUnavailable(f"Redis at {self.place} did not answer within {self._timeout_s:g} s")
            case _ if isinstance(error, _LOST):
                return StoreUnavailable(f"Redis at {self.place} cannot be reached: {said}")
            case _:
                return StoreUnavailable(f"Redis at {self.place} is not available: {said}")

    def _client(self, tries: int) -> Redis:
        if self.nodes is None:
            return Redis(connection_pool=_pool(self._options, tries))
        return ClusterRedis(self.nodes, lambda options: _pool(options, tries))

    def _usable_options(self) -> Mapping[str, Any]:
        try:
            options = connection_options(self._url, connect_s=self._timeout_s, reply_s=None)
            if is_cluster(self._url):
                self.nodes = Nodes(self._url, connect_s=self._timeout_s, reply_s=None)
                options = self.nodes.options
            _pool(options, 0).make_connection()  # an option in the URL that redis-py does not have is noticed only here
        except (ValueError, TypeError, refusals.RedisError) as error:
            raise SettingsError(f"redis_url: {self.place} cannot be used: {error}") from error
        return options


def _pool(options: Mapping[str, Any], tries: int) -> ConnectionPool:
    return ConnectionPool(
        retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), tries), retry_on_error=[refusals.ConnectionError], **options
    )
