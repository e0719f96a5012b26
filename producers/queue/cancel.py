"""Cancelling a request: ends it if it waits, or asks its worker to end it.

Knows the order of steps. Knows nothing of Redis commands or of arq.
"""

from contextlib import suppress
from typing import Any

from tailrace.broker.keys import OUTBOX_LIFETIME_S, lane_of
from tailrace.broker.scripts import CancelStatus, UnqueueStatus
from tailrace.producers.answers import COUNTS, CancelResult, counts_of
from tailrace.producers.store import ProducerStore
from tailrace.schemas import codec
from tailrace.schemas.deltas import Cancelled
from tailrace.schemas.errors import StoreError, UnknownRequest
from tailrace.schemas.outcome import UNFILLED, Outcome
from tailrace.schemas.request import decode_request


class Canceller:
    """Cancels requests.

    Args:
        store: the Redis, connected.
        has_outbox: whether outcomes must be kept until the database has them; updated by the replies of Redis.
    """

    def __init__(self, store: ProducerStore, *, has_outbox: bool) -> None:
        self._store = store
        self._has_outbox = has_outbox

    async def cancel_request(self, request_id: str) -> CancelResult:
        """Cancels a request that has a record.

        Raises:
            UnknownRequest: it has none.
            StoreError: Redis is unreachable or full, or it refuses.
        """
        record = await self._store.record(request_id, "api", "model", "request", *COUNTS)
        if record is None:
            raise UnknownRequest.of(request_id)
        api: Any = record["api"].decode()
        request = decode_request(record["request"])
        outcome = Outcome(
            status="cancelled",
            request_id=request_id,
            submitted_at=UNFILLED,
            finished_at=UNFILLED,
            api=api,
            model=record["model"].decode(),
            retry_of=request.retry_of,
            metadata=request.metadata,
            **counts_of(record),
        )
        verdict = await self._store.cancel(
            request_id,
            terminal=codec.encode_entry(Cancelled(0)),
            outcome=codec.encode_outcome(outcome),
            keep_record_ms=OUTBOX_LIFETIME_S * 1000 if self._has_outbox else 0,
        )
        match verdict.status:
            case CancelStatus.ENDED:
                with suppress(StoreError):  # a worker that claims the job finds the request ended and removes it
                    removed = await self._store.queue.unqueue(request_id, lane_of(request.tenant, request.priority))
                    if removed.status is UnqueueStatus.REMOVED:
                        self._has_outbox = removed.number("outbox") == 1
                return CancelResult("ended", "cancelled")
            case CancelStatus.SIGNALLED:
                return CancelResult("signalled", "running")
            case CancelStatus.FINISHED:
                status: Any = verdict.text("status")
                return CancelResult("finished", status)
            case CancelStatus.UNKNOWN:
                raise UnknownRequest.of(request_id)
