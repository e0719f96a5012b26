"""Queue on one server, records and logs on another: the life of a request, and what the gap between them leaves."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas.deltas import Cancelled, ErrorInfo, Stalled
from tailrace.schemas.errors import StoreRefused, StoreUnavailable
from tailrace.schemas.settings import Settings
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.queue.leases import Lease
from tailrace.worker.results.outbox import OutcomeOutbox
from tailrace.worker.wiring import check_servers
from tests.gateway_rig import gateway
from tests.queue_rig import plain_client, running
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import KEY, WAIT_S, Rig, request_for, rig, shown, worker_task
from tests.tls_rig import free_port
from tests.until import until

TEXT = "One word after another. " * 20
TELLS = {"steps": [{"kind": "text", "text": TEXT}]}
SLOW = {**TELLS, "pace": {"chunks_per_s": 40.0}}


@pytest.fixture(scope="module")
def _second() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture
def queue_url(_second: EmbeddedValkey) -> str:
    """URL of another server, empty."""
    assert _second.ask("FLUSHALL SYNC") == "+OK"
    assert _second.ask("SCRIPT FLUSH SYNC") == "+OK"
    return _second.url


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(queue_url) as client:
        yield client


@pytest.fixture
async def split(redis_url: str, queue_url: str) -> AsyncGenerator[Rig]:
    async with rig(redis_url, queue_url=queue_url) as parts:
        yield parts


async def test_a_request_comes_to_its_end_and_each_server_has_its_keys(split: Rig, queue: Redis) -> None:
    ids = [
        await split.submit(TELLS),
        await split.submit(TELLS, tenant="acme", priority="high"),
        await split.submit({**TELLS, "faults": [{"kind": "status", "status": 429, "retry_after_s": 0.05, "calls": 1}]}),
    ]
    for request_id in ids:
        assert (await split.outcome(request_id)).content == TEXT
        assert shown(await split.entries(request_id))[0] == TEXT
        assert (await split.client.snapshot(request_id)).cursor
    assert all(key.startswith(b"tr:{") for key in await split.redis.keys())

    async def is_quiet() -> bool:
        left = [key for key in await queue.keys() if not key.startswith(b"tr:worker")]
        return set(left) <= {keys.WAKE.encode(), keys.HEALTH.encode()}

    await until(is_quiet)


async def test_a_plain_enqueue_that_carries_the_request(split: Rig, queue_url: str) -> None:
    async with plain_client(queue_url) as arq:
        await arq.enqueue_job("generate", "plain", request_for(TELLS), _job_id="plain")
        await until(lambda: has_record(split, "plain"))
    assert (await split.outcome("plain")).content == TEXT


async def has_record(parts: Rig, request_id: str) -> bool:
    return await parts.rec(request_id, "status") is not None


async def test_a_cancel_of_what_runs(split: Rig) -> None:
    request_id = await split.submit(SLOW)

    async def has_text() -> bool:
        return len(await split.ids(request_id)) > 4

    await until(has_text)
    assert (await split.client.cancel(request_id)).verdict == "signalled"
    outcome = await split.outcome(request_id)
    assert outcome.status == "cancelled"
    assert outcome.content


async def test_a_cancel_that_was_not_heard_is_looked_up(redis_url: str, queue_url: str) -> None:
    async with rig(redis_url, queue_url=queue_url, lease_s=0.5) as parts:
        request_id = await parts.submit({"faults": [{"kind": "hang"}]})
        await until(lambda: len(parts.simulator.ledger.entries()) == 1)
        await parts.redis.hset(keys.rec_key(request_id), "cancel", 1)
        assert (await parts.outcome(request_id)).status == "cancelled"


async def test_a_cancel_of_what_waits_takes_it_out_of_the_queue(redis_url: str, queue_url: str, queue: Redis) -> None:
    async with Client(redis_url, ClientOptions(queue_url=queue_url)) as client:
        for more in ({}, {"tenant": "acme"}):
            submitted = await client.submit(request_for(TELLS, **more))
            assert (await client.cancel(submitted.id)).verdict == "ended"
            async with aclosing(client.tail(submitted.id)) as items:
                assert isinstance([item.entry async for item in items][-1], Cancelled)
    assert set(await queue.keys()) <= {keys.WAKE.encode()}


async def test_who_cancels_what_waits_sees_to_it_that_its_outcome_can_wait(
    redis_url: str, queue_url: str, redis: Redis, queue: Redis
) -> None:
    # given an outbox beside the queue, and a web tier that has learned of it by a cancel, expect the record of the next
    # one, on the other server, to stay as long as its outcome may wait
    await OutcomeOutbox(queue, redis, claim_s=30).open()
    async with Client(redis_url, ClientOptions(queue_url=queue_url, retention_s=60)) as client:
        ids = [(await client.submit(request_for(TELLS, timeout_s=60))).id for _ in range(2)]
        for request_id in ids:
            assert (await client.cancel(request_id)).verdict == "ended"
    assert await queue.xlen(keys.OUTBOX) == 2
    assert await redis.ttl(keys.rec_key(ids[1])) > keys.OUTBOX_LIFETIME_S - 100


async def test_dead_letters_are_of_the_queue_and_say_what_the_record_says(split: Rig, queue: Redis) -> None:
    await split.worker.stop()
    request_id = (await split.client.submit(request_for(TELLS, tenant="acme", timeout_s=60))).id
    await split.redis.hset(keys.rec_key(request_id), "deadline_ms", 1)
    worker = worker_task(split.url, split.simulator, KEY, {}, queue_url=str(url_of(queue)))
    try:
        outcome = await split.outcome(request_id)
        await until(lambda: is_listed(split.client))
        (letter,) = await split.client.dead.list()
        assert (letter.id, letter.error, letter.tenant) == (request_id, outcome.error, "acme")
        assert letter.died_at == outcome.finished_at
        await queue.hdel(keys.dead_letter_key(request_id), "request")  # as of one too large: then the record has it
        retried = await split.client.dead.retry(request_id)
        assert (await split.outcome(retried.id)).retry_of == request_id
    finally:
        await worker.stop()


async def is_listed(client: Client) -> bool:
    return bool(await client.dead.list())


def url_of(redis: Redis) -> str:
    options = redis.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/0"


async def test_one_that_has_ended_otherwise_is_not_listed(split: Rig, queue: Redis) -> None:
    request_id = await split.submit(TELLS)
    await split.outcome(request_id)
    store = Store(split.redis, queue=queue)
    error = ErrorInfo("internal_error", "a fault", "operator")
    assert not await store.add_dead_letter(request_id, error, crashes=0, with_envelope=True)
    assert await split.client.dead.list() == []


async def test_the_overview_names_what_runs_with_what_its_record_says(split: Rig) -> None:
    request_id = await split.submit(SLOW, tenant="acme")

    async def runs() -> bool:
        return [run.entries > 1 for run in (await split.client.overview()).runs] == [True]

    await until(runs)
    (run,) = (await split.client.overview()).runs
    assert (run.id, run.state, run.model, run.tenant) == (request_id, "running", "sim", "acme")


@pytest.mark.parametrize("more", [{}, {"tenant": "acme"}], ids=str)
async def test_a_request_whose_job_is_lost_is_told_and_mended_by_its_reader(
    redis_url: str, queue_url: str, queue: Redis, more: dict[str, str]
) -> None:
    # given a record whose job is gone, as after a failover of the queue's server, if somebody reads, expect it told and
    # the request run
    options = ClientOptions(queue_url=queue_url, stalled_after_s=0.2)
    async with Client(redis_url, options) as client, rig(redis_url, queue_url=queue_url) as parts:
        await parts.worker.stop()
        request_id = (await client.submit(request_for(TELLS, **more))).id
        await queue.flushall()
        worker: Any = None
        told: list[str] = []
        try:
            async with asyncio.timeout(20), aclosing(client.tail(request_id)) as items:
                async for item in items:
                    if isinstance(item.entry, Stalled):
                        told.append(item.entry.why)
                        worker = worker or worker_task(redis_url, parts.simulator, KEY, {}, queue_url=queue_url)
        finally:
            if worker:
                await worker.stop()
        assert told[0] == "lost"
        outcome = await client.result(request_id)
        assert outcome is not None
        assert outcome.content == TEXT


async def test_a_job_whose_requests_end_was_lost_is_run_again(redis_url: str, queue_url: str, redis: Redis) -> None:
    # given that the logs' server, after a failover, knows the request as one that runs, if its job is done with, expect
    # another attempt, until the end stands
    attempts: list[str] = []

    async def generate(ctx: dict[Any, Any], request_id: str) -> None:
        lease: Lease = ctx["lease"]
        attempts.append(lease.why)
        await redis.hset(keys.rec_key(request_id), "status", "running" if lease.attempt < 3 else "completed")

    async with plain_client(queue_url) as client, running(queue_url, generate, log_url=redis_url):
        await client.enqueue_job("generate", "a", _job_id="a")
        await until(lambda: gone(client))
    assert attempts == ["first", "end_lost", "end_lost"]


async def gone(client: ArqRedis) -> bool:
    return not await client.exists(keys.job_key("a"))


async def test_the_logs_away_cost_no_lease(queue_url: str) -> None:
    # given a job that runs, if the logs' server is away for longer than a lease, expect the lease renewed all along
    leases: list[Lease] = []
    gate = asyncio.Event()

    async def generate(ctx: dict[Any, Any], request_id: str) -> None:
        leases.append(ctx["lease"])
        await gate.wait()

    with EmbeddedValkey() as logs:
        async with plain_client(queue_url) as client, running(queue_url, generate, log_url=logs.url, lease_s=0.5):
            await client.enqueue_job("generate", "a", _job_id="a")
            await until(lambda: bool(leases))
            logs.stop()
            ends_at = leases[0].ends_at
            await until(lambda: leases[0].ends_at > ends_at + 1.0)
            assert leases[0].holds()
            logs.start()
            gate.set()
            await until(lambda: gone(client))
        assert [lease.attempt for lease in leases] == [1]


async def test_each_server_is_named_by_its_setting(redis_url: str, queue_url: str) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    for more, named in (
        ({"queue_url": nowhere}, "TAILRACE_QUEUE_URL"),
        ({"log_url": nowhere}, "TAILRACE_LOG_URL"),
        ({"redis_url": nowhere, "queue_url": queue_url}, "TAILRACE_REDIS_URL"),
    ):
        with pytest.raises(StoreUnavailable, match=named):
            await check_servers(Settings.model_validate({"redis_url": redis_url, **more}))


async def test_outcomes_reach_the_database_from_the_other_server(
    redis_url: str, queue_url: str, queue: Redis, tmp_path: Path
) -> None:
    # given a database for outcomes, if a request ends, and one is cancelled that waits, expect both in it, and nothing
    # left in the outbox
    url = f"sqlite+aiosqlite:///{tmp_path}/results.db"
    async with (
        migrated_database(url),
        engine_of(url) as engine,
        rig(redis_url, queue_url=queue_url, results_url=url) as parts,
    ):

        async def has(*ids: str) -> bool:
            return set(await stored_outcomes(engine)) == set(ids) and await queue.xlen(keys.OUTBOX) == 0

        first = await parts.submit(TELLS)
        await until(lambda: has(first), WAIT_S)
        await parts.worker.stop()
        waits = await parts.submit(TELLS)
        assert (await parts.client.cancel(waits)).verdict == "ended"
        worker = worker_task(redis_url, parts.simulator, KEY, {}, queue_url=queue_url, results_url=url)
        try:
            await until(lambda: has(first, waits), WAIT_S)
        finally:
            await worker.stop()


@pytest.mark.parametrize("knows", ["by its own database", "by its start", "by an acknowledgement"])
async def test_a_record_on_the_other_server_stays_while_its_outcome_waits(
    redis_url: str, queue_url: str, queue: Redis, redis: Redis, knows: str
) -> None:
    # given a database that is away, and a worker that knows of an outbox in one way or another, expect the record of
    # what it ends then to stay as long as its outcome may have to wait
    outbox = OutcomeOutbox(queue, redis, claim_s=30)
    if knows == "by its start":
        await outbox.open()
    away = "postgresql+asyncpg://tailrace@127.0.0.1:1/tailrace" if knows == "by its own database" else ""
    async with rig(redis_url, queue_url=queue_url, results_url=away) as parts:
        if knows == "by an acknowledgement":
            await outbox.open()
            await parts.outcome(await parts.submit(TELLS))
            await until(lambda: _has(queue, 1))
        request_id = await parts.submit(TELLS)
        await parts.outcome(request_id)
    assert await redis.ttl(keys.rec_key(request_id)) > keys.OUTBOX_LIFETIME_S - 100


async def _has(queue: Redis, count: int) -> bool:
    return await queue.xlen(keys.OUTBOX) == count


async def test_a_gateway_is_ready_when_both_servers_are(redis_url: str, tmp_path: Path) -> None:
    with EmbeddedValkey() as away:
        async with gateway(redis_url, tmp_path, queue_url=away.url) as served:
            assert (await served.http.get("/readyz")).status_code == 200
            away.kill()
            assert (await served.http.get("/readyz")).status_code == 503


async def test_a_node_of_a_cluster_is_refused_by_name(redis_url: str) -> None:
    # given a node that has all slots, as a server of its own has all keys, expect it refused all the same
    with EmbeddedValkey(options={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as node:
        assert node.ask("CLUSTER ADDSLOTSRANGE 0 16383") == "+OK"
        await until(lambda: node.ask("GET {a}") == "$-1")
        with pytest.raises(StoreRefused, match=r"TAILRACE_QUEUE_URL.*Redis Cluster"):
            await check_servers(Settings(redis_url=redis_url, queue_url=node.url))
        async with Client(node.url) as client:
            with pytest.raises(StoreRefused, match="Redis Cluster"):
                await client.submit(request_for(TELLS))
