"""A producer's clients of one Redis: their pools, their one retry, and the time an operation may take.

Knows nothing of the operations.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from tailrace.broker.clients import asking
from tailrace.broker.cluster import ClusterRedis, Nodes, is_cluster
from tailrace.broker.connections import at_node, connection_options
from tailrace.broker.errors import store_error
from tailrace.broker.script import Argument, Script
from tailrace.broker.script_runner import run_script
from tailrace.schemas.errors import SettingsError, StoreError
from tailrace.schemas.redis_url import Node, parse_redis_url

_Reply = TypeVar("_Reply")

_RETRY_PAUSE_S = 0.05


class Link:
    """Clients that reopen a lost connection once, at once, and repeat the command: every operation is idempotent.

    Args:
        url: as `tailrace.schemas.redis_url` reads it.
        timeout_s: the limit for connecting and for each answer.

    Attributes:
        place: the server, without user and password.
        redis: a client.
        reads: a client without that retry: a tail has to know when it continues on a server that may have lost
            entries.
        nodes: the map of slots of a cluster; None for one server.

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

    async def close(self) -> None:
        """Closes every connection, those of running tails included."""
        await self.redis.aclose(close_connection_pool=True)
        await self.reads.aclose(close_connection_pool=True)

    def asking(self, wait_s: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Limits the time of the block, and translates what redis-py raises in it.

        redis-py's `socket_timeout` is not used: it sends by `asyncio.wait_for`, which in Python 3.11 loses a cancel
        that arrives while the command is sent, and a cancelled tail would go on.
        """
        return asking(self.redis, wait_s + self._timeout_s)

    def translated(self, error: Exception) -> StoreError:
        """Translates an error of redis-py into ours."""
        return store_error(error, self.place)

    async def run(self, script: Script[_Reply], of: str = "", /, **given: Argument) -> _Reply:
        """Runs a script, with the arguments of `script_runner.run_script`."""
        async with self.asking():
            return await run_script(self.redis, script, of, **given)

    def connection(self, node: Node | None = None) -> AbstractConnection:
        """A new connection outside the pools, not open yet and without retries, which many readers may share.

        Args:
            node: a node of a cluster; None for any of its nodes, or for the one server.
        """
        options = self._options if node is None else at_node(self._options, node)
        return _pool(options, tries=0).make_connection()

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
            _pool(options, 0).make_connection()  # only this detects an option in the URL that redis-py does not have
        except (ValueError, TypeError, redis_errors.RedisError) as error:
            raise SettingsError(f"redis_url: {self.place} cannot be used: {error}") from error
        return options


def _pool(options: Mapping[str, Any], tries: int) -> ConnectionPool:
    return ConnectionPool(
        retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), tries), retry_on_error=[redis_errors.ConnectionError], **options
    )
