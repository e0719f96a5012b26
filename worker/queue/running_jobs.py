"""The jobs that run in this worker: from a claimed job to the call of its function and its end.

Knows neither when jobs are claimed nor what their functions do.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from tailrace.broker.scripts import ClaimedJob
from tailrace.telemetry.logging import fields
from tailrace.worker.queue.arq_worker import ArqWorker
from tailrace.worker.queue.job_call import HandBack, JobCall, JobEnd
from tailrace.worker.queue.job_endings import JobEndings
from tailrace.worker.queue.leases import Lease, Leases, Stop
from tailrace.worker.queue.quarantine import Postponed, Quarantine, QuarantineGroup
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.queue.waiting import Change

_logger = logging.getLogger("tailrace.queue")


class RunningJobs:
    """The running jobs of one worker, each a task.

    Args:
        store: the queue, which numbers attempts.
        arq: the job functions.
        leases: the leases of this worker.
        quarantine: decides how jobs begin whose workers have died repeatedly.
        endings: ends jobs.
        change: notified when a job has left this worker.
        ctx: what every job function gets in its `ctx`.
        max_crashes: as in `JobCall`.

    Attributes:
        starts: jobs taken on so far.
        is_draining: whether jobs are handed back instead of begun.
    """

    def __init__(
        self,
        store: QueueStore,
        arq: ArqWorker,
        leases: Leases,
        quarantine: Quarantine,
        endings: JobEndings,
        change: Change,
        *,
        ctx: Mapping[Any, Any],
        max_crashes: int,
    ) -> None:
        self._store = store
        self._arq = arq
        self._leases = leases
        self._quarantine = quarantine
        self._endings = endings
        self._change = change
        self._ctx = ctx
        self._max_crashes = max_crashes
        self._tasks = arq.tasks
        self._calls: set[asyncio.Task[None]] = set()  # tasks whose job function runs
        self.starts = 0
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start_job(self, job: ClaimedJob, token: str, ends_at: float) -> None:
        """Starts a job that was claimed with `token`; its lease ends at `ends_at` (monotonic seconds)."""
        lease = Lease(
            job.id,
            attempt=job.attempt,
            token=token,
            why=job.why,
            crashes=job.crashes,
            ends_at=ends_at,
            mint=self._store.next_attempt,
        )
        self._leases.add_lease(lease)
        self.starts += 1
        admitted = self._quarantine.admit_job(job, lease)
        name = f"{job.id}:{job.attempt}"  # the id alone is not unique: a lost job may be claimed here again
        task = self._tasks[name] = asyncio.create_task(self._run(job, lease, admitted), name=name)
        task.add_done_callback(partial(self._left, job.id))

    def cancel_calls(self) -> None:
        """Cancels the job functions; their jobs are handed back."""
        for task in self._calls:
            task.cancel()

    def abandon(self) -> None:
        """Cancels what cannot be handed back, because Redis does not answer; the leases run out."""
        for name, task in self._tasks.items():
            request_id = name.rpartition(":")[0]
            _logger.error(
                "job %s could not be handed back in time", name, extra=fields("job_not_handed_back", request_id)
            )
            task.cancel()

    def _left(self, request_id: str, task: asyncio.Task[None]) -> None:
        name = task.get_name()
        del self._tasks[name]
        self._change.tell()
        if not task.cancelled() and (error := task.exception()):
            _logger.error(
                "job %s ended with an internal error",
                name,
                exc_info=error,
                extra=fields("internal_error", request_id),
            )

    async def _run(self, job: ClaimedJob, lease: Lease, admitted: QuarantineGroup | Postponed | None) -> None:
        try:
            end = await self._not_now(lease, admitted) or await self._call(job, lease)
            await self._endings.end_job(lease, end)
        finally:
            self._quarantine.job_left(lease, admitted)
            self._leases.remove_lease(lease)

    async def _not_now(self, lease: Lease, admitted: QuarantineGroup | Postponed | None) -> HandBack | None:
        """Hands a job back before it begins when the worker drains, the quarantine has no room, or it was stopped."""
        if self.is_draining:
            return HandBack(0, lease.why)
        if isinstance(admitted, Postponed):
            return HandBack(round(admitted.delay_s * 1000), lease.why)
        if admitted is not None:
            await admitted.wait_to_begin(lease)
        # A cancelled request begins: its function ends it.
        stopped = lease.stopped.result() if lease.stopped.done() else Stop.CANCELLED
        return None if stopped is Stop.CANCELLED else HandBack(0, lease.why)

    async def _call(self, job: ClaimedJob, lease: Lease) -> JobEnd:
        task = self._tasks[f"{job.id}:{job.attempt}"]
        self._calls.add(task)  # it may be cancelled only here, not during the hand-back that follows
        try:
            return await JobCall(self._arq.functions, job, lease, self._max_crashes).run(self._ctx)
        finally:
            self._calls.discard(task)
