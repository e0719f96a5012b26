"""The queue as producers use it: one method a verb. What it says of requests beyond that stands elsewhere (`store.py`).

Knows keys and scripts. Knows nothing of requests' content and of arq.
"""

from collections.abc import Mapping

from tailrace.broker import keys, scripts
from tailrace.broker.scripts import Argument, Script, Verdict
from tailrace.producers.link import Link

_LETTER_FIELDS = ("error", "died_ms", "attempt", "failures", "crashes", "drains", "tenant")


class ProducerQueue:
    """The verbs of a producer that are about the queue, and dead letters.

    Args:
        link: to its Redis; it is used, not closed.
    """

    def __init__(self, link: Link) -> None:
        self.link = link

    async def enqueue(self, request_id: str, lane: str | None, envelope: bytes, *, life_ms: int, since_ms: int) -> None:
        """Puts a request into its lane or arq's queue, unless it waits or runs already, and wakes an idle worker."""
        await self._run(
            scripts.ENQUEUE,
            {"queue": keys.QUEUE, "lease": keys.lease_key(request_id), "job": keys.job_key(request_id)},
            id=request_id,
            lane=lane or "",
            envelope=envelope,
            life_ms=life_ms,
            since_ms=since_ms,
            wake_tokens_max=keys.WAKE_TOKENS_MAX,
        )

    async def unqueue(self, request_id: str, lane: str | None) -> Verdict:
        """Takes a request that has ended out of the queue, unless a worker holds it: then that one acknowledges."""
        places = {
            "queue": keys.QUEUE,
            "lease": keys.lease_key(request_id),
            "state": keys.queue_state_key(request_id),
            "job": keys.job_key(request_id),
            "retry": keys.retry_key(request_id),
            "outbox": keys.OUTBOX,
        }
        return await self._run(scripts.UNQUEUE, places, id=request_id, lane=lane or "")

    async def overview(self, *, lanes_max: int, begun_max: int, workers_max: int) -> scripts.Overview:
        """What waits, what has begun, who works, how many died."""
        places = {"queue": keys.QUEUE, "workers": keys.WORKERS, "dead": keys.DEAD}
        places |= {"outbox": keys.OUTBOX, "refused": keys.OUTBOX_REFUSED}
        limits = {"lanes_max": lanes_max, "begun_max": begun_max, "workers_max": workers_max}
        return scripts.read_overview(await self.link.run(scripts.OVERVIEW, places, **limits))

    async def letters(self, limit: int) -> list[tuple[str, dict[str, bytes]]]:
        """The newest dead letters first, without their contents."""
        async with self.link.asking():
            ids: list[bytes] = await self.link.redis.execute_command("ZREVRANGE", keys.DEAD, 0, limit - 1)
            async with self.link.redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.execute_command("HMGET", keys.letter_key(job_id.decode()), *_LETTER_FIELDS)
                answers = await pipe.execute()
        found: list[tuple[str, dict[str, bytes]]] = []
        for job_id, values in zip(ids, answers, strict=True):
            fields = {name: value for name, value in zip(_LETTER_FIELDS, values, strict=True) if value is not None}
            if "error" in fields:  # its lifetime may be over
                found.append((job_id.decode(), fields))
        return found

    async def letter(self, job_id: str) -> dict[str, bytes] | None:
        """One dead letter, whole; None when there is none."""
        async with self.link.asking():
            fields = await self.link.redis.hgetall(keys.letter_key(job_id))
        return {name.decode(): value for name, value in fields.items()} or None

    async def drop_letter(self, job_id: str) -> bool:
        """Takes a dead letter out of the list; False when it was not there."""
        async with self.link.asking():
            async with self.link.redis.pipeline(transaction=True) as pipe:
                pipe.execute_command("ZREM", keys.DEAD, job_id)
                pipe.execute_command("DEL", keys.letter_key(job_id))
                return any(await pipe.execute())

    async def _run(self, script: Script, named: Mapping[str, str], **given: Argument) -> Verdict:
        return script.verdict(await self.link.run(script, named, **given))
