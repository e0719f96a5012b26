"""How a job leaves this worker: acknowledged, handed back, or dead. Knows nothing of how jobs run."""

import logging
from collections.abc import Awaitable, Callable

from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.telemetry.logging import fields
from tailrace.worker.queue.arq_worker import ArqWorker
from tailrace.worker.queue.job_call import Acknowledge, Dead, HandBack, JobEnd
from tailrace.worker.queue.leases import Lease
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.queue.records import Records

OnDead = Callable[[str, Lease, str, str], Awaitable[None]]
"""Called with request id, lease, code and message; `LeasedWorker` describes it."""

DEAD_RETRY_S = 5.0
"""Delay until a job is due again after its `on_dead` raised."""

_logger = logging.getLogger("tailrace.queue")


class JobEndings:
    """Carries out what `JobCall` decided.

    Args:
        store: the queue.
        records: the records of requests if they are on another server than the queue, else None.
        arq: counts the jobs that ended.
        on_dead: called for a dead job before it leaves the queue.
    """

    def __init__(self, store: QueueStore, records: Records | None, arq: ArqWorker, on_dead: OnDead) -> None:
        self._store = store
        self._records = records
        self._arq = arq
        self._on_dead = on_dead

    async def end_job(self, lease: Lease, end: JobEnd) -> None:
        """Takes the job out of this worker. Returns when Redis has answered, however long that takes."""
        match end:
            case Acknowledge():
                self._arq.count_complete()
                await self._acknowledge(lease)
            case HandBack():
                await self._hand_back(lease, end)
            case Dead():
                await self._end_dead(lease, end)

    async def _end_dead(self, lease: Lease, dead: Dead) -> None:
        request_id = lease.request_id
        _logger.warning(
            "job %s cannot be run (%s): %s",
            request_id,
            dead.code,
            dead.message,
            extra=fields("job_given_up", request_id, code=dead.code, why=dead.message),
        )
        try:
            await self._on_dead(request_id, lease, dead.code, dead.message)
        except Exception:  # a hook that raises must neither end the worker nor lose the job
            _logger.exception(
                "cannot end job %s; it is tried again", request_id, extra=fields("job_not_ended", request_id)
            )
            await self._hand_back(lease, HandBack(round(DEAD_RETRY_S * 1000), lease.why))
        else:
            self._arq.count_failed()
            await self._acknowledge(lease)

    async def _acknowledge(self, lease: Lease) -> None:
        lease.is_ending = True

        async def once() -> bool:
            # On one server acknowledge.lua reads the record itself. A failover after this read may leave a request
            # without a job; its readers repair that (docs/decisions/redis-topologies.md).
            if self._records is not None and await self._records.has_lost_end(lease.request_id):
                return await self._store.hand_back(lease, delay_ms=0, why="end_lost")
            return await self._store.acknowledge(lease)

        ours = await retry_until_answered(once, Retries("acknowledge"))
        _logger.info(
            "job %s, attempt %d: %s",
            lease.request_id,
            lease.attempt,
            "acknowledged" if ours else "belongs to another worker",
            extra=fields("job_acknowledged", lease.request_id, attempt=lease.attempt, owned=ours),
        )

    async def _hand_back(self, lease: Lease, back: HandBack) -> None:
        self._arq.count_retried()
        lease.is_ending = True
        ours = await retry_until_answered(
            lambda: self._store.hand_back(lease, delay_ms=back.delay_ms, why=back.why), Retries("hand back")
        )
        _logger.info(
            "job %s, attempt %d: %s (%s)",
            lease.request_id,
            lease.attempt,
            "handed back" if ours else "belongs to another worker",
            back.why,
            extra=fields(
                "job_handed_back",
                lease.request_id,
                attempt=lease.attempt,
                owned=ours,
                why=back.why,
                delay_ms=back.delay_ms,
            ),
        )
