"""The arq function: runs a request to its one outcome. The only place that decides whether there is another attempt.

Knows the queue by two words, return (done with) and raise (hand back), and nothing of bytes, entries or scripts.
"""

from typing import Any

from arq.worker import Retry, RetryJob

from tailrace.broker.scripts import Verdict
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, Accepted
from tailrace.schemas.errors import AttemptLost, RequestRejected, StoreError, TailraceError, UnknownRequest
from tailrace.schemas.outcome import UNFILLED
from tailrace.schemas.request import parse_request
from tailrace.telemetry.metrics import error_label
from tailrace.worker.attempt.attempt import END_OF_STOP, Attempt, End, Ended, Plant, error_info
from tailrace.worker.attempt.dead_letters import DeadLetters, Included
from tailrace.worker.attempt.retry import Decision, decide
from tailrace.worker.observe.log_events import log_event
from tailrace.worker.queue.leases import Lease

RUNNER = "tailrace_runner"
"""Where the job function finds its runner in arq's `ctx`."""

STORE_PAUSE_S = 1.0
"""Before a request is tried again that could not be brought to an end because of Redis."""


async def generate(ctx: dict[Any, Any], request_id: str, request: dict[str, Any] | None = None) -> None:
    """The job function. `request` is there when a plain `enqueue_job` carried it whole."""
    runner: Runner = ctx[RUNNER]
    await runner.run(ctx["lease"], request, named=request_id)


