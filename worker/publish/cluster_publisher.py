"""The publisher of a cluster: one publisher for each node, so that a node that is away stalls only its own logs.

Knows which node has a log. The publisher of the node decides when and how entries are written.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from tailrace.broker.cluster import Nodes
from tailrace.broker.connections import place_of
from tailrace.broker.errors import store_error
from tailrace.broker.keys import log_key
from tailrace.broker.slots import slot_of
from tailrace.schemas.errors import StoreUnavailable
from tailrace.schemas.redis_url import Node
from tailrace.telemetry.metric_samples import MetricSample
from tailrace.worker.publish.cluster_node import ClusterNode
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.publish.publisher import Publisher


class ClusterPublisher:
    """Has the interface of `Publisher`: `async with` runs it, `open_writer` gives a writer.

    Args:
        nodes: the map of slots, shared with the clients that keep it up to date.
        new_publisher: makes the publisher of a node.
        buffer_bytes: unwritten bytes of the process; each node's publisher gets an equal share.
    """

    def __init__(self, nodes: Nodes, new_publisher: Callable[[ClusterNode], Publisher], *, buffer_bytes: int) -> None:
        self._nodes = nodes
        self._new_publisher = new_publisher
        self._buffer_bytes = buffer_bytes
        self._publishers: dict[Node, Publisher] = {}
        self._fault: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def open_writer(self, request_id: str, attempt: int, token: str, lease_holds: Callable[[], bool]) -> LogWriter:
        """As `Publisher.open_writer`."""
        node = self._nodes.of(slot_of(log_key(request_id).encode()))
        return self._publisher_at(node or self._nodes.known[0]).open_writer(request_id, attempt, token, lease_holds)

    def metric_samples(self) -> list[MetricSample]:
        """What waits to be written to all nodes."""
        sums: dict[str, float] = {}
        for publisher in self._publishers.values():
            for sample in publisher.metric_samples():
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return [MetricSample(name, (), value) for name, value in sums.items()]

    @property
    def buffered_bytes(self) -> int:
        """Bytes that Redis does not have."""
        return sum(publisher.buffered_bytes for publisher in self._publishers.values())

    @property
    def writers(self) -> int:
        """How many writers are open."""
        return sum(publisher.writers for publisher in self._publishers.values())

    @property
    def task(self) -> asyncio.Task[None]:
        """As `Publisher.task`: ends when any of the publishers fails."""
        if self._task is None:
            raise StoreUnavailable("the publisher does not run")
        return self._task

    async def __aenter__(self) -> Self:
        self._fault = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._wait(self._fault), name="cluster publisher")
        try:
            await self._nodes.learn()
        except RedisError as error:
            raise store_error(error, place_of(self._nodes.options)) from error
        for node in self._nodes.primaries():
            self._publisher_at(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for publisher in self._publishers.values():
            await publisher.stop()

    async def _wait(self, fault: asyncio.Future[None]) -> None:
        await fault

    def _publisher_at(self, node: Node) -> Publisher:
        if node not in self._publishers:
            publisher = self._publishers[node] = self._new_publisher(ClusterNode(node, self._nodes, self._adopt))
            publisher.start()
            publisher.task.add_done_callback(self._end)
            for each in self._publishers.values():
                each.set_buffer_bytes(self._buffer_bytes // len(self._publishers))
        return self._publishers[node]

    def _adopt(self, node: Node, writer: LogWriter, is_confirmed: bool) -> None:
        self._publisher_at(node).adopt(writer, is_confirmed=is_confirmed)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) and self._fault and not self._fault.done():
            self._fault.set_exception(fault)
