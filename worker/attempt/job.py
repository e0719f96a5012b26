"""The job function: runs a request until it has its outcome. The only place that decides on another attempt.

Owns the order of attempts. Uses the queue in two ways only: returning acknowledges the job, and raising `Retry` or
`RetryJob` hands it back. Knows nothing of bytes, entries or scripts.
"""

from typing import Any

from arq.worker import Retry, RetryJob

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import BeginStatus, FinishStatus, SubmitStatus
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted
from tailrace.schemas.errors import AttemptLost, RequestRejected, StoreError, TailraceError, UnknownRequest
from tailrace.schemas.outcome import UNFILLED
from tailrace.schemas.request import parse_request
from tailrace.worker.attempt.attempt import Attempt
from tailrace.worker.attempt.dead_letters import DeadLetterWriter, Included
from tailrace.worker.attempt.result import END_OF_STOP, AttemptEnd, AttemptResult, error_info
from tailrace.worker.attempt.retry import Decision, decide
from tailrace.worker.attempt.services import Services
from tailrace.worker.observe.log_events import log_event
from tailrace.worker.queue.leases import Lease

RUNNER = "tailrace_runner"
"""The key in arq's `ctx` under which the job function finds its runner."""

STORE_PAUSE_S = 1.0
"""The delay of a job that is handed back because Redis did not answer."""


async def generate(ctx: dict[Any, Any], request_id: str, request: dict[str, Any] | None = None) -> None:
    """The job function. `request` is given if a plain `enqueue_job` carried the whole request."""
    runner: Runner = ctx[RUNNER]
    await runner.run(ctx["lease"], request, named=request_id)