class Runner:
    """Runs requests of this process.

    Args:
        plant: what attempts work with.
        max_attempts: how often a request is tried where the model's server fails.
        run_limit_s: from submit to the end, for a request that came with its job and says nothing itself.
        retention_s: how long log and record of such a request stay after its end.
        dead_letters: which requests are listed as dead.
    """

    def __init__(
        self,
        plant: Plant,
        *,
        max_attempts: int,
        run_limit_s: float,
        retention_s: float,
        dead_letters: Included = "poison",
    ) -> None:
        self._plant = plant
        self._dead = DeadLetters(plant, dead_letters)
        self._max_attempts = max_attempts
        self._run_limit_s = run_limit_s
        self._retention_s = retention_s

    async def run(self, lease: Lease, given: object = None, *, named: str | None = None) -> None:
        """Brings a request to its outcome. Returns when the request has ended, or there is none: then it is listed.

        Args:
            lease: the right to run it.
            given: the request, where the job carried it whole.
            named: the request that the job names, which is the job's own id unless somebody enqueued it otherwise.

        Raises:
            RetryJob, Retry: the job goes back to the queue, if it is still this owner's.
        """
        try:
            if named not in (None, lease.request_id):
                raise RequestRejected(f"the job names request {named!r}: enqueue it with _job_id={named!r}")
            if given is not None:
                await self._submit(lease.request_id, given)
            await self._attempts(lease)
        except RequestRejected as error:  # nobody can be told: there is no log
            log_event("request_rejected", lease.request_id, code=error.code)
            await self._list(lease, error)
        except AttemptLost as error:
            # Not done with: after a failover it may be that nobody else has it.
            log_event("attempt_lost", lease.request_id, attempt=lease.attempt, why=error)
            raise RetryJob from error
        except StoreError as error:
            log_event("request_put_back", lease.request_id, attempt=lease.attempt, why=error)
            raise Retry(defer=STORE_PAUSE_S) from error

    async def bury(self, request_id: str, lease: Lease, code: str, message: str) -> None:
        """Ends a request whose job the queue gives up: the queue's `on_dead`.

        Raises:
            AttemptLost, StoreError: to be called again, by whoever has the job then.
        """
        await self._dead.end(lease, code, message)

    async def _submit(self, request_id: str, given: object) -> None:
        """Record and log for a request that came with its job.

        Raises:
            RequestRejected: it cannot be one.
        """
        if not isinstance(given, dict):
            raise RequestRejected(f"the job carries a request that is a {type(given).__name__}: give a dict")
        fields: dict[str, Any] = given  # pyright: ignore[reportUnknownVariableType] - narrowed from object, and parsed
        request = parse_request({**fields, "id": request_id})
        accepted = encode_entry(Accepted(FORMAT_VERSION, UNFILLED, request.api, request.model))
        verdict = await self._plant.store.submit(
            request_id,
            request,
            accepted,
            timeout_s=request.timeout_s or self._run_limit_s,
            retention_s=self._retention_s,
        )
        if verdict.word == "conflict":  # the id is another request's: that one is run, as it stands
            log_event("request_id_conflict", request_id)

    async def _attempts(self, lease: Lease) -> None:
        why = lease.why
        while True:
            attempt = await Attempt.begin(self._plant, lease, why)
            if isinstance(attempt, Verdict):
                # The queue's count was lost; or somebody has taken over, and minting says so.
                if attempt.word == "stale":
                    await lease.next_attempt(above=attempt.number("attempt"))
                    continue
                await self._not_begun(lease, attempt)
                return
            try:
                failed = await self._one(lease, attempt)
            finally:
                attempt.close()
            if not failed:
                return
            why = "retry"
            await lease.next_attempt()

    async def _one(self, lease: Lease, attempt: Attempt) -> bool:
        """Runs one attempt and brings the request to its end, unless another attempt has to follow: then True."""
        ended = await attempt.run()
        if ended.error is not None:
            attempt.fail()
            decision = self._decide(lease, attempt, ended.error)
            if decision.again:
                self._plant.counts.retries.increment(error_label(error_info(ended.error).code))
                stop = await attempt.pause(decision.pause_s, error_info(ended.error).code)
                if stop is None:
                    return True
                ended = Ended(END_OF_STOP[stop])
        match ended.how:
            case End.LOST:
                raise AttemptLost("the lease is gone")
            case End.DRAINED:
                await attempt.release()
                if attempt.rest_s > 0:  # whoever comes next waits for what is left of the pause
                    raise Retry(defer=attempt.rest_s)
                raise RetryJob
            case End.ANSWERED | End.FAILED | End.CANCELLED:
                await self._finish(lease, attempt, ended)
        return False

    def _decide(self, lease: Lease, attempt: Attempt, error: TailraceError) -> Decision:
        decision = decide(
            error,
            failures=attempt.failures,
            max_attempts=self._max_attempts,
            shown=attempt.shown,
            on_failure=attempt.request.on_failure if attempt.request else "fail",
            left_s=attempt.left_s,
        )
        pause_s = f"{decision.pause_s:.2f}" if decision.again else None
        code = error_info(error).code
        log_event(
            "attempt_failed", lease.request_id, attempt=lease.attempt, code=code, retry_in_s=pause_s, why=decision.why
        )
        return decision

    async def _finish(self, lease: Lease, attempt: Attempt, ended: Ended) -> None:
        dead = ended.error is not None and self._dead.include(ended.error, asked=attempt.asked)
        verdict = await attempt.finish(error=ended.error, cancelled=ended.how is End.CANCELLED, dead=dead)
        if verdict.word in ("gap", "stale"):  # taken over; or Redis lost entries in a failover: the answer is had anew
            raise RetryJob
        if dead and ended.error is not None:
            await self._list(lease, ended.error)

    async def _not_begun(self, lease: Lease, verdict: Verdict) -> None:
        """The log is not ours to write: the request has ended, or is gone."""
        log_event("attempt_not_started", lease.request_id, attempt=lease.attempt, verdict=verdict.word)
        # It has no record; or it has ended, and whoever ended it may have died before it was listed.
        await self._list(lease, UnknownRequest("no request has this id, or its lifetime is over"))

    async def _list(self, lease: Lease, error: TailraceError) -> None:
        await self._dead.bury(lease, error_info(error))
