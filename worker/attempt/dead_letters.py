"""Dead letters: ends requests that the queue gives up, and lists what died for those who look after the system.

Which failures belong into the list is decided here alone. The order is terminal first, entry second: whoever meets the
job again, after a crash in between, repeats the second (docs/decisions/retries-and-failures.md).
Knows nothing of the queue's own keys.
"""

from typing import Literal

from tailrace.broker.scripts import Verdict
from tailrace.schemas.codec import encode_entry
from tailrace.schemas.deltas import FORMAT_VERSION, AttemptStarted, ErrorInfo, MessageIds
from tailrace.schemas.errors import AttemptLost, DeadlineExceeded, RequestRejected, TailraceError, Whose
from tailrace.schemas.ids import EntryId, message_id
from tailrace.schemas.outcome import UNFILLED, Outcome
from tailrace.schemas.request import GenerationRequest, decode_request
from tailrace.schemas.times import iso_of_ms
from tailrace.telemetry.metrics import error_label
from tailrace.worker.attempt.attempt import Plant
from tailrace.worker.attempt.request_store import Begun
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
"""The queue's reasons to end a job, as clients see them."""

_OF_THE_ENVELOPE = frozenset({"job_unreadable", "job_unknown"})
_TRIES = 3


class DeadLetters:
    """Ends what cannot be run.

    Args:
        plant: the store is used, and the uuids.
        included: `poison`: what no worker could give a fair run; `failed`: every request that ends as failed.
    """

    def __init__(self, plant: Plant, included: Included = "poison") -> None:
        self._plant = plant
        self._included = included

    def include(self, error: TailraceError, *, asked: bool) -> bool:
        """Whether a request that ends with this error belongs into the list.

        Args:
            error: why its last attempt failed.
            asked: whether that attempt has asked the model's server.
        """
        if self._included == "failed":
            return True
        expired = isinstance(error, DeadlineExceeded) and not asked
        return expired or isinstance(error, RequestRejected) or type(error) is TailraceError

    async def end(self, lease: Lease, code: str, message: str) -> None:
        """Ends the request of a job that the queue gives up, and lists it.

        Raises:
            AttemptLost, StoreError: to be called again, by whoever has the job then.
        """
        wire_code, whose = _CODES.get(code, (code, "operator"))
        error = ErrorInfo(wire_code, message, whose)
        verdict = await self._terminal(lease, error)
        log_event("request_given_up", lease.request_id, code=wire_code, verdict=verdict.word)
        await self.bury(lease, error, with_envelope=code in _OF_THE_ENVELOPE)

    async def bury(self, lease: Lease, error: ErrorInfo, *, with_envelope: bool = False) -> None:
        """Lists a request that ended dead, as its record says, or a job without a record, as `error` says.

        A request that has ended otherwise, or failed without belonging here, is left alone.

        Raises:
            StoreError: to be called again.
        """
        verdict = await self._plant.store.bury(
            lease.request_id, error, crashes=lease.crashes, with_envelope=with_envelope
        )
        log_event("dead_letter_checked", lease.request_id, verdict=verdict.word)

    async def _terminal(self, lease: Lease, error: ErrorInfo) -> Verdict:
        """The terminal of a request, in an attempt of its own where the one that stands has deltas."""
        for _ in range(_TRIES):
            ids = MessageIds(message_id(self._plant.uuid()), message_id(self._plant.uuid()))
            started = encode_entry(AttemptStarted(FORMAT_VERSION, lease.attempt, UNFILLED, error.code, ids))
            begun = await self._plant.store.begin(lease.request_id, lease.attempt, lease.token, started, lease.crashes)
            if isinstance(begun, Begun):
                outcome = _outcome(lease, begun, error)
                verdict = await self._plant.store.finish(
                    lease.token, EntryId(lease.attempt, 1), outcome, ms=0, dead=True
                )
                if verdict.word in ("finished", "again"):
                    self._plant.counts.outcomes.increment("failed", error_label(error.code))
            else:
                verdict = begun
            if verdict.word not in ("gap", "stale"):
                return verdict
            await lease.next_attempt(above=verdict.number("attempt") if verdict.word == "stale" else 0)
        raise AttemptLost(f"{lease.request_id} cannot be ended: its log has gone on")


def _outcome(lease: Lease, begun: Begun, error: ErrorInfo) -> Outcome:
    try:
        request: GenerationRequest | None = decode_request(begun.request)
    except RequestRejected:  # that may be why it is dead
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