class Runner:
    """Runs the requests of this process.

    Args:
        services: those of the process.
        max_attempts: failed attempts after which a request fails.
        run_limit_s: seconds from submit to the deadline, for a request in a job that sets none.
        retention_s: seconds that log and record of such a request are kept after its end.
        dead_letters: which requests belong on the dead-letter list.
    """

    def __init__(
        self,
        services: Services,
        *,
        max_attempts: int,
        run_limit_s: float,
        retention_s: float,
        dead_letters: Included = "poison",
    ) -> None:
        self._services = services
        self._dead_letters = DeadLetterWriter(services, dead_letters)
        self._max_attempts = max_attempts
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s

    async def run(self, lease: Lease, given: object = None, *, named: str | None = None) -> None:
        """Runs a request until it has ended. A job without a request becomes a dead letter.

        Args:
            lease: the right to run it.
            given: the request, if the job carried it.
            named: the request id in the job's arguments. It must be the job's own id.

        Raises:
            RetryJob, Retry: the job goes back to the queue, if the lease still holds.
        """
        try:
            if named not in (None, lease.request_id):
                raise RequestRejected(f"the job names request {named!r}: enqueue it with _job_id={named!r}")
            if given is not None:
                await self._submit(lease.request_id, given)
            await self._run_attempts(lease)
        except RequestRejected as error:  # there is no log to write it to
            log_event("request_rejected", lease.request_id, code=error.code)
            await self._dead_letters.add_dead_letter(lease, error_info(error))
        except AttemptLost as error:
            # The job is handed back, not acknowledged: after a failover no other worker may have it.
            log_event("attempt_lost", lease.request_id, attempt=lease.attempt, why=error)
            raise RetryJob from error
        except StoreError as error:
            log_event("request_put_back", lease.request_id, attempt=lease.attempt, why=error)
            raise Retry(defer=STORE_PAUSE_S) from error

    async def end_dead(self, request_id: str, lease: Lease, code: str, message: str) -> None:
        """Ends the request of a job that the queue gives up: the queue's `on_dead`.

        Raises:
            AttemptLost, StoreError: it must be called again, here or by another worker.
        """
        await self._dead_letters.end_dead(lease, code, message)

    async def _submit(self, request_id: str, given: object) -> None:
        """Writes record and log for a request that its job carried.

        Raises:
            RequestRejected: it is not a valid request.
        """
        if not isinstance(given, dict):
            raise RequestRejected(f"the job carries a request that is a {type(given).__name__}: give a dict")
        fields: dict[str, Any] = given  # pyright: ignore[reportUnknownVariableType] - narrowed from object, and parsed
        request = parse_request({**fields, "id": request_id})
        accepted = encode_entry(Accepted(FORMAT_VERSION, UNFILLED, request.api, request.model))
        verdict = await self._services.store.submit(
            request_id,
            request,
            accepted,
            timeout_s=request.timeout_s or self._run_limit_s,
            retention_s=self._retention_s,
        )
        if verdict.status is SubmitStatus.CONFLICT:  # another request has this id; the stored one is run
            log_event("request_id_conflict", request_id)

    async def _run_attempts(self, lease: Lease) -> None:
        why = lease.why
        while True:
            attempt = await Attempt.begin(self._services, lease, why)
            if isinstance(attempt, Verdict):
                # Stale: the queue has lost its count, or another worker has taken over; then no number is issued.
                if attempt.status is BeginStatus.STALE:
                    await lease.next_attempt(above=attempt.number("attempt"))
                    continue
                await self._not_begun(lease, attempt)
                return
            try:
                retry = await self._run_attempt(lease, attempt)
            finally:
                attempt.close()
            if not retry:
                return
            why = "retry"
            await lease.next_attempt()

    async def _run_attempt(self, lease: Lease, attempt: Attempt) -> bool:
        """Runs one attempt and ends the request with it; True if another attempt has to follow instead."""
        result = await attempt.publish_answer()
        if result.error is not None:
            attempt.count_failure()
            decision = self._decide(attempt, result.error)
            if decision.again:
                stop = await attempt.wait_for_retry(decision.pause_s, error_info(result.error).code)
                if stop is None:
                    return True
                result = AttemptResult(END_OF_STOP[stop])
        match result.end:
            case AttemptEnd.LOST:
                raise AttemptLost("the lease is gone")
            case AttemptEnd.DRAINED:
                await attempt.release()
                if attempt.rest_s > 0:  # the next worker waits for the rest of the pause
                    raise Retry(defer=attempt.rest_s)
                raise RetryJob
            case AttemptEnd.ANSWERED | AttemptEnd.FAILED | AttemptEnd.CANCELLED:
                await self._end_request(lease, attempt, result)
        return False

    def _decide(self, attempt: Attempt, error: TailraceError) -> Decision:
        decision = decide(
            error,
            failures=attempt.failures,
            max_attempts=self._max_attempts,
            has_published=attempt.has_published,
            on_failure=attempt.request.on_failure if attempt.request else "fail",
            left_s=attempt.left_s,
        )
        attempt.observer.failed(error_info(error).code, decision.why, decision.pause_s if decision.again else None)
        return decision

    async def _end_request(self, lease: Lease, attempt: Attempt, result: AttemptResult) -> None:
        error = result.error
        dead = error is not None and self._dead_letters.is_dead(error, asked=attempt.asked)
        verdict = await attempt.write_outcome(error=error, cancelled=result.end is AttemptEnd.CANCELLED, dead=dead)
        # Taken over, or Redis lost entries in a failover: another attempt follows.
        if verdict.status in (FinishStatus.GAP, FinishStatus.STALE):
            raise RetryJob
        if dead and error is not None:
            await self._dead_letters.add_dead_letter(lease, error_info(error))

    async def _not_begun(self, lease: Lease, verdict: Verdict[BeginStatus]) -> None:
        """The request has ended already, or has no record."""
        log_event("attempt_not_started", lease.request_id, attempt=lease.attempt, status=verdict.status)
        # The worker that ended it may have died before it added the dead letter.
        error = UnknownRequest("no request has this id, or its lifetime is over")
        await self._dead_letters.add_dead_letter(lease, error_info(error))
