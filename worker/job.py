"""The arq function: runs a request to its one outcome. The only place that decides whether there is another attempt.

Knows the queue by two words, return (done with) and raise (hand back), and nothing of bytes, entries or scripts.
"""

from typing import Any

from arq.worker import Retry, RetryJob

from schemas.codec import encode_entry, encode_outcome
from schemas.deltas import FORMAT_VERSION, Accepted, AttemptStarted, ErrorInfo, MessageIds
from schemas.errors import AttemptLost, RequestRejected, StoreError, Whose
from schemas.ids import EntryId, message_id
from schemas.outcome import UNFILLED, Outcome, terminal_of
from schemas.request import parse_request
from schemas.scripts import Verdict
from worker import telemetry
from worker.attempt import END_OF_STOP, Attempt, End, Ended, Plant, error_info
from worker.lease import Lease
from worker.retry import decide

RUNNER = "tailrace_runner"
"""Where the job function finds its runner in arq's `ctx`."""

STORE_PAUSE_S = 1.0
"""Before a request is tried again that could not be brought to an end because of Redis."""

STALE_PAUSE_S = 0.05

_DEAD: dict[str, tuple[str, Whose]] = {
    "job_expired": ("job_expired", "operator"),
    "job_unreadable": ("job_unreadable", "caller"),
    "job_unknown": ("job_unknown", "operator"),
    "job_crashed": ("worker_crashed", "operator"),
    "job_failed": ("internal", "operator"),
}
"""The queue's reasons to end a job, as clients see them."""


async def generate(ctx: dict[Any, Any], request_id: str, request: dict[str, Any] | None = None) -> None:
    """The job function. `request` is there when a plain `enqueue_job` carried it whole."""
    runner: Runner = ctx[RUNNER]
    await runner.run(ctx["lease"], request)


class Runner:
    """Runs requests of this process.

    Args:
        plant: what attempts work with.
        max_attempts: how often a request is tried where the model's server fails.
        run_limit_s: from submit to the end, for a request that came with its job and says nothing itself.
        retention_s: how long log and record of such a request stay after its end.
    """

    def __init__(self, plant: Plant, *, max_attempts: int, run_limit_s: float, retention_s: float) -> None:
        self._plant = plant
        self._max_attempts = max_attempts
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s

    async def run(self, lease: Lease, given: dict[str, Any] | None = None) -> None:
        """Brings a request to its outcome. Returns when the request has ended, or there is none.

        Raises:
            RetryJob, Retry: the job goes back to the queue, if it is still this owner's.
        """
        try:
            if given is None or await self._submit(lease.request_id, given):
                await self._attempts(lease)
        except AttemptLost as error:
            # Not done with: after a failover it may be that nobody else has it.
            telemetry.event("lost", lease.request_id, attempt=lease.attempt, why=error)
            raise RetryJob from error
        except StoreError as error:
            telemetry.event("put back", lease.request_id, attempt=lease.attempt, why=error)
            raise Retry(defer=STORE_PAUSE_S) from error

    async def bury(self, request_id: str, lease: Lease, code: str, message: str) -> None:
        """Ends a request whose job the queue gives up: the queue's `on_dead`.

        Raises:
            StoreError: Redis is away for too long; to be called again.
        """
        code, whose = _DEAD.get(code, (code, "operator"))
        ids = MessageIds(message_id(self._plant.uuid()), message_id(self._plant.uuid()))
        started = encode_entry(AttemptStarted(FORMAT_VERSION, lease.attempt, UNFILLED, code, ids))
        begun = await self._plant.store.begin(request_id, lease.attempt, lease.token, started)
        if isinstance(begun, Verdict):
            telemetry.event("dead", request_id, code=code, record=begun.word)
            return
        outcome = Outcome(
            status="failed",
            request_id=request_id,
            attempt=lease.attempt,
            submitted_at=begun.submitted_at,
            started_at=begun.started_at,
            finished_at=UNFILLED,
            error=ErrorInfo(code, message, whose),
        )
        verdict = await self._plant.store.finish(
            request_id,
            lease.token,
            EntryId(lease.attempt, 1),
            terminal=encode_entry(terminal_of(outcome, 0)),
            outcome=encode_outcome(outcome),
            status="failed",
        )
        telemetry.event("dead", request_id, code=code, record=verdict.word)

    async def _submit(self, request_id: str, given: dict[str, Any]) -> bool:
        """Record and log for a request that came with its job. False: it cannot be one, and nobody can be told."""
        try:
            request = parse_request({**given, "id": request_id})
            accepted = encode_entry(Accepted(FORMAT_VERSION, UNFILLED, request.api, request.model))
            verdict = await self._plant.store.submit(
                request_id,
                request,
                accepted,
                timeout_s=request.timeout_s or self._run_limit_s,
                retention_s=self._retention_s,
            )
        except RequestRejected as error:
            telemetry.event("rejected", request_id, code=error.code)
            return False
        if verdict.word == "conflict":  # the id is another request's: that one is run, as it stands
            telemetry.event("conflict", request_id)
        return True

    async def _attempts(self, lease: Lease) -> None:
        why, failures = lease.why, 0
        while True:
            attempt = await Attempt.begin(self._plant, lease, why)
            if isinstance(attempt, Verdict):
                self._not_begun(lease, attempt)
                return
            try:
                failed = await self._one(lease, attempt, failures)
            finally:
                attempt.close()
            if not failed:
                return
            failures += 1
            why = "retry"
            await lease.next_attempt()

    async def _one(self, lease: Lease, attempt: Attempt, failures: int) -> bool:
        """Runs one attempt and brings the request to its end, unless another attempt has to follow: then True."""
        ended = await attempt.run()
        if ended.error is not None and attempt.request is not None:
            decision = decide(
                ended.error,
                failures=failures + 1,
                max_attempts=self._max_attempts,
                shown=attempt.shown,
                on_failure=attempt.request.on_failure,
                left_s=attempt.left_s,
            )
            code = error_info(ended.error).code
            pause_s = f"{decision.pause_s:.2f}" if decision.again else None
            telemetry.event(
                "failed", lease.request_id, attempt=lease.attempt, code=code, retry_in_s=pause_s, why=decision.why
            )
            if decision.again:
                stop = await attempt.pause(decision.pause_s, code)
                if stop is None:
                    return True
                ended = Ended(END_OF_STOP[stop])
        match ended.how:
            case End.LOST:
                raise AttemptLost("the lease is gone")
            case End.DRAINED:
                await attempt.release()
                raise RetryJob
            case End.ANSWERED | End.FAILED | End.CANCELLED:
                verdict = await attempt.finish(error=ended.error, cancelled=ended.how is End.CANCELLED)
        if verdict.word in ("gap", "stale"):  # taken over; or Redis lost entries in a failover: the answer is had anew
            raise RetryJob
        return False

    def _not_begun(self, lease: Lease, verdict: Verdict) -> None:
        """The log is not ours to write: the request has ended, or is gone, or our number is too low."""
        telemetry.event(verdict.word, lease.request_id, attempt=lease.attempt, began=False)
        if verdict.word == "stale":  # the queue's count was lost, and grows again with each claim
            raise Retry(defer=STALE_PAUSE_S)
