"""Into the queue: a request's lane, or arq's own queue where it has none. And again, where it was lost on the way.

The one place of the producers that knows arq, by its envelope. Knows nothing of what a request says.
"""

from arq.jobs import serialize_job
from arq.utils import timestamp_ms

from tailrace.broker.keys import JOB_FUNCTION, lane_of
from tailrace.producers.store import ProducerStore
from tailrace.schemas import codec
from tailrace.schemas.errors import StoreError, UnknownRequest
from tailrace.schemas.priority import DEFAULT_PRIORITY

_TIMES = ("submitted_ms", "deadline_ms", "retention_ms")


class Enqueuer:
    """Enqueues requests that stand.

    Args:
        store: the Redis, connected.
    """

    def __init__(self, store: ProducerStore) -> None:
        self._store = store

    async def enqueue_request(self, request_id: str, lane: str | None, *, since_ms: int, lifetime_s: float) -> None:
        """Puts a request into its lane, or where it has none into arq's queue, unless it is there.

        Args:
            request_id: the request.
            lane: as `keys.lane_of` names it.
            since_ms: when it was submitted, by the server's clock.
            lifetime_s: how long its job may stand.

        Raises:
            StoreError: Redis is away, full or refuses; the message says that the request stands and what to do.
        """
        envelope = serialize_job(JOB_FUNCTION, (request_id,), {}, None, timestamp_ms(), serializer=codec.encode_job)
        try:
            await self._store.queue.enqueue(
                request_id, lane, envelope, life_ms=max(1, round(lifetime_s * 1000)), since_ms=since_ms
            )
        except StoreError as error:
            raise error.with_context(
                after=f"; request {request_id} exists but may not be queued: submit it again with this id"
            ) from error

    async def enqueue_if_lost(self, request_id: str) -> None:
        """Enqueues a request that stands and is nowhere: its producer died, or a failover lost its job.

        Raises:
            UnknownRequest: it does not stand.
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
