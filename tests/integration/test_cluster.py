"""Requests whose records and logs are on a Redis Cluster and whose queue is on a single server."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tailrace.broker.keys import log_key
from tailrace.broker.slots import slot_of
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas.deltas import Cancelled
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.settings import Settings
from tailrace.worker.wiring import redis_client
from tests.cluster_rig import Cluster, cluster
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import KEY, WAIT_S, InProcessWorker, request_for, shown, worker_task
from tests.until import until

TEXT = "One word after another. " * 20
FAST = {"steps": [{"kind": "text", "text": TEXT}]}
SLOW = {**FAST, "pace": {"chunks_per_s": 40.0}}


class Parts:
    """A cluster, a simulator of the model server, a client and a worker."""

    def __init__(self, nodes: Cluster, simulator: Simulator, client: Client, worker: InProcessWorker) -> None:
        self.nodes = nodes
        self.simulator = simulator
        self.client = client
        self.worker = worker

    async def on_each_node(self, scenario: Mapping[str, object], **more: object) -> list[str]:
        """Submits requests until every node has at least one; returns their ids."""
        ids = [(await self.client.submit(request_for(scenario, **more))).id for _ in range(3)]
        while len({self.nodes.first_owner(request_id) for request_id in ids}) < len(self.nodes.nodes):
            ids.append((await self.client.submit(request_for(scenario, **more))).id)
        return ids

    async def text_of(self, request_id: str) -> str:
        """The text that a request's tail adds up to."""
        async with asyncio.timeout(WAIT_S), aclosing(self.client.tail(request_id)) as items:
            return shown([item async for item in items])[0]

    async def status_of(self, request_id: str) -> str:
        """The status of a request, once it has ended."""
        outcome = await self.client.result(request_id, wait_s=WAIT_S)
        assert outcome is not None
        return outcome.status


@pytest.fixture
async def parts(redis_url: str) -> AsyncGenerator[Parts]:
    async with (
        cluster() as nodes,
        Simulator(key=KEY) as simulator,
        Client(nodes.url, ClientOptions(queue_url=redis_url)) as client,
    ):
        worker = worker_task(redis_url, simulator, KEY, {}, log_url=nodes.url)
        try:
            await worker.ready
            yield Parts(nodes, simulator, client, worker)
            assert worker.stopped or not worker.task.done(), "the worker has ended without being stopped"
        finally:
            await worker.stop()


async def test_requests_run_are_retried_and_are_cancelled_on_every_node(parts: Parts, redis: Redis) -> None:
    retried = {**FAST, "faults": [{"kind": "status", "status": 429, "retry_after_s": 0.05, "calls": 1}]}
    finished = [*await parts.on_each_node(SLOW), *await parts.on_each_node(retried, tenant="acme")]
    assert await asyncio.gather(*map(parts.text_of, finished)) == [TEXT] * len(finished)
    assert {await parts.status_of(request_id) for request_id in finished} == {"completed"}
    for request_id in finished:
        assert (await parts.client.snapshot(request_id)).cursor
        assert await _has(parts.nodes.first_owner(request_id).port, request_id)
    assert not await redis.keys("tr:{*")

    hung = await parts.on_each_node({"faults": [{"kind": "hang"}]})
    await until(lambda: len(parts.simulator.ledger.entries()) >= len(hung))

    async def all_run() -> bool:
        runs = (await parts.client.overview()).runs
        return {run.id for run in runs if run.state == "running" and run.model} == set(hung)

    await until(all_run)
    assert {(await parts.client.cancel(request_id)).verdict for request_id in hung} == {"signalled"}
    assert {await parts.status_of(request_id) for request_id in hung} == {"cancelled"}

    await parts.worker.stop()
    for request_id in await parts.on_each_node(FAST):
        assert (await parts.client.cancel(request_id)).verdict == "ended"
        async with aclosing(parts.client.tail(request_id)) as items:
            assert isinstance([item.entry async for item in items][-1], Cancelled)


async def _has(port: int, request_id: str) -> bool:
    async with Redis(port=port) as node:
        return await node.exists(log_key(request_id)) == 1


