"""Into the queue: a request's lane, or arq's own queue where it has none. And again, where it was lost on the way.

The one place of the producers that knows arq. Knows nothing of what a request says, and not when it is submitted.
"""

from contextlib import suppress

from arq.connections import ArqRedis
from arq.jobs import serialize_job
from arq.utils import ms_to_datetime, timestamp_ms

from producers.store import ProducerStore
from producers.tail import unknown
from schemas import codec
from schemas.errors import StoreError, StoreUnavailable
from schemas.keys import DEFAULT_PRIORITY, JOB_FUNCTION, QUEUE, lane_of

_TRIES = 3
_TIMES = ("submitted_ms", "deadline_ms", "retention_ms")


class Enqueuer:
    """Enqueues requests that stand.

    Args:
        store: the Redis, connected.
    """

    def __init__(self, store: ProducerStore) -> None:
        self._store = store
        self._arq = ArqRedis(
            store.pool,
            job_serializer=codec.encode_job,
            job_deserializer=codec.decode_job,
            default_queue_name=QUEUE,
        )

    async def enqueue(self, request_id: str, lane: str | None, *, since_ms: int, lifetime_s: float) -> None:
        """Puts a request into its lane, or where it has none into arq's queue, unless it is there.

        Args:
            request_id: the request.
            lane: as `keys.lane_of` names it.
            since_ms: when it was submitted, by the server's clock: by ours, were it ahead, it would be due later.
            lifetime_s: how long its job may stand.

        Raises:
            StoreError: Redis is away, full or refuses; the message says that the request stands and what to do.
        """
        try:
            if lane is None:
                await self._enqueue_plain(request_id, since_ms, lifetime_s)
            else:
                envelope = serialize_job(
                    JOB_FUNCTION, (request_id,), {}, None, timestamp_ms(), serializer=codec.encode_job
                )
                await self._store.enqueue(request_id, lane, envelope, max(1, round(lifetime_s * 1000)))
        except StoreError as error:
            raise type(error)(
                f"{error}; request {request_id} stands but may not be queued: submit it again with this id"
            ) from error

    async def mend(self, request_id: str) -> None:
        """Enqueues a request that stands and is nowhere: its producer died, or a failover lost its job.

        Raises:
            UnknownRequest: it does not stand.
            StoreError: as of `enqueue`.
        """
        record = await self._store.record(request_id, "tenant", "priority", *_TIMES)
        if record is None:
            raise unknown(request_id)
        tenant = record["tenant"].decode() if "tenant" in record else None
        lane = lane_of(tenant, record.get("priority", DEFAULT_PRIORITY.encode()).decode())
        submitted_ms, deadline_ms, retention_ms = (int(record[name]) for name in _TIMES)
        lifetime_s = (deadline_ms - submitted_ms + retention_ms) / 1000
        await self.enqueue(request_id, lane, since_ms=submitted_ms, lifetime_s=lifetime_s)

    async def _enqueue_plain(self, request_id: str, since_ms: int, lifetime_s: float) -> None:
        """Puts the request into arq's queue unless it is there, and wakes an idle worker.

        arq answers None both when the job stands and when the connection broke in the middle of its transaction
        (redis-py makes a WatchError of that), so None is looked into. Too often is harmless: a worker sees a finished
        request and acknowledges.
        """
        for _ in range(_TRIES):
            async with self._store.asking():
                job = await self._arq.enqueue_job(
                    JOB_FUNCTION,
                    request_id,
                    _job_id=request_id,
                    _defer_until=ms_to_datetime(since_ms),
                    _expires=lifetime_s,
                    _queue_name=QUEUE,
                )
            if job is not None or await self._store.is_enqueued(request_id):
                break
            record = await self._store.record(request_id)
            if record is None or record["status"] != b"queued":
                return
        else:
            raise StoreUnavailable("Redis did not take the job")
        with suppress(StoreError):  # a token lost costs an idle worker's next poll, nothing else
            await self._store.wake()
