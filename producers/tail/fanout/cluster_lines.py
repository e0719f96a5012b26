"""Reads the logs of a cluster, on separate lines to each node, with the interface of `LogLines`.

A node that hangs delays only its own reads. Knows nothing of tails.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from tailrace.broker.cluster import Nodes, redirect_of
from tailrace.broker.slots import slot_of
from tailrace.producers.link import Link
from tailrace.producers.tail.fanout.log_lines import CLOSED, LogLines
from tailrace.schemas.errors import StoreError, StoreUnavailable
from tailrace.schemas.redis_url import Node

_ASKING = (b"ASKING",)


class ClusterLines:
    """As `LogLines`.

    Args:
        link: the link to the cluster, with its time limits and errors.
        nodes: the map of slots.
    """

    def __init__(self, link: Link, nodes: Nodes) -> None:
        self._link = link
        self._nodes = nodes
        self._lines: dict[Node, LogLines] = {}
        self._closed = False

    async def ask(self, commands: Sequence[Sequence[bytes]], *, entries: int) -> list[Any]:
        """As `LogLines.ask`, for one command, or one transaction, on keys of one slot.

        Raises:
            StoreUnavailable: also when another node has the slot now: after a failover it may have fewer entries.
        """
        node = await self._find(next(command[1] for command in commands if len(command) > 1))
        try:
            return await self._line(node).ask(commands, entries=entries)
        except StoreError as error:
            redirect = redirect_of(error.__cause__, node)
            if redirect is None:
                self._doubt(error)
                raise
        if not redirect.asking:
            self._nodes.moved(redirect)
            raise StoreUnavailable(f"a slot of {self._link.place} has moved to another node")
        return (await self._line(redirect.node).ask((_ASKING, *commands), entries=entries))[1:]

    async def ends(self, logs: Sequence[bytes]) -> list[Any]:
        """As `LogLines.ends`; each node is asked for its own logs."""
        of_nodes: dict[Node, list[int]] = {}
        found: list[Any] = [()] * len(logs)
        try:
            for place, log in enumerate(logs):
                of_nodes.setdefault(await self._find(log), []).append(place)
        except StoreError:
            return found

        async def look(node: Node, places: Sequence[int]) -> None:
            answers = await self._line(node).ends([logs[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer

        await asyncio.gather(*(look(node, places) for node, places in of_nodes.items()))
        return found

    async def close(self) -> None:
        """As `LogLines.close`."""
        self._closed = True
        for line in self._lines.values():
            await line.close()

    async def _find(self, key: bytes) -> Node:
        async with self._link.asking():
            return await self._nodes.find(slot_of(key))

    def _line(self, node: Node) -> LogLines:
        if self._closed:
            raise StoreError(CLOSED)
        if node not in self._lines:
            self._lines[node] = LogLines(self._link, node)
        return self._lines[node]

    def _doubt(self, error: StoreError) -> None:
        if isinstance(error, StoreUnavailable):
            self._nodes.doubt()


def lines_of(link: Link) -> LogLines | ClusterLines:
    """Lines to a server, or to each node of a cluster."""
    return LogLines(link) if link.nodes is None else ClusterLines(link, link.nodes)
