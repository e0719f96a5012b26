"""Shared by the tests of tenants: puts requests into lanes, and shows claims as the tenants they served."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from time import time_ns

from arq.connections import ArqRedis
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.broker.scripts import ClaimedJob
from tailrace.producers.store import ProducerStore
from tailrace.schemas.codec import encode_job
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.queue_store import QueueStore
from tests.queue_rig import lease_of
from tests.until import until

LANE_KEYS = "tr:queue:[lrw]*"
"""Matches lanes, their index, the sets of running and watched requests, and the wake-up list."""


class Lanes:
    """A queue with producer and workers. Request ids are `<tenant>-<number>`, in the plain queue `plain-<number>`."""

    def __init__(self, url: str, client: ArqRedis, producer: ProducerStore) -> None:
        self.url = url
        self.client = client
        self.producer = producer
        self.tokens = 0

    async def put(self, tenant: str, count: int = 1, *, priority: str = "normal", first: int = 1) -> list[str]:
        """Enqueues requests of a tenant into its lane; those of `plain` into arq's queue, by `enqueue_job`."""
        ids = [f"{tenant}-{number:04}" for number in range(first, first + count)]
        for request_id in ids:
            if tenant == "plain":
                await self.client.enqueue_job(keys.JOB_FUNCTION, request_id, _job_id=request_id)
            else:
                await self.enqueue(request_id, f"{priority}:{tenant}")
        if tenant == "plain":
            await until(lambda: self.is_due(ids[-1]))
        return ids

    async def is_due(self, request_id: str) -> bool:
        """Whether a plain job is due. arq rounds the enqueue time, so a job may be due half a millisecond later."""
        score = await self.client.zscore(keys.QUEUE, request_id)
        seconds, micros = await self.client.time()
        return score is None or score <= seconds * 1000 + micros // 1000

    async def enqueue(self, request_id: str, lane: str, argument: object = None) -> None:
        """Enqueues one request into a lane; its job function gets `argument`, or else the id."""
        job: dict[str, object] = {"t": None, "f": keys.JOB_FUNCTION, "a": (argument or request_id,), "k": {}, "et": 0}
        await self.producer.queue.enqueue(
            request_id, lane, encode_job(job), life_ms=600_000, since_ms=time_ns() // 10**6
        )

    async def claim(self, store: QueueStore, limit: int = 1) -> list[tuple[ClaimedJob, Lease]]:
        """Claims once; returns the jobs with their leases."""
        self.tokens += 1
        token = f"t{self.tokens}"
        claim = await store.claim(limit, token, is_repeat=False)
        return [(job, lease_of(job, token, store)) for job in claim.jobs]

    async def served(self, store: QueueStore, claims: int, limit: int = 1) -> list[str]:
        """The tenants served by each of so many claims, in order."""
        return [tenants_of(await self.claim(store, limit)) for _ in range(claims)]

    async def running(self, tenant: str) -> set[str]:
        """The requests that count against the limit of a tenant."""
        members: set[bytes] = await self.client.execute_command("SMEMBERS", keys.running_key(tenant))
        return {member.decode() for member in members}

    async def waiting(self, lane: str) -> list[str]:
        """The ids in a lane, first to last."""
        return [member.decode() for member in await self.client.zrange(keys.lane_key(lane), 0, -1)]

    async def expire(self, request_id: str) -> None:
        """Expires the lease, as if its time had passed without a renewal."""
        await self.client.delete(keys.lease_key(request_id))
        for place in (keys.QUEUE, keys.WATCHED):
            await self.client.zadd(place, {request_id: 1}, xx=True)


@asynccontextmanager
async def lanes_at(url: str, client: ArqRedis) -> AsyncGenerator[Lanes]:
    """The queue at `url` with a producer."""
    producer = await ProducerStore.connect(url, timeout_s=5.0)
    try:
        yield Lanes(url, client, producer)
    finally:
        await producer.close()


def tenants_of(claimed: Iterable[tuple[ClaimedJob, Lease]]) -> str:
    """The first letters of the tenants of claimed jobs."""
    return "".join(job.id[0] for job, _ in claimed)


async def lane_keys(client: Redis) -> set[str]:
    """The keys of lanes that exist, without the wake-up list."""
    return {key.decode() for key in await client.keys(LANE_KEYS)} - {keys.WAKE}
