"""Dead letters: ends requests that cannot be run, and adds them to the dead-letter list for the operator.

Owns the decision which failures belong on the list. The terminal is written first and the list second, so that after
a crash in between the next worker repeats the second step. Knows nothing of the keys of the queue.
"""

from typing import Literal

from tailrace.broker.script import Verdict
from tailrace.broker.scripts import BeginStatus, FinishStatus
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, AttemptStarted, ErrorInfo, MessageIds
from tailrace.schemas.errors import AttemptLost, DeadlineExceeded, RequestRejected, TailraceError, Whose
from tailrace.schemas.ids import EntryId, message_id
from tailrace.schemas.outcome import UNFILLED, Outcome
from tailrace.schemas.request import GenerationRequest, decode_request
from tailrace.schemas.times import iso_of_ms
from tailrace.worker.attempt.request_store import Begun
from tailrace.worker.attempt.services import Services
from tailrace.worker.observe.log_events import log_event
from tailrace.worker.queue.leases import Lease

Included = Literal["poison", "failed"]

_CODES: dict[str, tuple[str, Whose]] = {
    "job_expired": ("job_expired", "operator"),
    "job_unreadable": ("job_unreadable", "caller"),
    "job_unknown": ("job_unknown", "operator"),
    "job_crashed": ("worker_crashed", "operator"),
    "job_failed": ("internal", "operator"),
}
"""For each reason why the queue gives up a job: the code that clients see, and who has to act."""

_KEEP_ENVELOPE = frozenset({"job_unreadable", "job_unknown"})
"""Reasons caused by arq's envelope, which the dead letter then contains."""

_TRIES = 3
_ENDED = (FinishStatus.FINISHED, FinishStatus.ALREADY_DONE)


class DeadLetterWriter:
    """Ends requests that cannot be run, and adds dead letters.

    Args:
        services: those of the process.
        included: `poison`: requests that no worker could run; `failed`: all requests that end as failed.
    """

    def __init__(self, services: Services, included: Included = "poison") -> None:
        self._services = services
        self._included = included

    def is_dead(self, error: TailraceError, *, asked: bool) -> bool:
        """Whether a request that ends with this error belongs on the list.

        Args:
            error: what its last attempt failed with.
            asked: whether that attempt sent a request to the model's server.
        """
        if self._included == "failed":
            return True
        expired = isinstance(error, DeadlineExceeded) and not asked
        return expired or isinstance(error, RequestRejected) or type(error) is TailraceError

    async def end_dead(self, lease: Lease, code: str, message: str) -> None:
        """Ends the request of a job that the queue gives up, and adds the dead letter.

        Args:
            lease: that of the job.
            code: the queue's reason.
            message: the reason in words.

        Raises:
            AttemptLost, StoreError: it must be called again, here or by another worker.
        """
        error_code, whose = _CODES.get(code, (code, "operator"))
        error = ErrorInfo(error_code, message, whose)
        verdict = await self._write_terminal(lease, error)
        ended = verdict.status in _ENDED
        self._services.observers.request_given_up(lease.request_id, error_code, verdict.status, ended=ended)
        await self.add_dead_letter(lease, error, with_envelope=code in _KEEP_ENVELOPE)

    async def add_dead_letter(self, lease: Lease, error: ErrorInfo, *, with_envelope: bool = False) -> None:
        """Adds the dead letter of a request that has ended dead, or of a job without a record.

        A request that has ended in another way is left alone.

        Args:
            lease: that of the job.
            error: the error in the dead letter of a job without a record. A record has its own.
            with_envelope: whether arq's envelope is kept although there is a record.

        Raises:
            StoreError: it must be called again.
        """
        listed = await self._services.store.add_dead_letter(
            lease.request_id, error, crashes=lease.crashes, with_envelope=with_envelope
        )
        log_event("dead_letter_checked", lease.request_id, listed=listed)

    async def _write_terminal(self, lease: Lease, error: ErrorInfo) -> Verdict[BeginStatus] | Verdict[FinishStatus]:
        """Writes the terminal in an attempt of its own, which discards the deltas of the attempt before."""
        services = self._services
        for _ in range(_TRIES):
            ids = MessageIds(message_id(services.uuid()), message_id(services.uuid()))
            started = encode_entry(AttemptStarted(FORMAT_VERSION, lease.attempt, UNFILLED, error.code, ids))
            begun = await services.store.begin(lease.request_id, lease.attempt, lease.token, started, lease.crashes)
            if isinstance(begun, Begun):
                outcome = _outcome(lease, begun, error)
                verdict = await services.store.finish(lease.token, EntryId(lease.attempt, 1), outcome, ms=0, dead=True)
            else:
                verdict = begun
            is_stale = verdict.status in (BeginStatus.STALE, FinishStatus.STALE)
            if not is_stale and verdict.status is not FinishStatus.GAP:
                return verdict
            await lease.next_attempt(above=verdict.number("attempt") if is_stale else 0)
        raise AttemptLost(f"{lease.request_id} cannot be ended: other attempts keep writing into its log")


def _outcome(lease: Lease, begun: Begun, error: ErrorInfo) -> Outcome:
    try:
        request: GenerationRequest | None = decode_request(begun.request)
    except RequestRejected:  # this may be why it is dead
        request = None
    return Outcome(
        status="failed",
        request_id=lease.request_id,
        attempt=lease.attempt,
        submitted_at=iso_of_ms(begun.submitted_ms),
        started_at=iso_of_ms(begun.started_ms),
        finished_at=UNFILLED,
        failures=begun.failures,
        crashes=begun.crashes,
        drains=begun.drains,
        retry_of=request.retry_of if request else None,
        api=request.api if request else "chat",
        model=request.model if request else None,
        error=error,
        metadata=request.metadata if request else None,
    )
