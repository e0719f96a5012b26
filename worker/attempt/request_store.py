"""What a worker writes to Redis during a request: submit, begin, fail, finish, release and dead letters.

Each step is idempotent and is retried while Redis is away. Knows nothing of how an attempt runs, of commits or of the
model's server.
"""

from typing import NamedTuple, TypeVar

import msgspec
from redis.asyncio import Redis

from tailrace.broker import keys, scripts
from tailrace.broker.backoff import Retries, retry_until_answered
from tailrace.broker.clients import asking
from tailrace.broker.script import Argument, Script, Verdict
from tailrace.broker.script_runner import run_script
from tailrace.broker.scripts import (
    BeginStatus,
    FailStatus,
    FinishStatus,
    ReadFailureStatus,
    ReleaseStatus,
    StoredStatus,
    SubmitStatus,
)
from tailrace.broker.time_limits import PATIENCE_S
from tailrace.schemas.codec import encode_entry, encode_outcome
from tailrace.schemas.deltas import ErrorInfo
from tailrace.schemas.errors import StoreFull, StoreUnavailable
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome, terminal_of
from tailrace.schemas.request import GenerationRequest
from tailrace.worker.queue.outbox_state import OutboxState

_Reply = TypeVar("_Reply")


class Begun(NamedTuple):
    """What the owner of an attempt that may write gets from `begin`."""

    request: bytes
    cancelled: bool
    submitted_ms: int
    started_ms: int
    deadline_ms: int
    """Times by the clock of Redis, in milliseconds since 1970."""
    failures: int
    """Failed attempts of the request, on all workers."""
    crashes: int
    drains: int


class Store:
    """Records and logs of requests, and dead letters. Each method is one script, retried while Redis is away.

    Every method raises `StoreUnavailable` or `StoreFull` after `patience_s` of trying, any other StoreError at once.

    Args:
        redis: a client for records and logs, with socket timeouts; it is used, not closed.
        queue: a client for the queue, if it has a server of its own.
        patience_s: how long an operation is retried.
        outbox_state: whether outcomes must be kept for the database, and so how long a record lives after its end.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        queue: Redis | None = None,
        patience_s: float = PATIENCE_S,
        outbox_state: OutboxState | None = None,
    ) -> None:
        self._redis = redis
        self._queue = queue or redis
        self._patience_s = patience_s
        self._outbox_state = outbox_state or OutboxState()

    async def submit(
        self, request_id: str, request: GenerationRequest, accepted: bytes, *, timeout_s: float, retention_s: float
    ) -> Verdict[SubmitStatus]:
        """Writes record and log for a request that its job carried.

        Args:
            request_id: the request.
            request: its content.
            accepted: the first entry of the log.
            timeout_s: seconds until its deadline.
            retention_s: seconds that record and log live after the end.
        """
        return await self._run(
            scripts.SUBMIT,
            request_id,
            request=request.encoded(),
            digest=request.digest(),
            api=request.api,
            model=request.model,
            timeout_ms=round(timeout_s * 1000),
            retention_ms=round(retention_s * 1000),
            accepted=accepted,
            tenant=request.tenant or "",
            priority=request.priority,
            retry_of=request.retry_of or "",
        )

    async def begin(
        self, request_id: str, attempt: int, token: str, started: bytes, crashes: int = 0
    ) -> Begun | Verdict[BeginStatus]:
        """Takes the log over for an attempt.

        Returns:
            A verdict instead of `Begun` if the attempt may not write: `STALE`, `ENDED` or `UNKNOWN`.
        """
        verdict = await self._run(
            scripts.BEGIN, request_id, attempt=attempt, token=token, attempt_started=started, crashes=crashes
        )
        if verdict.status not in (BeginStatus.BEGUN, BeginStatus.RESUMED):
            return verdict
        return Begun(
            request=verdict.fields["request"],
            cancelled=verdict.text("cancel") == "1",
            submitted_ms=verdict.number("submitted_ms"),
            started_ms=verdict.number("started_ms"),
            deadline_ms=verdict.number("deadline_ms"),
            failures=verdict.number("failures"),
            crashes=verdict.number("crashes"),
            drains=verdict.number("drains"),
        )

    async def fail(self, request_id: str, attempt: int, token: str, failures: int) -> Verdict[FailStatus]:
        """Counts a failed attempt that another one follows."""
        return await self._run(scripts.FAIL, request_id, attempt=attempt, token=token, failures=failures)

    async def finish(
        self, token: str, terminal_id: EntryId, outcome: Outcome, *, ms: int, dead: bool = False
    ) -> Verdict[FinishStatus]:
        """Writes terminal entry, outcome, status and lifetime in one step.

        Args:
            token: the owner's.
            terminal_id: the id of the terminal entry.
            outcome: with its request's id.
            ms: milliseconds since the attempt began.
            dead: whether the request belongs on the dead-letter list; `add_dead_letter` puts it there.
        """
        return await self._run(
            scripts.FINISH,
            outcome.request_id or "",
            attempt=terminal_id.attempt,
            token=token,
            terminal_id=str(terminal_id),
            terminal=encode_entry(terminal_of(outcome, ms)),
            outcome=encode_outcome(outcome),
            status=outcome.status,
            failures=outcome.failures,
            error=msgspec.json.encode(outcome.error) if outcome.error else "",
            dead=int(dead),
            keep_record_ms=self._outbox_state.keep_record_ms,
        )

    async def stored(self, request_id: str, attempt: int) -> Verdict[StoredStatus]:
        """Notes that the outcome of an attempt is in a database: its record need not live longer than the log."""
        return await self._run(scripts.STORED, request_id, attempt=attempt)

    async def add_dead_letter(self, job_id: str, error: ErrorInfo, *, crashes: int, with_envelope: bool) -> bool:
        """Lists a request that ended dead, or a job without a record.

        Args:
            job_id: the job; any text, not only a valid request id.
            error: the reason, for a job without a record.
            crashes: the count, for a job without a record.
            with_envelope: whether to keep arq's envelope although there is a record.

        Returns:
            False if the request has not ended dead: it is not listed.
        """
        failure = await self._run(scripts.READ_FAILURE, job_id, bytes_max=keys.DEAD_BYTES_MAX)
        if failure.status is ReadFailureStatus.NOT_DEAD:
            return False
        noted: dict[str, Argument] = {"error": msgspec.json.encode(error), "crashes": crashes, **failure.fields}
        await self._run(
            scripts.ADD_DEAD_LETTER,
            job_id,
            with_envelope=int(with_envelope),
            life_ms=keys.DEAD_LIFETIME_S * 1000,
            entries_max=keys.DEAD_MAX,
            bytes_max=keys.DEAD_BYTES_MAX,
            **noted,
        )
        return True

    async def release(self, request_id: str, attempt: int, token: str) -> Verdict[ReleaseStatus]:
        """Hands the request back, unfinished."""
        return await self._run(scripts.RELEASE, request_id, attempt=attempt, token=token)

    async def _run(self, script: Script[_Reply], request_id: str, **given: Argument) -> _Reply:
        redis = self._queue if script is scripts.ADD_DEAD_LETTER else self._redis

        async def once() -> _Reply:
            async with asking(redis):
                return await run_script(redis, script, request_id, **given)

        retries = Retries(script.name, patience_s=self._patience_s, retried=(StoreUnavailable, StoreFull))
        return await retry_until_answered(once, retries)
