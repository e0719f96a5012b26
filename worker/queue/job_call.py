"""One call of a job function: reads arq's envelope, calls the function, and decides how the job leaves this worker.

Only decides: what a decision does to the queue is the queue's. Knows nothing of Redis.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from arq.cron import CronJob
from arq.jobs import SerializationError, deserialize_job_raw
from arq.utils import ms_to_datetime
from arq.worker import Function, Retry, RetryJob

from tailrace.broker.scripts import ClaimedJob
from tailrace.schemas.codec import decode_job
from tailrace.telemetry.logging import fields
from tailrace.worker.queue.leases import Lease, Stop
from tailrace.worker.queue.quarantine import is_deadly

_logger = logging.getLogger("tailrace.job")


@dataclass(frozen=True)
class Acknowledge:
    """The job is done with."""


@dataclass(frozen=True)
class HandBack:
    """The job is to run again, not before `delay_ms` from now."""

    delay_ms: int
    why: str


@dataclass(frozen=True)
class Dead:
    """The job cannot be run, or failed: whoever waits for it has to be told, then it is done with."""

    code: str
    message: str


End = Acknowledge | HandBack | Dead


class _Call(NamedTuple):
    function: Function | CronJob
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int


class JobCall:
    """A claimed job and the function it names.

    Args:
        functions: the registry, by name.
        job: what claim gave out.
        lease: the right to run it.
        max_crashes: leases that may run out unanswered before the job may count as one that kills its worker.
    """

    def __init__(
        self, functions: Mapping[str, Function | CronJob], job: ClaimedJob, lease: Lease, max_crashes: int
    ) -> None:
        self._functions = functions
        self._job = job
        self._lease = lease
        self._max_crashes = max_crashes

    async def end(self, ctx: Mapping[Any, Any]) -> End:
        """Calls the function and says how the job ends. It raises nothing: being cancelled is a hand-back, too.

        Args:
            ctx: what the function finds in its `ctx`, beside what is added here.
        """
        call = self._read()
        if isinstance(call, Dead):
            return call
        try:
            await call.function.coroutine(self._context(ctx, call), *call.args, **call.kwargs)
        except Retry as retry:
            end: End = HandBack(retry.defer_score or 0, "retry")
        except (RetryJob, asyncio.CancelledError):
            end = HandBack(0, "retry")
        except (
            Exception
        ) as error:  # of whatever kind: the job has failed, the worker goes on; its text stays in our log
            _logger.exception("job %s failed", self._job.id, extra=fields("job_failed", self._job.id))
            end = Dead("job_failed", f"the job function failed with {type(error).__name__}: see the worker's log")
        else:
            end = Acknowledge()
        return self._despite(end)

    def _despite(self, end: End) -> End:
        """Told to stop, it is handed back for that reason; without a lease nothing ends here, whatever was returned."""
        stopped = self._lease.stopped.result() if self._lease.stopped.done() else None
        if stopped is Stop.LEASE_LOST or not self._lease.holds():
            return HandBack(0, "lease_expired")
        if stopped is Stop.DRAINED and isinstance(end, HandBack):
            return HandBack(end.delay_ms, "drained")
        return end

    def _read(self) -> _Call | Dead:
        job = self._job
        if is_deadly(job, self._max_crashes):
            return Dead("job_crashed", f"its worker died or hung {job.crashes} times while it ran")
        if not job.envelope:
            return Dead("job_expired", "it waited in the queue for longer than it may")
        try:
            name, args, kwargs, _, enqueued_ms = deserialize_job_raw(job.envelope, deserializer=decode_job)
        except SerializationError as error:
            return Dead("job_unreadable", f"its payload cannot be read: {error.__cause__ or error}")
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - arq promises, the payload does not
            return Dead("job_unreadable", "its payload names no function")
        function = self._functions.get(name)
        if function is None:
            return Dead("job_unknown", f"no worker function is called {name!r}; there are {', '.join(self._functions)}")
        return _Call(function, args, kwargs, enqueued_ms)

    def _context(self, ctx: Mapping[Any, Any], call: _Call) -> dict[Any, Any]:
        return {
            **ctx,
            "job_id": self._job.id,
            "job_try": self._lease.attempt,
            "enqueue_time": ms_to_datetime(call.enqueued_ms),
            "score": self._job.score,
            "lease": self._lease,
        }
