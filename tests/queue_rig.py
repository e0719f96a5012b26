"""Shared by the tests of the queue: arq's plain client, and a worker that runs in the background."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple

from arq.connections import ArqRedis
from arq.typing import WorkerCoroutine
from arq.worker import Function, func
from redis.asyncio import ConnectionPool

from tailrace.broker import keys
from tailrace.broker.scripts import ClaimedJob
from tailrace.schemas.codec import decode_job, encode_job
from tailrace.worker.queue.leased_worker import LeasedWorker
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.queue_store import QueueStore

DEADLINE_S = 15.0
LONG_S = 60.0
"""A lease that does not expire during a test."""


@asynccontextmanager
async def plain_client(url: str) -> AsyncGenerator[ArqRedis, None]:
    """arq's own client with our serializers: what a producer without Tailrace uses."""
    client = ArqRedis(ConnectionPool.from_url(url), job_serializer=encode_job, job_deserializer=decode_job)
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)


async def wake(client: ArqRedis) -> None:
    """Pushes a wake-up token, as our producers do after `enqueue_job`."""
    await client.lpush(keys.WAKE, 1)


def lease_of(job: ClaimedJob, token: str, store: QueueStore) -> Lease:
    """The lease of a claimed job."""
    return Lease(
        job.id,
        attempt=job.attempt,
        token=token,
        why=job.why,
        crashes=job.crashes,
        ends_at=monotonic() + LONG_S,
        mint=store.next_attempt,
    )


class Death(NamedTuple):
    """A call of `on_dead`; `queued` is whether the queue still had the entry."""

    job_id: str
    code: str
    queued: bool


class Running:
    """A worker that runs in the background."""

    def __init__(self, worker: LeasedWorker, deaths: list[Death]) -> None:
        self.worker = worker
        self.deaths = deaths
        self.task = asyncio.create_task(worker.run())

    async def drained(self) -> None:
        """Drains the worker and waits until it has ended."""
        self.worker.drain()
        async with asyncio.timeout(DEADLINE_S):
            await self.task


@asynccontextmanager
async def running(url: str, *functions: WorkerCoroutine | Function, **settings: Any) -> AsyncGenerator[Running, None]:
    """Runs a worker with short times; at the end it is drained without a grace period.

    Args:
        url: the server's URL.
        functions: job functions; a plain coroutine function is registered under the name that requests use.
        settings: arguments of `LeasedWorker`, which override the short times.
    """
    deaths: list[Death] = []
    ctx: dict[Any, Any] = {}

    async def on_dead(job_id: str, lease: Lease, code: str, message: str) -> None:
        deaths.append(Death(job_id, code, await ctx["redis"].zscore(keys.QUEUE, job_id) is not None))

    times: dict[str, Any] = {"lease_s": 1.0, "poll_s": 0.2, "drain_s": 5.0, "handle_signals": False, "on_dead": on_dead}
    named = [job if isinstance(job, Function) else func(job, name=keys.JOB_FUNCTION) for job in functions]
    worker = LeasedWorker(named, redis_url=url, ctx=ctx, **{**times, **settings})
    under_way = Running(worker, deaths)
    try:
        yield under_way
    finally:
        for _ in range(3):
            worker.drain()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait({under_way.task})
        await worker.close()
    await under_way.task


async def left_behind(client: ArqRedis) -> set[bytes]:
    """Every key, except the wake-up list and what workers write about themselves."""
    left = set(await client.keys()) - {keys.WAKE.encode(), keys.WORKERS.encode(), b"arq:queue:health-check"}
    return {key for key in left if not key.startswith(keys.worker_key("").encode())}
