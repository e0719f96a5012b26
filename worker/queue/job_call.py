"""One call of a job function: reads the envelope, calls the function, and decides how the job leaves this worker.

Only decides; `JobEndings` carries the decision out. Knows nothing of Redis.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tailrace.broker.scripts import ClaimedJob
from tailrace.telemetry.logging import fields
from tailrace.worker.queue.arq_worker import (
    Envelope,
    EnvelopeUnreadable,
    Retry,
    RetryJob,
    WorkerCoroutine,
    job_context,
    read_envelope,
    retry_delay_ms,
)
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.queue.quarantine import kills_its_worker

_logger = logging.getLogger("tailrace.job")


@dataclass(frozen=True)
class Acknowledge:
    """The job is done and leaves the queue."""


@dataclass(frozen=True)
class HandBack:
    """The job goes back to the queue and is due again in `delay_ms` milliseconds."""

    delay_ms: int
    why: str


@dataclass(frozen=True)
class Dead:
    """The job cannot be run, or failed: `on_dead` is called, then it leaves the queue."""

    code: str
    message: str


JobEnd = Acknowledge | HandBack | Dead


class _Call(NamedTuple):
    function: WorkerCoroutine
    envelope: Envelope


class JobCall:
    """A claimed job and the function it names.

    Args:
        functions: the registered functions by name.
        job: the claimed job.
        lease: the right to run it.
        max_crashes: how many leases of the job may expire before it may be ended as one that kills its worker.
    """

    def __init__(
        self, functions: Mapping[str, WorkerCoroutine], job: ClaimedJob, lease: Lease, max_crashes: int
    ) -> None:
        self._functions = functions
        self._job = job
        self._lease = lease
        self._max_crashes = max_crashes

    async def run(self, ctx: Mapping[Any, Any]) -> JobEnd:
        """Calls the function and returns how the job ends. Raises nothing; a cancellation is a hand-back.

        Args:
            ctx: the worker's `ctx`, of which the function gets a copy with the job's own entries.
        """
        call = self._read()
        if isinstance(call, Dead):
            return call
        try:
            await call.function(self._context(ctx, call.envelope), *call.envelope.args, **call.envelope.kwargs)
        except (Retry, RetryJob) as error:
            end: JobEnd = HandBack(retry_delay_ms(error), "retry")
        except asyncio.CancelledError:
            end = HandBack(0, "retry")
        except Exception as error:  # a bug in the function fails the job alone; the error's text stays in our log
            _logger.exception("job %s failed", self._job.id, extra=fields("job_failed", self._job.id))
            end = Dead("job_failed", f"the job function failed with {type(error).__name__}: see the worker's log")
        else:
            end = Acknowledge()
        return self._unless_stopped(end)

    def _unless_stopped(self, end: JobEnd) -> JobEnd:
        """Does not end the job without a lease, whatever the function returned; names a drain as the reason."""
        stopped = self._lease.stopped.result() if self._lease.stopped.done() else None
        if stopped is Stop.LEASE_LOST or not self._lease.holds():
            return HandBack(0, "lease_expired")
        if stopped is Stop.DRAINED and isinstance(end, HandBack):
            return HandBack(end.delay_ms, "drained")
        return end

    def _read(self) -> _Call | Dead:
        job = self._job
        if kills_its_worker(job, self._max_crashes):
            return Dead("job_crashed", f"its worker died or hung {job.crashes} times while it ran")
        if not job.envelope:
            return Dead("job_expired", "it waited in the queue for longer than it may")
        try:
            envelope = read_envelope(job.envelope)
        except EnvelopeUnreadable as error:
            return Dead("job_unreadable", str(error))
        function = self._functions.get(envelope.function)
        if function is None:
            known = ", ".join(self._functions)
            return Dead("job_unknown", f"no worker function is called {envelope.function!r}; there are {known}")
        return _Call(function, envelope)

    def _context(self, ctx: Mapping[Any, Any], envelope: Envelope) -> dict[Any, Any]:
        job = self._job
        context = job_context(ctx, envelope, job_id=job.id, attempt=self._lease.attempt, score=job.score)
        return {**context, "lease": self._lease}
