"""Putting a request into the queue: into its lane, or into arq's own queue if it has none.

Knows the form of arq's envelope, so that no web tier has to import arq. Knows nothing of a request's content.
"""

import time

from tailrace.broker.keys import JOB_FUNCTION, lane_of
from tailrace.producers.store import ProducerStore
from tailrace.schemas import codec
from tailrace.schemas.errors import StoreError, UnknownRequest
from tailrace.schemas.priority import DEFAULT_PRIORITY

_TIMES = ("submitted_ms", "deadline_ms", "retention_ms")


class Enqueuer:
    """Enqueues requests that have a record.

    Args:
        store: the Redis, connected.
    """

    def __init__(self, store: ProducerStore) -> None:
        self._store = store

    async def enqueue_request(self, request_id: str, lane: str | None, *, since_ms: int, lifetime_s: float) -> None:
        """Puts a request into its lane, or into arq's queue if it has none, unless it is there already.

        Args:
            request_id: the request.
            lane: the lane, as `keys.lane_of` names it.
            since_ms: when the request was submitted, by the server's clock.
            lifetime_s: how long the job may exist.

        Raises:
            StoreError: Redis is unreachable or full, or it refuses; the message says that the request exists and what
                to do.
        """
        envelope = job_envelope(request_id, time.time_ns() // 1_000_000)
        try:
            await self._store.queue.enqueue(
                request_id, lane, envelope, life_ms=max(1, round(lifetime_s * 1000)), since_ms=since_ms
            )
        except StoreError as error:
            raise error.with_context(
                after=f"; request {request_id} exists but may not be queued: submit it again with this id"
            ) from error

    async def enqueue_if_lost(self, request_id: str) -> None:
        """Enqueues a request whose job is missing, because its producer died or a failover lost the job.

        Raises:
            UnknownRequest: it has no record.
            StoreError: as in `enqueue_request`.
        """
        record = await self._store.record(request_id, "tenant", "priority", *_TIMES)
        if record is None:
            raise UnknownRequest.of(request_id)
        tenant = record["tenant"].decode() if "tenant" in record else None
        lane = lane_of(tenant, record.get("priority", DEFAULT_PRIORITY.encode()).decode())
        submitted_ms, deadline_ms, retention_ms = (int(record[name]) for name in _TIMES)
        lifetime_s = (deadline_ms - submitted_ms + retention_ms) / 1000
        await self.enqueue_request(request_id, lane, since_ms=submitted_ms, lifetime_s=lifetime_s)


def job_envelope(request_id: str, enqueued_ms: int) -> bytes:
    """The job of a request in the form of `arq.jobs.serialize_job`: tries, function, arguments, time of enqueueing."""
    return codec.encode_job({"t": None, "f": JOB_FUNCTION, "a": (request_id,), "k": {}, "et": enqueued_ms})
