"""A Redis Cluster: which node has a key, and a client whose commands go there.

Each command has keys of one slot, or none. `MOVED` and `ASK` are followed, and the map of slots is read again after a
node did not answer. Knows nothing of the purpose of the commands.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline

from tailrace.broker.connections import at_node, connection_options
from tailrace.broker.slots import SLOTS, slot_of
from tailrace.schemas.redis_url import Node, parse_redis_url

LOOK_S = 1.0
"""How long one node may take to return the map of slots; then the next one is asked."""

_REDIRECTS = 5
_ANYWHERE = frozenset({"PING", "INFO", "TIME", "PUBLISH", "PUBSUB", "CLUSTER", "ROLE", "CONFIG"})
_REDIRECT = re.compile(r"(MOVED|ASK) ([0-9]+) (\S*):([0-9]+)")
_AWAY = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


class Redirect(NamedTuple):
    """The node to ask for a key instead of the one asked: permanently, or (`asking`) while the slot moves."""

    slot: int
    node: Node
    asking: bool


def redirect_of(error: object, of: Node) -> Redirect | None:
    """The redirect that an error reply of a node contains; None if it contains none."""
    read = _REDIRECT.match(str(error)) if isinstance(error, redis_errors.ResponseError) else None
    return Redirect(int(read[2]), (read[3] or of[0], int(read[4])), read[1] == "ASK") if read else None


def is_cluster(url: str) -> bool:
    """Whether a URL names a Redis Cluster."""
    return bool(parse_redis_url(url).nodes)


class Nodes:
    """The map of slots, read from any node that answers.

    Args:
        url: `redis+cluster://` or `rediss+cluster://`.
        connect_s: how long connecting may take.
        reply_s: how long an answer may take; None if the caller sets a limit.

    Attributes:
        known: all known nodes; the one that answered last is first.
        options: what redis-py's pools take for connections to any of them.
    """

    def __init__(self, url: str, *, connect_s: float, reply_s: float | None) -> None:
        self.options = connection_options(url, connect_s=connect_s, reply_s=reply_s)
        self.known: list[Node] = self.options["nodes"]
        self._of_slots: list[Node | None] = [None] * SLOTS
        self._in_doubt = True
        self._version = 0
        self._learning = asyncio.Lock()

    def of(self, slot: int) -> Node | None:
        """The node that has a slot, if known."""
        return self._of_slots[slot]

    async def find(self, slot: int) -> Node:
        """The node that has a slot.

        Raises:
            ConnectionError: no node can be asked, or none has it.
        """
        if self._in_doubt or self._of_slots[slot] is None:
            await self.learn()
        node = self._of_slots[slot]
        if node is None:
            raise redis_errors.ConnectionError(f"no node of the cluster has slot {slot}")
        return node

    def primaries(self) -> list[Node]:
        """All nodes that have slots."""
        return sorted({node for node in self._of_slots if node is not None})

    @property
    def uncovered(self) -> int:
        """The number of slots that no node has."""
        return self._of_slots.count(None)

    def doubt(self) -> None:
        """Makes the next `find` read the map again, because a node did not answer."""
        self._in_doubt = True

    def moved(self, redirect: Redirect) -> None:
        """Records which node has a slot now, as a node has reported it."""
        self._of_slots[redirect.slot] = redirect.node

    async def learn(self) -> None:
        """Reads the map again. Concurrent calls share one read.

        Raises:
            ConnectionError: no node can be asked.
        """
        version = self._version
        async with self._learning:
            if version == self._version:
                await self._learn()

    async def _learn(self) -> None:
        why = "none is named"
        for node in tuple(self.known):
            options = at_node(self.options, node)
            options |= {"socket_connect_timeout": LOOK_S, "socket_timeout": LOOK_S}
            try:
                async with Redis(connection_pool=ConnectionPool(**options)) as redis:
                    try:
                        ranges = await redis.execute_command("CLUSTER SLOTS")
                    finally:
                        await redis.connection_pool.disconnect()
            except (redis_errors.RedisError, OSError) as error:
                why = f"{node[0]}:{node[1]}: {error or type(error).__name__}"
                continue
            self._take(ranges, node)
            return
        raise redis_errors.ConnectionError(f"no node of the cluster returned the map of slots ({why})")

    def _take(self, ranges: Sequence[Sequence[Any]], of: Node) -> None:
        found: list[Node | None] = [None] * SLOTS
        for first, last, primary, *_ in ranges:
            node = ((primary[0] or b"").decode() or of[0], primary[1])
            found[first : last + 1] = [node] * (last + 1 - first)
        self._of_slots = found
        self._in_doubt = False
        self._version += 1
        self.known[:] = dict.fromkeys((of, *self.primaries(), *self.known))


class ClusterRedis(Redis):
    """A client of a cluster. Commands without a key go to any node; channels are cluster-wide.

    Args:
        nodes: the map.
        pool_of: makes a pool of connection options.
    """

    def __init__(self, nodes: Nodes, pool_of: Callable[[Mapping[str, Any]], ConnectionPool]) -> None:
        super().__init__(connection_pool=pool_of(nodes.options))
        self.nodes = nodes
        self._pool_of = pool_of
        self._clients: dict[Node, Redis] = {}

    def at(self, node: Node) -> Redis:
        """A client of one node, which is closed with this one."""
        if node not in self._clients:
            self._clients[node] = Redis(connection_pool=self._pool_of(at_node(self.nodes.options, node)))
        return self._clients[node]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes every connection."""
        for client in self._clients.values():
            await client.aclose(close_connection_pool=True)
        await super().aclose(close_connection_pool=close_connection_pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As `Redis.execute_command`, sent to the node that has the key."""
        slot = _slot(args)
        if slot is None:
            return await super().execute_command(*args, **options)
        return await self._follow(slot, lambda redis, asking: _ask(redis, asking, args, options))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline whose commands may go to several nodes; those of a transaction go to one."""
        return _ClusterPipeline(self, transaction)

    async def together(self, commands: Sequence["Command"]) -> list[Any]:
        """The replies to commands, in their order, in one round trip per node; a reply may be an exception."""
        answers: list[Any] = [None] * len(commands)
        places: dict[Node, list[int]] = {}
        for place, (args, _) in enumerate(commands):
            places.setdefault(await self.nodes.find(_slot(args) or 0), []).append(place)

        async def ask(node: Node, of_node: list[int]) -> None:
            try:
                found = await self._pipe(node, [commands[place] for place in of_node])
            except _AWAY as error:
                self.nodes.doubt()
                found = [error] * len(of_node)
            for place, answer in zip(of_node, found, strict=True):
                if redirect_of(answer, node):
                    args, options = commands[place]
                    answer = await self.execute_command(*args, **options)
                answers[place] = answer

        try:
            await asyncio.gather(*(ask(*of_node) for of_node in places.items()))
        except asyncio.CancelledError:
            self.nodes.doubt()
            raise
        return answers

    async def transact(self, commands: Sequence["Command"]) -> list[Any]:
        """The replies to a transaction on keys of one slot. It is not redirected: the next call finds the node."""
        node = await self.nodes.find(_slot(commands[0][0]) or 0)
        try:
            return await self._pipe(node, commands, transaction=True)
        except redis_errors.ResponseError as error:
            if "MOVED " in str(error) or "ASK " in str(error):
                self.nodes.doubt()
                raise redis_errors.ConnectionError("its slot moves to another node") from error
            raise
        except BaseException:
            self.nodes.doubt()
            raise

    async def _pipe(self, node: Node, commands: Sequence["Command"], *, transaction: bool = False) -> list[Any]:
        async with self.at(node).pipeline(transaction=transaction) as pipe:
            for args, options in commands:
                pipe.execute_command(*args, **options)
            return await pipe.execute(raise_on_error=transaction)

    async def _follow(self, slot: int, ask: Callable[[Redis, bool], Awaitable[Any]]) -> Any:
        node, asking = await self.nodes.find(slot), False
        for _ in range(_REDIRECTS):
            try:
                return await ask(self.at(node), asking)
            except redis_errors.ResponseError as error:
                redirect = redirect_of(error, node)
                if redirect is None:
                    raise
                if not redirect.asking:
                    self.nodes.moved(redirect)
                _, node, asking = redirect
            except _AWAY:
                self.nodes.doubt()
                if (found := await self.nodes.find(slot)) == node:
                    raise
                node, asking = found, False
            except BaseException:  # also a cancel, by a caller's time limit
                self.nodes.doubt()
                raise
        raise redis_errors.ConnectionError(f"the nodes do not agree on which of them has slot {slot}")


Command = tuple[tuple[Any, ...], dict[str, Any]]


class _ClusterPipeline(Pipeline):
    def __init__(self, client: ClusterRedis, transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, None)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        if self.is_transaction:
            return await self._client.transact(commands)
        answers = await self._client.together(commands)
        refused = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if raise_on_error and refused is not None:
            raise refused
        return answers


async def _ask(redis: Redis, asking: bool, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    if not asking:
        return await redis.execute_command(*args, **options)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("ASKING")
        pipe.execute_command(*args, **options)
        answer = (await pipe.execute(raise_on_error=False))[1]
    if isinstance(answer, Exception):
        raise answer
    return answer


def _slot(args: Sequence[Any]) -> int | None:
    verb = str(args[0]).partition(" ")[0].upper()
    if verb in _ANYWHERE:
        return None
    match verb:
        case "EVAL" | "EVALSHA":
            key = args[3]
        case "XREAD":
            key = args[next(place for place, part in enumerate(args) if part in (b"STREAMS", "STREAMS")) + 1]
        case _:
            key = args[1]
    return slot_of(key if isinstance(key, bytes) else str(key).encode())
