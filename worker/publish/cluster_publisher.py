"""A publisher for each node of a cluster, behind the interface of one: a node that is away stalls its own logs alone.

Knows which node has a log. What a publisher does is its own.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from redis import exceptions as refusals

from tailrace.broker.cluster import Nodes
from tailrace.broker.keys import log_key
from tailrace.broker.slots import slot_of
from tailrace.schemas.errors import StoreUnavailable
from tailrace.schemas.redis_url import Node
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.worker.publish.commit_line import Elsewhere
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.publish.publisher import Peers, Publisher


class Make(Protocol):
    """How a publisher is made: for a node, with its peers."""

    def __call__(self, node: Node, peers: Peers) -> Publisher:
        """The publisher."""
        ...


class Publishers:
    """As `Publisher`: `async with` runs it, `open` gives a writer.

    Args:
        nodes: which node has which slots; those who run verbs keep it fresh.
        make: makes a publisher.
        buffer_bytes: unsent bytes of the process; each node's publisher has the same share of it.
    """

    def __init__(self, nodes: Nodes, make: Make, *, buffer_bytes: int) -> None:
        self._nodes = nodes
        self._make = make
        self._buffer_bytes = buffer_bytes
        self._publishers: dict[Node, Publisher] = {}
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, request_id: str, attempt: int, token: str, holds: Callable[[], bool]) -> LogWriter:
        """As `Publisher.open`."""
        return self.of(log_key(request_id).encode()).open(request_id, attempt, token, holds)

    def metric_samples(self) -> list[MetricSample]:
        """What waits to be written, of all."""
        sums: dict[str, float] = {}
        for publisher in self._publishers.values():
            for sample in publisher.metric_samples():
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return [MetricSample(name, (), value) for name, value in sums.items()]

    @property
    def buffered_bytes(self) -> int:
        """Bytes that Redis does not have yet."""
        return sum(publisher.buffered_bytes for publisher in self._publishers.values())

    @property
    def writers(self) -> int:
        """Writers that are open."""
        return sum(publisher.writers for publisher in self._publishers.values())

    @property
    def task(self) -> asyncio.Task[None]:
        """As `Publisher.task`: ends with a fault of any of them."""
        if self._task is None:
            raise StoreUnavailable("the publishers do not run")
        return self._task

    async def __aenter__(self) -> Self:
        self._ended = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._watch(self._ended), name="publishers")
        try:
            await self._nodes.learn()
        except refusals.RedisError as error:
            raise StoreUnavailable(str(error)) from error
        for node in self._nodes.primaries():
            self._at(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for publisher in self._publishers.values():
            await publisher.stop()

    def instead(self, writer: LogWriter, why: Elsewhere) -> Publisher:
        """As `Peers.instead`."""
        writer.asking = why.redirect.asking
        if not why.redirect.asking:
            self._nodes.moved(why.redirect)
        return self._at(why.redirect.node)

    async def learn(self) -> None:
        """As `Peers.learn`."""
        with suppress(refusals.RedisError):
            await self._nodes.learn()

    def of(self, log: bytes) -> Publisher:
        """As `Peers.of`."""
        node = self._nodes.of(slot_of(log))
        return self._at(node) if node is not None else next(iter(self._publishers.values()))

    async def _watch(self, ended: asyncio.Future[None]) -> None:
        await ended

    def _at(self, node: Node) -> Publisher:
        if node not in self._publishers:
            publisher = self._publishers[node] = self._make(node, self)
            publisher.start()
            publisher.task.add_done_callback(self._end)
            for each in self._publishers.values():
                each.share(self._buffer_bytes // len(self._publishers))
        return self._publishers[node]

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) and self._ended and not self._ended.done():
            self._ended.set_exception(fault)
