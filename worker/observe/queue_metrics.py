"""The queue as metrics show it: what waits and for how long, who works, what Redis uses. Read when somebody asks.

However many ask, Redis is asked once in a while; and a Redis that does not answer delays nobody who watches.
"""

import asyncio
from math import inf
from time import monotonic

from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.clients import asking
from tailrace.schemas.errors import StoreError
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import Figure, gauge

FRESH_S = 5.0
ANSWER_S = 2.0
LANES_MAX = 1_000
WORKERS_MAX = 1_000
SILENT_MS = 15_000
"""A worker that has not reported for so long counts no more (`producers/queue/overview.py` calls it silent)."""

PRIORITIES = ("high", "normal", "low")


class QueueSight:
    """What a Redis says of its queue.

    Args:
        redis: a client; it is used, not closed.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._seen: list[Figure] = []
        self._seen_at = -inf
        self._looking = asyncio.Lock()

    async def figures(self) -> list[Figure]:
        """The figures, at most `FRESH_S` old; of a Redis that does not answer, that it does not."""
        async with self._looking:
            if monotonic() - self._seen_at > FRESH_S:
                self._seen = await self._look()
                self._seen_at = monotonic()
            return self._seen

    async def _look(self) -> list[Figure]:
        try:
            async with asking(self._redis, ANSWER_S):
                seen = await self._overview()
                memory = await self._redis.info("memory")
        except StoreError:
            return [gauge(metrics.QUEUE_UP, 0)]
        return [*of_queue(seen), *_of_memory(memory.get("used_memory"), memory.get("maxmemory"))]

    async def _overview(self) -> scripts.Overview:
        places, values = scripts.OVERVIEW.call(
            queue=keys.QUEUE,
            workers=keys.WORKERS,
            dead=keys.DEAD,
            outbox=keys.OUTBOX,
            refused=keys.OUTBOX_REFUSED,
            lanes_max=LANES_MAX,
            begun_max=1,
            workers_max=WORKERS_MAX,
        )
        run = self._redis.register_script(scripts.OVERVIEW.text)
        return scripts.read_overview(await run([str(place) for place in places], values))


def of_queue(seen: scripts.Overview) -> list[Figure]:
    """What the queue says, by class: lanes of all tenants of a class together."""
    waiting, oldest_s = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0.0)
    for lane, count, since_ms in seen.lanes:
        priority = lane.partition(b":")[0].decode(errors="replace")
        if priority in waiting:
            waiting[priority] += count
            oldest_s[priority] = max(oldest_s[priority], (seen.now_ms - float(since_ms)) / 1000)
    workers = sum(left_ms > keys.WORKER_LIFETIME_S * 1000 - SILENT_MS for _, left_ms, _ in seen.workers)
    return [
        gauge(metrics.QUEUE_UP, 1),
        *(gauge(metrics.QUEUED, count, priority) for priority, count in waiting.items()),
        *(gauge(metrics.QUEUE_AGE, age_s, priority) for priority, age_s in oldest_s.items()),
        gauge(metrics.DEFERRED, seen.deferred),
        gauge(metrics.BEGUN, seen.begun),
        gauge(metrics.DEAD_LETTERS, seen.dead),
        gauge(metrics.WORKERS, workers),
        gauge(metrics.OUTBOX, seen.outbox[0]),
        gauge(metrics.OUTBOX_AGE, seen.outbox_age_s),
        gauge(metrics.OUTBOX_REFUSED, seen.outbox[2]),
    ]


def _of_memory(used: int | None, most: int | None) -> list[Figure]:
    figures = [] if used is None else [gauge(metrics.REDIS_MEMORY, used)]
    return figures if most is None else [*figures, gauge(metrics.REDIS_MEMORY_MAX, most)]
