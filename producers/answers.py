"""What a producer's verbs answer: values, without Redis."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from tailrace.schemas.deltas import Api, ErrorInfo
from tailrace.schemas.priority import DEFAULT_PRIORITY, Priority
from tailrace.schemas.results import Stored
from tailrace.schemas.times import iso_of_ms

RequestStatus = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]


class Submitted(NamedTuple):
    """The answer to a submit.

    Attributes:
        id: the request's id, the caller's or one that cannot be guessed.
        standing: whether a request with this id and content stood already.
        status: its status.
    """

    id: str
    standing: bool
    status: RequestStatus


class CancelVerdict(NamedTuple):
    """The answer to a cancel.

    Attributes:
        word: `ended` (it waited, and has ended), `signalled` (its worker is told) or `finished` (it had ended before).
        status: the request's status after the call; `running` where its worker was told.
    """

    word: Literal["ended", "signalled", "finished"]
    status: RequestStatus


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request stands.

    `failures` are attempts that failed, `crashes` workers that died or hung with it, `drains` workers that went and
    handed it back; `retry_of` is the dead request that this one retries; `error` stands where it failed.
    Times as the server's clock gave them, ISO 8601, UTC; None for what has not happened.
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
    """Where a request stands that Redis has forgotten, from the database of outcomes."""
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
"""What `status_of` needs of the record, beside its status."""


def status_of(request_id: str, record: dict[str, bytes]) -> Status:
    """Where a request stands, from its record."""
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
    """What the record counts, by the names of status and outcome."""
    return {name: int(record.get(name, 0)) for name in COUNTS}
