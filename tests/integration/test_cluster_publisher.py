"""The publisher on a Redis Cluster whose slots move: a log moves alone, and its attempt is not lost on the way."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tailrace.broker.cluster import Nodes
from tailrace.broker.keys import log_key, rec_key
from tailrace.broker.slots import slot_of
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.schemas.errors import AttemptLost
from tailrace.worker.publish.cluster_node import ClusterNode
from tailrace.worker.publish.cluster_publisher import ClusterPublisher
from tailrace.worker.publish.commit_line import CommitLine
from tailrace.worker.publish.log_writer import LogWriter
from tailrace.worker.publish.publisher import Publisher
from tests.cluster_rig import Cluster, cluster
from tests.rig import WAIT_S
from tests.until import until

OWNER = "owner"


@pytest.fixture
async def nodes() -> AsyncGenerator[Cluster]:
    async with cluster() as nodes:
        yield nodes


@asynccontextmanager
async def publishing(nodes: Cluster) -> AsyncGenerator[ClusterPublisher]:
    def new_publisher(cluster: ClusterNode) -> Publisher:
        line = CommitLine(nodes.url, cluster.address)
        return Publisher(line, buffer_bytes=1 << 20, max_entries=1000, max_bytes=1 << 20, cluster=cluster)

    slots = Nodes(nodes.url, connect_s=1.0, reply_s=1.0)
    async with ClusterPublisher(slots, new_publisher, buffer_bytes=1 << 20) as publisher:
        yield publisher


def ids_on(nodes: Cluster, node: EmbeddedValkey, count: int) -> list[str]:
    """Requests of different slots that one node owns."""
    by_slot = {slot_of(log_key(f"r{number}").encode()): f"r{number}" for number in range(100)}
    return [request_id for request_id in by_slot.values() if nodes.first_owner(request_id) is node][:count]


async def begun(node: EmbeddedValkey, publisher: ClusterPublisher, request_id: str) -> LogWriter:
    """A writer for an attempt whose first entry is written, as `begin` leaves it."""
    async with Redis(port=node.port) as redis:
        await redis.xadd(log_key(request_id), {"e": "begun"}, id="1-0")
        await redis.hset(rec_key(request_id), mapping={"attempt": 1, "token": OWNER})
    return publisher.open_writer(request_id, 1, OWNER, lambda: True)


async def written(node: EmbeddedValkey, request_id: str) -> list[bytes]:
    """The entries after the first one, as the node has them."""
    async with Redis(port=node.port) as redis:
        return [fields[b"e"] for _, fields in await redis.xrange(log_key(request_id), "1-1")]


async def commands_at(node: EmbeddedValkey, *names: str) -> int:
    """How many of these commands the node has received, those that it redirected included."""
    async with Redis(port=node.port) as redis:
        stats = await redis.info("commandstats")
    found = [stats.get(f"cmdstat_{name}", {}) for name in names]
    return sum(count.get("calls", 0) + count.get("rejected_calls", 0) for count in found)


async def test_only_the_log_whose_slot_moves_goes_to_the_other_node(nodes: Cluster) -> None:
    # Three logs on one node, whose connection is lost while the record of one has moved and its log has not.
    source, target, _ = nodes.nodes
    moving, *staying = ids_on(nodes, source, 3)
    async with publishing(nodes) as publisher:
        writers = {request_id: await begun(source, publisher, request_id) for request_id in (moving, *staying)}
        for writer in writers.values():
            writer.append_entry(b"e1")
            await writer.flush()
        steps = nodes.move(moving, target, record_first=True)
        await anext(steps)  # the slot migrates
        await anext(steps)  # the record has moved
        assert source.ask("CLIENT KILL TYPE normal").startswith(":")
        for writer in writers.values():
            writer.append_entry(b"e2")
        for request_id in staying:
            await writers[request_id].flush()
        assert await commands_at(target, "hmget", "xadd") == 0, "a log was handed to the node before it moved there"

        await anext(steps)  # the log has moved, too
        await writers[moving].flush()
        await anext(steps, None)  # the slot has changed its owner
        for writer in writers.values():
            writer.append_entry(b"e3")
            await writer.flush()
    for request_id in staying:
        assert await written(source, request_id) == [b"e1", b"e2", b"e3"]
    assert await written(target, moving) == [b"e1", b"e2", b"e3"]


async def test_a_redirect_in_a_commit_concerns_one_log_alone(nodes: Cluster) -> None:
    # Two logs in one commit, one of which has moved while its slot has not: the node redirects (ASK) for that one.
    source, target, _ = nodes.nodes
    moving, staying = ids_on(nodes, source, 2)
    async with publishing(nodes) as publisher:
        writers = [await begun(source, publisher, request_id) for request_id in (moving, staying)]
        steps = nodes.move(moving, target)
        await anext(steps)  # the slot migrates
        await anext(steps)  # the log has moved
        for writer in writers:  # no await in between: both go with one commit
            writer.append_entry(b"e1")
        async with asyncio.timeout(WAIT_S):
            for writer in writers:
                await writer.flush()
        assert await commands_at(target, "xadd") == 1, "the other log was handed to the node as well"
        async for _ in steps:  # the record moves, too, and the slot changes its owner
            pass
    assert await written(source, staying) == [b"e1"]
    assert await written(target, moving) == [b"e1"]


async def test_a_log_that_moves_before_its_record_waits_for_it(nodes: Cluster) -> None:
    # The connection to the new node is lost, so that it is asked for the attempt, while it has the log and no record.
    source, target, _ = nodes.nodes
    (request_id,) = ids_on(nodes, source, 1)
    async with publishing(nodes) as publisher:
        writer = await begun(source, publisher, request_id)
        steps = nodes.move(request_id, target)
        await anext(steps)  # the slot migrates
        await anext(steps)  # the log has moved
        writer.append_entry(b"e1")
        await writer.flush()
        assert target.ask("CLIENT KILL TYPE normal").startswith(":")
        asked = await commands_at(target, "hmget")
        writer.append_entry(b"e2")

        async def is_asked() -> bool:
            return await commands_at(target, "hmget") > asked

        await until(is_asked)
        await anext(steps)  # the record has moved, too
        await writer.flush()
        await anext(steps, None)  # the slot has changed its owner
        writer.append_entry(b"e3")
        await writer.flush()
    assert await written(target, request_id) == [b"e1", b"e2", b"e3"]


async def test_after_moved_the_new_node_has_to_confirm_the_attempt(nodes: Cluster) -> None:
    # The new node knows another attempt under the same number, as after a failover that lost the first one.
    source, target, _ = nodes.nodes
    (request_id,) = ids_on(nodes, source, 1)
    async with publishing(nodes) as publisher:
        writer = await begun(source, publisher, request_id)
        async for _ in nodes.move(request_id, target):
            pass
        async with Redis(port=target.port) as redis:
            await redis.hset(rec_key(request_id), "token", "another owner")
        writer.append_entry(b"e1")
        with pytest.raises(AttemptLost):
            await writer.flush()
    assert await written(target, request_id) == []
