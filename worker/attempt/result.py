"""The result of reading an answer: how it ended, and with which error."""

from enum import Enum
from typing import NamedTuple

from tailrace.schemas.deltas import ErrorInfo
from tailrace.schemas.errors import DeadlineExceeded, TailraceError
from tailrace.worker.queue.leases import Stop


class AttemptEnd(Enum):
    """How reading an answer has ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DRAINED = "drained"
    LOST = "lost"


END_OF_STOP = {
    Stop.CANCELLED: AttemptEnd.CANCELLED,
    Stop.DRAINED: AttemptEnd.DRAINED,
    Stop.LEASE_LOST: AttemptEnd.LOST,
}


class AttemptResult(NamedTuple):
    """The result of reading an answer. `error` is set if it failed, and only then."""

    end: AttemptEnd
    error: TailraceError | None = None

    @classmethod
    def failed(cls, error: TailraceError) -> "AttemptResult":
        """The answer could not be read to its end."""
        return cls(AttemptEnd.FAILED, error)

    @classmethod
    def deadline_exceeded(cls) -> "AttemptResult":
        """The request's deadline has passed."""
        return cls.failed(DeadlineExceeded("the request did not end before its deadline, which counts from submit"))


def error_info(error: TailraceError) -> ErrorInfo:
    """The error as clients see it."""
    return ErrorInfo(error.code, str(error), error.whose)
