"""The queue as producers use it: enqueueing, dead letters, the overview. Records and logs are in `producers/store.py`.

Knows keys and scripts. Knows nothing of what requests contain or of arq.
"""

from tailrace.broker import keys, scripts
from tailrace.broker.script import Verdict
from tailrace.broker.scripts import QueueOverview, UnqueueStatus
from tailrace.producers.link import Link

_LETTER_FIELDS = ("error", "died_ms", "attempt", "failures", "crashes", "drains", "tenant")


class ProducerQueue:
    """The queue and the dead letters of one Redis. Every method raises StoreError.

    Args:
        link: the link to its Redis; it is used, not closed.
    """

    def __init__(self, link: Link) -> None:
        self.link = link

    async def enqueue(self, request_id: str, lane: str | None, envelope: bytes, *, life_ms: int, since_ms: int) -> None:
        """Puts a request into its lane or arq's queue, unless it waits or runs already, and wakes an idle worker.

        Args:
            request_id: the request.
            lane: as `keys.lane_of` names it.
            envelope: arq's.
            life_ms: how long the envelope lives.
            since_ms: when the request was submitted, in ms since 1970; it determines its position.
        """
        await self.link.run(
            scripts.ENQUEUE, request_id, lane=lane or "", envelope=envelope, life_ms=life_ms, since_ms=since_ms
        )

    async def unqueue(self, request_id: str, lane: str | None) -> Verdict[UnqueueStatus]:
        """Removes a request that has ended from the queue, unless a worker holds it, which then acknowledges it."""
        return await self.link.run(scripts.UNQUEUE, request_id, lane=lane or "")

    async def overview(self, *, lanes_max: int, begun_max: int, workers_max: int) -> QueueOverview:
        """Waiting and started requests, workers, and the number of dead requests."""
        limits = {"lanes_max": lanes_max, "begun_max": begun_max, "workers_max": workers_max}
        return await self.link.run(scripts.OVERVIEW, **limits)

    async def letters(self, limit: int) -> list[tuple[str, dict[str, bytes]]]:
        """The newest dead letters first, without their contents."""
        async with self.link.asking():
            ids: list[bytes] = await self.link.redis.execute_command("ZREVRANGE", keys.DEAD, 0, limit - 1)
            async with self.link.redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.execute_command("HMGET", keys.dead_letter_key(job_id.decode()), *_LETTER_FIELDS)
                answers = await pipe.execute()
        found: list[tuple[str, dict[str, bytes]]] = []
        for job_id, values in zip(ids, answers, strict=True):
            fields = {name: value for name, value in zip(_LETTER_FIELDS, values, strict=True) if value is not None}
            if "error" in fields:  # it may have expired
                found.append((job_id.decode(), fields))
        return found

    async def letter(self, job_id: str) -> dict[str, bytes] | None:
        """One dead letter with its content; None when there is none."""
        async with self.link.asking():
            fields = await self.link.redis.hgetall(keys.dead_letter_key(job_id))
        return {name.decode(): value for name, value in fields.items()} or None

    async def drop_letter(self, job_id: str) -> bool:
        """Removes a dead letter from the list; False if it was not there."""
        async with self.link.asking():
            async with self.link.redis.pipeline(transaction=True) as pipe:
                pipe.execute_command("ZREM", keys.DEAD, job_id)
                pipe.execute_command("DEL", keys.dead_letter_key(job_id))
                return any(await pipe.execute())
