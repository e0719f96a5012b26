"""The seam to arq. No other module of the worker's queue imports it.

What is used of arq's `Worker`, only by `ArqWorker`:

- the constructor and `functions`: the registry of job functions;
- `tasks`, `jobs_complete`, `jobs_failed`, `jobs_retried` and `record_health`: arq's health-check key, which monitoring
  reads. `_last_health_check` is private to arq: it is reset so that a write that failed is repeated at once.

What is replaced, because none of it checks who owns a job (docs/decisions/leases-and-attempts.md): `main` and the claim
loop by `Claims`, `run_job` by `JobCall`, `finish_job` and `finish_failed_job` by `JobEndings`, `run`, `close` and the
signal handlers by `LeasedWorker`. arq's versions are never called.

What is not offered: kept results, cron jobs, burst mode, `Job.abort`, hooks around jobs, limits on tries and on a job's
time.

`tests/unit/test_arq_seam.py` checks these names against the pinned version of arq.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arq.connections import ArqRedis
from arq.jobs import SerializationError, deserialize_job_raw
from arq.typing import WorkerCoroutine
from arq.utils import ms_to_datetime
from arq.worker import Function, Retry, RetryJob, Worker
from redis.asyncio import BlockingConnectionPool

from tailrace.broker import keys
from tailrace.schemas.codec import decode_job, encode_job

__all__ = [
    "ArqWorker",
    "Envelope",
    "EnvelopeUnreadable",
    "Function",
    "Retry",
    "RetryJob",
    "WorkerCoroutine",
    "arq_client",
    "job_context",
    "read_envelope",
    "retry_delay_ms",
]


class ArqWorker:
    """arq's `Worker` as far as the queue uses it.

    Args:
        functions: coroutine functions, or what `arq.worker.func` makes of them.
        client: a client of the queue's Redis; it writes the health-check key.
        health_check_s: seconds between two writes of that key.

    Attributes:
        functions: the job functions by name.
        tasks: the tasks of running jobs by name; the health check counts them.
    """

    def __init__(
        self, functions: Sequence[Function | WorkerCoroutine], client: ArqRedis, *, health_check_s: float
    ) -> None:
        self._worker = Worker(
            functions,
            queue_name=keys.QUEUE,
            redis_pool=client,
            handle_signals=False,
            health_check_interval=health_check_s,
        )
        self.functions: Mapping[str, WorkerCoroutine] = {
            name: function.coroutine for name, function in self._worker.functions.items()
        }
        self.tasks = self._worker.tasks

    def count_complete(self) -> None:
        """Counts a job whose function returned."""
        self._worker.jobs_complete += 1

    def count_failed(self) -> None:
        """Counts a job that ended as dead."""
        self._worker.jobs_failed += 1

    def count_retried(self) -> None:
        """Counts a job that was handed back."""
        self._worker.jobs_retried += 1

    async def record_health(self) -> None:
        """Writes the health-check key when it is due, or at once after a call that raised. Raises redis-py's errors."""
        try:
            await self._worker.record_health()
        except Exception:
            self._worker._last_health_check = 0.0  # pyright: ignore[reportPrivateUsage] - arq sets it before it writes
            raise


class EnvelopeUnreadable(Exception):
    """The bytes are not an envelope of arq's that was written with our serializer."""


class Envelope(NamedTuple):
    """What `enqueue_job` wrote about a job."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int


def read_envelope(packed: bytes) -> Envelope:
    """Reads an envelope. Raises EnvelopeUnreadable."""
    try:
        name, args, kwargs, _, enqueued_ms = deserialize_job_raw(packed, deserializer=decode_job)
    except SerializationError as error:
        raise EnvelopeUnreadable(f"its payload cannot be read: {error.__cause__ or error}") from error
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - arq promises, the payload does not
        raise EnvelopeUnreadable("its payload names no function")
    return Envelope(name, args, kwargs, enqueued_ms)


def job_context(ctx: Mapping[Any, Any], envelope: Envelope, *, job_id: str, attempt: int, score: int) -> dict[Any, Any]:
    """The `ctx` of one call of a job function: the worker's own, and what arq adds to it."""
    return {
        **ctx,
        "job_id": job_id,
        "job_try": attempt,
        "enqueue_time": ms_to_datetime(envelope.enqueued_ms),
        "score": score,
    }


def retry_delay_ms(error: Retry | RetryJob) -> int:
    """The delay in milliseconds after which a job function wants to be called again."""
    return error.defer_score or 0 if isinstance(error, Retry) else 0


def arq_client(pool: BlockingConnectionPool) -> ArqRedis:
    """arq's client with our serializers; a job function finds it as `redis` in its `ctx`."""
    return ArqRedis(pool, job_serializer=encode_job, job_deserializer=decode_job)
