"""Connections to the server a URL names, to the primary its Sentinels name, or to any node of a cluster.

Knows how a connection finds its server. Knows nothing of slots (`cluster.py`) or of commands.
"""

from collections.abc import Mapping
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url

from tailrace.schemas.redis_url import REDIS_PORT, Node, named, parse_redis_url

SENTINEL_TIMEOUT_S = 1.0
"""For connecting to one Sentinel, and for its answer; then the next one is asked."""

_NODES_NAMED = 3
"""A message lists no more nodes of a cluster than this."""


def connection_options(url: str, *, connect_s: float, reply_s: float | None) -> dict[str, Any]:
    """The options that redis-py's pools take, for any URL that `schemas/redis_url.py` reads.

    Args:
        url: the URL of Redis; its options override the others.
        connect_s: how long connecting may take.
        reply_s: how long an answer may take; None if the caller sets a limit.

    Raises:
        ValueError: the URL, or one of its options, cannot be used.
    """
    read = parse_redis_url(url)
    options: dict[str, Any] = {"socket_connect_timeout": connect_s, "socket_timeout": reply_s, **parse_url(read.plain)}
    if "path" not in options:
        options = {"socket_keepalive": True, **options}
    if read.nodes:
        connection = AnyNodeTlsConnection if "connection_class" in options else AnyNodeConnection
        return {**options, "connection_class": connection, "nodes": list(read.nodes)}
    if not read.sentinels:
        return options
    of_sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    is_tls = "connection_class" in options
    return {
        **options,
        "connection_class": PrimaryTlsConnection if is_tls else PrimaryConnection,
        "sentinels": list(read.sentinels),
        "service": read.service,
        "sentinel_options": {
            **tls,
            **of_sentinel,
            "ssl": is_tls,
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        },
    }


def place_of(options: Mapping[str, Any]) -> str:
    """The server that connections with these options go to, without user and password: safe in messages."""
    if "sentinels" in options:
        return f"{options['service']} of {named(options['sentinels'])}"
    if "nodes" in options:
        return f"the cluster of {named(options['nodes'][:_NODES_NAMED])}"
    return options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', REDIS_PORT)}"


def at_node(options: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """Turns the options for any node of a cluster into those for one node."""
    plain = {name: value for name, value in options.items() if name not in ("nodes", "connection_class")}
    is_tls = options["connection_class"] is AnyNodeTlsConnection
    return {**plain, "host": node[0], "port": node[1], "connection_class": SSLConnection if is_tls else Connection}


class PrimaryConnection(Connection):
    """A connection to the current primary: Sentinels name it at each connect, and the server must confirm it.

    Source: Redis, "Guidelines for Redis clients with support for Redis Sentinel".

    Args:
        sentinels: host and port of each; one that answered is asked first the next time.
        service: their name for the primary.
        sentinel_options: how to connect to them.
        options: those of `Connection`.
    """

    def __init__(
        self, *, sentinels: list[tuple[str, int]], service: str, sentinel_options: Mapping[str, Any], **options: Any
    ) -> None:
        self._sentinels = sentinels
        self._service = service
        self._sentinel_options = sentinel_options
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self._primary()
        await super()._connect()

    async def on_connect(self) -> None:
        """Does the handshake and asks for the role: a Sentinel that was cut off may name an old primary."""
        await super().on_connect()
        await self.send_command("ROLE")
        role = await self.read_response()
        if role[0] != b"master":
            raise redis_errors.ConnectionError(f"{self.host}:{self.port} is no longer a primary")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As `Connection.read_response`; closes the connection when the primary has become a replica."""
        try:
            return await super().read_response(*args, **options)
        except redis_errors.ReadOnlyError as error:
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError("the primary has become a replica") from error

    async def _primary(self) -> tuple[str, int]:
        why = "none is named"
        for host, port in tuple(self._sentinels):
            try:
                async with Redis(host=host, port=port, **self._sentinel_options) as sentinel:
                    found = await sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
            except (redis_errors.RedisError, OSError) as error:
                why = str(error)
                continue
            if found is not None:
                self._sentinels.remove((host, port))
                self._sentinels.insert(0, (host, port))
                return found
            why = f"{host}:{port} knows no {self._service}"
        raise redis_errors.ConnectionError(f"no Sentinel names the primary: {why}")


class PrimaryTlsConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


class AnyNodeConnection(Connection):
    """A connection to any node of a cluster that answers; at each connect it may be another one.

    Args:
        nodes: host and port of each; one that answered is asked first the next time, one that did not is asked last.
        options: those of `Connection`.
    """

    def __init__(self, *, nodes: list[Node], **options: Any) -> None:
        self._nodes = nodes
        super().__init__(**options)

    async def _connect(self) -> None:
        why: Exception = redis_errors.ConnectionError("no node of the cluster is named")
        for node in tuple(self._nodes):
            self.host, self.port = node
            self._move(len(self._nodes))
            try:
                return await super()._connect()
            except (OSError, TimeoutError) as error:
                why = error
        raise why

    async def on_connect(self) -> None:
        """Does the handshake. A node that hangs or is not ready does not complete it."""
        await super().on_connect()
        self._move(0)

    def _move(self, place: int) -> None:
        node = (self.host, self.port)
        if node in self._nodes:
            self._nodes.remove(node)
            self._nodes.insert(place, node)


class AnyNodeTlsConnection(AnyNodeConnection, SSLConnection):
    """The same over TLS."""