async def test_dead_letters_and_outcomes_of_requests_on_every_node(
    parts: Parts, redis_url: str, tmp_path: Path
) -> None:
    await parts.worker.stop()
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    dead = await parts.on_each_node({"faults": [{"kind": "status", "status": 400, "calls": 99}]})
    settings = {"dead_letters": "failed", "results_url": url, "log_url": parts.nodes.url}
    async with migrated_database(url), engine_of(url) as engine:
        worker = worker_task(redis_url, parts.simulator, KEY, {}, **settings)
        try:

            async def are_listed_and_stored() -> bool:
                listed = {letter.id for letter in await parts.client.dead.list()}
                return listed == set(dead) == set(await stored_outcomes(engine))

            await until(are_listed_and_stored, WAIT_S)
        finally:
            await worker.stop()


async def test_slots_are_computed_as_the_server_does(parts: Parts) -> None:
    for key in ("tr:{a}:log", "tr:{a}:rec", "{}a", "a{b", "a}b", "", "ü{{x}}", "{a}{b}"):
        reply = parts.nodes.nodes[0].ask(f"CLUSTER KEYSLOT {key}") if key else ":0"
        assert f":{slot_of(key.encode())}" == reply


async def test_a_queue_on_a_cluster_is_refused_with_advice() -> None:
    url = "redis+cluster://127.0.0.1:1"
    with pytest.raises(SettingsError, match="TAILRACE_QUEUE_URL: a Redis Cluster holds logs, not the queue"):
        Settings.from_environment({"TAILRACE_REDIS_URL": url})
    with pytest.raises(SettingsError, match="holds logs, not the queue"):
        await Client(url).__aenter__()


async def test_a_client_gets_answers_while_a_slot_moves(parts: Parts) -> None:
    # The client has the old map of slots and asks before, during and after the move.
    (request_id, *_) = await parts.on_each_node(FAST)
    assert await parts.status_of(request_id) == "completed"
    to = next(node for node in parts.nodes.nodes if node is not parts.nodes.first_owner(request_id))
    redis = redis_client(parts.nodes.url)
    try:
        key, entries = log_key(request_id), await redis.xlen(log_key(request_id))
        async for _ in parts.nodes.move(request_id, to):
            assert await redis.xlen(key) == entries
            async with redis.pipeline(transaction=False) as several:
                several.xlen(key)
                several.xlen(log_key("another"))
                assert await several.execute() == [entries, 0]
            assert await parts.text_of(request_id) == TEXT
        assert await redis.xlen(key) == entries
        assert await _has(to.port, request_id)
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_users_of_a_cluster_need_two_more_rules(redis_url: str) -> None:
    # With the rules of our page, nothing is refused while requests are run, tailed, moved and cancelled.
    page = (Path(__file__).parents[2] / "docs/redis-users.md").read_text()
    assert "`+cluster|slots +asking`" in page
    async with cluster() as nodes, Simulator(key=KEY) as simulator:
        for node in nodes.nodes:
            for user, rules in re.findall(r"^user (worker|gateway) on >\.\.\. (.*)$", page, re.MULTILINE):
                assert node.ask(f"ACL SETUSER {user} on >{user} {rules} +cluster|slots +asking") == "+OK"
        worker = worker_task(redis_url, simulator, KEY, {}, log_url=nodes.url_as("worker:worker@"))
        async with Client(nodes.url_as("gateway:gateway@"), ClientOptions(queue_url=redis_url)) as client:
            try:
                await worker.ready
                parts = Parts(nodes, simulator, client, worker)
                ids = await parts.on_each_node(SLOW)
                source = nodes.first_owner(ids[0])
                to = next(node for node in nodes.nodes if node is not source)
                async with aclosing(client.tail(ids[0])) as items:
                    await anext(items)
                    async for _ in nodes.move(ids[0], to):
                        for _ in range(8):
                            await anext(items)
                assert [await parts.text_of(request_id) for request_id in ids] == [TEXT] * len(ids)
                hung = (await client.submit(request_for({"faults": [{"kind": "hang"}]}))).id
                assert (await client.cancel(hung)).verdict in ("signalled", "ended")
                assert await parts.status_of(hung) == "cancelled"
            finally:
                await worker.stop()
        for node in nodes.nodes:
            async with Redis(port=node.port) as redis:
                assert await redis.execute_command("ACL LOG") == []
