"""The values that the methods of a client return, made from records and outcomes. Knows nothing of Redis."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from tailrace.schemas.deltas import Api, ErrorInfo
from tailrace.schemas.priority import DEFAULT_PRIORITY, Priority
from tailrace.schemas.results import Stored
from tailrace.schemas.times import iso_of_ms

RequestStatus = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]


class Submission(NamedTuple):
    """The answer to a submit.

    Attributes:
        id: the request's id: the caller's, or one that cannot be guessed.
        already_exists: whether a request with this id and content existed before this call.
        status: the request's status.
    """

    id: str
    already_exists: bool
    status: RequestStatus


class CancelResult(NamedTuple):
    """The answer to a cancel.

    Attributes:
        verdict: `ended` (it was waiting and has ended now), `signalled` (its worker has been asked to end it) or
            `finished` (it had ended before).
        status: the request's status after the call; `running` if its worker has been asked.
    """

    verdict: Literal["ended", "signalled", "finished"]
    status: RequestStatus


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a request. Times are by the server's clock, ISO 8601, UTC; None for events that have not happened.

    Attributes:
        attempt: the last attempt begun, 0 before the first.
        failures: attempts that failed.
        crashes: workers that died or hung while they ran the request.
        drains: workers that stopped and handed the request back.
        cancel_requested: whether a cancel was requested.
        deadline_at: when it must have ended.
        retry_of: the id of the dead letter that this request retries.
        error: why it failed, if it did.
    """

    request_id: str
    status: RequestStatus
    attempt: int
    failures: int
    crashes: int
    drains: int
    api: Api
    model: str
    tenant: str | None
    priority: Priority
    cancel_requested: bool
    submitted_at: str
    deadline_at: str
    started_at: str | None
    finished_at: str | None
    retry_of: str | None
    error: ErrorInfo | None


def status_of_stored(stored: Stored) -> Status:
    """The state of a request that Redis no longer has, from the database of outcomes."""
    outcome = stored.outcome
    return Status(
        request_id=outcome.request_id or "",
        status=outcome.status,
        attempt=outcome.attempt or 0,
        failures=outcome.failures,
        crashes=outcome.crashes,
        drains=outcome.drains,
        api=outcome.api,
        model=outcome.model or "",
        tenant=stored.tenant,
        priority=stored.priority,
        cancel_requested=outcome.status == "cancelled",
        submitted_at=outcome.submitted_at or "",
        deadline_at=iso_of_ms(stored.deadline_ms),
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        retry_of=outcome.retry_of,
        error=stored.error,
    )


COUNTS = ("failures", "crashes", "drains")
RECORD_FIELDS = (
    *("attempt", "api", "model", "tenant", "priority", "cancel"),
    *("submitted_ms", "deadline_ms", "started_ms", "finished_ms", "retry_of", "error"),
    *COUNTS,
)
"""The fields of the record that `status_of` needs besides the status."""


def status_of(request_id: str, record: dict[str, bytes]) -> Status:
    """The state of a request, from its record."""
    status: Any = record["status"].decode()
    api: Any = record["api"].decode()
    priority: Any = record.get("priority", DEFAULT_PRIORITY.encode()).decode()
    return Status(
        request_id=request_id,
        status=status,
        attempt=int(record["attempt"]),
        **counts_of(record),
        api=api,
        model=record["model"].decode(),
        tenant=record["tenant"].decode() if "tenant" in record else None,
        priority=priority,
        cancel_requested=record.get("cancel") == b"1",
        submitted_at=iso_of_ms(int(record["submitted_ms"])),
        deadline_at=iso_of_ms(int(record["deadline_ms"])),
        started_at=iso_of_ms(int(record["started_ms"])) if "started_ms" in record else None,
        finished_at=iso_of_ms(int(record["finished_ms"])) if "finished_ms" in record else None,
        retry_of=record["retry_of"].decode() if "retry_of" in record else None,
        error=msgspec.json.decode(record["error"], type=ErrorInfo) if "error" in record else None,
    )


def counts_of(record: Mapping[str, bytes]) -> dict[str, Any]:
    """The counters of a record, under their names in `Status` and `Outcome`."""
    return {name: int(record.get(name, 0)) for name in COUNTS}
