"""Logs on a Redis Cluster while slots move, nodes hang or die, and workers are killed."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tests.cluster_rig import Cluster, cluster
from tests.fault.workers import WAIT_S, Attached, WorkerProcess, worker_process
from tests.rig import KEY, request_for
from tests.until import until

TEXT = "One word after another. " * 20
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 40.0}}
FAST = {"steps": [{"kind": "text", "text": TEXT}]}


class Parts:
    """A cluster, a queue, a simulator of the model server, and a client."""

    def __init__(self, queue_url: str, nodes: Cluster, simulator: Simulator, client: Client) -> None:
        self._queue_url = queue_url
        self.nodes = nodes
        self._simulator = simulator
        self.client = client

    @asynccontextmanager
    async def worker(self, **settings: str) -> AsyncGenerator[WorkerProcess]:
        """Runs a worker process."""
        urls = {"TAILRACE_QUEUE_URL": self._queue_url, "TAILRACE_LOG_URL": self.nodes.url}
        async with worker_process("redis://127.0.0.1:1/0", self._simulator, **urls, **settings) as worker:
            yield worker

    async def submitted(self, node: EmbeddedValkey, scenario: dict[str, Any] = SLOW) -> str:
        """Submits a request whose log is on this node; returns its id."""
        while True:
            request_id = f"r-{os.urandom(6).hex()}"
            if self.nodes.first_owner(request_id) is node:
                return (await self.client.submit(request_for(scenario, id=request_id))).id

    async def reads(self, node: EmbeddedValkey, scenario: dict[str, Any] = SLOW) -> Attached:
        """A reader that has read a part of an answer whose log is on this node."""
        reader = Attached(self.client, await self.submitted(node, scenario))
        await until(reader.has_read(8), WAIT_S)
        return reader


@pytest.fixture
async def parts(redis_url: str) -> AsyncGenerator[Parts]:
    async with cluster(appendonly=True) as nodes, Simulator(key=KEY) as simulator:
        options = ClientOptions(timeout_s=2.0, quiet_log_s=0.5, queue_url=redis_url, away_limit_s=WAIT_S)
        async with Client(nodes.url, options) as client:
            yield Parts(redis_url, nodes, simulator, client)


async def test_a_slot_that_moves_during_a_stream_loses_and_duplicates_nothing(parts: Parts) -> None:
    # The slot moves key by key while the reader follows: the reader gets each entry once, in order.
    source, to, _ = parts.nodes.nodes
    async with parts.worker():
        reader = await parts.reads(source)
        request_id = reader.request_id
        async for _ in parts.nodes.move(request_id, to):
            await until(reader.has_read(len(reader.items) + 6), WAIT_S)
        await reader.to_its_end()
        outcome = await parts.client.result(request_id, wait_s=WAIT_S)
        late = Attached(parts.client, request_id)
        await late.to_its_end()
    assert outcome is not None
    assert (outcome.status, outcome.content) == ("completed", TEXT)
    assert (reader.text, reader.attempts, reader.gaps) == (TEXT, [1], 0)
    assert [item.cursor for item in reader.items] == [item.cursor for item in late.items]


async def test_a_node_that_hangs_stalls_only_its_own_logs(parts: Parts) -> None:
    hung, *others = parts.nodes.nodes
    async with parts.worker(TAILRACE_LEASE_S="5") as worker:
        *going, stalled = [await parts.reads(node) for node in (*others, hung)]
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            seen = len(stalled.items)
            await asyncio.gather(*(reader.to_its_end() for reader in going))
            for node in others:  # requests that begin while the node hangs
                reader = Attached(parts.client, await parts.submitted(node, FAST))
                await reader.to_its_end()
                assert reader.text == TEXT
            assert len(stalled.items) < seen + 40, "the node did not hang"
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        await stalled.to_its_end()
        assert stalled.text == TEXT
        assert [reader.attempts for reader in going] == [[1], [1]], worker.said


async def test_a_node_that_dies_and_restarts_continues_its_requests(parts: Parts) -> None:
    dying, other, _ = parts.nodes.nodes
    async with parts.worker():
        stalled = await parts.reads(dying)
        dying.kill()
        reader = Attached(parts.client, await parts.submitted(other, FAST))
        await reader.to_its_end()
        dying.start()
        await stalled.to_its_end()
        assert stalled.text == TEXT
        again = Attached(parts.client, await parts.submitted(dying, FAST))
        await again.to_its_end()
        assert again.text == TEXT


@pytest.mark.parametrize("how", ["by command", "after a death"])
async def test_a_promoted_replica_continues_its_requests(parts: Parts, how: str) -> None:
    # Requests and readers of the node continue on the replica, and new requests start there.
    before, *_ = parts.nodes.nodes
    async with parts.nodes.replica_of(before) as replica, parts.worker(TAILRACE_LEASE_S="5") as worker:
        reader = await parts.reads(before)
        if how == "by command":
            assert replica.ask("CLUSTER FAILOVER") == "+OK"
        else:
            before.kill()
            assert replica.ask("CLUSTER FAILOVER TAKEOVER") == "+OK"
        await until(lambda: is_primary(replica), WAIT_S)
        await reader.to_its_end()
        assert reader.text == TEXT, worker.said
        another = Attached(parts.client, await parts.submitted(before, FAST))
        await another.to_its_end()
        assert another.text == TEXT


async def is_primary(node: EmbeddedValkey) -> bool:
    async with Redis(port=node.port) as redis:
        return (await redis.info("replication"))["role"] == "master"


async def test_a_killed_worker_is_replaced_on_every_node(parts: Parts) -> None:
    # The first answer to each request stops in the middle, so it cannot end before the worker is killed.
    stalls = {**SLOW, "faults": [{"kind": "stall", "after": 30, "calls": 1}]}
    async with parts.worker() as victim:
        readers = [await parts.reads(node, {**stalls, "key": f"on {node.port}"}) for node in parts.nodes.nodes]
        async with parts.worker():
            victim.kill()
            for reader in readers:
                await reader.to_its_end()
    assert [(reader.attempts, reader.text) for reader in readers] == [([1, 2], TEXT)] * len(readers)
