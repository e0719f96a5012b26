"""Metrics of the queue: waiting requests and their age, workers, the memory of Redis. Read when they are scraped.

However often they are scraped, Redis is queried at most once per `FRESH_S`. If it does not answer, a scrape is delayed
by at most `ANSWER_S`.
"""

import asyncio
from math import inf
from time import monotonic

from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.clients import asking
from tailrace.broker.script_runner import run_script
from tailrace.schemas.errors import StoreError
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import MetricSample, gauge_sample

FRESH_S = 5.0
ANSWER_S = 2.0
LANES_MAX = 1_000
WORKERS_MAX = 1_000
SILENT_MS = 15_000
"""A worker that has not reported for this long is not counted (`producers/queue/overview.py` calls it silent)."""

PRIORITIES = ("high", "normal", "low")


class QueueMetrics:
    """Metrics of the queue in one Redis.

    Args:
        redis: a client of that Redis; it is not closed here.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._samples: list[MetricSample] = []
        self._read_at = -inf
        self._reading = asyncio.Lock()

    async def metric_samples(self) -> list[MetricSample]:
        """The samples, at most `FRESH_S` old. If Redis does not answer, only `tailrace_queue_up`, with 0."""
        async with self._reading:
            if monotonic() - self._read_at > FRESH_S:
                self._samples = await self._read()
                self._read_at = monotonic()
            return self._samples

    async def _read(self) -> list[MetricSample]:
        try:
            async with asking(self._redis, ANSWER_S):
                overview = await self._overview()
                memory = await self._redis.info("memory")
        except StoreError:
            return [gauge_sample(metrics.QUEUE_UP, 0)]
        return [*queue_samples(overview), *_memory_samples(memory.get("used_memory"), memory.get("maxmemory"))]

    async def _overview(self) -> scripts.QueueOverview:
        limits = {"lanes_max": LANES_MAX, "begun_max": 1, "workers_max": WORKERS_MAX}
        return await run_script(self._redis, scripts.OVERVIEW, **limits)


def queue_samples(overview: scripts.QueueOverview) -> list[MetricSample]:
    """Samples of the queue by priority; the lanes of all tenants of a priority are added up."""
    waiting, oldest_s = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0.0)
    for lane, count, since_ms in overview.lanes:
        priority = lane.partition(b":")[0].decode(errors="replace")
        if priority in waiting:
            waiting[priority] += count
            oldest_s[priority] = max(oldest_s[priority], (overview.now_ms - float(since_ms)) / 1000)
    workers = sum(left_ms > keys.WORKER_LIFETIME_S * 1000 - SILENT_MS for _, left_ms, _ in overview.workers)
    return [
        gauge_sample(metrics.QUEUE_UP, 1),
        *(gauge_sample(metrics.QUEUED, count, priority) for priority, count in waiting.items()),
        *(gauge_sample(metrics.QUEUE_AGE, age_s, priority) for priority, age_s in oldest_s.items()),
        gauge_sample(metrics.DEFERRED, overview.deferred),
        gauge_sample(metrics.BEGUN, overview.begun),
        gauge_sample(metrics.DEAD_LETTERS, overview.dead),
        gauge_sample(metrics.WORKERS, workers),
        gauge_sample(metrics.OUTBOX, overview.outbox[0]),
        gauge_sample(metrics.OUTBOX_AGE, overview.outbox_age_s),
        gauge_sample(metrics.OUTBOX_REFUSED, overview.outbox[2]),
    ]


def _memory_samples(used: int | None, limit: int | None) -> list[MetricSample]:
    samples = [] if used is None else [gauge_sample(metrics.REDIS_MEMORY, used)]
    return samples if limit is None else [*samples, gauge_sample(metrics.REDIS_MEMORY_MAX, limit)]
