"""Tenants and priorities: submit, cancel, and requests that run on real workers."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Retry, RetryJob

from tailrace.broker import keys
from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.cli.requests import status as status_command
from tailrace.producers.cli.requests import submit as submit_command
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.schemas import codec
from tailrace.schemas.errors import RequestConflict, StoreFull
from tailrace.schemas.request import decode_request
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.queue.queue_store import QueueStore
from tests.lanes_rig import Lanes, lane_keys, lanes_at
from tests.queue_rig import LONG_S, left_behind, plain_client, running
from tests.rig import rig
from tests.until import until

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
ACME = {**HELLO, "id": "mine", "tenant": "acme", "priority": "high"}
NEVER_S = 50.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    async with plain_client(redis_url) as client:
        yield client


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, ClientOptions(run_limit_s=100, retention_s=10)) as connected:
        yield connected


@pytest.fixture
async def lanes(redis_url: str, redis: ArqRedis) -> AsyncIterator[Lanes]:
    async with lanes_at(redis_url, redis) as lanes:
        yield lanes


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0)
    yield store
    await store.close()


# Submit


async def test_a_request_of_a_tenant_is_put_into_its_lane(client: Client, redis: ArqRedis, lanes: Lanes) -> None:
    # given a request with tenant and priority, if it is submitted, expect record, lane, envelope and a wake-up token,
    # nothing in the plain queue, and both in its status
    assert (await client.submit(ACME)).status == "queued"
    assert await lanes.waiting("high:acme") == ["mine"]
    assert await redis.zcard(keys.QUEUE) == 0
    envelope = await redis.get(keys.job_key("mine"))
    assert envelope is not None
    job = codec.decode_job(envelope)
    assert (job["f"], list(job["a"])) == (keys.JOB_FUNCTION, ["mine"])
    assert 100_000 < await redis.pttl(keys.job_key("mine")) <= 110_000
    assert await redis.llen(keys.WAKE) == 1
    assert await redis.ttl(keys.WAKE) > 0
    assert await redis.hmget(keys.rec_key("mine"), ["tenant", "priority"]) == [b"acme", b"high"]
    packed = await redis.hget(keys.rec_key("mine"), "request")
    assert packed is not None
    stored = decode_request(packed)
    assert (stored.tenant, stored.priority) == ("acme", "high")
    assert stored.upstream_parameters() == HELLO
    status = await client.status("mine")
    assert (status.tenant, status.priority) == ("acme", "high")


@pytest.mark.parametrize("more", [{}, {"priority": "normal"}, {"tenant": None}], ids=str)
async def test_a_request_without_tenant_and_priority_is_put_into_the_plain_queue(
    client: Client, redis: ArqRedis, more: dict[str, Any]
) -> None:
    submitted = await client.submit({**HELLO, **more})
    assert await redis.zrange(keys.QUEUE, 0, -1) == [submitted.id.encode()]
    assert await lane_keys(redis) == set()
    assert await redis.hmget(keys.rec_key(submitted.id), ["tenant", "priority"]) == [None, None]
    status = await client.status(submitted.id)
    assert (status.tenant, status.priority) == (None, "normal")


async def test_a_repeated_submit_does_not_enqueue_twice(client: Client, redis: ArqRedis, lanes: Lanes) -> None:
    # given a request in a lane, if it is submitted again, several times at once, expect one place in the lane; with
    # another tenant or priority, a conflict
    again = await asyncio.gather(*(client.submit(ACME) for _ in range(5)))
    assert [answer.already_exists for answer in again].count(False) == 1
    assert await lanes.waiting("high:acme") == ["mine"]
    for other in ({"tenant": "other"}, {"priority": "low"}):
        with pytest.raises(RequestConflict):
            await client.submit({**ACME, **other})
    assert await lanes.waiting("high:acme") == ["mine"]


async def test_a_repeated_submit_enqueues_what_was_not_enqueued(client: Client, redis: ArqRedis, lanes: Lanes) -> None:
    # given a record whose producer died before it enqueued the job, if the request is submitted again, expect it in its
    # lane; while it runs or pauses, expect a repeated submit to change nothing
    await client.submit(ACME)
    await redis.delete(keys.lane_key("high:acme"), keys.LANES, keys.job_key("mine"), keys.WAKE)
    assert (await client.submit(ACME)).already_exists
    assert await lanes.waiting("high:acme") == ["mine"]
    assert await redis.llen(keys.WAKE) == 1
    store = QueueStore(lanes.url, lease_s=LONG_S, poll_s=1.0)
    [(_, lease)] = await lanes.claim(store)
    await client.submit(ACME)
    await store.hand_back(lease, delay_ms=60_000, why="retry")
    await client.submit(ACME)
    assert await lanes.waiting("high:acme") == []
    await store.close()


async def test_wake_up_tokens_of_tenants_do_not_pile_up(lanes: Lanes, redis: ArqRedis) -> None:
    await lanes.put("a", keys.WAKE_TOKENS_MAX + 5)
    assert await redis.llen(keys.WAKE) == keys.WAKE_TOKENS_MAX


async def test_a_submit_to_a_full_redis_leaves_nothing() -> None:
    with EmbeddedValkey() as valkey:
        async with plain_client(valkey.url) as redis, Client(valkey.url) as client:
            await client.submit(ACME)
            await redis.config_set("maxmemory", 1)
            before = set(await redis.keys())
            with pytest.raises(StoreFull):
                await client.submit({**ACME, "id": "other"})
            assert set(await redis.keys()) == before


# Cancel


@pytest.mark.parametrize("waits", ["in its lane", "among others", "parked", "in a pause", "for a takeover"])
async def test_a_waiting_request_that_is_cancelled_leaves_nothing(
    client: Client, redis: ArqRedis, lanes: Lanes, waits: str
) -> None:
    # given a waiting request of a tenant, wherever it waits, if it is cancelled, expect it ended, no key of it in the
    # queue, and the other requests of its tenant served
    store = QueueStore(lanes.url, lease_s=LONG_S, poll_s=1.0, tenant_limit=1)
    others: list[str] = []
    if waits == "parked":
        await lanes.enqueue("running", "high:acme")
        [(_, running_lease)] = await lanes.claim(store)
    await client.submit(ACME)
    if waits == "among others":
        await lanes.enqueue("other", "high:acme")
        others = ["other"]
    elif waits == "parked":
        assert await lanes.claim(store) == []
    elif waits != "in its lane":
        [(_, lease)] = await lanes.claim(store)
        if waits == "in a pause":
            assert await store.hand_back(lease, delay_ms=60_000, why="retry")
        else:
            await lanes.expire("mine")
    assert (await client.cancel("mine")).verdict == "ended"
    if waits == "parked":
        assert await store.acknowledge(running_lease)  # pyright: ignore[reportPossiblyUnboundVariable] - as above
    claimed = await lanes.claim(store, 5)
    assert [job.id for job, _ in claimed] == others
    for _, lease in claimed:
        await store.acknowledge(lease)
    left = {key.decode() for key in await left_behind(redis)}
    assert left == {keys.rec_key("mine"), keys.log_key("mine")}
    await store.close()


async def test_a_cancel_leaves_a_claimed_job_to_its_worker(
    client: Client, redis: ArqRedis, lanes: Lanes, store: QueueStore
) -> None:
    # given a request that was claimed and has not begun, if it is cancelled, expect its slot and lease kept until its
    # owner acknowledges it
    await client.submit(ACME)
    [(_, lease)] = await lanes.claim(store)
    assert (await client.cancel("mine")).verdict == "ended"
    assert await redis.exists(keys.lease_key("mine"))
    assert await lanes.running("acme") == {"mine"}
    assert await store.acknowledge(lease)
    assert await lane_keys(redis) == set()


# Workers


class Jobs:
    """A job function that counts its concurrent calls by tenant, the first letter of the id."""

    def __init__(self, runs_s: float = 0.01) -> None:
        self.runs_s = runs_s
        self.now = Counter[str]()
        self.most = Counter[str]()
        self.ended: list[str] = []
        self.stopped: list[str] = []
        self.paused: set[str] = set()

    async def generate(self, ctx: dict[Any, Any], request_id: str) -> None:
        lease: Lease = ctx["lease"]
        tenant = request_id[0]
        self.now[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.now[tenant])
        try:
            await asyncio.wait({lease.stopped}, timeout=self.runs_s)
        finally:
            self.now[tenant] -= 1
        if lease.stopped.done():
            assert lease.stopped.result() is Stop.DRAINED
            self.stopped.append(request_id)
            raise RetryJob
        if request_id.endswith("5") and request_id not in self.paused:
            self.paused.add(request_id)
            raise Retry(defer=0.05)
        self.ended.append(request_id)


async def test_limits_hold_and_workers_go_on_by_wake_ups_alone(lanes: Lanes, redis: ArqRedis, redis_url: str) -> None:
    # given two workers that hardly poll, if tenants flood them with requests, some of which pause for a retry, expect
    # each request ended once, every limit reached and not exceeded, and nothing left
    jobs = Jobs()
    limits: dict[str, Any] = {"poll_s": NEVER_S, "lease_s": NEVER_S, "tenant_limit": 3, "tenant_limits": {"b": 1}}
    async with running(redis_url, jobs.generate, **limits), running(redis_url, jobs.generate, **limits):
        wanted: list[str] = []
        for tenant, priority in (("a", "normal"), ("b", "high"), ("c", "low"), ("p", "normal")):
            wanted += await lanes.put("plain" if tenant == "p" else tenant, 20, priority=priority)
        await redis.lpush(keys.WAKE, 1)
        await until(lambda: len(jobs.ended) >= len(wanted))
        assert sorted(jobs.ended) == sorted(wanted)
        assert {tenant: jobs.most[tenant] for tenant in "abc"} == {"a": 3, "b": 1, "c": 3}

        async def nothing_left() -> bool:
            return await left_behind(redis) == set()

        await until(nothing_left)


async def test_a_drained_worker_restores_the_lanes(lanes: Lanes, redis: ArqRedis, redis_url: str) -> None:
    # given a worker full of a tenant's requests, if it is drained, expect them at their old places, without slot or
    # crash, and the next worker to claim them in their old order
    jobs = Jobs(runs_s=NEVER_S)
    wanted = await lanes.put("a", 8)
    async with running(redis_url, jobs.generate, tenant_limit=5, drain_s=0.05) as worker:
        await until(lambda: jobs.now["a"] == 5)
        await worker.drained()
    assert sorted(jobs.stopped) == wanted[:5]
    assert await lanes.waiting("normal:a") == wanted
    assert await lanes.running("a") == set()
    assert await redis.keys("arq:in-progress:*") == []
    store = QueueStore(redis_url, lease_s=LONG_S, poll_s=1.0)
    claimed = [job for job, _ in await lanes.claim(store, 8)]
    assert [(job.id, job.crashes) for job in claimed] == [(request_id, 0) for request_id in wanted]
    assert {job.why for job in claimed[:5]} == {"drained"}
    await store.close()


async def test_plain_jobs_run_beside_lanes(lanes: Lanes, redis: ArqRedis, redis_url: str) -> None:
    # given lanes in use, if jobs are enqueued by `enqueue_job`, deferred or not, expect arq to report their status, and
    # both to run
    jobs = Jobs()
    await lanes.put("a", 10)
    later = await redis.enqueue_job(keys.JOB_FUNCTION, "later", _job_id="later", _defer_by=0.1)
    at_once = await redis.enqueue_job(keys.JOB_FUNCTION, "once", _job_id="once")
    assert later is not None
    assert at_once is not None
    assert [str(await job.status()) for job in (later, at_once)] == ["JobStatus.deferred", "JobStatus.queued"]
    async with running(redis_url, jobs.generate, max_jobs=1, poll_s=NEVER_S, lease_s=NEVER_S):
        await until(lambda: len(jobs.ended) == 12)
    assert jobs.ended.index("once") <= 1
    assert await left_behind(redis) == set()


async def test_requests_of_tenants_reach_their_outcome(redis_url: str) -> None:
    # given a worker with a limit of one, if tenants submit, expect an outcome for each request, and no lanes left
    async with rig(redis_url, tenant_limit=1, poll_s=NEVER_S) as parts:
        ids = [
            await parts.submit(tenant=tenant, priority=priority)
            for tenant, priority in (("a", "high"), ("a", "normal"), ("b", "low"), ("b", "low"))
        ]
        for request_id in ids:
            assert (await parts.outcome(request_id)).status == "completed"

        async def nothing_left() -> bool:
            return await lane_keys(parts.redis) == set()

        await until(nothing_left)


# The command line


async def test_the_command_line_accepts_tenant_and_priority(
    redis_url: str, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAILRACE_REDIS_URL", redis_url)
    given = ["--model", "m", "--id", "mine", "--tenant", "acme", "--priority", "low", "hello"]
    assert await asyncio.to_thread(submit_command, given) == 0
    assert capsys.readouterr().out == "mine\n"
    assert await redis.zscore(keys.lane_key("low:acme"), "mine") is not None
    assert await asyncio.to_thread(status_command, ["mine", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["tenant"], shown["priority"]) == ("acme", "low")
